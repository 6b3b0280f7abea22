"""Rotary embeddings against timm's axial and transformers' DINOv3 ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import foreign
from tests.models import tiny
from vit_jax.models.rope import ROPES, apply_rope, rope_table

TOLERANCE = 1e-6
GRID, HEAD_DIM = (3, 5), 8
KINDS = ROPES[1:]


def axial_table(grid, head_dim, base):
    rope = foreign.timm.layers.RotaryEmbeddingCat(
        head_dim, in_pixels=False, temperature=base, feat_shape=list(grid)
    )
    return np.split(rope.get_embed().numpy(), 2, axis=-1)


def dinov3_table(grid, head_dim, base):
    from transformers.models.dinov3_vit import modeling_dinov3_vit as dinov3

    height, width = grid[0] * 2, grid[1] * 2
    config = foreign.transformers.DINOv3ViTConfig(
        hidden_size=3 * head_dim,
        num_attention_heads=3,
        patch_size=2,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    config.rope_theta = base
    rope = dinov3.DINOv3ViTRopePositionEmbedding(config).eval()
    cos, sin = rope(foreign.torch.zeros(1, 3, height, width))
    return sin.numpy(), cos.numpy()


TABLES = {"axial": axial_table, "dinov3": dinov3_table}


def rotate_axial(inputs, sin, cos):
    embedding = foreign.torch.from_numpy(np.concatenate([sin, cos], axis=-1))
    heads = foreign.torch.from_numpy(inputs.transpose(0, 2, 1, 3))
    rotated = foreign.timm.layers.apply_rot_embed_cat(heads, embedding)
    return rotated.numpy().transpose(0, 2, 1, 3)


def rotate_dinov3(inputs, sin, cos):
    from transformers.models.dinov3_vit import modeling_dinov3_vit as dinov3

    heads = foreign.torch.from_numpy(inputs.transpose(0, 2, 1, 3))
    tables = [foreign.torch.from_numpy(table) for table in (cos, sin)]
    rotated, _ = dinov3.apply_rotary_pos_emb(heads, heads, *tables)
    return rotated.numpy().transpose(0, 2, 1, 3)


ROTATIONS = {"axial": rotate_axial, "dinov3": rotate_dinov3}


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("base", [100.0, 10_000.0])
@pytest.mark.parametrize("grid", [GRID, (5, 3), (1, 4), (7, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_table_equals_the_other_implementation(kind, grid, base):
    found = rope_table(kind, grid, HEAD_DIM, base)
    expected = TABLES[kind](grid, HEAD_DIM, base)
    for table, other in zip(found, expected, strict=True):
        assert table.shape == (grid[0] * grid[1], HEAD_DIM)
        assert table.dtype == jnp.float32
        np.testing.assert_allclose(table, other, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_rotation_equals_the_other_implementation(kind):
    inputs = random(2, 15, 3, HEAD_DIM)
    sin, cos = rope_table(kind, GRID, HEAD_DIM, 100.0)
    found = apply_rope(jnp.asarray(inputs), sin, cos, kind)
    expected = ROTATIONS[kind](inputs, np.array(sin), np.array(cos))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_the_kinds_differ():
    inputs = jnp.asarray(random(2, 15, 3, HEAD_DIM))
    tables = {kind: rope_table(kind, GRID, HEAD_DIM, 100.0) for kind in KINDS}
    rotated = {kind: apply_rope(inputs, *tables[kind], kind) for kind in KINDS}
    assert tiny.error(rotated["axial"], rotated["dinov3"]) > 0.1
    assert tiny.error(apply_rope(inputs, *tables["axial"], "dinov3"), inputs) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_products_depend_on_the_offset_alone(kind):
    query, key = random(2, HEAD_DIM)
    table = rope_table(kind, GRID, HEAD_DIM, 100.0)
    tokens = jnp.broadcast_to(jnp.stack([query, key])[:, None, None], (2, 15, 1, 8))
    queries, keys = apply_rope(tokens, *table, kind)[:, :, 0]
    products = np.asarray(queries @ keys.T).reshape(3, 5, 3, 5)
    moved = products[1:, 2:, 1:, 2:]
    np.testing.assert_allclose(moved, products[:-1, :-2, :-1, :-2], atol=1e-5)
    assert np.ptp(products) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_tokens_stay(kind):
    inputs = jnp.asarray(random(2, 17, 3, HEAD_DIM))
    table = rope_table(kind, GRID, HEAD_DIM, 100.0)
    found = apply_rope(inputs, *table, kind)
    np.testing.assert_array_equal(found[:, :2], inputs[:, :2])
    np.testing.assert_array_equal(found[:, 2:], apply_rope(inputs[:, 2:], *table, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_each_image(kind):
    inputs = jnp.asarray(random(2, 5, 3, HEAD_DIM))
    table = rope_table(kind, GRID, HEAD_DIM, 100.0)
    kept = np.array([[0, 7, 3, 14], [9, 2, 1, 11]])
    found = apply_rope(inputs, *(part[kept] for part in table), kind)
    for row, indices in enumerate(kept):
        image = inputs[row : row + 1]
        expected = apply_rope(image, *(part[indices] for part in table), kind)
        np.testing.assert_array_equal(found[row], expected[0])


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_rotated_in_float32(kind):
    inputs = jnp.asarray(random(2, 16, 3, HEAD_DIM), jnp.bfloat16)
    table = rope_table(kind, GRID, HEAD_DIM, 100.0)
    found = apply_rope(inputs, *table, kind)
    assert found.dtype == jnp.bfloat16
    exact = apply_rope(inputs.astype(jnp.float32), *table, kind)
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("head_dim", [6, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_head_dim_must_divide_by_four(kind, head_dim):
    with pytest.raises(ValueError, match=str(head_dim)):
        rope_table(kind, GRID, head_dim, 100.0)


@pytest.mark.parametrize("kind", ["none", "spiral"])
def test_no_table_for_other_kinds(kind):
    with pytest.raises(ValueError, match=f"'{kind}'.*axial, dinov3"):
        rope_table(kind, GRID, HEAD_DIM, 100.0)


def test_fewer_tokens_than_rows():
    sin, cos = rope_table("axial", GRID, HEAD_DIM, 100.0)
    with pytest.raises(ValueError, match=r"15 patches.* 14 tokens"):
        apply_rope(jnp.zeros((1, 14, 3, HEAD_DIM)), sin, cos, "axial")
