"""The masked autoencoder's decoder against transformers' ViTMAE and in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models import reference, tiny
from vit_jax.models.mae_decoder import POSITIONS, MaeDecoder

TOLERANCE = 2e-5

# Grid 3 x 4 of 4 x 5 patches, 5 of them visible; no two axes alike.
SETTINGS = {
    "grid": (3, 4),
    "patch_size": (4, 5),
    "channels": 3,
    "encoder_width": 16,
    "width": 24,
    "depth": 2,
    "mlp_dim": 40,
    "num_heads": 3,
}
VISIBLE = 5


@functools.cache
def shapes(**changes):
    return tiny.shapes(lambda key: MaeDecoder(**SETTINGS | changes, key=key))


def inputs(patches=12, prefix=1, batch=2):
    """Visible tokens, and each patch's place among the visible and missing ones."""
    generator = np.random.default_rng(1)
    visible = generator.normal(size=(batch, prefix + VISIBLE, 16))
    restore = [generator.permutation(patches) for _ in range(batch)]
    return visible.astype(np.float32), np.stack(restore).astype(np.int32)


def run(params, visible, restore, **changes):
    graphdef, _ = shapes(**changes)
    apply = tiny.jit(lambda params, *args: nnx.merge(graphdef, params)(*args))
    return np.asarray(apply(params, jnp.asarray(visible), jnp.asarray(restore)))


