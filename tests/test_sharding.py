"""The mesh, a rule for every parameter, and optimizer state that follows it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from configs import base
from vit_jax import optim, sharding
from vit_jax.models import mae_decoder, vit
from vit_jax.models.settings import POOLS, POSITIONS

ONE = dict(slices=1, data=1, fsdp=1, tensor=1, sequence=1)

MODELS = [
    *(dict(pool=pool, cls_token=True) for pool in POOLS),
    *(dict(position=position, cls_token=True, registers=2) for position in POSITIONS),
    dict(pool="map", norm="rms", final_norm="both", activation="gelu"),
    dict(pool="cls", distillation="head", position="learned_cls", registers=4),
    dict(qk_norm=True, mlp="swiglu", layer_scale=1e-5, final_norm="features"),
    dict(variant="R50+S/16", parallel_blocks=True, rope="axial", num_classes=0),
    dict(variant="R+Ti/16", patch_dropout=0.5),
]


def mesh_of(**sizes):
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices")
    return sharding.build_mesh(**(ONE | sizes), devices=jax.devices()[:8])


@functools.cache
def shapes_of(**changes):
    settings = dict(variant="S/16", image_size=(224, 224), num_classes=1000)
    settings |= dict(pre_logits=-1) | changes
    model = nnx.eval_shape(lambda: vit.build(key=jax.random.key(0), **settings))
    return {"encoder": nnx.to_pure_dict(nnx.state(model))}


LEARNED = dict(pool="map", position="learned", cls_token=True)


def flatten(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_mesh_has_all_axes_and_is_auto():
    mesh = mesh_of(data=2, fsdp=-1, tensor=2)
    assert dict(mesh.shape) == ONE | dict(data=2, fsdp=2, tensor=2)
    assert mesh.axis_names == sharding.AXES
    assert mesh.axis_types == (AxisType.Auto,) * 5


def test_mesh_of_all_devices_by_default():
    mesh = sharding.build_mesh(**(ONE | dict(data=-1)))
    assert mesh.shape["data"] == len(jax.devices())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(data=3), r"data=3.*3 devices named, but there are 8"),
        (dict(data=2, tensor=2), r"data=2.*tensor=2.*4 devices named.* are 8"),
        (dict(data=-1, fsdp=3), r"3 devices named.* are 8, not a multiple"),
        (dict(data=-1, fsdp=16), r"16 devices named.* are 8"),
        (dict(data=-1, fsdp=-1), "at most one is -1"),
        (dict(data=0), "sizes are positive"),
    ],
)
def test_mesh_errors(sizes, message):
    with pytest.raises(ValueError, match=message):
        mesh_of(**sizes)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """What the mesh reads of a device."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "fake"
    process_index: int = 0


def fake_devices(num_slices, **changes):
    order = np.random.default_rng(0).permutation(8)
    return [FakeDevice(int(i), int(i) % num_slices, **changes) for i in order]


def test_slices_axis_follows_the_devices_slices():
    sizes = ONE | dict(slices=2, data=-1, tensor=2)
    mesh = sharding.build_mesh(**sizes, devices=fake_devices(2))
    assert dict(mesh.shape) == ONE | dict(slices=2, data=2, tensor=2)
    for index, row in enumerate(mesh.devices):
        assert {device.slice_index for device in row.flat} == {index}


@pytest.mark.parametrize(
    ("slices", "platform"), [(4, "gpu"), (1, "tpu"), (4, "tpu"), (8, "tpu")]
)
def test_slices_that_the_devices_do_not_have(slices, platform):
    with pytest.raises(ValueError, match=f"is {slices}, but the devices are in 2"):
        sharding.build_mesh(
            **(ONE | dict(slices=slices, data=-1)),
            devices=fake_devices(2, platform=platform),
        )


@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_every_parameter_of_the_vit_has_a_rule(changes):
    shapes = shapes_of(**changes)
    mesh = mesh_of(fsdp=4, tensor=2)
    shardings = sharding.param_shardings(shapes, mesh)
    assert jax.tree.structure(shardings) == jax.tree.structure(shapes)
    for path, wanted in flatten(shardings).items():
        wanted.shard_shape(flatten(shapes)[path].shape)  # raises where it cannot


@pytest.mark.parametrize("position", mae_decoder.POSITIONS)
def test_every_parameter_of_the_mae_decoder_has_a_rule(position):
    decoder = nnx.eval_shape(
        lambda: mae_decoder.MaeDecoder(
            grid=(14, 14),
            patch_size=(16, 16),
            encoder_width=768,
            mlp_dim=2048,
            position=position,
            key=jax.random.key(0),
        )
    )
    shapes = {"decoder": nnx.to_pure_dict(nnx.state(decoder))}
    mesh = mesh_of(fsdp=4, tensor=2)
    specs = {
        path: found.spec
        for path, found in flatten(sharding.param_shardings(shapes, mesh)).items()
    }
    assert specs["decoder/embedding/kernel"] == P("fsdp", None)
    assert specs["decoder/prediction/kernel"] == P("fsdp", None)
    assert specs["decoder/blocks/mlp/out/kernel"] == P(None, "tensor", "fsdp")
    assert specs["decoder/mask_token"] == P()


