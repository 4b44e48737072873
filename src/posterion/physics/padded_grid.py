"""The padded, cropped grid on which half transforms of a map live, and the way there and back.

Maps are padded with zeros and transforms are cropped, so most of a plain FFT would work on zeros or make what
is thrown away: axes are transformed one after the other, each only where there is something, block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["PaddedGrid", "blocks", "padded_inverse", "padded_transform"]

_BLOCK_VOXELS = 2**21

Fill = Callable[[slice], NDArray[np.complex64]]
"""Gives the values (D, b, W) of a slice of b rows of y."""


def blocks(count: int, voxels_each: int) -> Iterator[slice]:
    """Slices of ``count`` planes, a bounded number of voxels in each."""
    step = max(1, _BLOCK_VOXELS // voxels_each)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


@dataclass(frozen=True)
class PaddedGrid:
    """A half transform ``[z, y, x >= 0]`` around the origin, sampled ``padding`` times finer than the box.

    Attributes
    ----------
    box : box of the map in voxels
    radius : largest Fourier pixel that may be sampled
    padding : padding factor
    """

    box: int
    radius: int
    padding: int = 2

    @property
    def centre(self) -> int:
        """Index of the zero frequency along z and y, with room for the upper trilinear neighbour."""
        return self.padding * self.radius + 2

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (D, D, W)."""
        return 2 * self.centre + 1, 2 * self.centre + 1, self.centre + 1

    @cached_property
    def shells(self) -> NDArray[np.int16]:
        """Shell of every voxel, (D, D, W) int16, in Fourier pixels of the unpadded box."""
        q = np.arange(-self.centre, self.centre + 1, dtype=np.float32)
        shells = np.empty(self.shape, np.int16)
        for block in blocks(len(q), shells[0].size):
            squared = q[block, None, None] ** 2 + q[:, None] ** 2 + q[self.centre :] ** 2
            shells[block] = np.rint(np.sqrt(squared) / self.padding)
        return shells

    @cached_property
    def voxels_s(self) -> NDArray[np.int64]:
        """Number of voxels of each shell 0 .. radius, (radius + 1,)."""
        counts = [np.bincount(plane.ravel(), minlength=self.radius + 1) for plane in self.shells]
        return np.asarray(np.sum([count[: self.radius + 1] for count in counts], axis=0), np.int64)

    def shell_sum(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Sum over each shell 0 .. radius of (D, D, W) values."""
        total_s = np.zeros(self.radius + 1)
        for plane, shell in zip(values, self.shells, strict=True):
            total_s += np.bincount(shell.ravel(), plane.ravel(), minlength=self.radius + 1)[: len(total_s)]
        return total_s


def padded_transform(
    volume: NDArray[np.float32], size: int, centre: int, workers: int = 1
) -> NDArray[np.complex64]:
    """Transform a map laid into a box of ``size`` voxels, and keep the frequencies up to ``centre``.

    Parameters
    ----------
    volume : (n, n, n) float32, origin at n//2
    size : padded box, voxels
    centre : highest frequency kept along each axis
    workers : threads of the FFT

    Returns
    -------
    (2 centre + 1, 2 centre + 1, centre + 1) complex64, origin at (centre, centre, 0)
    """
    n = len(volume)
    place, keep = (np.arange(n) - n // 2) % size, np.arange(-centre, centre + 1) % size
    n_x = min(centre, size // 2) + 1
    half = np.empty((n, len(keep), n_x), np.complex64)
    for block in blocks(n, size * n):
        rows = np.zeros((block.stop - block.start, n, size), np.float32)
        rows[:, :, place] = volume[block]
        columns = np.zeros((len(rows), size, n_x), np.complex64)
        columns[:, place] = scipy.fft.rfft(rows, axis=2, workers=workers)[:, :, :n_x]
        half[block] = scipy.fft.fft(columns, axis=1, workers=workers, overwrite_x=True)[:, keep]
    out = np.zeros((len(keep), len(keep), centre + 1), np.complex64)
    for block in blocks(len(keep), size * n_x):
        columns = np.zeros((size, block.stop - block.start, n_x), np.complex64)
        columns[place] = half[:, block]
        out[:, block, :n_x] = scipy.fft.fft(columns, axis=0, workers=workers, overwrite_x=True)[keep]
    return out


def padded_inverse(fill: Fill, size: int, centre: int, n: int, workers: int = 1) -> NDArray[np.float32]:
    """Invert `padded_transform`: the middle ``n`` voxels of the map of a cropped half transform.

    Parameters
    ----------
    fill : gives the transform's values for a slice of y, so that it need never exist as a whole
    size : padded box, voxels
    centre : highest frequency of the transform
    n : box of the map
    workers : threads of the FFT
    """
    keep = min(centre, size // 2 - 1)
    inner, crop = slice(centre - keep, centre + keep + 1), (np.arange(n) - n // 2) % size
    place = np.arange(-keep, keep + 1) % size
    half = np.empty((n, len(place), keep + 1), np.complex64)
    for block in blocks(len(place), size * (keep + 1)):
        values = fill(slice(inner.start + block.start, inner.start + block.stop))
        columns = np.zeros((size, block.stop - block.start, keep + 1), np.complex64)
        columns[place] = values[inner, :, : keep + 1]
        half[:, block] = scipy.fft.ifft(columns, axis=0, workers=workers, overwrite_x=True)[crop]
    volume = np.empty((n, n, n), np.float32)
    for block in blocks(n, size * (keep + 1)):
        columns = np.zeros((block.stop - block.start, size, keep + 1), np.complex64)
        columns[:, place] = half[block]
        rows = scipy.fft.ifft(columns, axis=1, workers=workers, overwrite_x=True)[:, crop]
        volume[block] = scipy.fft.irfft(rows, n=size, axis=2, workers=workers)[:, :, crop]
    return volume
