"""Memory of a train step by shapes alone.

What lies in memory between steps is exact: each array of the state by its sharding.
What a step needs besides is an estimate: the arrays that the backward pass keeps are
those that `jax.vjp` says, but the compiler may fuse some away, and pads others.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from vit_jax import sharding
from vit_jax.objectives.base import merge
from vit_jax.plan.program import Job, batch_shapes, build, mesh_sizes

GIB = 2.0**30

# Rows of a traced batch: a prime that no size of a model is a multiple of, so that an
# array that grows with the batch is known by its shape.
ROWS = 1_000_003


@dataclasses.dataclass(frozen=True)
class Memory:
    """GiB a device of a train step.

    Args:
      params, opt_state, ema: by their shardings, exact; a teacher's are among params.
      gradients: laid out as the parameters, exact.
      batch: what the loader hands over, exact.
      activations: kept for the backward pass; an estimate.
      working: what is in use at a time besides; an estimate.
    """

    params: float
    opt_state: float
    ema: float
    gradients: float
    batch: float
    activations: float
    working: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(dataclasses.astuple(self))


class Program:
    """The shapes of a config's train step, traced once for any sharding.

    Args:
      job: the config, complete. Of its mesh, remat and accumulation nothing is taken.
    """

    def __init__(self, job: Job):
        self.job = job
        self._one = make_mesh(dict.fromkeys(sharding.AXES, 1))
        self._parts: dict[str, Any] = {}
        self._saved: dict[str, list[Any]] = {}
        self.state = self.parts("none").state_shapes
        self.flops_per_image = self.parts("none").flops_per_image

    def parts(self, remat: str) -> Any:
        """`setup.Parts` on one device, with another remat."""
        if remat not in self._parts:
            job = dataclasses.replace(self.job, config=changed(self.job.config, remat))
            self._parts[remat], _ = build(job, mesh=self._one)
        return self._parts[remat]

    def sharded(self, mesh: Any) -> Any:
        """The state's shapes as they lie on a mesh."""
        from vit_jax import setup

        return setup.with_shardings(self.state, setup.state_shardings(self.state, mesh))

    def saved(self, remat: str) -> list[Any]:
        """Shapes that the backward pass keeps of `ROWS` images, those that grow."""
        if remat not in self._saved:
            self._saved[remat] = self._trace(remat)
        return self._saved[remat]

    def _trace(self, remat: str) -> list[Any]:
        from vit_jax import setup

        parts, config = self.parts(remat), self.job.config
        prepare = setup.build_prepare(config)

        def residuals(params: Any, frozen: Any, batch: Any, key: Any) -> Any:
            prepared = prepare(batch, key)

            def loss(params: Any) -> Any:
                return merge(parts.graphdef, params, frozen).loss(prepared, key=key)

            return jax.vjp(loss, params, has_aux=True)[1]

        arguments = (parts.state_shapes.params, parts.frozen)
        batch = batch_shapes(config, ROWS)
        with jax.sharding.use_abstract_mesh(self._one):
            kept = jax.eval_shape(
                residuals, *_bare(arguments), batch, _bare(parts.step_key)
            )
        grows = [
            leaf
            for leaf in jax.tree.leaves(kept)
            if any(size and size % ROWS == 0 for size in leaf.shape)
        ]
        # The images are kept as an argument of the step, and counted there.
        return [leaf for leaf in grows if leaf.dtype != batch["image"].dtype]


def changed(config: Any, remat: str) -> Any:
    """A copy of a config with another remat."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.remat = remat
    return config.lock()


def make_mesh(axes: Mapping[str, int]) -> AbstractMesh:
    """A mesh of no devices in particular."""
    types = (AxisType.Auto,) * len(axes)
    return AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=types)


def device_bytes(shapes: Any) -> int:
    """Bytes a device of a tree of shapes that carry their shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    )


def count(shapes: Any) -> int:
    """Elements of a tree of shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def rows_a_device(config: Any, axes: Mapping[str, int]) -> int:
    """Images of a batch on one device."""
    return config.train.batch_size // math.prod(
        axes[axis] for axis in sharding.BATCH_AXES
    )


def memory(program: Program, config: Any, devices: int) -> Memory:
    """What a train step needs on a device.

    Args:
      program: of this config, but for mesh, remat and accumulation.
      config: complete, and checked.
      devices: of the run.
    """
    axes = mesh_sizes(config, devices)
    state = program.sharded(make_mesh(axes))
    rows, accumulate = rows_a_device(config, axes), config.train.accumulate
    batch = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(batch_shapes(config, rows))
    )
    params = device_bytes(state.params)
    kept, layer = _activations(program, config, axes, rows // accumulate)
    split = axes["fsdp"] > 1
    return Memory(
        params=(params + _frozen_bytes(program, make_mesh(axes))) / GIB,
        opt_state=device_bytes(state.opt_state) / GIB,
        ema=device_bytes(state.ema) / GIB,
        # Of a micro-batch, and their sum.
        gradients=(2 if accumulate > 1 else 1) * params / GIB,
        batch=batch / GIB,
        activations=kept / GIB,
        # A layer's arrays, its parameters from the other devices, and the images in
        # float32 (four times their bytes) before and after they are mixed.
        working=(layer + split * _one_layer(program, config) + 8 * batch) / GIB,
    )


def _frozen_bytes(program: Program, mesh: Any) -> int:
    """Bytes a device of what is not trained, such as a teacher."""
    from vit_jax import setup

    frozen = program.parts("none").frozen
    places = sharding.param_shardings(frozen, mesh)
    return device_bytes(setup.with_shardings(frozen, places))


def _activations(
    program: Program, config: Any, axes: Mapping[str, int], rows: int
) -> tuple[float, float]:
    """Bytes a device that the backward pass keeps, and all those of one layer."""
    sizes = _model(config)
    total = sum(
        _on_device(leaf, sizes, axes, rows)
        for leaf in program.saved(config.model.remat)
    )
    layers = [
        leaf
        for leaf in program.saved("none")
        if leaf.shape[0] == sizes["depth"] and sizes["depth"] > 1
    ]
    everything = sum(_on_device(leaf, sizes, axes, rows) for leaf in layers)
    return total, everything / sizes["depth"]


def _on_device(
    leaf: Any, model: Mapping[str, Any], axes: Mapping[str, int], rows: int
) -> float:
    """Bytes of an activation on a device: its rows, its heads, its hidden units."""
    elements = math.prod(
        size // ROWS * rows if size and size % ROWS == 0 else size
        for size in leaf.shape
    )
    parts = axes["sequence"]
    if {model["mlp_dim"], model["num_heads"]} & set(leaf.shape[1:]):
        parts *= axes["tensor"]
    return elements * leaf.dtype.itemsize / parts


def _model(config: Any) -> dict[str, Any]:
    from vit_jax.models import variants

    return variants.resolve(**config.model.to_dict())


def _one_layer(program: Program, config: Any) -> float:
    """Bytes of a layer's parameters, gathered in the type that is computed in."""
    leaves = jax.tree_util.tree_leaves_with_path(program.state.params)
    stacked = [leaf for path, leaf in leaves if "blocks" in jax.tree_util.keystr(path)]
    depth = max((leaf.shape[0] for leaf in stacked), default=1)
    width = 2 if config.model.dtype == "bfloat16" else 4
    return width * sum(math.prod(leaf.shape) for leaf in stacked) / depth


def _bare(shapes: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes
    )