@pytest.mark.parametrize("changes", [LEARNED, dict(mlp="swiglu")], ids=str)
def test_no_large_parameter_is_whole_anywhere(changes):
    tree = shapes_of(variant="R50+L/32", **changes)
    shapes, mesh = flatten(tree), mesh_of(fsdp=4, tensor=2)
    for path, wanted in flatten(sharding.param_shardings(tree, mesh)).items():
        shape = shapes[path].shape
        if np.prod(shape) > 1_000_000:
            assert np.prod(wanted.shard_shape(shape)) <= np.prod(shape) // 4, path


def test_specs_of_a_few_paths():
    mesh = mesh_of(fsdp=2, tensor=2, data=2)
    shapes = shapes_of(**LEARNED)
    specs = {
        path: found.spec
        for path, found in flatten(sharding.param_shardings(shapes, mesh)).items()
    }
    golden = {
        "blocks/attention/query/kernel": P(None, "fsdp", "tensor", None),
        "blocks/attention/query/bias": P(None, "tensor", None),
        "blocks/attention/out/kernel": P(None, "tensor", None, "fsdp"),
        "blocks/attention/out/bias": P(None),
        "blocks/mlp/hidden/kernel": P(None, "fsdp", "tensor"),
        "blocks/mlp/hidden/bias": P(None, "tensor"),
        "blocks/mlp/out/kernel": P(None, "tensor", "fsdp"),
        "blocks/mlp_norm/scale": P(None),
        "pooling/attention/value/kernel": P("fsdp", "tensor", None),
        "pooling/mlp/out/kernel": P("tensor", "fsdp"),
        "pooling/norm/bias": P(),
        "embedding/kernel": P(None, None, None, "fsdp"),
        "position_embedding": P(),
        "cls": P(),
        "pre_logits/kernel": P("fsdp", None),
        "head/kernel": P("fsdp", "tensor"),
        "norm/scale": P(),
    }
    assert {path: specs[f"encoder/{path}"] for path in golden} == golden


def test_specs_of_what_options_add():
    mesh = mesh_of(fsdp=2, tensor=2, data=2)
    shapes = shapes_of(
        variant="R50+S/16",
        cls_token=True,
        distillation="head",
        mlp="swiglu",
        layer_scale=0.1,
        qk_norm=True,
    )
    specs = {
        path: found.spec
        for path, found in flatten(sharding.param_shardings(shapes, mesh)).items()
    }
    kernel = P(None, None, None, "fsdp")
    golden = {
        "blocks/mlp/gate/kernel": P(None, "fsdp", "tensor"),
        "blocks/mlp/gate/bias": P(None, "tensor"),
        "blocks/mlp_scale": P(None),
        "blocks/attention/query_norm/scale": P(None),
        "distillation": P(),
        "head_distillation/kernel": P("fsdp", "tensor"),
        "stem/root/kernel": kernel,
        "stem/root_norm/bias": P(),
        "stem/block1/unit1/projection/kernel": kernel,
        "stem/block3/unit9/conv2/kernel": kernel,
        "stem/block3/unit9/conv3_norm/scale": P(),
    }
    assert {path: specs[f"encoder/{path}"] for path in golden} == golden


@pytest.mark.parametrize("prefix", ["blocks", "decoder/blocks", "a/b/blocks"])
def test_any_stack_has_a_layer_axis_in_front(prefix):
    mesh = mesh_of(fsdp=4, tensor=2)
    tree = {"mlp": {"hidden": {"kernel": leaf(4, 8, 16)}}}
    for part in reversed(prefix.split("/")):
        tree = {part: tree}
    (found,) = jax.tree.leaves(sharding.param_shardings(tree, mesh))
    assert found.spec == P(None, "fsdp", "tensor")


def test_axes_that_do_not_divide_are_dropped():
    mesh = mesh_of(fsdp=4, tensor=2)
    tree = {"mlp": {"hidden": {"kernel": leaf(6, 16)}, "out": {"kernel": leaf(3, 8)}}}
    found = sharding.param_shardings(tree, mesh)["mlp"]
    assert found["hidden"]["kernel"].spec == P(None, "tensor")
    assert found["out"]["kernel"].spec == P(None, "fsdp")


def test_unmatched_leaves_are_all_named():
    tree = {"odd": {"kernel": leaf(2, 2)}, "head": {"bias": leaf(2)}, "new": leaf(3)}
    with pytest.raises(ValueError) as error:
        sharding.param_shardings(tree, mesh_of(data=-1))
    assert "odd/kernel (2, 2) has no rule" in str(error.value)
    assert "new (3,) has no rule" in str(error.value)
    assert "head/bias" not in str(error.value)


