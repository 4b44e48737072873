"""Power spectrum of a micrograph by Welch's method: the mean over overlapping, tapered tiles."""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.signal
from numpy.typing import NDArray

from posterion.errors import PosterionError

__all__ = ["averaged_periodogram", "tile_size", "without_outliers"]

_SMALLEST_TILE_ANGSTROM = 300.0
_OUTLIER = 10.0
_SAMPLE_STEP = 4


def tile_size(shape_px: tuple[int, ...], pixel_size_angstrom: float, wanted_angstrom: float) -> int:
    """Edge of the tiles in pixels: even, quick to transform, within ``wanted_angstrom`` and the micrograph.

    Raises
    ------
    PosterionError
        Where not even 300 A fit: too small to tell one ring from the next.
    """
    limit = min(*shape_px, round(wanted_angstrom / pixel_size_angstrom)) // 2 * 2
    if limit * pixel_size_angstrom < _SMALLEST_TILE_ANGSTROM:
        width, height = (edge * pixel_size_angstrom for edge in shape_px[::-1])
        raise PosterionError(
            f"a field of {width:.0f} x {height:.0f} A, at {pixel_size_angstrom:g} A per pixel, is too small "
            f"to tell rings apart ({_SMALLEST_TILE_ANGSTROM:g} A): is the pixel size right?"
        )
    return next(size for size in range(limit, 0, -2) if scipy.fft.next_fast_len(size, real=True) == size)


def without_outliers(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Clip values further than 10 robust standard deviations from the median: one hot pixel hides all rings.

    Median and median absolute deviation are those of every fourth pixel of every fourth row; where half of
    them are equal (a few electrons per pixel) nothing is clipped.
    """
    sample = values[::_SAMPLE_STEP, ::_SAMPLE_STEP]
    median = np.median(sample)
    limit = _OUTLIER * 1.4826 * float(np.median(abs(sample - median)))
    return np.clip(values, median - limit, median + limit) if limit > 0 else values


def averaged_periodogram(values: NDArray[np.float32], tile_px: int) -> NDArray[np.float64]:
    """Mean power spectrum of tiles that overlap by half, each tapered to its edges.

    P(k) = mean over tiles of |F(w (f - mean f))|^2 / sum w^2, w the Hann window.

    Parameters
    ----------
    values : (ny, nx) float32
        Micrograph, at least a tile in both directions.
    tile_px : int
        Edge of a tile, pixels, even.

    Returns
    -------
    power : (tile_px, tile_px // 2 + 1) float64
        Half spectrum, DC first; white noise of variance v has mean v.

    Notes
    -----
    Welch 1967, IEEE Trans. Audio Electroacoust. 15, 70.
    """
    taper_1d = scipy.signal.windows.hann(tile_px, sym=False).astype(np.float32)
    taper = np.outer(taper_1d, taper_1d)
    power = np.zeros((tile_px, tile_px // 2 + 1))
    starts = [_starts(length, tile_px) for length in values.shape]
    for row in starts[0]:
        for column in starts[1]:
            tile = values[row : row + tile_px, column : column + tile_px]
            spectrum = scipy.fft.rfft2((tile - tile.mean()) * taper)
            power += spectrum.real**2 + spectrum.imag**2
    return power / (len(starts[0]) * len(starts[1]) * float(np.sum(taper**2, dtype=np.float64)))


def _starts(length: int, tile_px: int) -> list[int]:
    """First pixels of tiles that cover a whole edge evenly and overlap by half or a little more."""
    count = -(-2 * (length - tile_px) // tile_px) + 1
    return [round(start) for start in np.linspace(0, length - tile_px, count).tolist()]
