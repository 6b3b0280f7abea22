"""The device mesh, and how parameters, optimizer state and batches lie on it.

``PARAM_RULES`` is the one table: the parameters carry no sharding of their own.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("slices", "data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("slices", "data", "fsdp")

P = PartitionSpec
AnyMesh = Mesh | AbstractMesh  # of devices, or only of sizes, for planning

# Path pattern (searched, so a suffix is enough) to the axes of the leaf's dimensions,
# without the leading layer axis of a stack; the first match wins. "tensor" splits heads
# and the MLP's hidden dimension (arXiv 1909.08053), so that a block communicates once
# after `attention/out` and once after `mlp/out`; "fsdp" splits the other large one.
PARAM_RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(^|/)attention/(query|key|value)/kernel$", P("fsdp", "tensor", None)),
    (r"(^|/)attention/(query|key|value)/bias$", P("tensor", None)),
    (r"(^|/)attention/out/kernel$", P("tensor", None, "fsdp")),
    (r"(^|/)attention/out/bias$", P()),
    (r"(^|/)mlp/(hidden|gate)/kernel$", P("fsdp", "tensor")),
    (r"(^|/)mlp/(hidden|gate)/bias$", P("tensor")),
    (r"(^|/)mlp/out/kernel$", P("tensor", "fsdp")),
    (r"(^|/)mlp/out/bias$", P()),
    (r"(^|/)(\w+_)?norm/(scale|bias)$", P()),
    (r"(^|/)(attention|mlp)_scale$", P()),
    (r"(^|/)decoder/embedding/kernel$", P("fsdp", None)),  # of tokens, not of pixels
    (r"(^|/)embedding/kernel$", P(None, None, None, "fsdp")),
    (r"(^|/)stem/.*(root|conv\d|projection)/kernel$", P(None, None, None, "fsdp")),
    (r"(^|/)(position_embedding|cls|distillation|registers|mask_token|probe)$", P()),
    (r"(^|/)(pre_logits|prediction)/kernel$", P("fsdp", None)),
    (r"(^|/)(embedding|pre_logits|prediction)/bias$", P()),
    (r"(^|/)head(_distillation)?/kernel$", P("fsdp", "tensor")),
    (r"(^|/)head(_distillation)?/bias$", P("tensor")),
)


def build_mesh(
    *,
    slices: int,
    data: int,
    fsdp: int,
    tensor: int,
    sequence: int,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Arranges the devices as a mesh with the axes of ``AXES``.

    Args:
      slices: groups of devices with a slower network between them.
      data: copies of the parameters, each with its part of the batch.
      fsdp: parts of parameters and batch (arXiv 1910.02054, stage 3).
      tensor: parts of heads and hidden dimensions.
      sequence: parts of the token axis.
      devices: all of the run's by default.

    One of the numbers may be -1: what the others leave over.

    Raises:
      ValueError: the numbers do not multiply to the device count, or ``slices`` is
        not what the devices report.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = _fill((slices, data, fsdp, tensor, sequence), len(devices))
    types = (AxisType.Auto,) * len(AXES)
    reported = len({getattr(device, "slice_index", 0) for device in devices})
    # GPU hosts report a slice each, and a mesh may as well ignore that; on TPU one
    # axis cannot run through several slices.
    if reported > 1 and (sizes[0] > 1 or devices[0].platform == "tpu"):
        if sizes[0] != reported:
            raise ValueError(
                f"mesh.slices is {sizes[0]}, but the devices are in {reported} slices"
            )
        grid = mesh_utils.create_hybrid_device_mesh(
            (1, *sizes[1:]), (reported, 1, 1, 1, 1), devices
        )
        return Mesh(np.asarray(grid), AXES, axis_types=types)
    return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)


def _fill(sizes: tuple[int, ...], num_devices: int) -> tuple[int, ...]:
    """Replaces -1 by the rest and checks the product."""
    text = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"mesh ({text}): sizes are positive, and at most one is -1")
    known = math.prod(size for size in sizes if size != -1)
    filled = tuple(num_devices // known if size == -1 else size for size in sizes)
    if math.prod(filled) != num_devices:
        raise ValueError(
            f"mesh ({text}): {known} devices named, but there are {num_devices}"
            + (", not a multiple" if -1 in sizes else "")
        )
    return filled


def param_shardings(shapes_tree: Any, mesh: AnyMesh) -> Any:
    """The tree of ``NamedSharding`` for a tree of parameters or their shapes.

    Raises:
      ValueError: leaves that no rule matches, or whose rank is not their rule's.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes_tree)
    shardings, problems = [], []
    for key_path, leaf in leaves:
        path = _join(key_path)
        spec = _match(path)
        if spec is None:
            problems.append(f"{path} {leaf.shape} has no rule")
        elif len(spec) > len(leaf.shape):
            problems.append(f"{path} {leaf.shape} does not have the rank of {spec}")
        else:
            shardings.append(NamedSharding(mesh, _fit(spec, leaf.shape, mesh)))
    if problems:
        raise ValueError("PARAM_RULES of sharding.py: " + "; ".join(problems))
    return treedef.unflatten(shardings)


def _join(key_path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def _match(path: str) -> PartitionSpec | None:
    """The first rule's spec, with the layer axis in front inside a stack."""
    for pattern, spec in PARAM_RULES:
        if re.search(pattern, path):
            in_stack = "/blocks/" in f"/{path}"
            return P(None, *spec) if in_stack else spec
    return None


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh: AnyMesh) -> PartitionSpec:
    """Drops the mesh axes that do not divide their dimension."""
    return P(
        *(
            axis if axis is None or size % mesh.shape[axis] == 0 else None
            for axis, size in zip(spec, shape, strict=False)
        )
    )


def opt_state_shardings(
    opt_shapes: Any, params_shapes: Any, param_shardings: Any, mesh: AnyMesh
) -> Any:
    """The tree of ``NamedSharding`` for an optimizer's state.

    A leaf whose path ends with a parameter's path lies as the parameter does if it has
    its shape (a moment), and as the parameter's other dimensions if it lacks one of
    them (a factor of a moment). Everything else is replicated.
    """
    params = {
        _join(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(params_shapes),
            jax.tree.leaves(param_shardings),
            strict=True,
        )
    }

    def find(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for start in range(len(key_path)):  # the longest suffix first
            if (owner := params.get(_join(key_path[start:]))) is None:
                continue
            shape, sharding = owner
            if shape == leaf.shape:
                return sharding
            spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
            for axis in reversed(range(len(shape))):  # the layer axis last
                if shape[:axis] + shape[axis + 1 :] == leaf.shape:
                    return NamedSharding(mesh, P(*spec[:axis], *spec[axis + 1 :]))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(find, opt_shapes)


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Rows over every axis that splits the batch; other dimensions whole."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: AnyMesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, P())
