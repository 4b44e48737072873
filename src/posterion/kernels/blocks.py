"""Samples of central slices by blocks of pixels: where they lie first, memory second.

A loop that computes positions and fetches neighbours at once does not vectorise; of two loops the first does,
and the second keeps many fetches in flight. The volume is the ``x >= 0`` half of a Hermitian transform,
``[z, y, x]`` with the origin at ``(centre, centre, 0)``; a sample with negative x is taken at ``-q``,
conjugated.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from posterion.kernels.bodies import bilinear, bilinear_slopes, lerp, locate
from posterion.kernels.compiled import COMPILED
from posterion.kernels.lanes import fetch_soon, high, joined, load4, low, pair, store

__all__ = ["BLOCK", "block_ahead", "block_gradients", "block_values", "fetch_ahead", "pixel_table", "places"]

Real = NDArray[np.float32]
Index = NDArray[np.uint64]
Rows = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
"""row_ky, row_first_kx, row_start of a `posterion.physics.fourier.Disc`."""
Strides = tuple[np.uint64, np.uint64]

BLOCK = 128
_CACHED = 2**22  # float32: 16 MiB


@njit(**COMPILED)
def pixel_table(rows: Rows) -> Real:
    """Lay out (kx, ky) of every pixel, (2, P) float32 with zeros up to whole blocks."""
    row_ky, row_first_kx, row_start = rows
    k_p = np.zeros((2, (row_start[-1] + BLOCK - 1) // BLOCK * BLOCK), np.float32)
    for row in range(len(row_ky)):
        first, start = row_first_kx[row], row_start[row]
        for j in range(row_start[row + 1] - start):
            k_p[0, start + j] = np.float32(first + j)
            k_p[1, start + j] = np.float32(row_ky[row])
    return k_p


@njit(**COMPILED)
def places() -> tuple[Index, Real]:
    """Make room for where this block's pixels and the next one's lie: ``base`` and ``where``, by turns."""
    return np.empty((2, BLOCK), np.uint64), np.empty((2, 4, BLOCK), np.float32)


@njit(**COMPILED)
def _block_positions(
    axes: Real, k_p: Real, start: int, offset: float, strides: Strides, base: Index, where: Real
) -> None:
    """Find where a block's pixels lie: index of the lower corner; fractions (x, y, z) and the sign of x."""
    along_kx = (axes[0, 0], axes[0, 1], axes[0, 2])
    along_ky = (axes[1, 0], axes[1, 1], axes[1, 2])
    stride_y, stride_z = strides
    for j in range(BLOCK):
        p = np.uint64(start + j)  # unsigned: an index that could count from the end does not vectorise
        k = k_p[0, p], k_p[1, p]
        (ix, iy, iz), fractions, sign = locate(k, along_kx, along_ky, offset)
        where[0, j], where[1, j], where[2, j] = fractions
        where[3, j] = sign
        base[j] = np.uint64(iz) * stride_z + np.uint64(iy) * stride_y + np.uint64(ix) * np.uint64(2)


@njit(**COMPILED)
def fetch_ahead(flat: Real, strides: Strides, base: Index, count: int) -> None:
    """Ask for the neighbours of some samples.

    Of a volume that the caches hold the asking costs more than it brings.
    """
    stride_y, stride_z = strides
    if flat.size > _CACHED:
        for j in range(count):
            for at in (base[j], base[j] + stride_z):
                fetch_soon(flat, at)
                fetch_soon(flat, at + stride_y)


@njit(**COMPILED)
def block_ahead(
    axes: Real,
    pixels: tuple[Real, int],
    offset: float,
    flat: Real,
    strides: Strides,
    base: Index,
    where: Real,
) -> None:
    """Find where the block of ``pixels = (k_p, start)`` lies, and ask for its memory before it is needed.

    Beyond the last block: nothing.
    """
    if pixels[1] >= pixels[0].shape[1]:
        return
    _block_positions(axes, pixels[0], pixels[1], offset, strides, base, where)
    fetch_ahead(flat, strides, base, BLOCK)


@njit(**COMPILED)
def _corners(flat: Real, at: Any, strides: Strides) -> tuple[Any, Any, Any, Any]:
    """Load the eight neighbours: four loads of the two neighbours along x, (re, im, re, im)."""
    stride_y, stride_z = strides
    above = at + stride_z
    return load4(flat, at), load4(flat, at + stride_y), load4(flat, above), load4(flat, above + stride_y)


@njit(**COMPILED)
def block_values(
    flat: Real, strides: Strides, base: Index, where: Real, count: int, out: Real, first: int
) -> None:
    """Interpolate the first samples of a block into ``out[first:]``, (re, im) after (re, im)."""
    for j in range(count):
        v00, v10, v01, v11 = _corners(flat, base[j], strides)
        along_x = bilinear(v00, v10, v01, v11, where[1, j], where[2, j])
        value = lerp(low(along_x), high(along_x), where[0, j])
        store(out, first + 2 * j, value * pair(np.float32(1.0), where[3, j]))


@njit(**COMPILED)
def block_gradients(flat: Real, strides: Strides, base: Index, where: Real, out: Real) -> None:
    """Interpolate a block with its derivatives along the grid: (value, by x, by y, by z), (re, im) each.

    The signs of samples taken at -q are left to the caller.
    """
    for j in range(BLOCK):
        v00, v10, v01, v11 = _corners(flat, base[j], strides)
        value, by_y, by_z = bilinear_slopes(v00, v10, v01, v11, where[1, j], where[2, j])
        fx = where[0, j]
        by_x = high(value) - low(value)
        first = joined(low(value) + fx * by_x, by_x)
        store(
            out,
            8 * j,
            joined(first, joined(lerp(low(by_y), high(by_y), fx), lerp(low(by_z), high(by_z), fx))),
        )
