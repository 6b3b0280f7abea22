"""Every kernel against numpy, on one device and over a mesh, and the programs they make.

A kernel runs on its hardware only; what is around it (padding, masks, meshes) is tested
here with arithmetic that a CPU has, and that the kernel is called in lowered programs.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as binding
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.models import tiny
from vit_jax.models import attention, attention_mesh, splash
from vit_jax.models.attention import attend
from vit_jax.models.attention_choice import Hardware

B, T, S, H, D = 4, 5, 7, 2, 8
# Sums of at most a few hundred float32 terms of about 1: 2^-24 times their number.
TOLERANCE = 1e-5

H100 = Hardware("gpu", "NVIDIA H100 80GB HBM3")
TPU = Hardware("tpu", "TPU v5 lite")
AXES = ("slices", "data", "fsdp", "tensor", "sequence")


def draw(batch=B, queries=T, keys=S, heads=H, head_dim=D, dtype=np.float32):
    """Queries, keys, values and a weight for every output."""
    generator = np.random.default_rng(0)
    return [
        jnp.asarray(generator.normal(size=(batch, num, heads, head_dim)), dtype)
        for num in (queries, keys, keys, queries)
    ]


def draw_mask(*shape):
    """About half True; every query has a key, the first."""
    mask = np.random.default_rng(1).random(shape) < 0.5
    mask[..., 0] = True
    return mask


def exact(query, key, value, mask=None, causal=False):
    """Attention in float64."""
    query, key, value = (np.asarray(a, np.float64) for a in (query, key, value))
    logits = np.einsum("bthd,bshd->bhts", query, key) / query.shape[-1] ** 0.5
    allowed = np.ones(logits.shape, bool) if mask is None else mask
    if causal:
        allowed = allowed & (
            np.arange(logits.shape[2])[:, None] >= np.arange(logits.shape[3])
        )
    logits = np.where(allowed, logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("bhts,bshd->bthd", weights, value)


def with_grads(function):
    """The outputs, and the gradients of their weighted sum."""

    def run(query, key, value, weight):
        def loss(query, key, value):
            out = function(query, key, value)
            return jnp.sum(out.astype(jnp.float32) * weight), out

        grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(query, key, value)
        return out, grads

    return run


def assert_same(actual, expected, tolerance=TOLERANCE):
    for ours, theirs in zip(
        jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
        assert tiny.error(ours, theirs) < tolerance


MASKS = [
    (None, False),
    (None, True),
    ((B, 1, 1, S), False),
    ((1, H, T, S), True),
    ((B, 1, T, S), False),
]


@pytest.mark.parametrize("dropout_rate", [0.0, 1e-9])
@pytest.mark.parametrize(("shape", "causal"), MASKS)
def test_xla_is_the_definition(shape, causal, dropout_rate):
    query, key, value, _ = draw()
    mask = None if shape is None else draw_mask(*shape)
    run = functools.partial(
        attend,
        mask=None if mask is None else jnp.asarray(mask),
        causal=causal,
        dropout_rate=dropout_rate,  # too small to drop anything, but the other way
        dropout_key=jax.random.key(0),
    )
    out = tiny.jit(run)(query, key, value)
    assert tiny.error(out, exact(query, key, value, mask, causal)) < TOLERANCE


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_auto_on_a_cpu_is_the_very_program_of_xla(dtype):
    arguments = draw(queries=600, keys=600, dtype=dtype)

    def trace(implementation):
        run = functools.partial(attend, implementation=implementation)
        return str(jax.make_jaxpr(with_grads(run))(*arguments))

    assert trace("auto") == trace("xla")


@pytest.mark.parametrize("name", ["cudnn", "splash"])
def test_a_kernel_by_name_is_refused_on_a_cpu(name):
    query, key, value, _ = draw()
    with pytest.raises(
        ValueError, match=f"'{name}' needs an? .*, this is cpu"
    ) as caught:
        attend(query, key, value, implementation=name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("shape", "causal"), MASKS)
def test_padding_for_cudnn(shape, causal, monkeypatch):
    """It sees even lengths and broadcast masks, and the results are as without."""
    plain = jax.nn.dot_product_attention

    def stand_in(query, key, value, *, mask, implementation, **rest):
        assert implementation == "cudnn"
        assert query.shape[1] == T + 1 and key.shape[1] == value.shape[1] == S + 1
        assert mask is None or mask.shape[2:] == (T + 1, S + 1)
        return plain(query, key, value, mask=mask, implementation="xla", **rest)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    *arguments, weight = draw()
    mask = None if shape is None else draw_mask(*shape)

    def ours(query, key, value):
        array = None if mask is None else jnp.asarray(mask)
        return attention.cudnn(query, key, value, array, causal=causal)

    out, grads = tiny.jit(with_grads(ours))(*arguments, weight)
    assert tiny.error(out, exact(*arguments, mask, causal)) < TOLERANCE
    monkeypatch.undo()
    _, expected = with_grads(lambda *args: plain(*args, mask=mask, is_causal=causal))(
        *arguments, weight
    )
    assert_same(grads, expected)


def test_cudnn_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(binding, "cuda_versions", None)
    query, key, value, _ = draw(dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match=r"cuDNN is not detected.*extra 'cuda'"):
        attention.cudnn(query, key, value)


def build_mesh(**sizes):
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


MESHES = [
    ({"slices": 2, "fsdp": 2, "tensor": 2}, (B, 1, 1, S), False),
    ({"data": 2, "tensor": 2, "sequence": 2}, None, False),
    ({"data": 2, "tensor": 2, "sequence": 2}, (1, H, T, S), True),
    ({"tensor": 4, "sequence": 2}, (B, 1, T, S), False),  # 2 heads are not in 4 parts
    ({"sequence": 8}, (1, H, T, S), False),  # nor 5 queries in 8
]


@pytest.mark.parametrize(("sizes", "shape", "causal"), MESHES)
def test_a_kernel_over_a_mesh_is_one_device(sizes, shape, causal):
    *arguments, weight = draw()
    mask = None if shape is None else jnp.asarray(draw_mask(*shape))
    seen = []

    def kernel(query, key, value, mask):
        seen.append((query.shape, key.shape))
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=causal
        )

    expected = tiny.jit(with_grads(lambda *a: kernel(*a, mask)))(*arguments, weight)
    seen.clear()
    with jax.set_mesh(build_mesh(**sizes)):
        actual = tiny.jit(
            with_grads(
                lambda *a: attention_mesh.on_mesh(kernel, *a, mask, causal=causal)
            )
        )(*arguments, weight)
    assert_same(actual, expected)
    rows = B // (sizes.get("slices", 1) * sizes.get("data", 1) * sizes.get("fsdp", 1))
    parts = 1 if causal else sizes.get("sequence", 1)
    heads = H // 2 if sizes.get("tensor") == 2 else H
    shapes = (rows, -(-T // parts), heads, D), (rows, S, heads, D)
    assert set(seen) == {shapes}


def test_a_kernel_inside_another_shard_map():
    """Of the axes that are left; `slices` is split outside."""
    *arguments, _ = draw()
    mesh = build_mesh(slices=2, fsdp=2, tensor=2)
    shapes = []

    def kernel(query, key, value, mask):
        shapes.append(query.shape)
        return jax.nn.dot_product_attention(query, key, value)

    def run(query, key, value):
        return attention_mesh.on_mesh(kernel, query, key, value, None, causal=False)

    with jax.set_mesh(mesh):
        rows = PartitionSpec("slices")
        outer = jax.shard_map(
            run,
            in_specs=(rows,) * 3,
            out_specs=rows,
            axis_names={"slices"},
            check_vma=False,
        )
        out = tiny.jit(outer)(*arguments)
    assert tiny.error(out, exact(*arguments)) < TOLERANCE
    assert set(shapes) == {(1, T, 1, D)}


def test_xla_with_tokens_over_the_mesh():
    """Loss and gradients with sharded tokens are those of one device."""
    arguments = draw(queries=8, keys=8)
    run = with_grads(functools.partial(attend, implementation="xla"))
    expected = tiny.jit(run)(*arguments)
    mesh = build_mesh(data=2, tensor=2, sequence=2)
    place = NamedSharding(mesh, PartitionSpec(("slices", "data"), "sequence", "tensor"))
    with jax.set_mesh(mesh):
        compiled = (
            jax.jit(run, in_shardings=place, out_shardings=place)
            .lower(*arguments)
            .compile()
        )
        actual = compiled(*jax.device_put(arguments, place))
    assert_same(actual, expected)
    assert "all-gather" in compiled.as_text()  # of the keys and values


@pytest.fixture
def lower(monkeypatch):
    """The program of attention and its gradients for hardware that is not here."""

    def run(name, hardware, shape, mask=None, causal=False, mesh=None):
        monkeypatch.setattr(attention, "hardware", lambda: hardware)
        array = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
        weight = jax.ShapeDtypeStruct(shape, jnp.float32)
        mask = None if mask is None else jnp.asarray(draw_mask(*mask))
        call = functools.partial(attend, mask=mask, causal=causal, implementation=name)
        platform = {"gpu": "cuda"}.get(hardware.platform, hardware.platform)
        with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
            traced = jax.jit(with_grads(call)).trace(array, array, array, weight)
            return traced.lower(lowering_platforms=(platform,)).as_text()

    return run


@pytest.mark.parametrize("mesh", [None, {"data": 2, "tensor": 2, "sequence": 2}])
@pytest.mark.parametrize(
    ("mask", "causal"), [(None, False), ((4, 1, 1, 197), False), (None, True)]
)
def test_cudnn_is_in_the_program_for_cuda(mask, causal, mesh, lower, monkeypatch):
    """Forward and backward, at an odd number of tokens, whatever the mesh.

    That cuDNN is installed is pretended: its version is asked for in each trace.
    """
    monkeypatch.setattr(binding, "check_cudnn_version", lambda: 91000)
    mesh = None if mesh is None else build_mesh(**mesh)
    for name in ("cudnn", "auto"):
        text = lower(name, H100, (4, 197, 4, 72), mask, causal, mesh)
        assert text.count("@__cudnn$fmha") == 2
        assert text.count("Backward") == 1
    assert "__cudnn" not in lower("auto", H100, (4, 100, 4, 72), None, causal, mesh)


@pytest.mark.parametrize("mesh", [None, {"data": 2, "tensor": 2, "sequence": 2}])
@pytest.mark.parametrize(
    ("mask", "causal"), [(None, False), ((4, 1, 1, 577), False), (None, True)]
)
def test_splash_is_in_the_program_for_tpu(mask, causal, mesh, lower):
    mesh = None if mesh is None else build_mesh(**mesh)
    for name in ("splash", "auto") if mesh is None else ("splash",):
        text = lower(name, TPU, (4, 577, 4, 64), mask, causal, mesh)
        assert text.count("@tpu_custom_call") == 2  # one does all of the backward pass
    assert "tpu_custom_call" not in lower(
        "auto", TPU, (4, 197, 4, 64), None, causal, mesh
    )


@pytest.mark.parametrize("head_dim", [64, 72, 112])
def test_head_sizes_of_splash(head_dim, lower):
    text = lower("splash", TPU, (1, 1025, 2, head_dim))
    assert text.count("@tpu_custom_call") == 3  # 1152 tokens are three blocks
    assert f"1152x{head_dim}xbf16" in text  # as they are: heads are not padded


@pytest.mark.parametrize("remat", ["none", "attention", "full"])
def test_splash_in_the_scan_of_a_model(remat, monkeypatch):
    """Once in the scan's body for the forward pass, once for the backward pass."""
    monkeypatch.setattr(attention, "hardware", lambda: TPU)
    graphdef, params = tiny.vit_shapes(attention="splash", remat=remat)

    def loss(params, images):
        return jnp.sum(nnx.merge(graphdef, params)(images) ** 2)

    images = jax.ShapeDtypeStruct((2, 12, 20, 3), jnp.float32)
    traced = jax.jit(jax.grad(loss)).trace(params, images)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.while" in text
    # Recomputing all of a block runs its kernel again; "attention" has nothing to.
    assert text.count("@tpu_custom_call") == {"full": 3}.get(remat, 2)


def test_splash_is_never_traced_where_it_is_not_chosen(monkeypatch):
    monkeypatch.setattr(splash, "attend", None)
    query, key, value, _ = draw(queries=600, keys=600)
    attend(query, key, value, implementation="auto")