def transformers_decoder(activation, position, epsilon):
    """Their decoder with random weights, and the fixed table where that is asked for.

    Theirs is of a square grid of 3 x 3 square patches.
    """
    from tests import foreign

    config = foreign.transformers.ViTMAEConfig(
        image_size=12,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        decoder_hidden_size=24,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=40,
        hidden_act={"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}[activation],
        layer_norm_eps=epsilon,
    )
    decoder = foreign.transformers.ViTMAEForPreTraining(config).decoder
    decoder.initialize_weights(num_patches=9)
    fixed = decoder.decoder_pos_embed.detach().clone()
    decoder = foreign.randomise(decoder)
    if position == "sincos2d_mae":
        decoder.decoder_pos_embed.data.copy_(fixed)
    return decoder


def from_transformers(decoder, position):
    """The package's parameters out of theirs."""
    state = {name: value.numpy() for name, value in decoder.state_dict().items()}

    def dense(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def project(name):
        kernel, bias = dense(name).values()
        return {"kernel": kernel.reshape(24, 3, 8), "bias": bias.reshape(3, 8)}

    def block(name):
        out = dense(f"{name}.attention.o_proj")
        return {
            "attention_norm": norm(f"{name}.layernorm_before"),
            "attention": {
                "query": project(f"{name}.attention.q_proj"),
                "key": project(f"{name}.attention.k_proj"),
                "value": project(f"{name}.attention.v_proj"),
                "out": {"kernel": out["kernel"].reshape(3, 8, 24), "bias": out["bias"]},
            },
            "mlp_norm": norm(f"{name}.layernorm_after"),
            "mlp": {
                "hidden": dense(f"{name}.mlp.fc1"),
                "out": dense(f"{name}.mlp.fc2"),
            },
        }

    blocks = [block(f"decoder_layers.{index}") for index in range(2)]
    params = {
        "embedding": dense("decoder_embed"),
        "mask_token": state["mask_token"],
        "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
        "norm": norm("decoder_norm"),
        "prediction": dense("decoder_pred"),
    }
    if position == "learned":
        params["position_embedding"] = state["decoder_pos_embed"]
    return params


@pytest.mark.parametrize(
    ("activation", "position", "epsilon"),
    [
        ("gelu", "sincos2d_mae", 1e-6),
        ("gelu", "sincos2d_mae", 1e-2),
        ("gelu_tanh", "learned", 1e-6),
    ],
)
def test_equals_transformers(activation, position, epsilon):
    from tests.foreign import torch

    decoder = transformers_decoder(activation, position, epsilon)
    visible, restore = inputs(patches=9)
    with torch.no_grad():
        expected = decoder(
            torch.from_numpy(visible), torch.from_numpy(restore).long()
        ).logits
    found = run(
        from_transformers(decoder, position),
        visible,
        restore,
        grid=(3, 3),
        patch_size=(4, 4),
        activation=activation,
        position=position,
        norm_epsilon=epsilon,
    )
    assert found.shape == (2, 9, 48)
    assert tiny.error(found, expected.numpy()) < TOLERANCE


def decode(params, visible, restore, *, prefix, position, sincos="mae"):
    """The decoder in numpy float64, a patch at a time."""
    params = reference.to_float64(params)
    embedded = reference.dense(visible.astype(np.float64), params["embedding"])
    tokens = np.zeros((len(visible), prefix + restore.shape[1], 24))
    tokens[:, :prefix] = embedded[:, :prefix]
    for row, places in enumerate(restore):
        for patch, place in enumerate(places):
            seen = place < VISIBLE
            token = embedded[row, prefix + place] if seen else params["mask_token"]
            tokens[row, prefix + patch] = token
    if position == "learned":
        tokens += params["position_embedding"]
    else:
        tokens[:, prefix:] += reference.SINCOS[sincos](3, 4, 24)
    encoded, _ = reference.encode(params, tokens, num_heads=3)
    return reference.dense(encoded[:, prefix:], params["prediction"])


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_equals_the_reference(prefix, position):
    changes = {"prefix": prefix, "position": position}
    params = tiny.fill(shapes(**changes)[1])
    visible, restore = inputs(prefix=prefix)
    found = run(params, visible, restore, **changes)
    assert found.shape == (2, 12, 60)
    expected = decode(params, visible, restore, **changes)
    assert tiny.error(found, expected) < TOLERANCE


def test_would_notice():
    params = tiny.fill(shapes()[1])
    visible, restore = inputs()
    found = run(params, visible, restore)
    known = {"prefix": 1, "position": "sincos2d_mae"}
    wrong = decode(params, visible, restore, **known, sincos="moco")
    assert tiny.error(found, wrong) > 1e-3
    inverse = np.argsort(restore, axis=1)
    assert tiny.error(found, decode(params, visible, inverse, **known)) > 1e-2


@pytest.mark.parametrize("changes", [{"unroll": 2}, {"remat": "full"}])
def test_the_loops_forms_give_the_same(changes):
    params = tiny.fill(shapes()[1])
    found = run(params, *inputs(), **changes)
    np.testing.assert_allclose(found, run(params, *inputs()), atol=1e-5, rtol=1e-5)


def test_bfloat16():
    params = tiny.fill(shapes(dtype="bfloat16")[1])
    assert all(leaf.dtype == np.float32 for leaf in tiny.flatten(params).values())
    found = run(params, *inputs(), dtype="bfloat16")
    assert found.dtype == np.float32
    assert 1e-4 < tiny.error(found, run(params, *inputs())) < 5e-2


def test_parameter_paths():
    found = {
        name: leaf.shape
        for name, leaf in tiny.flatten(shapes(position="learned")[1]).items()
        if not name.startswith("blocks/")
    }
    assert found == {
        "embedding/kernel": (16, 24),
        "embedding/bias": (24,),
        "mask_token": (1, 1, 24),
        "position_embedding": (1, 13, 24),
        "norm/scale": (24,),
        "norm/bias": (24,),
        "prediction/kernel": (24, 60),
        "prediction/bias": (60,),
    }
    fixed = tiny.flatten(shapes()[1])
    assert "position_embedding" not in fixed
    assert fixed["blocks/mlp/hidden/kernel"].shape == (2, 24, 40)


def test_initial_values():
    settings = SETTINGS | {"position": "learned"}
    model = MaeDecoder(**settings, key=jax.random.key(0))
    for normal in (model.mask_token, model.position_embedding):
        assert 0.01 < normal[...].std() < 0.03
    for layer in (model.embedding, model.prediction):
        kernel = layer.kernel[...]
        bound = np.sqrt(6 / sum(kernel.shape))
        assert 0.9 * bound < np.abs(kernel).max() <= bound
        assert not layer.bias[...].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "sincos2d"}, "'sincos2d' is unknown; known: sincos2d_mae"),
        ({"num_heads": 5}, "num_heads 5 does not divide its width 24"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        MaeDecoder(**SETTINGS | changes, key=jax.random.key(0))
