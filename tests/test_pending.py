"""Steps that are not finite: counted, in a row, with their examples; rollbacks."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.pending import NonFiniteError, Pending, streak_of
from vit_jax.rollback import Spikes


def add(pending, *losses, start=0):
    for step, loss in enumerate(losses, start=start + 1):
        values = {"loss": jnp.float32(loss), "nonfinite": ~jnp.isfinite(loss)}
        pending.add(step, values)


def test_the_newest_step_and_those_that_were_not_applied():
    pending = Pending(max_nonfinite=3)
    assert not pending
    add(pending, 1.0, math.nan, math.inf, 2.0)
    assert pending
    assert pending.take() == ({"loss": 2.0}, [2, 3])
    assert not pending


def test_too_many_in_a_row_over_several_looks():
    pending = Pending(max_nonfinite=3, example_ids=lambda step: np.arange(3) + step)
    add(pending, 1.0, math.nan, math.nan)
    pending.take()
    add(pending, math.nan, start=3)
    with pytest.raises(NonFiniteError) as raised:
        pending.take()
    message = str(raised.value)
    assert message.startswith("loss at step 4 is not finite, nor at the 2 before it")
    assert message.endswith("examples of step 4: 3, 4, 5")


def test_a_finite_step_begins_anew():
    pending = Pending(max_nonfinite=2)
    add(pending, math.nan, 1.0, math.nan, 1.0)
    assert pending.take()[1] == [1, 3]


def test_a_resumed_run_counts_on():
    rows = [{"step": step, "train/nonfinite": 1.0} for step in (2, 4, 5)]
    assert streak_of([*rows, {"step": 5, "train/loss": None}], 5) == 2
    assert streak_of(rows, 4) == 1 and streak_of(rows, 3) == 0 and streak_of([], 0) == 0
    pending = Pending(max_nonfinite=3, streak=2)
    add(pending, math.nan, start=5)
    with pytest.raises(NonFiniteError, match="nor at the 2 before it"):
        pending.take()


def test_a_spike_is_far_above_the_median_of_a_full_window():
    spikes = Spikes(factor=3.0, window=3, max=2)
    assert [spikes.spiked(loss) for loss in (1.0, 9.0, 1.0)] == [False] * 3
    assert not spikes.spiked(2.9)
    assert spikes.spiked(30.0)
    assert not any(spikes.spiked(loss) for loss in (5.0, 5.0, 5.0))  # a new window
    assert spikes.spiked(16.0)
    assert not any(spikes.spiked(loss) for loss in (5.0, 5.0, 5.0))
    with pytest.raises(ArithmeticError, match=r"after 2 rollbacks .*rollback\.max"):
        spikes.spiked(16.0)


def test_off_by_default_and_blind_to_what_is_not_finite():
    assert not Spikes(factor=0.0, window=1, max=1).spiked(1e9)
    spikes = Spikes(factor=2.0, window=2, max=1)
    assert not any(spikes.spiked(loss) for loss in (1.0, math.nan, 1.0))
    assert spikes.spiked(3.0)


def test_a_resumed_run_decides_as_the_first():
    losses = [1.0, 1.0, 5.0, 2.0, 2.0, 9.0, 2.0]
    whole = Spikes(factor=3.0, window=2, max=9)
    decisions = [whole.spiked(loss) for loss in losses]
    assert decisions == [False, False, True, False, False, True, False]
    rows = []
    for step, (loss, back) in enumerate(zip(losses, decisions, strict=True), start=1):
        rows.append({"step": step, "train/loss": loss})
        rows += [{"step": step, "train/rolled_back_to": 0.0}] * back
    for start in range(len(losses)):
        known = [row for row in rows if row["step"] <= start]
        again = Spikes(factor=3.0, window=2, max=9, rows=known)
        assert [again.spiked(loss) for loss in losses[start:]] == decisions[start:]
