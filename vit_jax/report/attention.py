"""Images beside where a model looks in them, as one picture."""

import io
import os
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

_COLOURS = "inferno"
_TEXT, _FAINT = "#333333", "#777777"
# Inches: an image's longer side, the title above it, gaps, and what explains colours.
_SIDE, _TITLE, _INNER, _OUTER, _SCALE = 2.1, 0.24, 0.05, 0.16, 0.36
_HEAD = 0.24  # a title above all
_LETTERS = 26  # of a title: what fits above one image


def draw(
    target: str | os.PathLike[str] | io.BufferedIOBase,
    images: Sequence[UInt8[np.ndarray, "H W C"]],
    maps: Sequence[Float[np.ndarray, "h w"]],
    *,
    names: Sequence[str],
    captions: Sequence[str],
) -> None:
    """Writes the `figure` of images and maps as a PNG to a file or a stream."""
    drawn = figure(images, maps, names=names, captions=captions)
    with warnings.catch_warnings():  # a letter that the font lacks is drawn as a box
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        FigureCanvasAgg(drawn).print_png(target)


def figure(
    images: Sequence[UInt8[np.ndarray, "H W C"]],
    maps: Sequence[Float[np.ndarray, "h w"]],
    *,
    names: Sequence[str],
    captions: Sequence[str],
    title: str = "",
) -> Figure:
    """Every image beside itself under its map.

    Args:
      images: what the model sees, in 0..255; 1 or 3 channels, all of one size.
      maps: one number a patch; shown from each map's smallest to its largest.
      names: above the images.
      captions: above the maps.
      title: above all.

    Raises:
      ValueError: there are no images, or not as many of one as of another.
    """
    cards = list(zip(images, maps, names, captions, strict=True))
    if not cards:
        raise ValueError("there are no images to draw")
    pairs = max(1, round((len(cards) / 2) ** 0.5))  # side by side: about a square
    rows = -(-len(cards) // pairs)
    pixels = images[0].shape[:2]
    height, width = (_SIDE * side / max(pixels) for side in pixels)
    step = (2 * width + _INNER + _OUTER, height + _TITLE + _OUTER)
    above = _HEAD if title else 0.0
    size = (pairs * step[0] + _OUTER, above + rows * step[1] + _OUTER + _SCALE)
    drawn = Figure(figsize=size, dpi=160)
    if title:
        y = 1 - 0.1 / size[1]
        drawn.text(0.5, y, title, ha="center", va="top", fontsize=9, color=_TEXT)

    def place(left: float, top: float, width: float, height: float) -> Axes:
        """Axes by inches from the left and the top."""
        bottom = size[1] - top - height
        return drawn.add_axes(
            (left / size[0], bottom / size[1], width / size[0], height / size[1])
        )

    for index, (image, attention, name, caption) in enumerate(cards):
        row, column = divmod(index, pairs)
        left = _OUTER + column * step[0]
        top = above + _OUTER + _TITLE + row * step[1]
        _draw_image(place(left, top, width, height), image, name)
        axes = place(left + width + _INNER, top, width, height)
        _draw_map(axes, image, attention, caption)
    wide = 0.5 * size[0]
    _draw_scale(drawn, place(wide / 2, size[1] - _SCALE, wide, 0.08))
    return drawn


def _draw_image(axes: Axes, image: np.ndarray, title: str) -> None:
    # Where pixels are few they are shown as the squares they are.
    axes.imshow(
        np.broadcast_to(image, (*image.shape[:2], 3)),
        interpolation="nearest" if max(image.shape) <= 32 else "antialiased",
        aspect="auto",
    )
    # The end of a long title tells the files of a folder apart.
    title = title if len(title) <= _LETTERS else "…" + title[1 - _LETTERS :]
    axes.set_title(title, fontsize=8, color=_TEXT, pad=3, parse_math=False)
    axes.set_axis_off()


def _draw_map(axes: Axes, image: np.ndarray, attention: np.ndarray, title: str) -> None:
    """The map over the image in gray, so that all colour is the map's."""
    if image.shape[2] == 3:
        image = (image @ np.array([[0.299], [0.587], [0.114]])).astype(np.uint8)
    _draw_image(axes, image, title)
    low, high = float(attention.min()), float(attention.max())
    height, width = image.shape[:2]
    axes.imshow(
        (attention - low) / (high - low if high > low else 1.0),
        cmap=_COLOURS,
        vmin=0.0,
        vmax=1.0,
        alpha=0.65,
        interpolation="bicubic",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        aspect="auto",
    )


def _draw_scale(figure: Figure, axes: Axes) -> None:
    """What the colours mean, once for all."""
    bar = figure.colorbar(ScalarMappable(cmap=_COLOURS), axes, orientation="horizontal")
    bar.set_ticks([0.0, 1.0], labels=["least attention", "most, in each image"])
    axes.tick_params(labelsize=7, labelcolor=_FAINT, length=0)
    for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)
    bar.outline.set_visible(False)
