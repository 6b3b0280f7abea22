import os

import pytest

from vit_jax.data import prepare


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """A data directory in which digits is prepared, for reading only."""
    root = os.fspath(tmp_path_factory.mktemp("tfds"))
    prepare.prepare("digits", dir=root, log=lambda text: None)
    return root
