"""Collectives of a compiled program, as often as they run; remat of the compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax.plan.hlo import (
    Collective,
    collectives,
    kernels,
    rematerialized,
    sent_bytes,
)

LAYERS, WIDTH = 5, 24


def compiled_text(axes):
    """A scan whose body ends in one all-reduce over the mesh's last axis."""
    devices = np.array(jax.devices()[:8]).reshape([size for _, size in axes])
    names = tuple(name for name, _ in axes)
    mesh = Mesh(devices, names, axis_types=(AxisType.Auto,) * len(names))

    @jax.shard_map(mesh=mesh, in_specs=(P(), P()), out_specs=P(), check_vma=False)
    def run(x, layers):
        def layer(x, w):
            return jax.lax.psum(jnp.tanh(x @ w), names[-1]), None

        return jax.lax.scan(layer, x, layers)[0]

    here = NamedSharding(mesh, P())
    arguments = (
        jax.ShapeDtypeStruct((7, WIDTH), jnp.float32, sharding=here),
        jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=here),
    )
    return jax.jit(run).lower(*arguments).compile().as_text() or ""


@pytest.mark.parametrize(
    ("axes", "group", "crosses"),
    [
        ([("a", 8)], 8, True),
        ([("a", 2), ("b", 4)], 4, False),
        ([("a", 4), ("b", 2)], 2, False),
    ],
)
def test_collectives_of_a_loop_count_once_a_turn(axes, group, crosses):
    found = collectives(compiled_text(axes), slice_size=4)
    size = 7 * WIDTH * 4
    assert found == [
        Collective(
            "all-reduce",
            group,
            crosses,
            LAYERS,
            LAYERS * 2 * size * (group - 1) / group,
        )
    ]


# As libtpu writes it: the count of a loop is in its condition, groups are of a mesh, and
# a gather is a reduction of arrays that each device has filled a part of.
TPU = """\
HloModule jit_step, is_scheduled=true

%cond.1 (arg.1: (s32[], bf16[8,4])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(12)
  %arg.1 = (s32[], bf16[8,4]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %limit.1), direction=LT
}

%body.1 (arg.2: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %arg.2 = (s32[], bf16[8,4]{1,0}) parameter(0)
  %dynamic-update-slice.3 = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} copy(%x)
  %all-reduce.2 = (bf16[8,4]{1,0:T(8,128)(2,1)}, bf16[4,4]{1,0}) all-reduce(%dynamic-update-slice.3, %dynamic-update-slice.4), channel_id=1, replica_groups=mesh['axis_0'=64,'axis_1'=1] {'axis_0'}, to_apply=%add
  ROOT %t = (s32[], bf16[8,4]{1,0}) tuple(%i.2, %y)
}

%never (p: s32[]) -> pred[] {
  ROOT %less = pred[] compare(%a, %b), direction=LT
}

ENTRY %main (p.0: f32[6]) -> f32[6] {
  %w.1 = (s32[], bf16[8,4]{1,0}) while(%init), condition=%cond.1, body=%body.1
  %w.2 = (s32[]) while(%init), condition=%never, body=%draw
  %all-reduce.9 = f32[6]{0} all-reduce(%p.0), channel_id=2, replica_groups=[2,32]<=[2,32]T(0,1), to_apply=%add
  %all-reduce.7 = f32[6]{0} all-reduce(%p.0), channel_id=2, replica_groups=[32,2]<=[2,32]T(1,0), to_apply=%add
  %collective-permute-start.1 = (bf16[10]{0}, bf16[10]{0}, u32[], u32[]) collective-permute-start(%q), source_target_pairs={{0,1},{1,0}}
  %all-gather-start.1 = (f32[2]{0}, f32[8]{0}) all-gather-start(%q), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  ROOT %reduce-scatter.1 = f32[3]{0} reduce-scatter(%p.0), replica_groups={{0,1},{2,3}}, to_apply=%add
}
"""


def test_text_of_the_tpu_compiler():
    gathered = 12 * (32 + 16) * 2 * 63 / 64
    assert collectives(TPU, slice_size=32) == [
        Collective("all-gather", 4, False, 1, 32 * 3 / 4),
        Collective("all-gather", 64, True, 12, gathered),
        Collective("all-reduce", 2, True, 1, 24.0),
        Collective("all-reduce", 32, False, 1, 2 * 24 * 31 / 32),
        Collective("collective-permute", 2, False, 1, 20.0),
        Collective("reduce-scatter", 2, False, 1, 12.0),
    ]


