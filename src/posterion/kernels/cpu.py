"""Numba loops over pixels of central slices; they release the GIL, callers own the threads.

Slices are walked row by row (constant ky). The volume is the ``x >= 0`` half of a Hermitian transform,
``[z, y, x]`` with the origin at ``(centre, centre, 0)``; a sample with negative x is taken at ``-q``,
conjugated.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from posterion.kernels.bodies import lerp, split_position

__all__ = ["gather_slices", "scatter_slices", "shift_spectrum", "sum_rotated", "sum_unshifted"]

_MAX_ROW = 2048


@njit(inline="always")
def _bilinear(
    flat: NDArray[np.float32],
    p: np.uint64,
    stride_y: np.uint64,
    stride_x: np.uint64,
    fx: np.float32,
    fy: np.float32,
) -> np.float32:
    """Interpolate within one z plane between ``p`` and its upper neighbours along x and y."""
    at_y = lerp(flat[p], flat[p + stride_x], fx)
    above = lerp(flat[p + stride_y], flat[p + stride_y + stride_x], fx)
    return lerp(at_y, above, fy)


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
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
    row_ky, row_first_kx, row_start = rows
    depth_y = volume.shape[1]
    stride_y = np.uint64(2 * volume.shape[2])
    stride_z = np.uint64(depth_y * volume.shape[2] * 2)
    flat = volume.reshape(-1)
    # Each row in two passes, positions first and memory second: a loop that mixes both does not vectorise.
    base = np.empty(_MAX_ROW, np.uint64)
    fractions = np.empty((3, _MAX_ROW), np.float32)
    signs = np.empty(_MAX_ROW, np.float32)
    two = np.uint64(2)
    offset = np.float32(centre)
    for r in range(axes_r.shape[0]):
        ax, ay, az = axes_r[r, 0, 0], axes_r[r, 0, 1], axes_r[r, 0, 2]
        for row in range(len(row_ky)):
            ky = np.float32(row_ky[row])
            bx, by, bz = ky * axes_r[r, 1, 0], ky * axes_r[r, 1, 1], ky * axes_r[r, 1, 2]
            first, start = row_first_kx[row], row_start[row]
            length = row_start[row + 1] - start
            for j in range(length):
                kx = np.float32(first + j)
                x, y, z = kx * ax + bx, kx * ay + by, kx * az + bz
                sign = np.float32(1.0) if x >= 0 else np.float32(-1.0)
                x, y, z = x * sign, y * sign + offset, z * sign + offset
                ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
                fractions[0, j] = x - np.float32(ix)
                fractions[1, j] = y - np.float32(iy)
                fractions[2, j] = z - np.float32(iz)
                signs[j] = sign
                base[j] = np.uint64(iz) * stride_z + np.uint64(iy) * stride_y + np.uint64(ix) * two
            for j in range(length):
                b = base[j]
                fx, fy, fz = fractions[0, j], fractions[1, j], fractions[2, j]
                for c in range(2):
                    p = b + np.uint64(c)
                    low = _bilinear(flat, p, stride_y, two, fx, fy)
                    high = _bilinear(flat, p + stride_z, stride_y, two, fx, fy)
                    value = lerp(low, high, fz)
                    slices_rp[r, start + j, c] = value if c == 0 else value * signs[j]


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


@njit(inline="always")
def _phase_tables(angle_x: float, angle_y: float, radius: int, table_x: NDArray, table_y: NDArray) -> None:  # type: ignore[type-arg]
    """Fill exp(i angle_x kx) for kx = 0 .. radius and exp(i angle_y ky) for ky = -radius .. radius."""
    for k in range(radius + 1):
        table_x[k] = np.complex64(np.exp(1j * angle_x * k))
        phase = np.exp(1j * angle_y * k)
        table_y[radius + k] = np.complex64(phase)
        table_y[radius - k] = np.complex64(np.conj(phase))


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
def shift_spectrum(
    spectrum_p: NDArray[np.complex64],
    box: int,
    rows: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]],
    shifts_px: NDArray[np.float64],
    shifted_tp: NDArray[np.complex64],
) -> None:
    """Compute ``shifted_tp = spectrum_p exp(-2 pi i k_p.s_t / n)``: one image moved by many shifts.

    Parameters
    ----------
    spectrum_p : (P,) complex64
    box : box of the image in pixels
    rows : row_ky, row_first_kx, row_start of a `posterion.physics.fourier.Disc`
    shifts_px : (T, 2) float64, (x, y) in pixels
    shifted_tp : (T, P) complex64, filled
    """
    row_ky, row_first_kx, row_start = rows
    radius = row_ky[-1]
    table_x, table_y = np.empty(radius + 1, np.complex64), np.empty(2 * radius + 1, np.complex64)
    for t in range(len(shifts_px)):
        _phase_tables(
            -2 * np.pi / box * shifts_px[t, 0], -2 * np.pi / box * shifts_px[t, 1], radius, table_x, table_y
        )
        for row in range(len(row_ky)):
            phase_y = table_y[radius + row_ky[row]]
            first, start = row_first_kx[row], row_start[row]
            for j in range(row_start[row + 1] - start):
                shifted_tp[t, start + j] = spectrum_p[start + j] * (phase_y * table_x[first + j])


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
def sum_unshifted(
    spectra_tp: NDArray[np.complex64],
    box: int,
    rows: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]],
    shifts_px: NDArray[np.float64],
    total_p: NDArray[np.complex64],
) -> None:
    """Compute ``total_p = sum_t spectra_tp exp(+2 pi i k_p.s_t / n)``: the adjoint of `shift_spectrum`.

    Parameters
    ----------
    spectra_tp : (T, P) complex64
    box : box of the image in pixels
    rows : row_ky, row_first_kx, row_start of a `posterion.physics.fourier.Disc`
    shifts_px : (T, 2) float64, (x, y) in pixels
    total_p : (P,) complex64, overwritten
    """
    row_ky, row_first_kx, row_start = rows
    radius = row_ky[-1]
    table_x, table_y = np.empty(radius + 1, np.complex64), np.empty(2 * radius + 1, np.complex64)
    total_p[:] = 0
    for t in range(len(shifts_px)):
        _phase_tables(
            2 * np.pi / box * shifts_px[t, 0], 2 * np.pi / box * shifts_px[t, 1], radius, table_x, table_y
        )
        for row in range(len(row_ky)):
            phase_y = table_y[radius + row_ky[row]]
            first, start = row_first_kx[row], row_start[row]
            for j in range(row_start[row + 1] - start):
                total_p[start + j] += spectra_tp[t, start + j] * (phase_y * table_x[first + j])
