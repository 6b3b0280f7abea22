"""Goodput: phases sum to the wall time, nested ones too; what was done twice is lost."""

import pytest

from vit_jax.goodput import PHASES, Goodput, earlier_attempts, table
from vit_jax.life import Life
from vit_jax.stopping import Stop
from vit_jax.watchdog import Watchdog


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def test_every_instant_is_in_one_phase_and_all_sum_to_the_wall_time():
    clock = Clock()
    spent = Goodput(clock=clock, started=90.0)
    for seconds, following in ((1, "step"), (2, "eval"), (3, "compile"), (4, "eval")):
        clock.wait(seconds)
        spent.enter(following)
    clock.wait(5)
    assert spent.enter("step") == "eval"
    clock.wait(6)
    seconds = spent.seconds()
    assert sum(seconds.values()) == clock.now - 90.0 == 31.0
    assert (seconds["init"], seconds["step"]) == (11.0, 8.0)
    assert (seconds["eval"], seconds["compile"]) == (8.0, 4.0)
    assert spent.last("compile") == 4.0 and spent.last("eval") == 5.0


def test_a_phase_of_a_block_ends_when_it_raises(tmp_path):
    clock = Clock()
    dog = Watchdog(
        seconds=60.0, factor=1.0, compile_seconds=1.0, folder=tmp_path, clock=clock
    )
    spent = Goodput(clock=clock)
    life = Life(spent, dog, Stop())
    with pytest.raises(KeyError), life.during("save"):
        clock.wait(2)
        raise KeyError
    clock.wait(1)
    assert spent.phase == "init"
    assert (spent.seconds()["save"], spent.seconds()["init"]) == (2.0, 1.0)


def test_the_log_has_each_phase_and_the_share_of_steps():
    clock = Clock()
    spent = Goodput(clock=clock)
    spent.enter("step")
    clock.wait(3)
    spent.enter("save")
    clock.wait(1)
    row = spent.scalars()
    assert set(row) == {f"goodput/{p}_seconds" for p in PHASES} | {"goodput/ratio"}
    assert row["goodput/ratio"] == 0.75
    assert table(spent.seconds()) == "4.0 s: step 75.0 %, save 25.0 %"


def row(at, **seconds):
    values = {f"goodput/{phase}_seconds": seconds.get(phase, 0.0) for phase in PHASES}
    return {"step": at, "goodput/ratio": 0.0, **values}


def test_work_after_the_checkpoint_is_lost():
    rows = [row(5, init=1.0, step=4.0), row(10, init=1.0, step=9.0, save=2.0)]
    earlier = earlier_attempts([*rows, {"step": 10, "val/loss": 1.0}], 5)
    assert earlier["lost"] == 7.0 and earlier["step"] == 4.0 and earlier["save"] == 0.0
    assert sum(earlier.values()) == 12.0
    assert earlier_attempts(rows, 10)["lost"] == 0.0
    nothing_saved = earlier_attempts(rows, 0)
    assert nothing_saved["lost"] == 12.0 == sum(nothing_saved.values())
    assert sum(earlier_attempts([{"step": 3, "train/loss": 1.0}], 0).values()) == 0.0


def test_what_was_noted_beside_the_log_counts():
    rows = [row(5, init=1.0, step=4.0)]
    stopped = row(7, init=1.0, step=6.0, save=1.0)  # by a signal, and saved
    earlier = earlier_attempts(rows, 7, stopped)
    assert earlier["lost"] == 0.0 and sum(earlier.values()) == 8.0
    # The second attempt died before its first row: what it was told of stays.
    told = row(5, init=1.0, step=4.0, lost=30.0)
    earlier = earlier_attempts(rows, 5, told)
    assert earlier["lost"] == 30.0 and sum(earlier.values()) == 35.0
    assert earlier_attempts([], 0, told)["lost"] == 35.0


def test_a_third_attempt_keeps_what_the_second_lost():
    rows = [row(5, step=4.0, lost=7.0), row(8, step=5.0, lost=7.0)]
    earlier = earlier_attempts(rows, 5)
    assert earlier["lost"] == 8.0 and sum(earlier.values()) == 12.0
