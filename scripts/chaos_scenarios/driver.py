"""Runs `vit-jax` in this process with delays, traps and poison at named places.

    python -m chaos_scenarios.driver --phases=FILE --slow=stepping:0.3 -- train ...

The package has no hooks for tests: this wraps the functions that `vit_jax.setup` and
`vit_jax.checkpoint` give to the loop. Places: compiling, stepping, loading (a batch, in
its thread), evaluating, saving, restoring.
"""

import argparse
import collections
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

PLACES = ("compiling", "stepping", "loading", "evaluating", "saving", "restoring")
FOREVER = 10**6  # seconds


@dataclasses.dataclass
class Plan:
    """What to do where.

    Attributes:
      phases: descriptor of a file that gets ``begin|end PLACE NUMBER MONOTONIC`` lines.
      slow: seconds by place, before the real work.
      slower: from this call of a place on, that many seconds instead.
      stick: number of the call of a place that never returns.
      poison: steps (counted from 1) whose images are not finite, and by what.
    """

    phases: int | None = None
    slow: dict[str, float] = dataclasses.field(default_factory=dict)
    slower: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    stick: dict[str, int] = dataclasses.field(default_factory=dict)
    poison: dict[int, float] = dataclasses.field(default_factory=dict)
    calls: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def mark(self, word: str, place: str, number: int) -> None:
        """Writes a line at once: whoever reads the file acts on it."""
        if self.phases is not None:
            line = f"{word} {place} {number} {time.monotonic():.6f}\n"
            os.write(self.phases, line.encode())

    def seconds(self, place: str, number: int) -> float:
        """How long a call of a place is held up."""
        if self.stick.get(place) == number:
            return FOREVER
        first, seconds = self.slower.get(place, (FOREVER, 0.0))
        return seconds if number >= first else self.slow.get(place, 0.0)

    def around(self, place: str, call: Callable, *args: Any, **kwargs: Any) -> Any:
        """Calls through, marked and held up."""
        self.calls[place] += 1
        number = self.calls[place]
        self.mark("begin", place, number)
        try:
            stuck_here(self.seconds(place, number))
            return call(*args, **kwargs)
        finally:
            self.mark("end", place, number)


def stuck_here(seconds: float) -> None:
    """Sleeps; its name is what a stack dump should show."""
    if seconds:
        time.sleep(seconds)


class Step:
    """A jitted step whose first call, or explicit compilation, is `compiling`."""

    def __init__(self, step: Any, plan: Plan):
        self._step, self._plan, self._compiled = step, plan, False

    def __call__(self, *args: Any) -> Any:
        if self._compiled:
            args = self._poisoned(*args)
            return self._plan.around("stepping", self._step, *args)
        self._compiled = True  # the first step of a run is inside `compiling`
        return self._plan.around("compiling", self, *args)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        self._plan.mark("begin", "compiling", 1)
        lowered = self._step.lower(*self._poisoned(*args), **kwargs)
        return Lowered(lowered, self._plan)

    def _poisoned(self, state: Any, frozen: Any, batch: Any, *rest: Any) -> tuple:
        if not self._plan.poison:
            return state, frozen, batch, *rest
        done = state.step.item() if hasattr(state.step, "item") else 0  # or a shape
        value = self._plan.poison.get(done + 1, 0.0)
        return state, frozen, with_poison(batch, value), *rest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


class Lowered:
    """A lowered step that gives a marked executable."""

    def __init__(self, lowered: Any, plan: Plan):
        self._lowered, self._plan = lowered, plan

    def compile(self, *args: Any, **kwargs: Any) -> Any:
        compiled = self._lowered.compile(*args, **kwargs)
        self._plan.mark("end", "compiling", 1)
        step = Step(compiled, self._plan)
        step._compiled = True
        return step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lowered, name)


