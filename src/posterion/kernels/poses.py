"""Scores of poses with their gradients and normal matrices: slice, compare and sum in one pass.

A pose is a rotation R and the shift s that lays its image on the model's slice. Nothing of the size of a
slice is stored but the shifted image of the pose at hand: the slice lives in blocks of `_BLOCK` pixels, and a
block is done in three loops, positions, memory, sums, of which the first and last vectorise.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from posterion.kernels.bodies import lerp

__all__ = ["SCORE_TERMS", "compare_poses", "score_poses"]

SCORE_TERMS = 22
"""Columns of the output of `score_poses`: cross, norm, 5 of the gradient, 15 of the normal matrix."""

_BLOCK = 128
_FLAGS = {"contract", "nsz", "arcp", "reassoc"}


@njit(inline="always")
def _pixel_tables(rows, k_p):  # type: ignore[no-untyped-def]
    """Lay out (kx, ky) of every pixel as (2, P) float32; entries beyond the last pixel stay zero."""
    row_ky, row_first_kx, row_start = rows
    for row in range(len(row_ky)):
        first, start = row_first_kx[row], row_start[row]
        for j in range(row_start[row + 1] - start):
            k_p[0, start + j] = np.float32(first + j)
            k_p[1, start + j] = np.float32(row_ky[row])


@njit(inline="always")
def _phase_table(angle, table):  # type: ignore[no-untyped-def]
    """Fill (2, n) float32 with the real and imaginary part of ``exp(i angle k)``, by recurrence in double."""
    step_re, step_im = np.cos(angle), np.sin(angle)
    re, im = 1.0, 0.0
    for k in range(table.shape[1]):
        table[0, k], table[1, k] = np.float32(re), np.float32(im)
        re, im = re * step_re - im * step_im, re * step_im + im * step_re


@njit(inline="always")
def _shift_image(rows, box, shift_px, spectrum_p, tables, data_p):  # type: ignore[no-untyped-def]
    """Write ``spectrum_p exp(-2 pi i k.s / box)`` as (2, P) float32; tables (2, 2, radius + 1): scratch."""
    row_ky, row_first_kx, row_start = rows
    _phase_table(-2 * np.pi / box * shift_px[0], tables[0])
    _phase_table(-2 * np.pi / box * shift_px[1], tables[1])
    along_x = tables[0]
    for row in range(len(row_ky)):
        ky = row_ky[row]
        y_re = tables[1, 0, abs(ky)]
        y_im = tables[1, 1, abs(ky)] * np.float32(np.sign(ky))
        first, start = row_first_kx[row], row_start[row]
        for j in range(row_start[row + 1] - start):
            x_re, x_im = along_x[0, first + j], along_x[1, first + j]
            re, im = y_re * x_re - y_im * x_im, y_re * x_im + y_im * x_re
            d_re, d_im = spectrum_p[2 * (start + j)], spectrum_p[2 * (start + j) + 1]
            data_p[0, start + j] = d_re * re - d_im * im
            data_p[1, start + j] = d_re * im + d_im * re


@njit(inline="always")
def _block_positions(axes, k_p, start, offset, strides, base, where):  # type: ignore[no-untyped-def]
    """Find where a block's pixels lie: index of the lower corner; fractions (x, y, z) and the sign of x."""
    stride_y, stride_z = strides
    for j in range(_BLOCK):
        kx, ky = k_p[0, start + j], k_p[1, start + j]
        x = kx * axes[0, 0] + ky * axes[1, 0]
        y = kx * axes[0, 1] + ky * axes[1, 1]
        z = kx * axes[0, 2] + ky * axes[1, 2]
        sign = np.float32(1.0) if x >= 0 else np.float32(-1.0)
        x, y, z = x * sign, y * sign + offset, z * sign + offset
        ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
        where[0, j] = x - np.float32(ix)
        where[1, j] = y - np.float32(iy)
        where[2, j] = z - np.float32(iz)
        where[3, j] = sign
        base[j] = np.uint64(iz) * stride_z + np.uint64(iy) * stride_y + np.uint64(ix) * np.uint64(2)


