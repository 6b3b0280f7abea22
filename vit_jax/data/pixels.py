"""Images as arrays of pixels, and OpenCV as the pipeline uses it."""

import cv2
import numpy as np
from jaxtyping import UInt8

UInt8Image = UInt8[np.ndarray, "_ _ _"]  # [height, width, channels], channels 1 or 3

# Threads of the input pipeline already use every core. Whoever uses OpenCV on images
# imports this module.
cv2.setNumThreads(0)


def with_channels(image: np.ndarray) -> UInt8Image:
    """Restores the channel axis that OpenCV and PIL drop when it is one."""
    return image if image.ndim == 3 else image[:, :, None]
