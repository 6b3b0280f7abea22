"""Memory of a train step by shapes alone.

What lies in memory between steps is exact: each array of the state by its sharding, in
the tiles of the chip. What a step needs besides is an estimate. A step's memory is most
while the backward pass goes through the layers: then there are the arrays that
`jax.vjp` says are kept, parameters in the type that is computed in, gradients as far as
they have come, and what one layer works with.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from vit_jax import sharding
from vit_jax.models import variants
from vit_jax.models.attention_choice import Hardware, Request, resolve
from vit_jax.objectives.base import merge
from vit_jax.plan.chips import Chip
from vit_jax.plan.kept import ROWS, Kept, ends
from vit_jax.plan.program import (
    Job,
    batch_shapes,
    build,
    make_mesh,
    mesh_sizes,
    platform,
)
from vit_jax.plan.tiles import argument_bytes

GIB = 2.0**30

# Of a compiled train step, MiB: 22 to 35 in those that were compiled for TPUs.
PROGRAM = 26.0


@dataclasses.dataclass(frozen=True)
class Memory:
    """GiB a device of a train step.

    Args:
      params, opt_state, ema: by their shardings; a teacher is among params.
      batch: what the loader hands over.
      gradients: laid out as the parameters.
      copies: of parameters, in the type that is computed in.
      activations: kept for the backward pass.
      working: what is in use at a time besides; an estimate.
      program: the instructions; an estimate.
    """

    params: float
    opt_state: float
    ema: float
    batch: float
    gradients: float
    copies: float
    activations: float
    working: float
    program: float

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
        self.chip = job.topology.chip
        self._one = make_mesh(dict.fromkeys(sharding.AXES, 1), self.chip)
        self._parts: dict[str, Any] = {}
        self._saved: dict[str, list[Any]] = {}
        self._sharded: dict[tuple[Any, ...], Any] = {}
        self.state = self.parts("none").state_shapes
        self.flops_per_image = self.parts("none").flops_per_image

    def parts(self, remat: str) -> Any:
        """`setup.Parts` on one device, with another remat."""
        if remat not in self._parts:
            config = _traceable(self.job.config, self.chip, remat)
            job = dataclasses.replace(self.job, config=config)
            self._parts[remat], _ = build(job, mesh=self._one)
        return self._parts[remat]

    def sharded(self, axes: Mapping[str, int]) -> Any:
        """The state's shapes as they lie on a mesh."""
        from vit_jax import setup

        key = tuple(axes.items())
        if key not in self._sharded:
            mesh = make_mesh(axes, self.chip)
            shardings = setup.state_shardings(self.state, mesh)
            self._sharded[key] = setup.with_shardings(self.state, shardings)
        return self._sharded[key]

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
        if _is_fused(config, self.chip):
            grows = [leaf for leaf in grows if not _is_weights(leaf, config)]
        # The images are kept as an argument of the step, and counted there.
        return [leaf for leaf in grows if leaf.dtype != batch["image"].dtype]


def _traceable(config: Any, chip: Chip, remat: str) -> Any:
    """A copy with another remat, and without kernels that only a GPU can trace."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.remat = remat
        if not chip.is_tpu:
            config.model.attention = "xla"
    return config.lock()


def _is_fused(config: Any, chip: Chip) -> bool:
    """Whether a GPU's kernel computes attention, which is traced as XLA's."""
    if chip.is_tpu:
        return False
    model = variants.resolve(**config.model.to_dict())
    tokens = math.prod(model["image_size"]) // math.prod(model["patch_size"])
    request = Request(
        num_queries=tokens,
        num_keys=tokens,
        head_dim=model["width"] // model["num_heads"],
        dtype=config.model.dtype,
        dropout=config.model.attention_dropout > 0,
    )
    here = Hardware(platform(chip), chip.name)
    return resolve(config.model.attention, here, request) != "xla"


def _is_weights(leaf: Any, config: Any) -> bool:
    """Attention weights, which a fused kernel does not keep: tokens by tokens."""
    model = variants.resolve(**config.model.to_dict())
    tokens = math.prod(model["image_size"]) // math.prod(model["patch_size"])
    most = tokens + 8  # with what is in front of the patches
    return (
        model["num_heads"] in leaf.shape
        and sum(tokens <= size <= most for size in leaf.shape) > 1
    )


def device_bytes(shapes: Any, chip: Chip, *, itemsize: int = 0) -> int:
    """Bytes a device of a tree of shapes that carry their shardings.

    Args:
      shapes: of a state.
      chip: whose tiles they fill.
      itemsize: of a copy in another type.
    """
    return sum(
        argument_bytes(
            leaf.sharding.shard_shape(leaf.shape), itemsize or leaf.dtype.itemsize, chip
        )
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
    axes, chip = mesh_sizes(config, devices), program.chip
    state = program.sharded(axes)
    rows, parts = rows_a_device(config, axes), config.train.accumulate
    batch = batch_shapes(config, rows)
    images = batch["image"].shape
    params = device_bytes(state.params, chip)
    # Of a micro-batch, their sum, and once more in what the compiler says it needs.
    gradients = (3 if parts > 1 else 1) * params
    copies = 0
    if config.model.dtype == "bfloat16":
        copies = device_bytes(state.params, chip, itemsize=2)
    kept = Kept(program, config, axes, rows // parts)
    # Micro-batches wait as they are after mixing, in float32.
    waiting = argument_bytes(images, 4, chip) if parts > 1 else 0
    split = ends(state.params, config) if axes["fsdp"] > 1 else 0
    backward = kept.stacked + kept.embedding + gradients + copies + split
    backward += kept.layer(chip)
    between = kept.stacked + kept.rest + copies
    before = 2 * argument_bytes(images, 4, chip)
    peak = max(waiting + backward, waiting + between, before)
    held = gradients + copies + kept.stacked
    return Memory(
        params=(params + _frozen_bytes(program, axes)) / GIB,
        opt_state=device_bytes(state.opt_state, chip) / GIB,
        ema=device_bytes(state.ema, chip) / GIB,
        batch=sum(
            argument_bytes(leaf.shape, leaf.dtype.itemsize, chip)
            for leaf in jax.tree.leaves(batch)
        )
        / GIB,
        gradients=gradients / GIB,
        copies=copies / GIB,
        activations=kept.stacked / GIB,
        working=(peak - held) / GIB,
        program=PROGRAM / 1024,
    )


def _frozen_bytes(program: Program, axes: Mapping[str, int]) -> int:
    """Bytes a device of what is not trained, such as a teacher."""
    from vit_jax import setup

    frozen = program.parts("none").frozen
    places = sharding.param_shardings(frozen, make_mesh(axes, program.chip))
    return device_bytes(setup.with_shardings(frozen, places), program.chip)


def _bare(shapes: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes
    )
