"""Which steps stay, which is verified next, which is the best."""

import itertools
import math

import pytest

from vit_jax.checkpoint import policy


@pytest.mark.parametrize(
    ("steps", "verified", "ranks", "kept"),
    [
        ([], [], {}, []),
        ([1], [], {}, [1]),
        ([1, 2, 3], [], {}, [1, 2, 3]),  # nothing is known to be right
        ([1, 2, 3], [1], {}, [1, 2, 3]),
        ([1, 2, 3], [1, 2], {}, [1, 2, 3]),  # 3 is still to be verified
        ([1, 2, 3], [1, 2, 3], {}, [2, 3]),
        ([1, 2, 3, 4], [1, 3], {}, [1, 3, 4]),  # 2 was overtaken
        ([1, 2, 3, 4], [1, 2, 3, 4], {1: 0.9, 3: 0.1}, [1, 3, 4]),
        ([1, 2, 3, 4], [1, 2, 3], {1: 0.5, 4: 0.9}, [1, 2, 3, 4]),
        ([1, 2, 3], [1, 2, 3], {1: -math.inf}, [2, 3]),
    ],
)
def test_what_is_kept(steps, verified, ranks, kept):
    assert sorted(policy.preserved(steps, verified, ranks, 2)) == kept


def test_the_newest_verified_always_stay():
    steps = range(5)
    subsets = itertools.chain.from_iterable(
        itertools.combinations(steps, n) for n in range(6)
    )
    for verified in subsets:
        for best in steps:
            kept = policy.preserved(steps, verified, {best: 1.0}, 2)
            assert kept >= set(sorted(verified)[-2:])
            assert 4 in kept and best in kept


@pytest.mark.parametrize(
    ("steps", "verified", "following"),
    [
        ([], [], None),
        ([1], [], 1),
        ([1, 2, 3], [], 3),
        ([1, 2, 3], [3], 2),  # one more is needed
        ([1, 2, 3], [2, 3], None),
        ([1, 2, 3, 4], [1, 2], 4),
    ],
)
def test_what_is_verified_next(steps, verified, following):
    assert policy.next_to_verify(steps, verified, 2) == following


def test_ranks():
    assert policy.rank({"val/loss": 0.5}, "val/loss") == -0.5
    assert policy.rank({"val/accuracy": 0.5}, "val/accuracy") == 0.5
    assert policy.rank({}, "val/accuracy") == -math.inf
    assert policy.rank({"a": math.nan}, "a") == -math.inf
    assert policy.best_of({1: 0.5, 2: 0.5, 3: 0.4}, [1, 2, 3]) == 2
    assert policy.best_of({1: 0.5, 2: -math.inf}, [2]) is None
