"""What the tests of exports need: tiny models, sources to export, subprocesses."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.models import tiny
from vit_jax.weights.base import Card, Preprocessing
from vit_jax.weights.export import TARGETS

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = tuple(f"class {number}" for number in range(7))
CLS = {"pool": "cls", "cls_token": True, "position": "learned_cls"}

# Together they have every part that a program can have.
PROGRAMS = {
    "gap": {"activation": "gelu", "unroll": 2},
    "distilled": {**CLS, "distillation": "head", "registers": 2, "norm_epsilon": 1e-3},
    "map": {"pool": "map", "num_classes": 0, "final_norm": "both"},
    "swiglu": {
        **{"mlp": "swiglu", "norm": "rms", "qk_norm": True, "layer_scale": 0.1},
        **{"rope": "axial", "position": "none", "pre_logits": 5},
    },
    "trained otherwise": {
        **{"dtype": "bfloat16", "remat": "full", "patch_dropout": 0.5, "dropout": 0.5},
        **{"pool": "cls_gap", "cls_token": True, "position": "sincos2d"},
        **{"rope": "dinov3", "parallel_blocks": True, "dynamic_size": True},
    },
    "stem": {"stem": (1,)} | {"patch_size": (4, 4)},
}


def build(**changes):
    """A tiny model with random parameters."""
    graphdef, shapes = tiny.vit_shapes(**changes)
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, tiny.fill(shapes)))


def expected(model, images):
    """Its outputs computed in float32, whatever it was built for."""
    settings = vars(model.settings) | {"dtype": "float32", "remat": "none"}
    graphdef, _ = tiny.shapes(lambda key: type(model)(**settings, key=key))
    params = nnx.to_pure_dict(nnx.state(model))
    apply = tiny.jit(lambda params, images: nnx.merge(graphdef, params)(images))
    return np.asarray(apply(params, images))


def images(model, batch=4, seed=1):
    """Random normalised images of a model's size."""
    shape = (batch, *model.image_size, model.channels)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def card(model, **fields):
    """A card that is filled in."""
    how = Preprocessing(model.image_size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 16)
    return Card("tiny", how, NAMES if model.num_classes else (), **fields)


def write_source(folder, **changes):
    """A folder that can be exported, in timm's form; and its model."""
    model = build(**changes)
    TARGETS["timm"].write(folder, model, card(model))
    return str(folder), model


def run_python(code, *arguments, package=True, **variables):
    """Runs code in another process; without ``package`` it has no vit_jax."""
    block = "import sys; sys.modules['vit_jax'] = None\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""} | variables
    result = subprocess.run(
        [sys.executable, "-c", code if package else block + code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


# Writes models and compares them; then with another bias of the head; then by command.
WRITE = """
import contextlib, io, json, pathlib, sys
import numpy as np
from tests.weights import exports
from vit_jax.cli import main
from vit_jax.weights.export import TARGETS, compare


def write(to, folder, names):
    target, results = TARGETS[to], {}
    for name in names:
        changes, path = exports.PROGRAMS[name], folder / name
        model = exports.build(**changes)
        target.write(path, model, exports.card(model))
        exact = exports.build(**changes | {"dtype": "float32"})
        results[name] = compare(target, path, exact)
        images = exports.images(model, 3)
        wanted = exports.expected(model, images)
        np.savez(folder / f"{name}.npz", images=images, wanted=wanted)
    source, model = exports.write_source(folder / "source")
    output = folder / f"output{target.suffix}"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["convert", source, str(output), f"--to={to}", "--licence=mit"]) == 0
    model.head.bias[...] = model.head.bias[...] + 0.01
    results["another bias"] = compare(target, output, model)
    return results, said.getvalue().splitlines()


found = {}
for to, names in json.loads(sys.argv[2]).items():
    folder = pathlib.Path(sys.argv[1], to)
    folder.mkdir()
    found[to] = write(to, folder, names)
print(json.dumps(found))
"""


def write_elsewhere(folder, names):
    """Runs WRITE for names by format; by format, what was compared, and said."""
    return json.loads(run_python(WRITE, folder, json.dumps(names)).splitlines()[-1])
