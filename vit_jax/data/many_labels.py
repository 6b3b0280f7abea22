"""TFDS sets whose examples have any number of labels, such as ``imagenet2012_real``."""

from typing import Any

import numpy as np

from vit_jax.data.errors import DataError
from vit_jax.data.facts import check_label
from vit_jax.data.tfds import TfdsSource


class ManyLabelsSource(TfdsSource):
    """As `TfdsSource`, with class numbers padded with -1 for a label (`each_once`).

    How many an example has at most is not known before all are read: a row has room
    for all classes.

    Args:
      settings: of `TfdsSource`; ``label_key`` names a sequence of class labels.

    Raises:
      DataError: as `TfdsSource`, or the feature is none of that kind.
    """

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        if self.num_classes is None:
            raise DataError(
                f"data set {self.facts.name!r}: {self._label_key!r} is no sequence of "
                f"class labels; among its features: {', '.join(self.facts.features)}"
            )
        self.label_shape = (self.num_classes,)

    def _parse(self, record: bytes) -> dict[str, Any]:
        from tensorflow_datasets.proto import tf_example_generated_pb2

        # The generated module makes its classes as it is imported.
        example = getattr(tf_example_generated_pb2, "Example")  # noqa: B009
        fields = example.FromString(record).features.feature
        return {
            "image": fields[self._image_key].bytes_list.value[0],
            "label": list(fields[self._label_key].int64_list.value),
        }

    def _check(self, label: list[int], index: int) -> None:
        for one in label:
            check_label(one, self.num_classes, lambda: self.where(index))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{"image": encoded bytes, "label": int32 [K]}``; errors as `TfdsSource`."""
        example = super().__getitem__(index)
        row = np.full(self.label_shape, -1, np.int32)
        classes = sorted(set(example["label"]), reverse=True)
        row[: len(classes)] = classes
        return example | {"label": row}
