"""Numba loops over pixels of central slices; they release the GIL, callers own the threads.

The volume is the ``x >= 0`` half of a Hermitian transform, ``[z, y, x]`` with the origin at
``(centre, centre, 0)``; a sample with negative x is taken at ``-q``, conjugated.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from posterion.kernels.blocks import (
    BLOCK,
    Index,
    Real,
    Rows,
    Strides,
    block_ahead,
    block_values,
    fetch_ahead,
    pixel_table,
    places,
)
from posterion.kernels.bodies import bilinear, fold, lerp, locate, shares
from posterion.kernels.compiled import COMPILED, kernel
from posterion.kernels.lanes import high, joined, load8, low, pair, store

__all__ = ["gather_slices", "scatter_slices", "sum_rotated"]

Segment = tuple[int, int]
"""First and one past the last."""
Line = tuple[float, float]
"""Slope and intercept along a row."""
Found = tuple[Index, Real, NDArray[np.int32]]
"""Of a row's samples: index of the lower corner (n,); fractions and sign of x (4, n); z plane (n,)."""


@kernel
def gather_slices(
    volume: NDArray[np.float32],
    centre: int,
    axes_r: NDArray[np.float32],
    rows: Rows,
    slices_rp: NDArray[np.float32],
) -> None:
    """Sample ``slices_rp = V(R_r^T (kx_p, ky_p, 0))`` trilinearly.

    Parameters
    ----------
    volume : (D, D, W, 2) float32, real and imaginary part of the half transform
    centre : index of the zero frequency along z and y
    axes_r : (n, 2, 3) float32, first two rows of each rotation times the padding factor, ordered (x, y, z)
    rows : row_ky, row_first_kx, row_start of a `posterion.physics.fourier.Disc`
    slices_rp : (n, P, 2) float32, filled
    """
    n_pixels, k_p = rows[2][-1], pixel_table(rows)
    base, where = places()
    strides = np.uint64(2 * volume.shape[2]), np.uint64(2 * volume.shape[1] * volume.shape[2])
    flat, offset = volume.reshape(-1), np.float32(centre)
    for r in range(len(axes_r)):
        axes, out, now = axes_r[r], slices_rp[r].reshape(-1), 0
        block_ahead(axes, (k_p, 0), offset, flat, strides, base[now], where[now])
        for start in range(0, n_pixels, BLOCK):
            block_ahead(axes, (k_p, start + BLOCK), offset, flat, strides, base[1 - now], where[1 - now])
            count = min(BLOCK, n_pixels - start)
            block_values(flat, strides, base[now], where[now], count, out, 2 * start)
            now = 1 - now


@njit(**COMPILED)
def _clipped(line: Line, low: float, high: float, segment: Segment) -> Segment:
    """Narrow ``first <= k < last`` to ``low <= line(k) < high``, a sample generous each side."""
    slope, intercept = line
    first, last = segment
    if abs(slope) < 1e-6:
        outside = intercept < low - 1 or intercept > high + 1
        return first, first if outside else last
    a, b = (low - intercept) / slope, (high - intercept) / slope
    return max(first, int(np.floor(min(a, b))) - 1), min(last, int(np.ceil(max(a, b))) + 2)


@njit(**COMPILED)
def _segments(x: Line, z: Line, low: float, high: float, row: Segment) -> tuple[Segment, Segment]:
    """Find what of a row folds to ``low <= z < high`` with x >= 0: two segments, ascending and disjoint."""
    none, far = np.float32(0.0), np.float32(1e9)
    a = _clipped(z, low, high, _clipped(x, none, far, row))
    b = _clipped((-z[0], -z[1]), low, high, _clipped((-x[0], -x[1]), none, far, row))
    if b[0] < a[0]:
        a, b = b, a
    if b[0] >= b[1]:
        return a, (0, 0)
    if a[1] <= b[0]:
        return a, b
    return (a[0], max(a[1], b[1])), (0, 0)


@njit(**COMPILED)
def _row_positions(
    axes: Real, ky: float, segment: Segment, offset: float, strides: Strides, found: Found
) -> None:
    """Find where a row's pixels lie: index of the lower corner, fractions and sign of x, z plane."""
    along_kx = (axes[0, 0], axes[0, 1], axes[0, 2])
    along_ky = (axes[1, 0], axes[1, 1], axes[1, 2])
    stride_y, stride_z = strides
    base, where, plane = found
    for j in range(segment[1] - segment[0]):
        (ix, iy, iz), fractions, sign = locate((np.float32(segment[0] + j), ky), along_kx, along_ky, offset)
        where[0, j], where[1, j], where[2, j] = fractions
        where[3, j] = sign
        plane[j] = iz
        base[j] = np.uint64(iz) * stride_z + np.uint64(iy) * stride_y + np.uint64(ix) * np.uint64(4)


@njit(**COMPILED)
def _add(flat: Real, at: Any, value: Any) -> None:
    """Add eight lanes to an array from an index on."""
    store(flat, at, load8(flat, at) + value)


