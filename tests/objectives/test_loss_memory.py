"""21,843 classes: a step's loss and gradients need two arrays of logits at most."""

import json
import os
import subprocess
import sys

import pytest

from tests import training
from tests.objectives import loss_memory
from vit_jax.plan import compile as compiling
from vit_jax.plan.topology import parse


@pytest.mark.slow
def test_on_a_tpu():
    """With mixup and label smoothing, whose labels are dense rows of their own."""
    if reason := compiling.available(parse("v5e-4")):
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "-m", "tests.objectives.loss_memory", "v5e:2x2"],
        env=os.environ | compiling.ENVIRONMENT,
        cwd=training.ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found.keys() == set(loss_memory.KINDS)
    for arrays in found.values():
        assert 0.9 < arrays < 1.1
