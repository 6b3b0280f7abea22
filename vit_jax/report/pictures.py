"""Pictures of evaluations: files in a run's ``figures/``, images of its writer."""

import io
from collections.abc import Mapping

import numpy as np
import PIL.Image
from etils import epath

from vit_jax.writers import Writer


def show(
    workdir: epath.Path,
    step: int,
    images: Mapping[str, np.ndarray],
    writer: Writer | None = None,
) -> list[epath.Path]:
    """Writes ``figures/NAME-STEP.png`` of each picture and returns the paths.

    Args:
      workdir: of the run.
      step: number of updates so far.
      images: uint8 ``[H, W, 3]`` by name; a slash in a name becomes a dash.
      writer: receives them as well.
    """
    paths = []
    folder = workdir / "figures"
    for name, image in images.items():
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name.replace('/', '-')}-{step:08d}.png"
        picture = io.BytesIO()
        PIL.Image.fromarray(image).save(picture, "PNG")
        path.write_bytes(picture.getvalue())
        paths.append(path)
    if writer is not None and images:
        writer.write_images(step, {name: each[None] for name, each in images.items()})
    return paths
