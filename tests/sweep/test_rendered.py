"""What the renderers share."""

import pytest

from tests.sweep import rendering
from vit_jax.sweep import rendered
from vit_jax.sweep.ranges import SweepError


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([0], "0"), ([0, 1, 2, 5], "0-2,5"), ([7, 3, 4], "3-4,7"), ([1, 3, 5], "1,3,5")],
)
def test_numbers_are_compact_and_read_back(numbers, text):
    assert rendered.compact(numbers) == text
    assert rendered.numbers_of(text) == sorted(numbers)


def test_mistakes():
    with pytest.raises(SweepError, match="not of the form"):
        rendered.numbers_of("1;2")
    with pytest.raises(SweepError, match="--limits=x is not KEY=VALUE"):
        rendered.pairs(["x"], "--limits")
    with pytest.raises(SweepError, match="use --workdir=gs://"):
        rendered.needs_bucket(rendering.batch("/data/s"), "gke")