@njit(inline="always")
def _block_values(flat, strides, base, where, model):  # type: ignore[no-untyped-def]
    """Interpolate a block: rows 0, 1 of ``model`` are the real and imaginary part of the slice."""
    stride_y, stride_z = strides
    two = np.uint64(2)
    for j in range(_BLOCK):
        fx, fy, fz = where[0, j], where[1, j], where[2, j]
        for c in range(2):
            p = base[j] + np.uint64(c)
            q = p + stride_z
            low = lerp(lerp(flat[p], flat[p + stride_y], fy), lerp(flat[q], flat[q + stride_y], fy), fz)
            p, q = p + two, q + two
            high = lerp(lerp(flat[p], flat[p + stride_y], fy), lerp(flat[q], flat[q + stride_y], fy), fz)
            value = lerp(low, high, fx)
            model[c, j] = value if c == 0 else value * where[3, j]


@njit(inline="always")
def _block_gradients(flat, strides, base, where, model):  # type: ignore[no-untyped-def]
    """Interpolate a block with its derivatives along x, y, z of the grid: rows 0 to 7, (re, im) each."""
    stride_y, stride_z = strides
    two = np.uint64(2)
    for j in range(_BLOCK):
        fx, fy, fz, sign = where[0, j], where[1, j], where[2, j], where[3, j]
        for c in range(2):
            p = base[j] + np.uint64(c)
            q = p + stride_z
            v00, v01, v10, v11 = flat[p], flat[p + two], flat[p + stride_y], flat[p + stride_y + two]
            w00, w01, w10, w11 = flat[q], flat[q + two], flat[q + stride_y], flat[q + stride_y + two]
            y0, y1 = lerp(v10 - v00, w10 - w00, fz), lerp(v11 - v01, w11 - w01, fz)
            below0, below1 = lerp(v00, v10, fy), lerp(v01, v11, fy)
            above0, above1 = lerp(w00, w10, fy), lerp(w01, w11, fy)
            low, high = lerp(below0, above0, fz), lerp(below1, above1, fz)
            value, along_x = lerp(low, high, fx), high - low
            along_y, along_z = lerp(y0, y1, fx), lerp(above0 - below0, above1 - below1, fx)
            # V(q) = conj V(-q): the real part is even and its derivative odd, the imaginary the reverse.
            if c == 0:
                model[0, j] = value
                model[2, j], model[4, j], model[6, j] = along_x * sign, along_y * sign, along_z * sign
            else:
                model[1, j] = value * sign
                model[3, j], model[5, j], model[7, j] = along_x, along_y, along_z


@njit(inline="always")
def _block_cross_norm(model, data_p, c2_p, start):  # type: ignore[no-untyped-def]
    """Sum ``Re(conj(m) d)`` and ``c2 |m|^2`` over a block."""
    cross = norm = np.float32(0.0)
    for j in range(_BLOCK):
        re, im = model[0, j], model[1, j]
        cross += re * data_p[0, start + j] + im * data_p[1, start + j]
        norm += c2_p[start + j] * (re * re + im * im)
    return cross, norm


@njit(inline="always")
def _along(model, j, x, y, z):  # type: ignore[no-untyped-def]
    """Compute the derivative of a block's j-th sample along (x, y, z) of the grid: real, imaginary."""
    re = x * model[2, j] + y * model[4, j] + z * model[6, j]
    return re, x * model[3, j] + y * model[5, j] + z * model[7, j]


