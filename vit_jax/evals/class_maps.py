"""Classes of one data set among those of another: by name, or by number.

ImageNet's sets number their classes alike in TFDS, in the order of the WordNet numbers
of its ``imagenet2012/labels.txt``. Folders of the same names are matched by name.
"""

import functools
import importlib.util
import pathlib
from collections.abc import Sequence

import numpy as np

from vit_jax.data.errors import DataError
from vit_jax.evals.imagenet_subsets import IMAGENET_A, IMAGENET_R

SUBSETS = {"imagenet_a": IMAGENET_A, "imagenet_r": IMAGENET_R}
SUBSET_SIZE = 200
IMAGENET_SIZE = 1000
CLASSES = ("all", "data", *SUBSETS)


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """WordNet numbers of ImageNet's classes, of the file that TFDS ships.

    Raises:
      DataError: TFDS is not installed, or its file is not as it was.
    """
    found = importlib.util.find_spec("tensorflow_datasets")  # not imported
    folders = found.submodule_search_locations if found else None
    if not folders:
        raise DataError(
            "ImageNet's class names come with tensorflow-datasets, which is not "
            "installed: pip install tensorflow-datasets"
        )
    path = pathlib.Path(folders[0], "datasets", "imagenet2012", "labels.txt")
    try:
        names = tuple(path.read_text().split())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(set(names)) != IMAGENET_SIZE:
        raise DataError(f"{path} has {len(set(names))} classes, not {IMAGENET_SIZE}")
    return names


def label_map(
    num_theirs: int | None,
    their_names: Sequence[str] | None,
    num_ours: int,
    our_names: Sequence[str] | None,
) -> np.ndarray:
    """The model's class of every class of a data set, int32 ``[theirs]``.

    By name where both sets have names, else by number.

    Raises:
      DataError: a class is unknown to the model, or the numbers of classes differ.
    """
    if their_names and our_names and tuple(their_names) != tuple(our_names):
        numbers = {name: number for number, name in enumerate(our_names)}
        missing = [name for name in their_names if name not in numbers]
        if missing:
            raise DataError(
                f"{len(missing)} of its {len(their_names)} classes are unknown to the "
                f"model, such as {missing[0]!r}; the model's are {our_names[0]!r} to "
                f"{our_names[-1]!r}"
            )
        return np.asarray([numbers[name] for name in their_names], np.int32)
    count = num_theirs or num_ours
    if count != num_ours:
        raise DataError(
            f"it has {count} classes, the model {num_ours}, and they cannot be matched "
            "by name; give both sets class names, or evaluate on the training set's"
        )
    return np.arange(num_ours, dtype=np.int32)


def chosen_classes(
    classes: str,
    num_ours: int,
    our_names: Sequence[str] | None,
    mapped: np.ndarray,
) -> np.ndarray | None:
    """The classes that predictions are restricted to, bool ``[ours]``; None for all.

    Args:
      classes: of `CLASSES`; "data" are those that the data set has.
      num_ours, our_names: of the model.
      mapped: of `label_map`.

    Raises:
      DataError: the model's classes are not ImageNet's.
    """
    if classes == "all":
        return None
    allowed = np.zeros(num_ours, bool)
    if classes == "data":
        allowed[mapped] = True
        return allowed
    if our_names is None and num_ours == IMAGENET_SIZE:
        our_names = imagenet_classes()
    numbers = {name: number for number, name in enumerate(our_names or ())}
    wanted = SUBSETS[classes]
    missing = [name for name in wanted if name not in numbers]
    if missing:
        raise DataError(
            f"classes {classes!r} are {len(wanted)} of ImageNet's, but the model knows "
            f"{len(wanted) - len(missing)} of them; missing: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}"
        )
    allowed[[numbers[name] for name in wanted]] = True
    assert allowed.sum() == SUBSET_SIZE
    return allowed
