"""Between two logs the loop reads nothing from the devices, and lets them run ahead."""

import numpy as np

from tests import training
from vit_jax.config import load
from vit_jax.pending import Pending
from vit_jax.train import train


class Watched:
    """An array of a step's metrics; notes when it is waited for or read."""

    def __init__(self, array, origin, note):
        self.array, self.origin, self.note = array, origin, note

    def block_until_ready(self):
        self.note("wait", self.origin)
        self.array.block_until_ready()
        return self

    def copy_to_host_async(self):
        self.array.copy_to_host_async()  # waits for nothing

    def __array__(self, dtype=None, copy=None):
        self.note("read", self.origin)
        return np.asarray(self.array, dtype)

    def __float__(self):
        return float(self.__array__())

    def __bool__(self):
        return bool(self.__array__())


def test_only_a_log_reads(tmp_path, monkeypatch):
    events, calls = [], []

    def note(kind, origin):
        events.append((len(calls), kind, *origin))

    def add(self, step, values):
        calls.append(step)
        noted(
            self,
            step,
            {name: Watched(v, (step, name), note) for name, v in values.items()},
        )

    # Without the check of types, which a watched array would not pass.
    noted = getattr(Pending.add, "__wrapped__", Pending.add)
    monkeypatch.setattr(Pending, "add", add)
    changes = (
        *training.TINY,
        "data.name=arrays:digits",  # needs no preparation
        "train.duration.steps=10",
        "log.every.steps=5",
        "checkpoint.every.steps=10",
        "evals.val.every.steps=10",
    )
    config = load(training.DIGITS, [f"--config.{change}" for change in changes])
    train(config, str(tmp_path / "run"), say=lambda line: None)
    assert calls == list(range(1, 11))
    # The third step since a log waits for the first of them: two are always under way.
    waits = [(now, step, name) for now, kind, step, name in events if kind == "wait"]
    assert waits == [
        (now, now - 2, "loss")
        for first in (1, 6)
        for now in range(first + 2, first + 5)
    ]
    reads = {(now, step) for now, kind, step, _ in events if kind == "read"}
    assert reads == {(now, step) for now in (5, 10) for step in range(now - 4, now + 1)}
