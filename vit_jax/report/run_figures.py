"""The pictures of a run: what it has learnt, and what it has seen, at its last step."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from vit_jax import setup, sharding
from vit_jax.data import mixing
from vit_jax.models.attention_maps import attention_distance, content_map
from vit_jax.objectives.base import merge
from vit_jax.report import attention, grids, insight
from vit_jax.run import Run

SEEN = 32  # images of a batch that are drawn
SHOWN = 8  # images that an objective reconstructs

Arrays = dict[str, Any]


def draw(run: Run, state: Any, batch: Mapping[str, jax.Array]) -> None:
    """Draws the figures of a run that is over, for ``figures/`` and TensorBoard.

    Every process takes part in computing them; the first one draws.

    Args:
      run: whose step and key the batch is prepared with again.
      state: after the last step.
      batch: of that step, as it was loaded.
    """
    parts, config, step = run.parts, run.config, run.steps.total - 1
    prepare = setup.build_prepare(config)
    plain = functools.partial(
        mixing.normalize, mean=config.data.mean, std=config.data.std
    )
    rows = functools.partial(num_rows, parts.mesh, config.train.batch_size)

    def everything(params: Any, frozen: Any, batch: Any, key: jax.Array) -> Arrays:
        # As in the train step.
        keys = jax.random.split(jax.random.fold_in(key, step))
        return compute(
            *(parts.graphdef, params, frozen, prepare(batch, keys[0]), keys[1]),
            attended={
                "images": plain(batch["image"][: rows(SHOWN)]),
                "label": batch["label"][: rows(SHOWN)],
            },
            seen=rows(SEEN),
            shown=rows(SHOWN),
        )

    run_once = jax.jit(everything, out_shardings=sharding.replicated(parts.mesh))
    arrays = jax.device_get(run_once(state.params, parts.frozen, batch, parts.step_key))
    if jax.process_index():
        return
    for name, figure in figures(
        arrays,
        mean=config.data.mean,
        std=config.data.std,
        step=step + 1,
        of_true=bool(config.objective.get("norm_pixels")),
        pool=config.model.pool,
    ):
        picture = grids.rendered(figure)
        grids.write(run.folder / "figures" / f"{name}.png", picture)
        run.writer.write_images(step + 1, {f"figures/{name}": picture[None]})


def num_rows(mesh: Any, batch_size: int, wanted: int) -> int:
    """As many images as are wanted, or a few more: all devices have as many of them."""
    parts = math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)
    return min(batch_size, -(-wanted // parts) * parts)


def compute(
    graphdef: Any,
    params: Any,
    frozen: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    *,
    attended: Mapping[str, jax.Array],
    seen: int,
    shown: int,
) -> Arrays:
    """Everything the figures are drawn from, for one jitted call on a mesh.

    Args:
      graphdef, params, frozen: of the objective.
      batch: as prepared for a step.
      key: of what an objective draws.
      attended: ``images`` normalised but not mixed or erased, for maps of attention,
        and ``label`` as loaded.
      seen: images that are looked at, the batch's first ones.
      shown: of these, images that are reconstructed.
    """
    objective = merge(graphdef, params, frozen)
    model = objective.encoder
    images, plain = _one_view(batch["images"][:seen]), _one_view(attended["images"])
    reconstruct = getattr(objective, "reconstruct", None)  # where there is any
    positions = model._positions(model.grid)
    if positions is not None:
        rows, columns = model.grid
        positions = positions[0, -rows * columns :].reshape(rows, columns, -1)
    return {
        "images": images,
        "labels": batch["labels"][:seen],
        "kernel": model.embedding.kernel[...] if model.stem is None else None,
        "positions": positions,
        "distances": attention_distance(model, images),
        "attended": {**attended, "images": plain},
        "attention": content_map(model, plain),
        "reconstruction": reconstruct(images[:shown], key) if reconstruct else {},
    }


def _one_view(images: jax.Array) -> jax.Array:
    """The first of several views of each image."""
    return images[:, 0] if images.ndim == 5 else images


def figures(
    arrays: Arrays,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    step: int,
    of_true: bool = False,
    pool: str = "",
) -> Iterator[tuple[str, Figure]]:
    """Names of files, without an ending, and the figures, from `compute`'s arrays.

    Args:
      arrays: in host memory.
      mean, std: that images were normalised by.
      step: whose batch it is.
      pool: the model's pooling, for a title.
      of_true: whether reconstructions borrow the mean and deviation of true patches.
    """
    shown = functools.partial(grids.to_pixels, mean=mean, std=std)
    images = shown(arrays["images"])
    yield "batch", _batch(images[:SEEN], arrays["labels"][:SEEN], step)
    kernel = arrays["kernel"]
    if kernel is not None and kernel.shape[2] in (1, 3):
        yield "filters", insight.draw_filters(insight.principal_filters(kernel))
    if arrays["positions"] is not None:
        similarity = insight.position_similarity(arrays["positions"])
        yield "positions", insight.draw_positions(similarity)
    longest = float(np.hypot(*images.shape[1:3]))
    yield (
        "attention_distance",
        insight.draw_distances(
            arrays["distances"], longest=longest, images=len(images)
        ),
    )
    yield "attention", _attention(arrays, shown, step, pool)
    if rows := arrays["reconstruction"]:
        drawn = [(name, shown(rows[name][:SHOWN])) for name in _in_order(rows)]
        title = f"training images in step {step:,}"
        if of_true:
            title += "; predicted patches have the true mean and contrast"
        yield "reconstruction", grids.draw_grid(drawn, title=title)


def _in_order(rows: Mapping[str, Any]) -> list[str]:
    """From what is given to the truth; a jitted call has sorted them by name."""
    first, last = ("masked", "completion"), ("reconstruction", "images")
    rest = sorted(rows.keys() - {*first, *last})
    return [name for name in (*first, *rest, *last) if name in rows]


def _batch(images: np.ndarray, labels: np.ndarray, step: int) -> Figure:
    """The images in rows of 8, with their classes and what of each was mixed in."""
    rows = [("", images[start : start + 8]) for start in range(0, len(images), 8)]
    captions = [_caption(row) for row in labels]
    title = f"images as the model saw them in step {step:,}"
    return grids.draw_grid(
        rows, title=title, captions=captions if any(captions) else ()
    )


def _attention(
    arrays: Arrays, shown: Callable[[Any], np.ndarray], step: int, pool: str
) -> Figure:
    """Images beside where their pooled features have their content from."""
    attended = arrays["attended"]
    images = list(shown(attended["images"][:SHOWN]))
    what = "attention of the MAP head" if pool == "map" else "attention rollout"
    has_classes = arrays["labels"].shape[1] > 0
    return attention.figure(
        images,
        list(arrays["attention"][:SHOWN]),
        names=[
            _numbers(label) if has_classes else ""
            for label in attended["label"][:SHOWN]
        ],
        captions=[""] * len(images),
        title=f"{what}, training images in step {step:,}",
    )


def _numbers(label: np.ndarray | np.integer) -> str:
    """A class, or several."""
    return ", ".join(str(number) for number in np.atleast_1d(label) if number >= 0)


def _caption(label: np.ndarray) -> str:
    """The class of a one-hot row; of a mixed one, the two largest with their shares."""
    best = np.argsort(-label, kind="stable")[:2]
    parts = [(number, label[number]) for number in best if label[number] > 0.005]
    if len(parts) == 1:
        return f"{parts[0][0]}"
    return " + ".join(f"{share:.0%} {number}" for number, share in parts)
