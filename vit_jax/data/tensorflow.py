"""TensorFlow where it is needed: imported late, quiet, and without accelerators."""

import contextlib
import os
from typing import Any


def import_tensorflow() -> Any:
    """TensorFlow without its start-up noise; accelerators are taken from it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError):  # already initialised: as it is
            tf.config.set_visible_devices([], kind)
    return tf
