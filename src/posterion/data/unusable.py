"""Which images can be used at all: finite, not constant, no pixel beyond what sums can hold, no hot pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST_PIXEL", "UNUSABLE", "is_hot", "usable_images", "why_unusable"]

LARGEST_PIXEL = 1e12
"""Beyond it the power of an image of 1,000 pixels a side has no single precision any more."""

_FEWEST_PIXELS, _LEAST_SHARE = 10.0, 1 / 200
"""Noise counts for a third of its pixels, an edge of carbon for hundreds, a gold bead for 26 to 375; a hot
pixel for 1, one that has been resampled for 9 at most. A projection without noise counts for 3 to 10 where
the particle is seven pixels wide, hence the share: in boxes that small a resampled pixel is not found, but
`posterion.data.outliers` finds the image."""

UNUSABLE = (
    f"are constant, hold NaN, infinite values or such beyond {LARGEST_PIXEL:g}, or little but a hot pixel"
)
"""What is true of images that are none of `usable_images`, in words."""


def usable_images(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell images that are finite, vary, are within `LARGEST_PIXEL`, not hot: (n, box, box) -> (n,) bool."""
    low, high = images.min(axis=(1, 2)), images.max(axis=(1, 2))
    # NaN compares as false.
    usable_i = np.asarray((high > low) & (low >= -LARGEST_PIXEL) & (high <= LARGEST_PIXEL))
    for row in np.flatnonzero(usable_i):
        usable_i[row] = not is_hot(images[row])
    return usable_i


def is_hot(image: NDArray[np.float32]) -> bool:
    """Tell an image whose power lies in few pixels: a hot pixel, an X-ray, a dead pixel.

    The effective number of pixels is ``(sum d^2)^2 / sum d^4``, d the deviation from the mean: k for k equal
    ones on an empty ground. Fewer than ``min(10, N / 200)`` are few: ten from 45 pixels a side on, 1.28 for
    16 pixels; below 15 no image is hot. A pixel beside white noise makes an image of 45 pixels a side or more
    hot where its square is about half of the noise's power, N sigma^2, or more; below that it harms no sum.
    The grey scale does not matter, nor do other images.

    Parameters
    ----------
    image : (box, box) float32, finite, within `LARGEST_PIXEL`, not constant
    """
    deviation = image - image.mean(dtype=np.float64).astype(np.float32)
    largest = np.float32(max(deviation.max(), -deviation.min()))
    # The mean of values that differ in their last bit may be one of them.
    if largest == 0:
        return False
    deviation /= largest
    deviation *= deviation
    power = float(deviation.sum(dtype=np.float64))
    deviation *= deviation
    fewest = min(_FEWEST_PIXELS, _LEAST_SHARE * image.size)
    return power**2 < fewest * float(deviation.sum(dtype=np.float64))


def why_unusable(image: NDArray[np.float32]) -> str:
    """Say what is wrong with an image that `usable_images` refuses, to follow the image's name."""
    if not np.isfinite(image).all():
        return "holds NaN or infinite values"
    if np.abs(image).max() > LARGEST_PIXEL:
        return f"holds values beyond {LARGEST_PIXEL:g}, which no camera counts"
    if image.max() > image.min():
        row, column = np.unravel_index(np.abs(image - image.mean(dtype=np.float64)).argmax(), image.shape)
        return (
            f"has a hot pixel, {image[row, column]:g} in row {row + 1}, column {column + 1}, that outweighs "
            "all others (relion_preprocess --white_dust 5 --black_dust 5 replaces such pixels)"
        )
    return "is constant"