@njit(**COMPILED)
def _add_samples(
    flat: Real, strides: Strides, planes: Segment, found: Found, samples: tuple[Real, Real], p: Segment
) -> None:
    """Add samples ``p[0] <= p < p[1]`` to those of their eight neighbours that lie on the planes.

    Both neighbours along x, (re, im, weight, 0) each, are one vector of eight lanes.
    """
    stride_y, stride_z = strides
    base, where, plane = found
    values, weights = samples
    for j in range(p[1] - p[0]):
        i, iz = np.uint64(p[0] + j), plane[j]
        weight = weights[i]
        if weight == 0 or iz < planes[0] - 1 or iz >= planes[1]:
            continue
        sample = joined(pair(values[i, 0], values[i, 1] * where[3, j]), pair(weight, np.float32(0.0)))
        left, right = shares(sample, where[0, j])
        near, far = shares(joined(left, right), where[1, j])
        near_below, near_above = shares(near, where[2, j])
        far_below, far_above = shares(far, where[2, j])
        at = base[j]
        if iz >= planes[0]:
            _add(flat, at, near_below)
            _add(flat, at + stride_y, far_below)
        if iz + 1 < planes[1]:
            _add(flat, at + stride_z, near_above)
            _add(flat, at + stride_z + stride_y, far_above)


@kernel
def scatter_slices(
    volume: NDArray[np.float32],
    centre: int,
    axes_r: NDArray[np.float32],
    rows: Rows,
    values_rp: NDArray[np.float32],
    weights_rp: NDArray[np.float32],
    planes: tuple[int, int],
) -> None:
    """Add slices into the z planes ``planes[0] <= z < planes[1]``: the adjoint of `gather_slices`.

    A plane receives its samples in the order of the slices whatever the other planes are, so a volume split
    into slabs over any number of threads has the same bits.

    Parameters
    ----------
    volume : (D, D, W, 4) float32, real part, imaginary part, weight, unused; added to
    centre : index of the zero frequency along z and y
    axes_r : (n, 2, 3) float32, as in `gather_slices`
    rows : row_ky, row_first_kx, row_start of a `posterion.physics.fourier.Disc`
    values_rp : (n, P, 2) float32
    weights_rp : (n, P) float32
    planes : first and one past the last z plane to write
    """
    row_ky, row_first_kx, row_start = rows
    strides = np.uint64(4 * volume.shape[2]), np.uint64(4 * volume.shape[1] * volume.shape[2])
    flat, offset = volume.reshape(-1), np.float32(centre)
    low, high = np.float32(planes[0] - 1 - centre), np.float32(planes[1] - centre)
    reach = (row_start[1:] - row_start[:-1]).max()
    found = np.empty(reach, np.uint64), np.empty((4, reach), np.float32), np.empty(reach, np.int32)
    for r in range(len(axes_r)):
        axes, samples = axes_r[r], (values_rp[r], weights_rp[r])
        for row in range(len(row_ky)):
            ky, start = np.float32(row_ky[row]), row_start[row] - row_first_kx[row]
            x, z = (axes[0, 0], ky * axes[1, 0]), (axes[0, 2], ky * axes[1, 2])
            whole = row_first_kx[row], row_start[row + 1] - start
            for k in _segments(x, z, low, high, whole):
                if k[0] < k[1]:
                    _row_positions(axes, ky, k, offset, strides, found)
                    fetch_ahead(flat, strides, found[0], k[1] - k[0])
                    _add_samples(flat, strides, planes, found, samples, (start + k[0], start + k[1]))


@kernel
def sum_rotated(
    volume: NDArray[np.float32],
    centre: int,
    operators: NDArray[np.float32],
    planes: tuple[int, int],
    out: NDArray[np.float32],
) -> None:
    """Compute ``out(q) = sum_g volume(S_g q)`` trilinearly on some z planes of a Hermitian half transform.

    Parameters
    ----------
    volume : (D, D, W, 4) float32: real and imaginary part of a numerator, its weight, unused
    centre : index of the zero frequency along z and y
    operators : (g, 3, 3) float32 rotations, ordered (x, y, z)
    planes : first and one past the last z plane to compute
    out : (D, D, W, 4) float32, overwritten inside the sphere on those planes
    """
    reach = np.float32((centre - 1) ** 2)
    offset, one, four = np.float32(centre), np.float32(1.0), np.uint64(4)
    stride_y, stride_z = (
        four * np.uint64(volume.shape[2]),
        four * np.uint64(volume.shape[1] * volume.shape[2]),
    )
    flat, flat_out = volume.reshape(-1), out.reshape(-1)
    nothing = pair(np.float32(0.0), np.float32(0.0))
    for iz in range(planes[0], planes[1]):
        for iy in range(volume.shape[1]):
            for ix in range(volume.shape[2]):
                qx, qy, qz = np.float32(ix), np.float32(iy - centre), np.float32(iz - centre)
                if qx * qx + qy * qy + qz * qz > reach:
                    continue
                total = joined(nothing, nothing)
                for g in range(operators.shape[0]):
                    s = operators[g]
                    x = s[0, 0] * qx + s[0, 1] * qy + s[0, 2] * qz
                    y = s[1, 0] * qx + s[1, 1] * qy + s[1, 2] * qz
                    z = s[2, 0] * qx + s[2, 1] * qy + s[2, 2] * qz
                    (jx, jy, jz), (fx, fy, fz), sign = fold(x, y, z, offset)
                    at = np.uint64(jz) * stride_z + np.uint64(jy) * stride_y + np.uint64(jx) * four
                    above = at + stride_z
                    along_x = bilinear(
                        load8(flat, at),
                        load8(flat, at + stride_y),
                        load8(flat, above),
                        load8(flat, above + stride_y),
                        fy,
                        fz,
                    )
                    value = lerp(low(along_x), high(along_x), fx)
                    total = total + value * joined(pair(one, sign), pair(one, one))
                store(
                    flat_out,
                    np.uint64(iz) * stride_z + np.uint64(iy) * stride_y + np.uint64(ix) * four,
                    total,
                )