def test_a_leaf_of_another_rank_than_its_rule():
    tree = {"head": {"kernel": leaf(8)}}
    with pytest.raises(ValueError, match=r"head/kernel \(8,\) does not have the rank"):
        sharding.param_shardings(tree, mesh_of(data=-1))


def optimizer(name):
    schedule = dict(
        name="cosine", warmup_steps=1, cooldown_steps=0, final=0.0, timescale=1
    )
    section = dict(getattr(base, name)())
    return optim.build(section, schedule_section=schedule, total_steps=9)[0]


@pytest.mark.parametrize(("name", "num_moments"), [("adamw", 2), ("sgd", 1)])
def test_optimizer_state_lies_as_its_parameters(name, num_moments):
    mesh = mesh_of(fsdp=4, tensor=2)
    shapes = shapes_of(**LEARNED)
    params = sharding.param_shardings(shapes, mesh)
    opt_shapes = jax.eval_shape(optimizer(name).init, shapes)
    found = sharding.opt_state_shardings(opt_shapes, shapes, params, mesh)
    assert jax.tree.structure(found) == jax.tree.structure(opt_shapes)
    moments = 0
    for path, got in flatten(found).items():
        owners = [p for p in flatten(params) if path.endswith(f"/{p}")]
        if owners:
            moments += 1
            assert got == flatten(params)[owners[0]], path
        else:
            assert path.endswith("count")
            assert got.is_fully_replicated
    assert moments == num_moments * len(jax.tree.leaves(params))


def test_factors_of_a_moment_lie_as_the_dimensions_that_they_keep():
    mesh = mesh_of(fsdp=4, tensor=2)
    kernels = {"query": leaf(5, 64, 4, 48), "out": leaf(5, 4, 48, 64)}
    shapes = {"blocks": {"attention": {k: {"kernel": v} for k, v in kernels.items()}}}
    shapes["head"] = {"kernel": leaf(64, 64), "bias": leaf(64)}
    params = sharding.param_shardings(shapes, mesh)
    opt_shapes = jax.eval_shape(optimizer("adafactor").init, shapes)
    found = sharding.opt_state_shardings(opt_shapes, shapes, params, mesh)
    (state,) = [part for part in found if isinstance(part, optax.FactoredState)]
    specs = {path: sharding.spec for path, sharding in flatten(state).items()}
    for path, wanted in {
        "v_row/blocks/attention/query/kernel": P(None, "tensor", None),  # [5, 4, 48]
        "v_col/blocks/attention/query/kernel": P(None, "fsdp", "tensor"),  # [5, 64, 4]
        "v_row/blocks/attention/out/kernel": P(None, "tensor", None),  # [5, 4, 48]
        "v_col/blocks/attention/out/kernel": P(None, "tensor", "fsdp"),  # [5, 4, 64]
        "v/blocks/attention/query/kernel": P(),  # [5, 1], not used
        "v/head/bias": P("tensor"),
        "v/head/kernel": P(),
        "count": P(),
    }.items():
        assert specs[path] == wanted, path


def test_batch_and_replicated():
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    assert sharding.batch_sharding(mesh) == NamedSharding(mesh, P(sharding.BATCH_AXES))
    assert sharding.batch_sharding(mesh).shard_shape((16, 3)) == (4, 3)
    assert sharding.replicated(mesh).is_fully_replicated


@pytest.mark.parametrize(
    "sizes",
    [dict(fsdp=8), dict(data=2, fsdp=2, tensor=2), dict(slices=2, fsdp=4)],
    ids=["fsdp8", "data2_fsdp2_tensor2", "slices2_fsdp4"],
)
def test_sharded_gradients_equal_those_of_one_device(sizes):
    mesh = mesh_of(**sizes)
    model = vit.build(
        key=jax.random.key(0),
        variant="mu/8",
        image_size=(16, 16),
        num_classes=8,
        position="learned",
    )
    graphdef, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    images = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
    weights = jax.random.normal(jax.random.key(2), (8, 32))

    def loss(params, images, weights):
        model = nnx.merge(graphdef, params)
        features = model.pool(model.encode(model.embed(images)))
        return (features * weights).sum() + model.classify(features).sum()

    gradient = jax.grad(loss)
    wanted = jax.jit(gradient)(params, images, weights)
    where = sharding.param_shardings(params, mesh)
    rows = sharding.batch_sharding(mesh)
    got = jax.jit(gradient, in_shardings=(where, rows, rows), out_shardings=where)(
        params, images, weights
    )
    for path, value in flatten(got).items():
        np.testing.assert_allclose(
            value, flatten(wanted)[path], rtol=1e-4, atol=1e-4, err_msg=path
        )
