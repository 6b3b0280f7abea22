"""What each recipe costs, as `vit-jax plan` predicts it by shapes.

Tracing one recipe for one topology takes about a second, all of them minutes, so that
the figures lie in planned.json; `python scripts/plan_recipes.py` writes it, and a test
compares.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from vit_jax.ledger.records import Entry

FILE = pathlib.Path(__file__).with_name("planned.json")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a whole run on a topology.

    Args:
      topology: as `vit-jax plan` names it.
      hours: a bracket, predicted; None where nothing was found that fits.
      memory_gib: of a chip.
      flags: with which it fits, where it does not as it is.
    """

    topology: str
    hours: tuple[float, float] | None
    memory_gib: float
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Planned:
    """What a recipe is at its real size.

    Args:
      parameters: that are trained, with heads and decoders.
      flops_per_image: of a training step, with backward, and with a teacher.
      batch_size: images a step.
      steps: of the run.
      costs: by topology.
    """

    parameters: int
    flops_per_image: int
    batch_size: int
    steps: int
    costs: tuple[Cost, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def load_config(entry: Entry, *, to_plan: bool = False) -> Any:
    """The config of an entry; ``to_plan`` sets what stands for weights not there."""
    from vit_jax import config as configs
    from vit_jax.config_file import recipes

    arg = "" if entry.arg is None else f":{entry.arg}"
    overrides = [f"--config.{one}" for one in entry.planned_with] if to_plan else []
    return configs.load(f"{recipes()[entry.name]}{arg}", overrides)


def estimate(entry: Entry) -> Planned:
    """Plans a recipe for each of its topologies: as it is, else the best that fits."""
    from vit_jax.plan import plan as planning
    from vit_jax.plan import program, topology

    config = load_config(entry, to_plan=True)
    costs, found, total = [], None, None
    for name in entry.topologies:
        place = topology.parse(name)
        total = program.prepare(config, place).total
        found = planning.plan(config, place, compile=False)
        if not found.fits:
            found = planning.search(config, place, compile=False)
        hours = None
        if found.fits and found.days is not None:
            hours = (_digits(24 * found.days[0]), _digits(24 * found.days[1]))
        costs.append(Cost(name, hours, _digits(found.memory_gib), found.overrides))
    assert found is not None
    assert total is not None, f"{entry.spec}: the size of its data is not known"
    return Planned(
        parameters=found.parameters,
        flops_per_image=found.flops_per_image,
        batch_size=config.train.batch_size,
        steps=total,
        costs=tuple(costs),
    )


def _digits(value: float) -> float:
    """Three that mean something."""
    return float(f"{value:.3g}")


@functools.cache
def stored() -> Mapping[str, Planned]:
    """What planned.json holds, by the entry's spec."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))
    return {spec: _planned(row) for spec, row in rows.items()}


def _planned(row: Mapping[str, Any]) -> Planned:
    costs = tuple(
        Cost(
            cost["topology"],
            tuple(cost["hours"]) if cost["hours"] else None,
            cost["memory_gib"],
            tuple(cost["flags"]),
        )
        for cost in row["costs"]
    )
    return Planned(**{**row, "costs": costs})


def write(rows: Mapping[str, Planned]) -> None:
    """Replaces planned.json, a line a recipe."""
    lines = [
        f"{json.dumps(spec)}: {json.dumps(row.to_json())}" for spec, row in rows.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