@njit(inline="always")
def _block_sums(axes, k_p, model, data_p, c2_p, start, sums):  # type: ignore[no-untyped-def]
    """Add a block's 21 sums, all that the terms are combinations of, see `_terms`.

    ``Z`` is the derivative of the slice along z of the image, ``T`` the one by a turn within the image's
    plane, ``m`` the slice, ``e = d - c2 m`` what it leaves of the image.
    """
    f = np.float32(0.0)
    cross = norm = xxn = xyn = yyn = dx = dy = xze = yze = te = f
    zzxx = zzxy = zzyy = ztx = zty = tt = zmxx = zmxy = zmyy = tmx = tmy = f
    for j in range(_BLOCK):
        p = start + j
        kx, ky, c2, d_re, d_im = k_p[0, p], k_p[1, p], c2_p[p], data_p[0, p], data_p[1, p]
        m_re, m_im = model[0, j], model[1, j]
        z_re, z_im = _along(model, j, axes[2, 0], axes[2, 1], axes[2, 2])
        turn_x, turn_y = ky * axes[0, 0] - kx * axes[1, 0], ky * axes[0, 1] - kx * axes[1, 1]
        t_re, t_im = _along(model, j, turn_x, turn_y, ky * axes[0, 2] - kx * axes[1, 2])
        n_re, n_im, u_re, u_im = c2 * m_re, c2 * m_im, c2 * z_re, c2 * z_im
        e_re, e_im = d_re - n_re, d_im - n_im
        xx, xy, yy = kx * kx, kx * ky, ky * ky
        cross += m_re * d_re + m_im * d_im
        turn = m_re * d_im - m_im * d_re
        dx += kx * turn
        dy += ky * turn
        ze = z_re * e_re + z_im * e_im
        xze += kx * ze
        yze += ky * ze
        te += t_re * e_re + t_im * e_im
        mm, zz, zt = m_re * n_re + m_im * n_im, z_re * u_re + z_im * u_im, t_re * u_re + t_im * u_im
        zm, tm = z_im * n_re - z_re * n_im, t_im * n_re - t_re * n_im
        norm += mm
        xxn += xx * mm
        xyn += xy * mm
        yyn += yy * mm
        zzxx += xx * zz
        zzxy += xy * zz
        zzyy += yy * zz
        ztx += kx * zt
        zty += ky * zt
        tt += c2 * (t_re * t_re + t_im * t_im)
        zmxx += xx * zm
        zmxy += xy * zm
        zmyy += yy * zm
        tmx += kx * tm
        tmy += ky * tm
    first = (cross, norm, -yze, xze, te, dx, dy)
    turns = (zzyy, -zzxy, -zty, -zmxy, -zmyy, zzxx, ztx, zmxx, zmxy, tt, tmx, tmy)
    found = first + turns + (xxn, xyn, yyn)
    for a in range(SCORE_TERMS):
        sums[a] += found[a]


@njit(inline="always")
def _times_wave_number(alpha, sums):  # type: ignore[no-untyped-def]
    """Give the columns of the shifts their factor ``2 pi / box``, their own block its square."""
    for column in (5, 6, 10, 11, 14, 15, 17, 18):
        sums[column] *= alpha
    for column in (19, 20, 21):
        sums[column] *= alpha * alpha


