"""Tiny models of transformers with every option that is read, and what they compute."""

import pathlib

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from tests.foreign import run, transformers
from tests.models import tiny
from vit_jax.models.vit import ViT
from vit_jax.weights.table import whole

# Grid 3 x 4 of 4 x 5 patches where the library takes it, else 4 x 4 on a square.
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": [12, 20],
    "patch_size": [4, 5],
}
SQUARE = {"image_size": [20, 20], "patch_size": [5, 5]}
LABELS = {"num_labels": 7}


def _make(name, config, **settings):
    return getattr(transformers, name)(config(**SIZES | settings))


def vit(name="ViTForImageClassification", **settings):
    return _make(name, transformers.ViTConfig, **LABELS | settings)


def deit(name="DeiTForImageClassificationWithTeacher", **settings):
    return _make(name, transformers.DeiTConfig, **LABELS | settings)


def dinov2(name="Dinov2ForImageClassification", registers=0, **settings):
    config = transformers.Dinov2Config
    if registers:
        name = name.replace("Dinov2", "Dinov2WithRegisters")
        config = transformers.Dinov2WithRegistersConfig
        settings["num_register_tokens"] = registers
    sizes = {name: size for name, size in SIZES.items() if name != "intermediate_size"}
    settings = sizes | SQUARE | {"mlp_ratio": 2} | LABELS | settings
    return getattr(transformers, name)(config(**settings))


def dinov3(**settings):
    return _make("DINOv3ViTModel", transformers.DINOv3ViTConfig, **settings)


def siglip(name="SiglipVisionModel", **settings):
    # This family takes one number for both sides.
    vision = SIZES | {"image_size": 20, "patch_size": 5} | settings
    if name == "SiglipVisionModel":
        return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision))
    text = {
        **{key: value for key, value in SIZES.items() if "size" not in key},
        **{"hidden_size": 24, "intermediate_size": 40, "vocab_size": 30},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    }
    config = transformers.SiglipConfig(vision_config=vision, text_config=text, **LABELS)
    return getattr(transformers, name)(config)


MODELS = {
    "vit": vit,
    "vit_pooler": lambda: vit("ViTModel", pooler_output_size=16),
    "vit_masked": lambda: vit("ViTForMaskedImageModeling", **SQUARE),
    "vit_unbiased": lambda: vit(
        qkv_bias=False, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-3
    ),
    "deit": deit,
    "deit_one_head": lambda: deit("DeiTForImageClassification", hidden_act="gelu_new"),
    "deit_pooler": lambda: deit("DeiTModel"),
    "dinov2": dinov2,
    "dinov2_gated": lambda: dinov2(use_swiglu_ffn=True),
    "dinov2_base": lambda: dinov2("Dinov2Model", patch_size=[4, 5]),
    "dinov2_registers": lambda: dinov2(registers=3, layer_norm_eps=1e-3),
    "dinov2_registers_gated": lambda: dinov2(
        "Dinov2Model", registers=2, use_swiglu_ffn=True
    ),
    "dinov3": lambda: dinov3(num_register_tokens=2),
    "dinov3_gated": lambda: dinov3(
        use_gated_mlp=True, hidden_act="silu", mlp_bias=False, proj_bias=False
    ),
    "dinov3_biases": lambda: dinov3(
        query_bias=False, key_bias=True, value_bias=False, rope_theta=20.0
    ),
    "siglip": lambda: siglip("SiglipModel"),
    "siglip_vision": siglip,
    "siglip_classifier": lambda: siglip("SiglipForImageClassification"),
    "siglip_headless": lambda: siglip(vision_use_head=False, hidden_act="gelu"),
}

# Where a class keeps its encoder, if it is not one itself.
ENCODERS = ("vit", "deit", "dinov2", "dinov2_with_registers", "vision_model")


def save(module, folder, *, renamed=False):
    """A folder with the library's old names, or the new ones; its path."""
    module.save_pretrained(folder, save_original_format=not renamed)
    return str(folder)


def arrays_of(folder):
    """The numbers in a folder, by name, as the format's own library reads them."""
    return load_file(pathlib.Path(folder, "model.safetensors"))


def outputs(module, images):
    """Tokens after the last norm, and logits or pooled features."""
    encoder = next(
        (getattr(module, name) for name in ENCODERS if hasattr(module, name)), module
    )
    encoded = run(encoder, images)
    tokens = encoded.last_hidden_state
    if hasattr(module, "classifier") or hasattr(module, "cls_classifier"):
        features = run(module, images).logits
    elif encoded.get("pooler_output") is not None:
        features = encoded.pooler_output
    else:
        mean = not hasattr(encoder.embeddings, "cls_token")
        features = tokens.mean(dim=1) if mean else tokens[:, 0]
    return tokens.numpy(), features.numpy()


def ours(settings, leaves, images):
    """The same two of a ViT with these settings and leaves."""
    graphdef = nnx.graphdef(
        nnx.eval_shape(lambda: ViT(**settings, key=jax.random.key(0)))
    )
    params = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = whole(leaf)

    def compute(params, images):
        model = nnx.merge(graphdef, params)
        tokens = model.tokens(images)
        return tokens, model.logits(tokens)

    with jax.default_matmul_precision("highest"):
        return tuple(map(np.asarray, tiny.jit(compute)(params, images)))


def images_for(settings, seed=1):
    """A few images of the size that a model takes."""
    shape = (2, *settings["image_size"], settings["channels"])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
