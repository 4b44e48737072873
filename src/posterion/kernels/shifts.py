"""Shifts as phases: one spectrum moved by many shifts, and the adjoint.

A phase ``exp(i (a kx + b ky))`` is a product of two entries of short tables, made by recurrence in double
precision (relative error 1e-14 at 100 pixels); an exponential per pixel would cost ten times the rest.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from posterion.kernels.blocks import Real, Rows
from posterion.kernels.bodies import COMPILED, product

__all__ = ["move_image", "shift_spectrum", "sum_unshifted"]


@njit(**COMPILED)
def _fill_table(angle: float, table: Real) -> None:
    """Fill (2, n) with the real and imaginary parts of ``exp(i angle k)``, k = 0 .. n - 1."""
    step_re, step_im = np.cos(angle), np.sin(angle)
    re, im = 1.0, 0.0
    for k in range(table.shape[1]):
        table[0, k], table[1, k] = np.float32(re), np.float32(im)
        re, im = re * step_re - im * step_im, re * step_im + im * step_re


@njit(**COMPILED)
def _phase_of_row(tables: Real, ky: int) -> tuple[float, float]:
    """Take ``exp(i angle ky)`` out of the second table, for either sign of ky."""
    im = tables[1, 1, abs(ky)]
    return tables[1, 0, abs(ky)], im if ky >= 0 else -im


@njit(**COMPILED)
def move_image(
    spectrum: Real, rows: Rows, wave_number: float, shift_px: NDArray[np.float64], tables: Real, out: Real
) -> None:
    """Multiply a spectrum by ``exp(i wave_number k.s)``.

    Parameters
    ----------
    spectrum : (2 P,) float32, (re, im) after (re, im)
    rows : row_ky, row_first_kx, row_start of a `posterion.physics.fourier.Disc`
    wave_number : radians per pixel of shift and Fourier pixel
    shift_px : (2,) float64, (x, y) in pixels
    tables : (2, 2, radius + 1) float32, scratch
    out : (2, P) float32 or more columns, filled
    """
    row_ky, row_first_kx, row_start = rows
    _fill_table(wave_number * shift_px[0], tables[0])
    _fill_table(wave_number * shift_px[1], tables[1])
    for row in range(len(row_ky)):
        along_y = _phase_of_row(tables, row_ky[row])
        first, start = row_first_kx[row], row_start[row]
        for j in range(row_start[row + 1] - start):
            phase = product(along_y, (tables[0, 0, first + j], tables[0, 1, first + j]))
            p = start + j
            out[0, p], out[1, p] = product((spectrum[2 * p], spectrum[2 * p + 1]), phase)


@njit(cache=True, **COMPILED)
def shift_spectrum(
    spectrum_p: NDArray[np.complex64],
    box: int,
    rows: Rows,
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
    tables = np.empty((2, 2, row_ky[-1] + 1), np.float32)
    wave_number = -2 * np.pi / box
    source, moved = spectrum_p.view(np.float32), shifted_tp.view(np.float32)
    for t in range(len(shifts_px)):
        _fill_table(wave_number * shifts_px[t, 0], tables[0])
        _fill_table(wave_number * shifts_px[t, 1], tables[1])
        for row in range(len(row_ky)):
            along_y = _phase_of_row(tables, row_ky[row])
            first, start = row_first_kx[row], row_start[row]
            for j in range(row_start[row + 1] - start):
                phase = product(along_y, (tables[0, 0, first + j], tables[0, 1, first + j]))
                p = 2 * (start + j)
                moved[t, p], moved[t, p + 1] = product((source[p], source[p + 1]), phase)


@njit(cache=True, **COMPILED)
def sum_unshifted(
    spectra_tp: NDArray[np.complex64],
    box: int,
    rows: Rows,
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
    tables = np.empty((2, 2, row_ky[-1] + 1), np.float32)
    wave_number = 2 * np.pi / box
    source, total = spectra_tp.view(np.float32), total_p.view(np.float32)
    total[:] = 0
    for t in range(len(shifts_px)):
        _fill_table(wave_number * shifts_px[t, 0], tables[0])
        _fill_table(wave_number * shifts_px[t, 1], tables[1])
        for row in range(len(row_ky)):
            along_y = _phase_of_row(tables, row_ky[row])
            first, start = row_first_kx[row], row_start[row]
            for j in range(row_start[row + 1] - start):
                phase = product(along_y, (tables[0, 0, first + j], tables[0, 1, first + j]))
                p = 2 * (start + j)
                re, im = product((source[t, p], source[t, p + 1]), phase)
                total[p] += re
                total[p + 1] += im