@njit(nogil=True, cache=True, fastmath=_FLAGS, error_model="numpy")
def score_poses(  # noqa: PLR0917
    volume: NDArray[np.float32],
    centre: int,
    axes_r: NDArray[np.float32],
    shifts_px_r: NDArray[np.float64],
    image_r: NDArray[np.int32],
    rows: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]],
    box: int,
    whitened_ip: NDArray[np.complex64],
    ctf2_ip: NDArray[np.float32],
    terms: NDArray[np.float64],
) -> None:
    r"""Sum all that the Gaussian log-probability of each pose and its first two derivatives are made of.

    With ``m_p = V(R^T k_p)``, ``d_p = whitened_p exp(-2 pi i k_p.s / box)`` and ``D_a m`` the derivative of
    the slice by the pose's parameter a:

    | columns of terms | sum over p |
    |---|---|
    | 0 cross | ``Re(conj(m) d)`` |
    | 1 norm | ``ctf2 |m|^2`` |
    | 2 .. 6 gradient_a | ``Re(conj(D_a m) (d - ctf2 m))`` |
    | 7 .. 21 normal_ab, a <= b, row by row | ``ctf2 Re(conj(D_a m) D_b m)`` |

    log P = cross - norm / 2 and gradient is its derivative. Parameters: rotation vector omega (x, y, z) in
    the image's frame, radians, ``R -> exp(omega) R``; shift (x, y) of the image, pixels. With
    ``G = R grad V``: ``D_wx m = -ky Gz``, ``D_wy m = kx Gz``, ``D_wz m = ky Gx - kx Gy``; a shift of the
    image is one of the model the other way, ``D_sx m = 2 pi i kx m / box``.

    Parameters
    ----------
    volume : (D, D, W, 2) float32, real and imaginary part of the half transform
    centre : index of the zero frequency along z and y
    axes_r : (n, 3, 3) float32, each rotation times the padding factor, rows ordered (x, y, z)
    shifts_px_r : (n, 2) float64, (x, y) pixels by which the image is moved before comparison
    image_r : (n,) int32, row of ``whitened_ip`` that each pose belongs to
    rows : row_ky, row_first_kx, row_start of a `posterion.physics.fourier.Disc`
    box : box of the images in pixels
    whitened_ip : (N, P) complex64, ``w C y / sigma2``
    ctf2_ip : (N, P) float32, ``w C^2 / sigma2``
    terms : (n, 22) float64, filled
    """
    n_pixels = rows[2][-1]
    padded = (n_pixels + _BLOCK - 1) // _BLOCK * _BLOCK
    k_p, data_p, c2_p = (
        np.zeros((2, padded), np.float32),
        np.zeros((2, padded), np.float32),
        np.zeros(padded, np.float32),
    )
    tables = np.empty((2, 2, rows[0][-1] + 1), np.float32)
    base, where, model = (
        np.empty(_BLOCK, np.uint64),
        np.empty((4, _BLOCK), np.float32),
        np.empty((8, _BLOCK), np.float32),
    )
    _pixel_tables(rows, k_p)
    strides = np.uint64(2 * volume.shape[2]), np.uint64(2 * volume.shape[1] * volume.shape[2])
    flat, offset = volume.reshape(-1), np.float32(centre)
    for r in range(len(axes_r)):
        image, axes, sums = image_r[r], axes_r[r], terms[r]
        _shift_image(rows, box, shifts_px_r[r], whitened_ip[image].view(np.float32), tables, data_p)
        c2_p[:n_pixels] = ctf2_ip[image]
        sums[:] = 0
        for start in range(0, padded, _BLOCK):
            _block_positions(axes, k_p, start, offset, strides, base, where)
            _block_gradients(flat, strides, base, where, model)
            _block_sums(axes, k_p, model, data_p, c2_p, start, sums)
        _times_wave_number(2 * np.pi / box, sums)


@njit(nogil=True, cache=True, fastmath=_FLAGS, error_model="numpy")
def compare_poses(  # noqa: PLR0917
    volume: NDArray[np.float32],
    centre: int,
    axes_r: NDArray[np.float32],
    shifts_px_r: NDArray[np.float64],
    image_r: NDArray[np.int32],
    rows: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]],
    box: int,
    whitened_ip: NDArray[np.complex64],
    ctf2_ip: NDArray[np.float32],
    terms: NDArray[np.float64],
) -> None:
    """Compute the first two columns of `score_poses`, cross and norm, at the price of a plain slice.

    Parameters
    ----------
    terms : (n, 2) float64, filled; the others are those of `score_poses`
    """
    n_pixels = rows[2][-1]
    padded = (n_pixels + _BLOCK - 1) // _BLOCK * _BLOCK
    k_p, data_p, c2_p = (
        np.zeros((2, padded), np.float32),
        np.zeros((2, padded), np.float32),
        np.zeros(padded, np.float32),
    )
    tables = np.empty((2, 2, rows[0][-1] + 1), np.float32)
    base, where, model = (
        np.empty(_BLOCK, np.uint64),
        np.empty((4, _BLOCK), np.float32),
        np.empty((8, _BLOCK), np.float32),
    )
    _pixel_tables(rows, k_p)
    strides = np.uint64(2 * volume.shape[2]), np.uint64(2 * volume.shape[1] * volume.shape[2])
    flat, offset = volume.reshape(-1), np.float32(centre)
    for r in range(len(axes_r)):
        image = image_r[r]
        _shift_image(rows, box, shifts_px_r[r], whitened_ip[image].view(np.float32), tables, data_p)
        c2_p[:n_pixels] = ctf2_ip[image]
        cross, norm = 0.0, 0.0
        for start in range(0, padded, _BLOCK):
            _block_positions(axes_r[r], k_p, start, offset, strides, base, where)
            _block_values(flat, strides, base, where, model)
            block_cross, block_norm = _block_cross_norm(model, data_p, c2_p, start)
            cross += block_cross
            norm += block_norm
        terms[r, 0], terms[r, 1] = cross, norm
