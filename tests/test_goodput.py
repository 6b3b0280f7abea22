"""Goodput: phases sum to the wall time, nested ones too; what was done twice is lost."""

import pytest

from vit_jax.goodput import PHASES, Goodput, earlier_attempts, table


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
    clock.wait(1)
    spent.enter("step")
    clock.wait(2)
    with spent.during("eval"):
        clock.wait(3)
        with spent.during("compile"):
            clock.wait(4)
        clock.wait(5)
    clock.wait(6)
    seconds = spent.seconds()
    assert sum(seconds.values()) == clock.now - 90.0 == 31.0
    assert (seconds["init"], seconds["step"]) == (11.0, 8.0)
    assert (seconds["eval"], seconds["compile"]) == (8.0, 4.0)
    assert spent.last("compile") == 4.0 and spent.last("eval") == 5.0


def test_a_phase_ends_when_its_block_raises():
    clock = Clock()
    spent = Goodput(clock=clock)
    with pytest.raises(KeyError), spent.during("save"):
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
    with spent.during("save"):
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
    assert earlier_attempts([{"step": 3, "train/loss": 1.0}], 0) == {}


def test_a_third_attempt_keeps_what_the_second_lost():
    rows = [row(5, step=4.0, lost=7.0), row(8, step=5.0, lost=7.0)]
    earlier = earlier_attempts(rows, 5)
    assert earlier["lost"] == 8.0 and sum(earlier.values()) == 12.0