def patch(owner: Any, name: str, wrap: Callable[[Callable], Callable]) -> None:
    """Replaces a function by a wrapper of it."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(wrap(original)))


def install(plan: Plan) -> None:
    """Wraps what the loop is given."""
    from vit_jax import setup, setup_data, setup_evals
    from vit_jax.checkpoint import Checkpoints

    def with_marked_step(build: Callable) -> Callable:
        def build_parts(*args: Any, **kwargs: Any) -> Any:
            parts = build(*args, **kwargs)
            return dataclasses.replace(parts, train_step=Step(parts.train_step, plan))

        return build_parts

    def marked_method(place: str, method: str) -> Callable:
        def wrap(build: Callable) -> Callable:
            def make(*args: Any, **kwargs: Any) -> Any:
                made = build(*args, **kwargs)
                bound = functools.partial(plan.around, place, getattr(made, method))
                setattr(made, method, bound)
                return made

            return make

        return wrap

    patch(setup, "build_parts", with_marked_step)
    patch(setup_data, "build_loader", marked_method("loading", "batch"))
    patch(setup_evals, "build_evaluator", marked_method("evaluating", "run"))
    for place, name in (("saving", "save"), ("restoring", "restore_latest")):
        original = getattr(Checkpoints, name)
        setattr(Checkpoints, name, marked_call(plan, place, original))
    if plan.poison:
        patch(setup, "build_prepare", poisoning)


def marked_call(plan: Plan, place: str, original: Callable) -> Callable:
    """A method that is marked and held up."""

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return plan.around(place, original, self, *args, **kwargs)

    return method


def with_poison(batch: dict[str, Any], value: float) -> dict[str, Any]:
    """A batch with a number a row beside the images: 0, or the poison.

    Images on the host are uint8 and cannot be other than finite, so the device adds
    this once they have become floats. Shapes get a shape beside them.
    """
    import jax

    label = batch["label"]
    if isinstance(label, jax.ShapeDtypeStruct):
        rows: Any = jax.ShapeDtypeStruct(
            label.shape, np.float32, sharding=label.sharding
        )
    else:
        filled = np.full(label.shape, value, np.float32)
        rows = jax.make_array_from_callback(
            label.shape, label.sharding, lambda index: filled[index]
        )
    return dict(batch) | {"poison": rows}


def poisoning(build: Callable) -> Callable:
    """A `build_prepare` whose function adds ``poison`` to the prepared images."""

    def build_prepare(*args: Any, **kwargs: Any) -> Callable:
        prepare = build(*args, **kwargs)

        def prepared(batch: dict[str, Any], key: Any) -> dict[str, Any]:
            batch = dict(batch)
            poison = batch.pop("poison")
            batch = prepare(batch, key)
            images = batch["images"]
            added = poison.astype(images.dtype).reshape(-1, *[1] * (images.ndim - 1))
            return batch | {"images": images + added}

        return prepared

    return build_prepare


def parse(argv: Sequence[str]) -> Plan:
    """The plan from this script's own arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--phases")
    for name in ("slow", "slower", "stick", "poison"):
        parser.add_argument(f"--{name}", action="append", default=[])
    options = parser.parse_args(argv)
    plan = Plan()
    if options.phases:
        plan.phases = os.open(options.phases, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for text in options.slow:  # PLACE:SECONDS
        place, seconds = text.split(":")
        plan.slow[place] = float(seconds)
    for text in options.slower:  # PLACE:CALL:SECONDS
        place, call, seconds = text.split(":")
        plan.slower[place] = (int(call), float(seconds))
    for text in options.stick:  # PLACE:CALL
        place, call = text.split(":")
        plan.stick[place] = int(call)
    for text in options.poison:  # STEP:nan
        step, value = text.split(":")
        plan.poison[int(step)] = float(value)
    unknown = {*plan.slow, *plan.slower, *plan.stick} - set(PLACES)
    if unknown:
        parser.error(f"no place {unknown}; there are {', '.join(PLACES)}")
    return plan


def main() -> int:
    """Installs the plan and runs the command after ``--``."""
    words = sys.argv[1:]
    cut = words.index("--")
    plan = parse(words[:cut])
    from vit_jax import cli

    install(plan)
    return cli.main(words[cut + 1 :])


if __name__ == "__main__":
    sys.exit(main())
