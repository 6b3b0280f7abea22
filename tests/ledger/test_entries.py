"""The facts of the ledger: complete, of the models that are built, and up to date."""

import datetime
import math
import re

import jax
import pytest
from flax import nnx

from vit_jax import config_file, objectives
from vit_jax.ledger import explain, planned
from vit_jax.ledger.entries import ENTRIES
from vit_jax.ledger.measured import MEASURED
from vit_jax.ledger.records import Measured
from vit_jax.models import vit
from vit_jax.objectives.base import split
from vit_jax.plan import program, topology

BY_SPEC = {entry.spec: entry for entry in ENTRIES}
# Constants of a config whose items are its arguments, or what these begin with.
ARGUMENTS = ("SIZES", "LEVEL_OF", "TASKS", "KINDS")


def test_every_recipe_has_an_entry_and_every_entry_a_recipe():
    assert {entry.name for entry in ENTRIES} == set(config_file.recipes())
    assert len(BY_SPEC) == len(ENTRIES)


def test_every_published_size_has_an_entry():
    found = 0
    for name, file in config_file.recipes().items():
        with config_file._importable(file):
            module = config_file._execute(file)
        wanted = {
            item for constant in ARGUMENTS for item in getattr(module, constant, ())
        }
        given = {
            (entry.arg or "").partition(",")[0]
            for entry in ENTRIES
            if entry.name == name
        }
        assert wanted <= given, name
        found += len(wanted)
    assert found > 20


def test_every_entry_is_planned_and_nothing_else():
    """If not: python scripts/plan_recipes.py"""
    assert list(planned.stored()) == [entry.spec for entry in ENTRIES]
    for entry in ENTRIES:
        costs = planned.stored()[entry.spec].costs
        assert tuple(cost.topology for cost in costs) == entry.topologies
        for cost in costs:
            assert cost.hours is None or 0 < cost.hours[0] < cost.hours[1]


@pytest.mark.parametrize("spec", BY_SPEC)
def test_builds_at_its_real_size_with_the_listed_parameters(spec):
    """If the numbers differ: python scripts/plan_recipes.py, and the name"""
    entry = BY_SPEC[spec]
    config = planned.load_config(entry, to_plan=True)
    job = program.prepare(config, topology.parse(entry.topologies[0]))
    config = job.config
    settings = {key: config.model[key] for key in config.model if key != "init_from"}
    objective = nnx.eval_shape(
        lambda: objectives.build(
            config.objective.to_dict(),
            encoder=vit.build(key=jax.random.key(0), **settings),
            key=jax.random.key(1),
            mean=config.data.mean,
            std=config.data.std,
        )
    )
    _, params, _ = split(objective)
    listed = planned.stored()[spec]
    assert listed.parameters == sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(params)
    )
    assert listed.batch_size == config.train.batch_size
    assert listed.steps == job.total
    if config.objective.name != "distillation":  # whose teacher is not built here
        assert listed.flops_per_image == objective.train_flops()


def check_row(entry):
    assert planned.estimate(entry) == planned.stored()[entry.spec]


def test_a_row_is_what_the_planner_says():
    check_row(BY_SPEC["digits"])


@pytest.mark.slow
@pytest.mark.parametrize("spec", BY_SPEC)
def test_every_row_is_what_the_planner_says(spec):
    check_row(BY_SPEC[spec])


def test_published_figures_are_those_of_the_docstrings():
    """Facts in two places; transfer's are by data set, and in the ledger alone."""
    checked = 0
    for entry in ENTRIES:
        about = explain.docstring(entry)
        for figure in entry.published if entry.name != "transfer" else ():
            pattern = rf"(?<![\d.]){figure.value:g}(\.?0)?(?![\d.]*\d)"
            assert re.search(pattern, about), (entry.spec, figure)
            checked += 1
        if entry.paper and not entry.small:
            assert entry.paper in about or entry.name == "transfer", entry.spec
    assert checked > 20


def test_figures_of_other_models_and_data_are_not_comparable():
    """A RegNet taught DeiT; BiT's ResNets were taught; JFT and DFN are not public."""
    marked = {
        entry.spec
        for entry in ENTRIES
        if any(figure.not_comparable for figure in entry.published)
    }
    assert marked >= {
        *(f"deit_i1k:{size},distilled" for size in ("Ti/16", "S/16", "B/16")),
        "distill_i1k:S/16",
        "masked_patch_i1k:B/16",
        "aim_i1k:AIM-600M",
        "aim_i1k:AIM-7B",
    }
    assert not marked & {"vit_s16_i1k:90", "deit_i1k:S/16", "mae_i1k:B/16"}


def test_measured_records_belong_to_an_entry():
    for one in MEASURED:
        assert one.spec in BY_SPEC
        assert one.values and all(0 <= value <= 100 for value in one.values.values())
        assert datetime.date.fromisoformat(one.date)
        assert one.hardware and "vit-jax " in one.command


def test_mean_and_spread_of_seeds():
    measured = Measured("x", "top-1", {0: 90.0, 1: 92.0, 5: 97.0}, "a", "b", "c")
    assert measured.mean == 93
    assert measured.spread == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert measured.short == "93.00 ± 3.61 (3 seeds)"
    single = Measured("x", "top-1", {0: 90.0}, "a", "b", "c")
    assert single.spread is None and single.short == "90.00 (1 seed)"


def test_digits_as_measured():
    (digits,) = (one for one in MEASURED if one.spec == "digits")
    assert digits.values == {0: 98.89, 1: 98.89, 2: 98.06}


def test_only_what_needs_weights_is_planned_with_something_else():
    for entry in ENTRIES:
        assert entry.needs or not entry.planned_with, entry.spec