# A loop whose counter goes up in twos, from two; one gather in three pieces
# between other work; and a sum of gradients together with a gather.
PIECES = """\
HloModule jit_step

%cond (a: (u32[], bf16[4,64])) -> pred[] {
  %a = (u32[]{:T(128)}, bf16[4,64]{1,0}) parameter(0)
  %limit = u32[]{:T(128)} constant(8)
  %i = u32[]{:T(128)} get-tuple-element(%a), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (b: (u32[], bf16[4,64])) -> (u32[], bf16[4,64]) {
  %b = (u32[]{:T(128)}, bf16[4,64]{1,0}) parameter(0)
  %j = u32[]{:T(128)} get-tuple-element(%b), index=0
  %x = bf16[4,64]{1,0} get-tuple-element(%b), index=1
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%j, %two)
  %collective-permute.1 = bf16[4,64]{1,0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1},{1,0}}
  ROOT %t = (u32[]{:T(128)}, bf16[4,64]{1,0}) tuple(%next, %collective-permute.1)
}

%start (p: bf16[2,64]) -> bf16[8,64] {
  %p = bf16[2,64]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[8,64]{1,0} all-gather(%p), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}, frontend_attributes={chain_id="3"}
}

%done (q: bf16[2,64]) -> bf16[8,64] {
  %q = bf16[2,64]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,64]{1,0} all-gather(%q), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}, frontend_attributes={chain_id="3"}
}

ENTRY %main (p.0: f32[6]) -> f32[6] {
  %first = u32[]{:T(128)} constant(2)
  %moved = u32[]{:T(128)} copy(%first)
  %init = (u32[]{:T(128)}, bf16[4,64]{1,0}) tuple(%moved, %x.0)
  %w = (u32[]{:T(128)}, bf16[4,64]{1,0}) while(%init), condition=%cond, body=%body
  %f.1 = bf16[8,64]{1,0} fusion(%s), kind=kCustom, calls=%start
  %f.2 = bf16[8,64]{1,0} fusion(%s), kind=kCustom, calls=%done
  %dynamic-update-slice.7 = bf16[10]{0} fusion(%z, %y), kind=kLoop, calls=%fill
  %copy-start.1 = (bf16[10]{0}, bf16[10]{0}, u32[]) copy-start(%dynamic-update-slice.7)
  %copy-done.1 = bf16[10]{0} copy-done(%copy-start.1)
  %all-reduce.3 = (bf16[10]{0}, f32[6]{0}) all-reduce(%copy-done.1, %p.0), channel_id=3, replica_groups=[1,4]<=[4], to_apply=%add
  %send.1 = (bf16[36,8]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}, token[]) send(%g, %after), channel_id=4, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send.2 = (f32[1,224]{1,0}, u32[]{:S(2)}, token[]) send(%row, %after), channel_id=5, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ONE_TO_ONE"}
  ROOT %r = f32[6]{0} copy(%p.0)
}
"""


def test_pieces_of_the_tpu_compiler():
    assert collectives(PIECES, slice_size=4) == [
        Collective("all-gather", 4, False, 2, (8 * 64 + 10) * 2 * 3 / 4),
        Collective("all-reduce", 2, True, 1, 36 * 8 * 2),
        Collective("all-reduce", 4, False, 1, 2 * 6 * 4 * 3 / 4),
        Collective("collective-permute", 2, False, 3, 3 * 4 * 64 * 2),
        Collective("collective-permute", 2, True, 1, 224 * 4),
    ]


def test_kernels_of_pallas_have_their_names():
    text = (
        "ENTRY %main () -> f32[] {\n"
        "  %splash_mha_fwd.3 = bf16[8,4]{1,0} custom-call(%q), "
        'custom_call_target="tpu_custom_call"\n'
        '  %x.1 = bf16[8] custom-call(%q), custom_call_target="AllocateBuffer"\n}\n'
    )
    assert kernels(text) == ["splash_mha_fwd"]


def test_nothing_is_sent_alone():
    assert sent_bytes("all-reduce", 100.0, 1) == 0.0


def test_remat_of_the_compiler_is_not_that_of_jax_checkpoint():
    ours = (
        "ENTRY %main () -> f32[] {\n"
        '  %fusion.3 = f32[2]{0} fusion(%x), metadata={op_name="jit(step)/checkpoint/'
        'rematted_computation/remat/tanh"}\n}\n'
    )
    theirs = ours.replace("%fusion.3 =", "%fusion.3.remat2 =")
    assert rematerialized(ours) == []
    assert rematerialized(theirs) == ["fusion.3.remat2"]
    root = ours.replace("  %fusion.3 =", "  ROOT %copy.remat =")
    assert rematerialized(root) == ["copy.remat"]
