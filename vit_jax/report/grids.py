"""Rows of images as one picture: batches as a model sees them, and completions."""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

_TEXT = "#333333"
_SIDE, _GAP, _NAME = 0.95, 0.06, 0.24  # inches: an image, between two, a caption

Rows = Sequence[tuple[str, UInt8[np.ndarray, "B H W C"]]]


def to_pixels(
    images: Float[np.ndarray, "B H W C"],
    mean: Sequence[float],
    std: Sequence[float],
) -> UInt8[np.ndarray, "B H W C"]:
    """Normalised images as pixels in 0..255; what is beyond is cut off."""
    pixels = images.astype(np.float32) * np.asarray(std, np.float32)
    pixels = pixels + np.asarray(mean, np.float32)
    return np.round(255.0 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8)


def draw_grid(
    rows: Rows,
    *,
    title: str = "",
    captions: Sequence[str] = (),
) -> Figure:
    """Draws named rows of images, one under the other.

    Args:
      rows: a name, which may be empty, and images of one size.
      title: above all.
      captions: above the images of the first row, or, with one per image of all rows,
        above each.

    Raises:
      ValueError: there is no image.
    """
    if not rows or not all(len(images) for _, images in rows):
        raise ValueError("there are no images to draw")
    columns = max(len(images) for _, images in rows)
    high, wide = rows[0][1][0].shape[:2]
    tall = _SIDE * high / wide
    total = sum(len(images) for _, images in rows)
    under = [len(captions) == total or not index for index in range(len(rows))]
    name = _NAME if captions else 0.0
    left = 0.16 + 0.065 * max(
        len(line) for text, _ in rows for line in text.split("\n")
    )
    # A title may be wider than few images.
    size_x = max(left + columns * (_SIDE + _GAP) + 0.1, 0.07 * len(title) + 0.2)
    size_y = (0.34 if title else 0.1) + sum(tall + _GAP + name * has for has in under)
    figure = Figure(figsize=(size_x, size_y), dpi=150)
    if title:
        y = 1 - 0.1 / size_y
        figure.text(0.5, y, title, ha="center", va="top", fontsize=9, color=_TEXT)
    top, words = 0.34 if title else 0.1, iter(captions)
    for (text, images), has_captions in zip(rows, under, strict=True):
        top += name * has_captions
        y = 1 - (top + tall / 2) / size_y
        figure.text(
            0.08 / size_x, y, text, ha="left", va="center", fontsize=8, color=_TEXT
        )
        for column, image in enumerate(images):
            x = left + column * (_SIDE + _GAP)
            place = (x / size_x, 1 - (top + tall) / size_y)
            axes = figure.add_axes((*place, _SIDE / size_x, tall / size_y))
            axes.imshow(
                np.broadcast_to(image, (*image.shape[:2], 3)),
                interpolation="nearest" if max(high, wide) <= 64 else "antialiased",
            )
            axes.set_axis_off()
            if has_captions:
                axes.set_title(
                    next(words, ""), fontsize=7, color=_TEXT, pad=2, parse_math=False
                )
        top += tall + _GAP
    return figure


def rendered(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    """A figure as pixels, such as TensorBoard takes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write(path: epath.Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes pixels as a PNG, in a folder or a bucket."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
