"""How many patches are high and wide, where a file only has their number."""

import math

from vit_jax.weights.files import WeightsError


def grid_of(
    image_size: tuple[int, int] | None, patch_size: tuple[int, int]
) -> tuple[int, int] | None:
    """Patches high and wide of an image; None without one, or if they do not divide."""
    if image_size is None or any(
        pixels % patch for pixels, patch in zip(image_size, patch_size, strict=True)
    ):
        return None
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def square_grid(
    name: str, patches: int, grid: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Patches high and wide: ``grid`` where it has as many, or else a square.

    Args:
      name: of the file, for the message.
      patches: how many positions the file has for patches.
      grid: of the image size that the user asked for, or None.

    Raises:
      WeightsError: they are no square; asks for the image size.
    """
    if grid is not None and math.prod(grid) == patches:
        return grid
    side = math.isqrt(patches)
    if patches < 1 or side**2 != patches:
        asked = f"; the one given has {grid[0]} x {grid[1]}" if grid else ""
        raise WeightsError(
            f"{name}: has positions for {patches} patches, which are no square{asked}; "
            "give the height and width it was trained at as image_size (--image_size)"
        )
    return side, side
