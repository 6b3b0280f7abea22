"""Operations of a forward pass: counted from sizes, and by XLA."""

import jax
import pytest
from flax import nnx

from tests.models import options, tiny
from vit_jax.models.flops import forward_flops
from vit_jax.models.vit import ViT, build


def of(**changes):
    return forward_flops(
        nnx.eval_shape(lambda: ViT(**tiny.settings(**changes), key=jax.random.key(0)))
    )


# Multiply-adds that torch's FlopCounterMode finds in timm's models of these names.
@pytest.mark.parametrize(
    ("variant", "products"),
    [
        ("B/16", 17_563_828_224),
        ("R+Ti/16", 433_681_920),
        ("R26+S/32", 3_463_851_008),
        ("R50+L/32", 19_413_295_104),
    ],
)
def test_counts_of_another_implementation(variant, products):
    model = nnx.eval_shape(
        lambda: build(
            variant=variant,
            image_size=(224, 224),
            num_classes=1000,
            pool="cls",
            key=jax.random.key(0),
        )
    )
    assert forward_flops(model) == 2 * products


def test_what_each_option_adds():
    # By hand: 12 patches, width 24, MLP 40, 2 blocks, 7 classes, patches of 4 x 5 x 3.
    def block(tokens, products=2):
        return 2 * (tokens * (4 * 24**2 + products * 24 * 40) + 2 * tokens**2 * 24)

    embedding, head = 2 * 12 * 60 * 24, 2 * 24 * 7
    assert of() == embedding + 2 * block(12) + head
    assert of(registers=3) == embedding + 2 * block(15) + head
    assert of(mlp="swiglu") == embedding + 2 * block(12, products=3) + head
    assert of(num_classes=0) == embedding + 2 * block(12)
    assert of(cls_token=True, pool="cls_gap") == embedding + 2 * block(13) + 2 * head
    assert of(**options.SINGLE["distillation_head"]) == (
        embedding + 2 * block(14) + 2 * head
    )
    assert of(pre_logits=20) == embedding + 2 * block(12) + 2 * (24 * 20 + 20 * 7)
    for name in ("qk_norm", "layer_scale", "rope_base", "parallel", "no_position"):
        assert of(**options.SINGLE[name]) == of(), name


@pytest.mark.parametrize(
    "changes",
    [
        options.MIXED["distilled"],
        options.MIXED["dinov3"],
        {"stem": (1, 1), "patch_size": (8, 16), "image_size": (32, 64)},
    ],
    ids=["distilled", "dinov3", "hybrid"],
)
def test_most_of_what_xla_counts(changes):
    # Large enough that products outweigh norms, softmax and activations.
    changes = changes | {"width": 192, "mlp_dim": 640, "num_heads": 3, "unroll": 2}
    graphdef, shapes = tiny.vit_shapes(**changes)
    images = tiny.images(batch=1, **changes)
    run = jax.jit(lambda params, images: nnx.merge(graphdef, params)(images))
    cost = run.lower(shapes, images).cost_analysis()
    counted = (cost[0] if isinstance(cost, list) else cost)["flops"]
    assert 0.85 < of(**changes) / counted < 1.0
