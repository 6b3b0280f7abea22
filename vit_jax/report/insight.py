"""What a ViT has learnt, as in Figure 7 of its paper (arXiv 2010.11929).

Left: the principal components of the filters that make tokens of patches. Centre: how
alike the positions' embeddings are. Right: how far each head looks, by depth.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FILTERS = 28  # components drawn, as in the paper
TILES = 14  # positions drawn along a side; of more, every n-th
_TEXT, _FAINT, _DOTS = "#333333", "#777777", "#4c78a8"
_SIMILARITY = "viridis"


@dataclasses.dataclass(frozen=True)
class Components:
    """Principal components of filters.

    Args:
      filters: ``[K, ph, pw, C]`` of length 1, the largest share first.
      shares: of the filters' variance, ``[K]``; all there are sum to 1.
    """

    filters: np.ndarray
    shares: np.ndarray


def principal_filters(
    kernel: Float[np.ndarray, "ph pw C D"], count: int = FILTERS
) -> Components:
    """The directions among patches that a patch embedding tells apart best.

    A component's sign means nothing; its largest entry is made positive.
    """
    filters = kernel.reshape(-1, kernel.shape[-1]).T.astype(np.float64)  # [D, P]
    centred = filters - filters.mean(axis=0)
    _, sizes, components = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(components).argmax(axis=1, keepdims=True)
    components = components * np.sign(np.take_along_axis(components, largest, axis=1))
    variances = sizes**2
    total = variances.sum()
    shares = variances / (total if total > 0 else 1.0)
    return Components(components[:count].reshape(-1, *kernel.shape[:3]), shares[:count])


def position_similarity(
    positions: Float[np.ndarray, "h w D"],
) -> Float[np.ndarray, "h w h w"]:
    """Cosine similarity of each patch's position embedding with every other's."""
    rows = positions.reshape(-1, positions.shape[-1]).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1.0)
    return (rows @ rows.T).reshape(*positions.shape[:2] * 2)


def draw_filters(components: Components) -> Figure:
    """The components as small images, each from its own lowest to highest value."""
    count, height, width, _ = components.filters.shape
    columns = min(7, count)
    rows = -(-count // columns)
    side = 0.75
    figure = _figure(columns * side + 0.3, rows * side * height / width + 0.6)
    share = f"{components.shares.sum():.0%} of their variance"
    _title(figure, "patch-embedding filters", f"{count} components, {share}")
    grid = figure.add_gridspec(rows, columns)
    for index, component in enumerate(components.filters):
        axes = figure.add_subplot(grid[divmod(index, columns)])
        scale = np.abs(component).max() or 1.0  # 0 is mid-gray in all of them
        shown = 0.5 + 0.5 * component / scale
        axes.imshow(np.broadcast_to(shown, (height, width, 3)), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():  # white on white would have no edge
            spine.set_color("#bbbbbb")
    return figure


def draw_positions(similarity: Float[np.ndarray, "h w h w"]) -> Figure:
    """A tile a position: its similarity with all, where they are."""
    high, wide = similarity.shape[:2]
    step = -(-max(high, wide) // TILES)
    chosen = similarity[step // 2 :: step, step // 2 :: step]
    rows, columns = chosen.shape[:2]
    tiles = np.full((rows * (high + 1) - 1, columns * (wide + 1) - 1), np.nan)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (high + 1), column * (wide + 1)
            tiles[top : top + high, left : left + wide] = chosen[row, column]
    longest = 4.2 / max(tiles.shape)
    figure = _figure(tiles.shape[1] * longest + 1.1, tiles.shape[0] * longest + 0.6)
    every = "every patch" if step == 1 else f"every {step}th patch along a side"
    _title(figure, "position-embedding similarity", f"cosine, {every}")
    axes = figure.add_subplot()
    lowest = np.floor(10 * similarity.min()) / 10  # fixed positions are all alike
    picture = axes.imshow(
        tiles, cmap=_SIMILARITY, vmin=lowest, vmax=1.0, interpolation="nearest"
    )
    axes.set_axis_off()
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, ticks=[lowest, 1.0])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, labelcolor=_FAINT, length=0)
    return figure


def draw_distances(
    distances: Float[np.ndarray, "L A"], *, longest: float, images: int
) -> Figure:
    """A dot a head.

    Args:
      distances: in pixels, by layer and head.
      longest: the largest there can be, for the axis.
      images: over which they are means, for the title.
    """
    figure = _figure(4.2, 3.3)
    heads = f"{distances.shape[1]} heads, mean of {images} images"
    _title(figure, "attention distance by depth", heads)
    axes = figure.add_subplot()
    depth, _ = distances.shape
    for layer, values in enumerate(distances):
        axes.plot([layer] * len(values), values, "o", color=_DOTS, ms=4, alpha=0.6)
    axes.plot(range(depth), distances.mean(axis=1), color=_FAINT, lw=1, zorder=1)
    axes.set_xlabel("block", fontsize=9, color="#555555")
    axes.set_ylabel("mean distance (pixels)", fontsize=9, color="#555555")
    axes.set_ylim(0, longest)
    _plain(axes, depth)
    return figure


def _plain(axes: Axes, depth: int) -> None:
    axes.set_xlim(-0.5, depth - 0.5)
    axes.set_xticks(range(0, depth, max(1, depth // 8)))
    axes.tick_params(labelsize=8, color="#bbbbbb", labelcolor="#444444")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#bbbbbb")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(max(width, 3.2), height), dpi=150)
    figure.set_layout_engine("constrained")
    return figure


def _title(figure: Figure, title: str, about: str) -> None:
    figure.suptitle(f"{title}\n{about}", fontsize=9, color=_TEXT)
