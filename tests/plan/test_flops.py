"""FLOPs: analytic, of a program's products, as XLA counts them, and as compiled."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from vit_jax.config import load
from vit_jax.objectives.base import merge
from vit_jax.plan import predict, shapes
from vit_jax.plan.hlo_flops import product_flops
from vit_jax.plan.program import prepare
from vit_jax.plan.topology import parse

ROWS = 8


def traced(config, *overrides):
    """The plan's program, its config, and its loss with arguments."""
    changes = [f"--config.{change}" for change in ("model.attention=xla", *overrides)]
    job = prepare(load(f"configs/{config}", changes), parse("v5e-8"))
    program = shapes.Program(job)
    parts = program.parts(job.config.model.remat)
    size, classes = job.config.model.image_size, job.config.model.num_classes
    batch = {
        "images": jax.ShapeDtypeStruct((ROWS, *size, 3), jnp.float32),
        "labels": jax.ShapeDtypeStruct((ROWS, classes), jnp.float32),
    }

    def loss(params, batch):
        model = merge(parts.graphdef, params, {})
        return model.loss(batch, key=jax.random.key(0))[0]

    return program, job.config, loss, (parts.state_shapes.params, batch)


def product_flops_of(jaxpr):
    """Multiply-adds times two of every product that is run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            out = equation.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(left[axis] for axis in summed)
        turns = equation.params.get("length", 1)
        for inner in core.jaxprs_in_params(equation.params):
            total += turns * product_flops_of(inner)
    return total


@pytest.mark.parametrize(
    "config",
    [
        "vit_s16_i1k.py:S/16",
        "vit_s16_i1k.py:B/32",
        "vit_i21k.py:L/16",
        "vit_g_i21k.py:G/14",
    ],
)
def test_analytic_flops_are_those_of_the_products(config):
    program, _, loss, arguments = traced(config)
    forward = product_flops_of(jax.make_jaxpr(loss)(*arguments).jaxpr) / ROWS
    assert 3 * forward == program.flops_per_image
    # The gradient by the images, which the compiler leaves out, is in both.
    step = product_flops_of(jax.make_jaxpr(jax.grad(loss))(*arguments).jaxpr) / ROWS
    assert step == program.flops_per_image


@pytest.mark.parametrize("remat", ["attention", "dots", "full"])
def test_what_remat_does_again(remat):
    def flops(remat):
        program, config, loss, arguments = traced(
            "vit_s16_i1k.py:B/16", f"model.remat={remat}"
        )
        jaxpr = jax.make_jaxpr(jax.grad(loss))(*arguments).jaxpr
        done = product_flops_of(jaxpr) / ROWS
        return done, predict.operations(program, config, 1) / config.train.batch_size

    (once, _), (done, planned) = flops("none"), flops(remat)
    assert done > 1.005 * once
    assert done == pytest.approx(planned, rel=0.01)


def test_analytic_flops_are_those_of_an_unrolled_program():
    """As XLA counts them before it optimises: norms, softmax and GELU as well."""

    def lowered(unroll):
        _, _, loss, arguments = traced("vit_s16_i1k.py:B/16", f"model.unroll={unroll}")
        step = jax.jit(jax.value_and_grad(loss)).trace(*arguments)
        counted = step.lower(lowering_platforms=("cpu",)).cost_analysis() or {}
        return counted["flops"] / ROWS

    program, *_ = traced("vit_s16_i1k.py:B/16")
    assert lowered(12) == pytest.approx(program.flops_per_image, rel=0.01)
    # The trap: the body of a loop is counted once, not twelve times.
    assert lowered(1) < 0.2 * program.flops_per_image


def test_products_of_a_compiled_loop_count_once_a_turn():
    layers, rows, width = 5, 7, 24

    def run(x, weights):
        def layer(x, weight):
            scores = jnp.einsum("brw,bsw->brs", x, x)
            return jnp.tanh(scores @ x) @ weight, None

        return jax.lax.scan(layer, x, weights)[0]

    x = jax.ShapeDtypeStruct((3, rows, width), jnp.float32)
    weights = jax.ShapeDtypeStruct((layers, width, width), jnp.float32)
    compiled = jax.jit(run).lower(x, weights).compile()
    layer = 2 * 3 * (2 * rows * rows * width + rows * width * width)
    assert product_flops(compiled.as_text() or "") == layers * layer
    assert (compiled.cost_analysis() or {})["flops"] < 2 * layer


# As libtpu writes products: batches as windows, operands transposed by labels.
TPU = """\
HloModule jit_step

%fused (p.0: bf16[64,196,12,64], p.1: bf16[64,196,12,64]) -> f32[64,12,196,196] {
  %p.0 = bf16[64,196,12,64]{1,3,2,0:T(8,128)(2,1)} parameter(0)
  %p.1 = bf16[64,196,12,64]{1,3,2,0:T(8,128)(2,1)} parameter(1)
  ROOT %c.1 = f32[64,12,196,196]{2,3,1,0:T(8,128)} convolution(%p.0, %p.1), window={size=64x12 stride=63x11 lhs_dilate=64x12}, dim_labels=0b1f_0o1i->01bf
}

ENTRY %main (x: bf16[64,196,768,1]) -> bf16[64,196,12,64] {
  %x = bf16[64,196,768,1]{2,1,3,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[768,12,64,1]{0,2,1,3:T(8,128)(2,1)S(1)} copy(%y)
  %c.2 = bf16[64,196,12,64]{1,3,2,0:T(8,128)} convolution(%x, %w), window={size=1x12 pad=0_0x11_11 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f
  ROOT %f = f32[64,12,196,196]{2,3,1,0} fusion(%q, %k), kind=kOutput, calls=%fused
}
"""


def test_products_of_the_tpu_compiler():
    heads = 2 * 64 * 12 * 196 * 196 * 64
    projection = 2 * 64 * 196 * 768 * 768
    assert product_flops(TPU) == heads + projection
