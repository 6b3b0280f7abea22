"""scikit-learn's digits as a TFDS data set: 1,797 real 8x8 scans, no download."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from vit_jax.data.arrays import digits_arrays


class Digits(tfds.core.GeneratorBasedBuilder):
    """Optical recognition of handwritten digits (UCI), test part, from scikit-learn.

    Pixels 0..16 become ``round(value * 255 / 16)``. Split ``test`` is every fifth
    image in the original order (360), ``train`` is the others (1,437). The original
    order goes writer by writer, so both splits see the same writers.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS's interface)

    def _info(self) -> Any:
        return self.dataset_info_from_configs(
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(8, 8, 1), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(
                        names=[str(n) for n in range(10)]
                    ),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://scikit-learn.org/stable/datasets/toy_dataset.html",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {
            "train": self._generate_examples(held_out=False),
            "test": self._generate_examples(held_out=True),
        }

    def _generate_examples(self, held_out: bool) -> Iterator[tuple[int, dict]]:
        images, labels = digits_arrays()["test" if held_out else "train"]
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}
