"""Scores of poses with their gradients and normal matrices: slice, compare and sum in one pass.

A pose is a rotation R and the shift s that lays its image on the model's slice. Nothing of the size of a
slice is stored but the shifted image of the pose at hand: the slice lives in blocks of `BLOCK` pixels, and a
block is done in three loops, positions, memory, sums, of which the first and last vectorise.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from posterion.kernels.blocks import (
    BLOCK,
    Real,
    Rows,
    block_ahead,
    block_gradients,
    pixel_table,
    places,
)
from posterion.kernels.bodies import add_pose_terms, directional, turn_about_view
from posterion.kernels.compiled import COMPILED, kernel
from posterion.kernels.shifts import move_image, phase_tables

__all__ = ["SCORE_TERMS", "score_poses"]

SCORE_TERMS = 22
"""Columns of the output of `score_poses`: cross, norm, 5 of the gradient, 15 of the normal matrix."""

# (kx, ky), the moved image (re, im) and its weight on every pixel: (2, P), (2, P) and (P,).
Pixels = tuple[Real, Real, Real]
_NOTHING = (np.float32(0.0),) * SCORE_TERMS


@njit(**COMPILED)
def _block_terms(
    axes: Real, start: int, pixels: Pixels, model: Real, where: Real, terms: NDArray[np.float64]
) -> None:
    """Add a block's pixels to the 22 terms of its pose."""
    k_p, data_p, ctf2_p = pixels
    along_kx = (axes[0, 0], axes[0, 1], axes[0, 2])
    along_ky = (axes[1, 0], axes[1, 1], axes[1, 2])
    along_view = (axes[2, 0], axes[2, 1], axes[2, 2])
    sums = _NOTHING
    for j in range(BLOCK):
        p, i, sign = np.uint64(start + j), 8 * j, where[3, j]
        kx, ky = k_p[0, p], k_p[1, p]
        by_x, by_y, by_z = (
            (model[i + 2], model[i + 3]),
            (model[i + 4], model[i + 5]),
            (model[i + 6], model[i + 7]),
        )
        turn = turn_about_view(kx, ky, along_kx, along_ky)
        sums = add_pose_terms(
            sums,
            (kx, ky),
            ctf2_p[p],
            (data_p[0, p], data_p[1, p]),
            (model[i], model[i + 1] * sign),
            directional(along_view, by_x, by_y, by_z, sign),
            directional(turn, by_x, by_y, by_z, sign),
        )
    for a in range(SCORE_TERMS):
        terms[a] += sums[a]


@njit(**COMPILED)
def _times_wave_number(alpha: float, sums: NDArray[np.float64]) -> None:
    """Give the columns of the shifts their factor ``2 pi / box``, their own block its square."""
    for column in (5, 6, 10, 11, 14, 15, 17, 18):
        sums[column] *= alpha
    for column in (19, 20, 21):
        sums[column] *= alpha * alpha


@kernel
def score_poses(  # noqa: PLR0917
    volume: NDArray[np.float32],
    centre: int,
    axes_r: NDArray[np.float32],
    shifts_px_r: NDArray[np.float64],
    image_r: NDArray[np.int32],
    rows: Rows,
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
    k_p, n_pixels = pixel_table(rows), rows[2][-1]
    data_p, ctf2_p, tables = np.zeros_like(k_p), np.zeros_like(k_p[0]), phase_tables(rows)
    (base, where), model = places(), np.empty(8 * BLOCK, np.float32)
    strides = np.uint64(2 * volume.shape[2]), np.uint64(2 * volume.shape[1] * volume.shape[2])
    flat, offset = volume.reshape(-1), np.float32(centre)
    spectra_ip, wave_number = whitened_ip.view(np.float32), 2 * np.pi / box
    for r in range(len(axes_r)):
        image, axes, sums, now = image_r[r], axes_r[r], terms[r], 0
        move_image(spectra_ip[image], rows, -wave_number, shifts_px_r[r], tables, data_p)
        ctf2_p[:n_pixels] = ctf2_ip[image]
        sums[:] = 0
        block_ahead(axes, (k_p, 0), offset, flat, strides, base[now], where[now])
        for start in range(0, n_pixels, BLOCK):
            block_ahead(axes, (k_p, start + BLOCK), offset, flat, strides, base[1 - now], where[1 - now])
            block_gradients(flat, strides, base[now], where[now], model)
            _block_terms(axes, start, (k_p, data_p, ctf2_p), model, where[now], sums)
            now = 1 - now
        _times_wave_number(wave_number, sums)
