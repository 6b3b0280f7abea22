"""Which examples a step sees, and the randomness of each row: functions of the seed.

Nothing is kept between steps: the position in the data is the step.
"""

import functools
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


@functools.lru_cache(maxsize=3)  # a batch may span two epochs; the next is made early
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of one epoch: a permutation drawn from (seed, epoch)."""
    order = _generator(seed, epoch, purpose=0).permutation(num_examples)
    if num_examples <= np.iinfo(np.int32).max:
        order = order.astype(np.int32)  # half the memory
    order.flags.writeable = False  # shared by all callers
    return order


def example_ids(
    step: int,
    *,
    seed: int,
    batch_size: int,
    num_examples: int,
    shuffle: bool,
    repeats: int = 1,
) -> np.ndarray:
    """Ids of the examples of step ``step`` (0-based), ``[batch_size]``.

    Epochs follow each other without a gap: a batch may hold the end of one and the
    beginning of the next, and no example is dropped.

    Repeated augmentation (arXiv 1902.05509): with ``repeats``, a batch holds
    ``batch_size / repeats`` examples, each ``repeats`` times and each time augmented
    anew. Copies are ``batch_size / repeats`` rows apart, so that neighbours, which
    mixup may pair, are different images. An epoch is still ``num_examples`` rows. Where
    DeiT's sampler draws a new permutation for each of them and uses its first third,
    here one permutation is used up over ``repeats`` epochs: every example is seen
    equally often. And DeiT's copies are on different devices; here the layout of the
    batch decides.

    Raises:
      ValueError: ``repeats`` does not divide ``batch_size``.
    """
    positions = step_positions(step, batch_size, repeats)
    ids = ids_at(positions, seed=seed, num_examples=num_examples, shuffle=shuffle)
    return np.tile(ids, repeats)


def ids_at(
    positions: np.ndarray, *, seed: int, num_examples: int, shuffle: bool
) -> np.ndarray:
    """Ids of the examples at positions of a run, int64."""
    epochs, offsets = np.divmod(positions, num_examples)
    if not shuffle:
        return offsets
    ids = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = epoch_order(seed, int(epoch), num_examples)[offsets[here]]
    return ids


def step_positions(step: int, batch_size: int, repeats: int) -> np.ndarray:
    """Positions of a run that step ``step`` draws, each for ``repeats`` rows.

    Raises:
      ValueError: as `example_ids`.
    """
    draws = draws_per_step(batch_size, repeats)
    return np.arange(step * draws, (step + 1) * draws)


def draws_per_step(batch_size: int, repeats: int) -> int:
    """Different draws in a batch in which each stands ``repeats`` times.

    Raises:
      ValueError: as `example_ids`.
    """
    if repeats < 1 or batch_size % repeats:
        raise ValueError(
            f"repeats must divide the batch of {batch_size}, got {repeats} "
            "(data.augment.repeats)"
        )
    return batch_size // repeats


def last_epoch(step: int, *, batch_size: int, num_examples: int, repeats: int) -> int:
    """The newest permutation that step ``step`` draws from."""
    draws = draws_per_step(batch_size, repeats)
    return ((step + 1) * draws - 1) // num_examples


def row_rng(seed: int, position: int) -> np.random.Generator:
    """Randomness of one row: (seed, position in the whole run) and nothing else."""
    return _generator(seed, position, purpose=1)


def replacement_rng(seed: int, position: int) -> np.random.Generator:
    """Draws what takes the place of a damaged example at a position of the run."""
    return _generator(seed, position, purpose=1, stream=1)


def _generator(
    seed: int, number: int, *, purpose: int, stream: int = 0
) -> np.random.Generator:
    # A uint64 array: a list of Python numbers this large would pass through float64,
    # and neighbouring rows would share their key.
    key = np.array([seed, (purpose << 63) + number], dtype=np.uint64)
    # 2**192 draws further on, for another stream.
    counter = np.array([0, 0, 0, stream], dtype=np.uint64) if stream else None
    philox = np.random.Philox(_Key(key), counter=counter)  # type: ignore
    return np.random.Generator(philox)


class _Key(ISeedSequence):
    """A key as it is; given ``key=``, Philox would first ask the system for noise."""

    def __init__(self, key: np.ndarray):
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return self._key
