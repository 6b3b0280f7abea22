"""Classes of the robustness sets, and of data sets with other classes."""

import importlib.util
import pathlib

import numpy as np
import pytest

from vit_jax.config_file import shipped_base
from vit_jax.data.errors import DataError
from vit_jax.evals.class_maps import chosen_classes, imagenet_classes, label_map
from vit_jax.evals.imagenet_subsets import IMAGENET_A, IMAGENET_R


def test_imagenet_is_in_the_order_of_its_numbers():
    names = imagenet_classes()
    assert len(names) == 1000
    assert names == tuple(sorted(names))
    assert names[0] == "n01440764"  # tench
    assert names[207] == "n02099601"  # golden retriever


@pytest.mark.parametrize(
    ("subset", "names", "first"),
    [
        # The lowest classes of the sets' own lists: stingray, goldfinch; goldfish.
        ("imagenet_a", IMAGENET_A, [6, 11, 13, 15, 17]),
        ("imagenet_r", IMAGENET_R, [1, 2, 4, 6, 8]),
    ],
)
def test_subsets_are_200_classes(subset, names, first):
    assert len(set(names)) == len(names) == 200
    everything = np.arange(1000, dtype=np.int32)
    for known in (None, imagenet_classes()):
        chosen = chosen_classes(subset, 1000, known, everything)
        assert chosen.sum() == 200
        assert np.flatnonzero(chosen)[:5].tolist() == first
    reversed_names = imagenet_classes()[::-1]
    chosen = chosen_classes(subset, 1000, reversed_names, everything)
    assert np.flatnonzero(chosen)[::-1][:5].tolist() == [999 - n for n in first]


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_sketch", "imagenet_real"])
def test_whole_sets_are_1000_classes_of_a_model_that_knows_more(name):
    classes = shipped_base().robustness(name)["classes"]
    theirs = imagenet_classes()
    more = (*theirs[::-1], *(f"m{number:08}" for number in range(20_843)))
    chosen = chosen_classes(
        classes, len(more), more, label_map(len(theirs), theirs, len(more), more)
    )
    assert chosen.sum() == 1000 and chosen[:1000].all()


@pytest.mark.parametrize("letter", ["a", "r"])
def test_subsets_are_those_of_timm(letter):
    found = importlib.util.find_spec("timm")  # not imported: that takes seconds
    if found is None:
        pytest.skip("timm is not installed")
    folder = pathlib.Path(found.submodule_search_locations[0], "data", "_info")
    path = folder / f"imagenet_{letter}_indices.txt"
    theirs = [int(number) for number in path.read_text().split()]
    ours = chosen_classes(f"imagenet_{letter}", 1000, None, np.arange(1000))
    assert np.flatnonzero(ours).tolist() == theirs


def test_classes_are_matched_by_name():
    ours = ("ant", "bee", "cat", "dog")
    np.testing.assert_array_equal(label_map(2, ("dog", "ant"), 4, ours), [3, 0])
    np.testing.assert_array_equal(label_map(4, ours, 4, ours), [0, 1, 2, 3])
    np.testing.assert_array_equal(label_map(4, None, 4, ours), [0, 1, 2, 3])
    mapped = label_map(2, ("dog", "ant"), 4, ours)
    chosen = chosen_classes("data", 4, ours, mapped)
    np.testing.assert_array_equal(chosen, [True, False, False, True])
    assert chosen_classes("all", 4, ours, mapped) is None


def test_classes_that_do_not_match():
    with pytest.raises(DataError, match="1 of its 2 classes are unknown to the mod"):
        label_map(2, ("dog", "eel"), 3, ("ant", "bee", "dog"))
    with pytest.raises(DataError, match="it has 2 classes, the model 3, and they can"):
        label_map(2, None, 3, ("ant", "bee", "dog"))
    with pytest.raises(DataError) as caught:
        chosen_classes("imagenet_a", 10, tuple("0123456789"), np.arange(10))
    assert str(caught.value) == (
        "classes 'imagenet_a' are 200 of ImageNet's, but the model knows 0 of them; "
        "missing: n01498041, n01531178, n01534433, ..."
    )
