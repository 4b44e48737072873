"""Which images can be used at all: finite, not constant, and no pixel beyond what sums can hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST_PIXEL", "UNUSABLE", "usable_images", "why_unusable"]

LARGEST_PIXEL = 1e12
"""Beyond it the power of an image of 1,000 pixels a side has no single precision any more."""


UNUSABLE = f"are constant, or hold NaN, infinite values or such beyond {LARGEST_PIXEL:g}"
"""What is true of images that are none of `usable_images`, in words."""


def usable_images(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell images that are finite, vary and are within `LARGEST_PIXEL`: (n, box, box) -> (n,) bool."""
    low, high = images.min(axis=(1, 2)), images.max(axis=(1, 2))
    # NaN compares as false.
    return np.asarray((high > low) & (low >= -LARGEST_PIXEL) & (high <= LARGEST_PIXEL))


def why_unusable(image: NDArray[np.float32]) -> str:
    """Say what is wrong with an image that `usable_images` refuses, to follow the image's name."""
    if not np.isfinite(image).all():
        return "holds NaN or infinite values"
    if np.abs(image).max() > LARGEST_PIXEL:
        return f"holds values beyond {LARGEST_PIXEL:g}, which no camera counts"
    return "is constant"
