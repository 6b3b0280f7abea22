"""timm and transformers on CPU torch, for comparison; absent, the tests skip.

`torch`, `timm` and `transformers` are the modules.
"""

import warnings

import numpy as np
import pytest

from vit_jax.weights.foreign import import_torchvision

torch = pytest.importorskip("torch", reason="torch is not installed")

import_torchvision(torch)  # where it is there, whichever torch it was built for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    timm = pytest.importorskip("timm", reason="timm is not installed")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed"
    )


def randomise(module, seed=0, std=0.2):
    """Fills every parameter with random numbers, none zero; norm scales near 1."""
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = generator.normal(0.0, std, tuple(parameter.shape))
            if name.endswith("weight") and parameter.ndim == 1:
                values += 1.0
            parameter.copy_(torch.tensor(values, dtype=parameter.dtype))
    return module.eval()


def run(module, images, **arguments):
    """A torch module on NHWC numpy images, without gradients; NCHW is its input."""
    inputs = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
    with torch.no_grad():
        return module(inputs, **arguments)
