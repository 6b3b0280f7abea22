"""Splash attention, interpreted on a CPU, against XLA's: outputs and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.models import tiny
from vit_jax.models import attention_mesh, splash
from vit_jax.models.attention import attend

# Sums of at most 768 float32 terms of about 1, in another order.
TOLERANCE = 1e-5


def draw(batch, queries, keys, heads, head_dim, dtype=np.float32):
    generator = np.random.default_rng(0)
    return [
        jnp.asarray(generator.normal(size=(batch, num, heads, head_dim)), dtype)
        for num in (queries, keys, keys, queries)
    ]


def with_grads(function):
    def run(query, key, value, weight):
        def loss(query, key, value):
            out = function(query, key, value)
            return jnp.sum(out.astype(jnp.float32) * weight), out

        grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(query, key, value)
        return out, *grads

    return tiny.jit(run)


CASES = {  # queries, keys, head size, whether keys are masked, causal
    "padding": (37, 37, 24, False, False),
    "lengths": (37, 150, 8, True, False),
    "even": (128, 128, 8, False, False),
    "causal": (140, 140, 8, True, True),
    "blocks": (700, 700, 8, True, False),  # 768: two of 384
}


@pytest.mark.parametrize("case", CASES)
def test_is_plain_attention(case):
    queries, keys, head_dim, masked, causal = CASES[case]
    arguments = draw(1 if queries > 128 else 2, queries, keys, 2, head_dim)
    mask = None
    if masked:
        mask = np.random.default_rng(1).random((len(arguments[0]), 1, 1, keys)) < 0.5
        mask[..., 0] = True
        mask = jnp.asarray(mask)
    expected = with_grads(
        lambda *args: jax.nn.dot_product_attention(*args, mask=mask, is_causal=causal)
    )(*arguments)
    actual = with_grads(
        lambda *args: splash.attend(*args, mask, causal=causal, interpret=True)
    )(*arguments)
    for ours, theirs in zip(actual, expected, strict=True):
        assert tiny.error(ours, theirs) < TOLERANCE


def test_padding_is_not_seen():
    """Whatever lies in masked keys, outputs are the same, and their gradients are 0."""
    query, key, value, weight = draw(1, 9, 9, 1, 8)
    mask = jnp.arange(9)[None, None, None] < 6

    def run(key, value):
        return with_grads(lambda *args: splash.attend(*args, mask, interpret=True))(
            query, key, value, weight
        )

    out, _, key_grads, value_grads = run(key, value)
    other, *_ = run(key.at[:, 6:].set(50.0), value.at[:, 6:].set(-50.0))
    np.testing.assert_array_equal(out, other)
    assert not np.any(key_grads[:, 6:]) and not np.any(value_grads[:, 6:])
    assert np.all(np.any(key_grads[:, :6], axis=(0, 2, 3)))


def test_a_row_without_keys_is_finite():
    arguments = draw(1, 9, 9, 1, 8)
    mask = jnp.zeros((1, 1, 1, 9), bool)
    results = with_grads(lambda *args: splash.attend(*args, mask, interpret=True))(
        *arguments
    )
    assert all(np.all(np.isfinite(result)) for result in results)


def test_over_a_mesh():
    """Rows, heads and queries on eight devices, as on one."""
    arguments = draw(2, 10, 10, 2, 8)
    mask = jnp.arange(10)[None, None, None] < jnp.asarray([7, 10])[:, None, None, None]
    axes = ("slices", "data", "fsdp", "tensor", "sequence")
    mesh = jax.make_mesh((1, 2, 1, 2, 2), axes, axis_types=(AxisType.Auto,) * 5)

    def kernel(query, key, value, mask):
        return splash.attend(query, key, value, mask, interpret=True)

    expected = with_grads(lambda *args: jax.nn.dot_product_attention(*args, mask=mask))(
        *arguments
    )
    with jax.set_mesh(mesh):
        actual = with_grads(
            lambda *args: attention_mesh.on_mesh(kernel, *args, mask, causal=False)
        )(*arguments)
    for ours, theirs in zip(actual, expected, strict=True):
        assert tiny.error(ours, theirs) < TOLERANCE


def test_in_bfloat16():
    """Within the rounding of queries and outputs; weights stay in float32."""
    *arguments, _ = draw(2, 40, 40, 2, 8, jnp.bfloat16)
    exact = jax.nn.dot_product_attention(
        *(array.astype(jnp.float32) for array in arguments)
    )
    ours = tiny.jit(lambda *args: splash.attend(*args, interpret=True))(*arguments)
    assert ours.dtype == jnp.bfloat16
    # Inputs agree, so that what is left is the rounding of scaled queries (2^-9 of
    # logits of up to 4 or so) and of the output (2^-9).
    assert tiny.error(ours.astype(jnp.float32), exact) < 5 * 2**-9


@pytest.mark.parametrize(
    ("tokens", "block"),
    [
        (128, 128),
        (256, 256),
        (640, 640),
        (768, 384),
        (1024, 512),
        (1152, 384),
        (2304, 384),
    ],
)
def test_block_sizes(tokens, block):
    assert splash.block_size(tokens) == block


@pytest.mark.slow
# A program for chips that are not here is written to the cache, but cannot be read.
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache entry")
@pytest.mark.parametrize(("tokens", "head_dim"), [(577, 64), (577, 72), (1025, 104)])
def test_compiles_for_a_tpu(tokens, head_dim, monkeypatch):
    """By the TPU's own compiler, for a mesh of chips that are not here; chosen by auto."""
    pytest.importorskip("libtpu")
    for name, text in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        monkeypatch.setenv(name, text)
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
    axes = ("slices", "data", "fsdp", "tensor", "sequence")
    chips = np.asarray(topology.devices).reshape(1, 2, 2, 2, 1)
    mesh = Mesh(chips, axes, axis_types=(AxisType.Auto,) * 5)
    place = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
    shape = (4, tokens, 2, head_dim)
    array = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

    def loss(query, key, value):
        out = attend(query, key, value, implementation="auto")
        return jnp.sum(out.astype(jnp.float32))

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(array, array, array)
        text = lowered.compile().as_text()
    # 640 tokens are one block, whose backward pass is one kernel; 1,152 are three.
    kernels = 2 if tokens <= 640 else 3
    assert text.count('custom_call_target="tpu_custom_call"') == kernels
