"""Modules and trees of arrays from leaves, each read straight into its shards."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from vit_jax import sharding
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.files import WeightsError
from vit_jax.weights.table import Leaf


def build(
    make: Callable[[jax.Array], nnx.Module],
    leaves: Mapping[str, Leaf],
    *,
    mesh: jax.sharding.Mesh | None = None,
    release: Arrays | None = None,
) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    """A module with its parameters from leaves, each read straight into its shards.

    Returns:
      The module; paths of parameters without a leaf, which have their initial values;
      paths of leaves without a parameter.

    Raises:
      WeightsError: a leaf has another shape than its parameter.
    """
    graphdefs = []

    def init(key: jax.Array) -> dict:
        graphdef, state = nnx.split(make(key))
        graphdefs.append(graphdef)
        return nnx.to_pure_dict(state)

    shapes = jax.eval_shape(init, jax.random.key(0))
    places = (
        sharding.param_shardings(shapes, mesh)
        if mesh is not None
        else jax.tree.map(
            lambda _: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), shapes
        )
    )

    def initial(paths: Sequence[str]) -> dict[str, jax.Array]:
        at = by_path(places)
        some = jax.jit(
            lambda key: {path: by_path(init(key))[path] for path in paths},
            out_shardings={path: at[path] for path in paths},
        )
        return some(jax.random.key(0))

    params, missing = fill(
        shapes, by_path(places), leaves, initial=initial, release=release
    )
    unplaced = sorted(leaves.keys() - by_path(shapes).keys())
    return nnx.merge(graphdefs[0], params), missing, tuple(unplaced)


def fill(
    shapes: Any,
    places: Mapping[str, jax.sharding.Sharding],
    leaves: Mapping[str, Leaf],
    *,
    initial: Callable[[Sequence[str]], Mapping[str, jax.Array]],
    release: Arrays | None = None,
) -> tuple[Any, tuple[str, ...]]:
    """A tree of arrays in their shards: from leaves, or from ``initial`` without one.

    One leaf is in host memory at a time.

    Args:
      shapes: the tree, of anything that has a shape.
      places: where each path's array is to be.
      leaves: by path; those that the tree does not have are left alone.
      initial: values of paths that have no leaf.
      release: gives memory of files back after each leaf.

    Returns:
      The tree, and the paths that ``initial`` gave.

    Raises:
      WeightsError: a leaf has another shape than the tree (all are named).
    """
    wanted = {path: tuple(leaf.shape) for path, leaf in by_path(shapes).items()}
    wrong = [
        f"{path} is {leaves[path].shape} in the weights, {shape} in the model"
        for path, shape in wanted.items()
        if path in leaves and leaves[path].shape != shape
    ]
    if wrong:
        raise WeightsError("the weights do not fit the model: " + "; ".join(wrong))
    arrays: dict[str, jax.Array] = {}
    for path, shape in wanted.items():
        if path in leaves:
            arrays[path] = _read(leaves[path], shape, places[path])
            if release is not None:
                release.release()
    missing = tuple(path for path in wanted if path not in leaves)
    if missing:
        arrays |= initial(missing)
    treedef = jax.tree.structure(shapes)
    return treedef.unflatten([arrays[path] for path in wanted]), missing


def _read(
    leaf: Leaf, shape: tuple[int, ...], place: jax.sharding.Sharding
) -> jax.Array:
    """A leaf in its shards; one of them is in host memory at a time."""
    devices: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in place.addressable_devices_indices_map(shape).items():
        parts = zip(index or (), shape, strict=True)
        bounds = tuple(part.indices(size)[:2] for part, size in parts)
        devices.setdefault(bounds, []).append(device)
    shards = []
    for bounds, holders in devices.items():  # replicas are read once
        numbers = leaf.read(tuple(slice(*pair) for pair in bounds))
        shards += [
            jax.block_until_ready(jax.device_put(numbers, device)) for device in holders
        ]
    return jax.make_array_from_single_device_arrays(shape, place, shards)


def by_path(tree: Any) -> dict[str, Any]:
    """A nested dict as paths and leaves, in the tree's order."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
