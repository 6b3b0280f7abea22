"""MAE's files: encoder and decoder together reconstruct as the reference does.

The reference is transformers' model; its arrays are renamed to those of the files that
were released, which have query, key and value in one array.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.foreign import randomise, torch, transformers
from tests.models import tiny
from tests.weights.hf_models import images_for
from vit_jax.models.mae_decoder import MaeDecoder
from vit_jax.models.vit import ViT
from vit_jax.weights import WeightsError, load, mae
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Card,
    Preprocessing,
    complete,
)
from vit_jax.weights.load import open_checkpoint

HEADS = 3
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 40,
    "image_size": 20,
    "patch_size": 5,
    "layer_norm_eps": 1e-6,
    "mask_ratio": 0.5,
    # The published decoder's width and heads, which its files are known by.
    "decoder_hidden_size": 512,
    "decoder_num_attention_heads": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_intermediate_size": 48,
}

RENAMED = (
    (r"^vit\.embeddings\.cls_token$", "cls_token"),
    (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^vit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^vit\.layernorm\.", "norm."),
    (r"^vit\.layers\.", "blocks."),
    (r"^decoder\.decoder_layers\.", "decoder_blocks."),
    (r"^decoder\.", ""),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
)


def original(module):
    """The state dict under the names of the released files."""
    state, fused = {}, {}
    for name, tensor in module.state_dict().items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        part = re.search(r"attention\.([qkv])_proj", name)
        if part:
            fused.setdefault(name.replace(part[0], "attn.qkv"), {})[part[1]] = tensor
        else:
            state[name] = tensor
    for name, parts in fused.items():
        state[name] = torch.cat([parts[key] for key in "qkv"])
    return state


def reference(**changes):
    config = transformers.ViTMAEConfig(**SIZES | changes)
    # With larger weights, 512 wide, float32 itself is 2e-5 from float64 in torch too.
    return randomise(transformers.ViTMAEForPreTraining(config), std=0.05)


@pytest.fixture(scope="module")
def module():
    found = reference()
    with torch.no_grad():  # fixed in the library, and so left out of randomise
        for table in (
            found.vit.embeddings.position_embeddings,
            found.decoder.decoder_pos_embed,
        ):
            table.copy_(torch.randn(table.shape, generator=torch.Generator()))
    return found


@pytest.fixture(scope="module")
def path(module, tmp_path_factory):
    file = tmp_path_factory.mktemp("mae") / "checkpoint.pth"
    torch.save({"model": original(module), "epoch": 3}, file)
    return str(file)


def arrays(state, **changes):
    found = {name: tensor.numpy() for name, tensor in state.items()}
    return Arrays("checkpoint.pth", found | changes)


def reconstruct(encoder, decoder, images, noise):
    """Predictions from the patches of least noise, as MAE picks them."""
    shuffle = np.argsort(noise, axis=1)
    kept = shuffle[:, : int(noise.shape[1] * (1 - SIZES["mask_ratio"]))]
    restore = jnp.asarray(np.argsort(shuffle, axis=1))

    def compute(states, images):
        encode = nnx.merge(nnx.graphdef(encoder), states[0])
        decode = nnx.merge(nnx.graphdef(decoder), states[1])
        tokens = encode.embed(images)
        chosen = np.concatenate([np.zeros_like(kept[:, :1]), kept + 1], axis=1)
        tokens = tokens[np.arange(len(tokens))[:, None], chosen]
        return decode(encode.encode(tokens), restore)

    with jax.default_matmul_precision("highest"):
        states = nnx.state(encoder), nnx.state(decoder)
        return np.asarray(tiny.jit(compute)(states, images))


def test_reconstructs_as_the_reference(module, path):
    model, record = load(path, num_heads=HEADS)
    assert record.format == "mae"
    assert not record.unused and not record.missing
    images = images_for(record.settings)
    noise = np.random.default_rng(2).random((2, 16)).astype(np.float32)
    with torch.no_grad():
        expected = module(
            torch.from_numpy(images.transpose(0, 3, 1, 2)), torch.from_numpy(noise)
        ).logits.numpy()
    actual = reconstruct(model, record.decoder, images, noise)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)

    wrong = {"activation": "gelu_tanh"}
    other = MaeDecoder(**inferred(path).decoder | wrong, key=jax.random.key(0))
    nnx.update(other, nnx.state(record.decoder))
    changed = reconstruct(model, other, images, noise)
    assert np.abs(changed - expected).max() > 1e-4
    other = ViT(**dict(record.settings) | {"norm_epsilon": 1e-2}, key=jax.random.key(0))
    nnx.update(other, nnx.state(model))
    changed = reconstruct(other, record.decoder, images, noise)
    assert np.abs(changed - expected).max() > 1e-3


def inferred(path):
    return open_checkpoint(path, num_heads=HEADS).inferred


def test_settings_are_those_of_the_paper(path):
    found = inferred(path)
    settings = complete(found.settings)
    expected = {
        "position": "learned_cls",
        "pool": "cls",
        "num_classes": 0,
        "activation": "gelu",
        "norm_epsilon": 1e-6,
        "final_norm": "tokens",
        "image_size": (20, 20),
    }
    assert {name: settings[name] for name in expected} == expected
    assert found.preprocessing.mean == IMAGENET_MEAN
    assert found.preprocessing.std == IMAGENET_STD
    assert found.preprocessing.resize == 23  # 20 * 256 / 224
    decoder = {"num_heads": 16, "activation": "gelu", "norm_epsilon": 1e-6}
    assert {name: found.decoder[name] for name in decoder} == decoder


@pytest.mark.parametrize(
    ("width", "depth", "heads"), [(768, 12, 12), (1024, 24, 16), (1280, 32, 16)]
)
def test_heads_of_published_sizes_are_known(width, depth, heads):
    def infer(depth):
        wide = np.broadcast_to(np.float32(0), (4 * width, width))
        shapes = {
            "patch_embed.proj.weight": (width, 3, 16, 16),
            "pos_embed": (1, 197, width),
            "decoder_embed.weight": (512, width),
            "decoder_blocks.0.mlp.fc1.weight": (2048, 512),
        }
        found = {name: np.broadcast_to(np.float32(0), s) for name, s in shapes.items()}
        found |= {f"blocks.{layer}.mlp.fc1.weight": wide for layer in range(depth)}
        return mae.infer(Arrays("checkpoint.pth", found))

    assert infer(depth).settings["num_heads"] == heads
    with pytest.raises(WeightsError, match="give num_heads"):
        infer(depth - 1)


def test_other_heads_are_asked_for(path):
    with pytest.raises(WeightsError, match=r"width of 24 often 1$"):
        open_checkpoint(path)
    with pytest.raises(WeightsError, match="5 heads do not divide"):
        open_checkpoint(path, num_heads=5)


def test_decoder_of_another_width_is_left_out(tmp_path):
    state = original(reference(decoder_hidden_size=32, decoder_num_attention_heads=4))
    file = tmp_path / "checkpoint.pth"
    torch.save({"model": state}, file)
    record = load(str(file), num_heads=HEADS).record
    assert record.decoder is None
    decoder = {
        name for name in state if name.startswith("decoder_") or name == "mask_token"
    }
    assert set(record.unused) == decoder


def test_encoder_alone_is_another_format(module):
    state = original(module)
    assert mae.recognise(arrays(state))
    alone = {name: array for name, array in state.items() if "decoder" not in name}
    assert not mae.recognise(arrays(alone))


def test_damaged_files_are_refused(module):
    state = original(module)
    with pytest.raises(WeightsError, match="pos_embed"):
        flat = np.zeros((17, 24), np.float32)
        mae.infer(arrays(state, pos_embed=flat), num_heads=HEADS)
    with pytest.raises(WeightsError, match="image_size"):
        many = np.zeros((1, 13, 24), np.float32)
        mae.infer(arrays(state, pos_embed=many), num_heads=HEADS)
    many = np.zeros((1, 13, 24), np.float32)
    found = mae.infer(
        arrays(state, pos_embed=many), num_heads=HEADS, image_size=(15, 20)
    )
    assert found.decoder["grid"] == (3, 4)


def test_writing_names_the_format_to_take(tmp_path):
    with pytest.raises(WeightsError, match="--to timm"):
        mae.write(tmp_path / "new", {}, {}, Card("tiny", Preprocessing((20, 20))))
