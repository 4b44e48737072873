"""Numba loops over pixels of central slices; they release the GIL, callers own the threads.

Slices are walked row by row (constant ky). The volume is the ``x >= 0`` half of a Hermitian transform,
``[z, y, x]`` with the origin at ``(centre, centre, 0)``; a sample with negative x is taken at ``-q``,
conjugated.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from posterion.kernels.blocks import BLOCK, block_positions, block_values, pixel_tables
from posterion.kernels.bodies import COMPILED, lerp, split_position

__all__ = ["gather_slices", "scatter_slices", "sum_rotated"]


@njit(cache=True, **COMPILED)
def gather_slices(
    volume: NDArray[np.float32],
    centre: int,
    axes_r: NDArray[np.float32],
    rows: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]],
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
    n_pixels = rows[2][-1]
    k_p = np.zeros((2, n_pixels + BLOCK), np.float32)
    base, where = np.empty(BLOCK, np.uint64), np.empty((4, BLOCK), np.float32)
    pixel_tables(rows, k_p)
    strides = np.uint64(2 * volume.shape[2]), np.uint64(2 * volume.shape[1] * volume.shape[2])
    flat, offset = volume.reshape(-1), np.float32(centre)
    for r in range(len(axes_r)):
        out = slices_rp[r].reshape(-1)
        for start in range(0, n_pixels, BLOCK):
            count = min(BLOCK, n_pixels - start)
            block_positions(axes_r[r], k_p, start, offset, strides, base, where)
            block_values(flat, strides, base, where, count, out, 2 * start)


@njit(inline="always")
def _clip_range(
    slope: np.float32, intercept: np.float32, low: np.float32, high: np.float32, first: int, last: int
) -> tuple[int, int]:
    """Narrow ``first <= k < last`` to ``low <= slope k + intercept < high``, a sample generous each side."""
    if abs(slope) < 1e-6:
        if intercept < low - 1 or intercept > high + 1:
            return first, first
        return first, last
    a, b = (low - intercept) / slope, (high - intercept) / slope
    if a > b:
        a, b = b, a
    return max(first, int(np.floor(a)) - 1), min(last, int(np.ceil(b)) + 2)


@njit(inline="always")
def _add_to_plane(
    flat: NDArray[np.float32],
    corner: np.uint64,
    stride_y: np.uint64,
    shares: tuple[np.float32, np.float32, np.float32],
    sample: tuple[np.float32, np.float32, np.float32],
) -> None:
    """Add a sample (re, im, weight) to the four neighbours in one z plane; shares are (wz, fy, fx)."""
    wz, fy, fx = shares
    re, im, weight = sample
    for dy in range(2):
        wy = wz * (fy if dy == 1 else np.float32(1.0) - fy)
        at = corner + np.uint64(dy) * stride_y
        w1 = wy * fx
        w0 = wy - w1
        flat[at] += w0 * re
        flat[at + np.uint64(1)] += w0 * im
        flat[at + np.uint64(2)] += w0 * weight
        flat[at + np.uint64(4)] += w1 * re
        flat[at + np.uint64(5)] += w1 * im
        flat[at + np.uint64(6)] += w1 * weight


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
def scatter_slices(
    volume: NDArray[np.float32],
    centre: int,
    axes_r: NDArray[np.float32],
    rows: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]],
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
    z_start, z_stop = planes
    size_y, size_x = volume.shape[1], volume.shape[2]
    stride_y = np.uint64(4 * size_x)
    stride_z = np.uint64(4 * size_y * size_x)
    flat = volume.reshape(-1)
    offset = np.float32(centre)
    low, high = np.float32(z_start - 1 - centre), np.float32(z_stop - centre)
    one = np.float32(1.0)
    for r in range(axes_r.shape[0]):
        ax, ay, az = axes_r[r, 0, 0], axes_r[r, 0, 1], axes_r[r, 0, 2]
        for row in range(len(row_ky)):
            ky = np.float32(row_ky[row])
            bx, by, bz = ky * axes_r[r, 1, 0], ky * axes_r[r, 1, 1], ky * axes_r[r, 1, 2]
            kx_first = row_first_kx[row]
            kx_last = kx_first + row_start[row + 1] - row_start[row]
            p_offset = row_start[row] - kx_first
            for side in range(2):
                sign = one if side == 0 else -one
                start, stop = _clip_range(sign * az, sign * bz, low, high, kx_first, kx_last)
                start, stop = _clip_range(sign * ax, sign * bx, np.float32(0.0), np.float32(1e9), start, stop)
                for k in range(start, stop):
                    kx = np.float32(k)
                    x = kx * ax + bx
                    if (x >= 0) != (side == 0):
                        continue
                    z = (kx * az + bz) * sign + offset
                    iz = np.int32(z)
                    if iz < z_start - 1 or iz >= z_stop:
                        continue
                    p = p_offset + k
                    weight = weights_rp[r, p]
                    if weight == 0:
                        continue
                    ix, fx = split_position(x * sign)
                    iy, fy = split_position((kx * ay + by) * sign + offset)
                    fz = z - np.float32(iz)
                    re, im = values_rp[r, p, 0], values_rp[r, p, 1] * sign
                    corner = np.uint64(iz) * stride_z + np.uint64(iy) * stride_y + np.uint64(4 * ix)
                    if iz >= z_start:
                        _add_to_plane(flat, corner, stride_y, (one - fz, fy, fx), (re, im, weight))
                    if iz + 1 < z_stop:
                        _add_to_plane(flat, corner + stride_z, stride_y, (fz, fy, fx), (re, im, weight))


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
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
    offset = np.float32(centre)
    one = np.float32(1.0)
    for iz in range(planes[0], planes[1]):
        for iy in range(volume.shape[1]):
            for ix in range(volume.shape[2]):
                qx, qy, qz = np.float32(ix), np.float32(iy - centre), np.float32(iz - centre)
                if qx * qx + qy * qy + qz * qz > reach:
                    continue
                re = im = weight = np.float32(0.0)
                for g in range(operators.shape[0]):
                    s = operators[g]
                    x = s[0, 0] * qx + s[0, 1] * qy + s[0, 2] * qz
                    y = s[1, 0] * qx + s[1, 1] * qy + s[1, 2] * qz
                    z = s[2, 0] * qx + s[2, 1] * qy + s[2, 2] * qz
                    sign = one if x >= 0 else -one
                    jx, fx = split_position(x * sign)
                    jy, fy = split_position(y * sign + offset)
                    jz, fz = split_position(z * sign + offset)
                    for dz in range(2):
                        wz = fz if dz == 1 else one - fz
                        for dy in range(2):
                            wy = wz * (fy if dy == 1 else one - fy)
                            low, high = volume[jz + dz, jy + dy, jx], volume[jz + dz, jy + dy, jx + 1]
                            re += wy * lerp(low[0], high[0], fx)
                            im += sign * wy * lerp(low[1], high[1], fx)
                            weight += wy * lerp(low[2], high[2], fx)
                out[iz, iy, ix, 0] = re
                out[iz, iy, ix, 1] = im
                out[iz, iy, ix, 2] = weight
