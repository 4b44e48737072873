"""Shifts as phases: one spectrum moved by many shifts, and the adjoint.

A phase ``exp(i (a kx + b ky))`` is a product of two entries of short tables, made by recurrence in double
precision (relative error 1e-14 at 100 pixels); an exponential per pixel would cost ten times the rest.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from posterion.kernels.blocks import Real, Rows
from posterion.kernels.bodies import Pair, product
from posterion.kernels.compiled import COMPILED, kernel
from posterion.kernels.lanes import alternating_high, alternating_low, evens, load8, odds, store

__all__ = ["move_image", "phase_tables", "shift_samples", "shift_spectrum", "sum_unshifted"]

# Rows are short and done in whole steps of lanes: what one writes beyond its end, the next overwrites.
_STEP = 8


@njit(**COMPILED)
def phase_tables(rows: Rows) -> Real:
    """Make room for the phases along kx and ky of a disc, (2, 2, radius + 1 + step): axis, part, k."""
    return np.empty((2, 2, rows[0][-1] + 1 + _STEP), np.float32)


@njit(**COMPILED)
def _fill_table(angle: float, table: Real) -> None:
    """Fill (2, n) with the real and imaginary parts of ``exp(i angle k)``, k = 0 .. n - 1."""
    step_re, step_im = np.cos(angle), np.sin(angle)
    re, im = 1.0, 0.0
    for k in range(table.shape[1]):
        table[0, k], table[1, k] = np.float32(re), np.float32(im)
        re, im = re * step_re - im * step_im, re * step_im + im * step_re


@njit(**COMPILED)
def _fill_tables(wave_number: float, shift_px: NDArray[np.float64], tables: Real) -> None:
    """Fill the tables of both axes, (2, 2, radius + 1 + _STEP)."""
    _fill_table(wave_number * shift_px[0], tables[0])
    _fill_table(wave_number * shift_px[1], tables[1])


@njit(**COMPILED)
def _phase_of_row(tables: Real, ky: int) -> Pair:
    """Take ``exp(i angle ky)`` out of the second table, for either sign of ky."""
    im = tables[1, 1, abs(ky)]
    return tables[1, 0, abs(ky)], im if ky >= 0 else -im


@njit(**COMPILED)
def _steps(start: int, length: int, n_pixels: int) -> int:
    """Count the pixels done in whole steps: all of a row, and some beyond, unless there are none beyond."""
    longer = (length + _STEP - 1) // _STEP * _STEP
    return longer if start + longer <= n_pixels else length // _STEP * _STEP


@njit(**COMPILED)
def _turned_step(source: Real, p: int, along_y: Pair, tables: Real, kx: int) -> tuple[Any, Any]:
    """Multiply a step of pixels from p on by their phases: lanes of the real and imaginary parts."""
    a, b = load8(source, 2 * p), load8(source, 2 * p + _STEP)
    along_x = load8(tables[0, 0], kx), load8(tables[0, 1], kx)
    return product((evens(a, b), odds(a, b)), product(along_y, along_x))


@njit(**COMPILED)
def _turned(source: Real, p: int, along_y: Pair, tables: Real, kx: int) -> Pair:
    """Multiply pixel p by its phase."""
    return product((source[2 * p], source[2 * p + 1]), product(along_y, (tables[0, 0, kx], tables[0, 1, kx])))


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
    tables : scratch of `phase_tables`
    out : (2, P) float32 or more columns, filled
    """
    row_ky, row_first_kx, row_start = rows
    _fill_tables(wave_number, shift_px, tables)
    for row in range(len(row_ky)):
        y, first, start = _phase_of_row(tables, row_ky[row]), row_first_kx[row], row_start[row]
        length = row_start[row + 1] - start
        whole = _steps(start, length, row_start[-1])
        for j in range(0, whole, _STEP):
            re, im = _turned_step(spectrum, start + j, y, tables, first + j)
            store(out[0], start + j, re)
            store(out[1], start + j, im)
        for j in range(whole, length):
            out[0, start + j], out[1, start + j] = _turned(spectrum, start + j, y, tables, first + j)


@njit(**COMPILED)
def _shift_one(source: Real, rows: Rows, tables: Real, moved: Real) -> None:
    """Multiply (2 P,) by the phases of the tables."""
    row_ky, row_first_kx, row_start = rows
    for row in range(len(row_ky)):
        y, first, start = _phase_of_row(tables, row_ky[row]), row_first_kx[row], row_start[row]
        length = row_start[row + 1] - start
        whole = _steps(start, length, row_start[-1])
        for j in range(0, whole, _STEP):
            p = 2 * (start + j)
            re, im = _turned_step(source, start + j, y, tables, first + j)
            store(moved, p, alternating_low(re, im))
            store(moved, p + _STEP, alternating_high(re, im))
        for j in range(whole, length):
            p = 2 * (start + j)
            moved[p], moved[p + 1] = _turned(source, start + j, y, tables, first + j)


@kernel
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
    tables = phase_tables(rows)
    source, moved = spectrum_p.view(np.float32), shifted_tp.view(np.float32)
    for t in range(len(shifts_px)):
        _fill_tables(-2 * np.pi / box, shifts_px[t], tables)
        _shift_one(source, rows, tables, moved[t])


@kernel
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
    tables = phase_tables(rows)
    moved, total = np.empty_like(total_p), total_p.view(np.float32)
    total[:] = 0
    for t in range(len(shifts_px)):
        _fill_tables(2 * np.pi / box, shifts_px[t], tables)
        _shift_one(spectra_tp[t].view(np.float32), rows, tables, moved.view(np.float32))
        total_p += moved


@kernel
def shift_samples(
    samples_pi: NDArray[np.complex64],
    phases_pt: NDArray[np.complex64],
    image_x: NDArray[np.intp],
    shift_x: NDArray[np.intp],
    moved_px: NDArray[np.float32],
) -> None:
    """Compute ``moved_px = samples_pi phases_pt`` for some pairs x of an image i and a shift t.

    Parameters
    ----------
    samples_pi : (P, n) complex64
    phases_pt : (P, T) complex64
    image_x, shift_x : (X,) integers
    moved_px : (2, P, X) float32, real and imaginary parts, filled
    """
    for p in range(len(samples_pi)):
        samples, phases, re, im = samples_pi[p], phases_pt[p], moved_px[0, p], moved_px[1, p]
        for x in range(len(image_x)):
            a, b = samples[image_x[x]], phases[shift_x[x]]
            re[x] = a.real * b.real - a.imag * b.imag
            im[x] = a.real * b.imag + a.imag * b.real
