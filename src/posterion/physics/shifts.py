"""Translations as phases: one spectrum at many shifts, and back."""

import numpy as np
from numpy.typing import NDArray

from posterion.kernels import shift_spectrum, sum_unshifted
from posterion.physics.fourier import Disc

__all__ = ["shift_phases", "shifted", "unshifted_sum"]


def shift_phases(pixels: Disc, shifts_px: NDArray[np.floating]) -> NDArray[np.complex64]:
    """Phases that move images by ``shifts_px`` (x, y): ``exp(-2 pi i k.s / n)``, (n, 2) -> (n, P)."""
    return shifted(np.ones(len(pixels), np.complex64), pixels, shifts_px)


def shifted(
    spectrum_p: NDArray[np.complex64], pixels: Disc, shifts_px: NDArray[np.floating]
) -> NDArray[np.complex64]:
    """Move one image by many shifts: (P,), (T, 2) pixels -> (T, P)."""
    out = np.empty((len(shifts_px), len(pixels)), np.complex64)
    rows = (pixels.row_ky, pixels.row_first_kx, pixels.row_start)
    # A row of images cut to a band is strided where the cut left pixels outermost.
    spectrum_p, shifts = np.ascontiguousarray(spectrum_p), np.ascontiguousarray(shifts_px, np.float64)
    shift_spectrum(spectrum_p, pixels.box, rows, shifts, out)
    return out


def unshifted_sum(
    spectra_tp: NDArray[np.complex64], pixels: Disc, shifts_px: NDArray[np.floating]
) -> NDArray[np.complex64]:
    """Move T spectra back by their shifts and add them, the adjoint of `shifted`: (T, P), (T, 2) -> (P,)."""
    out = np.empty(len(pixels), np.complex64)
    rows = (pixels.row_ky, pixels.row_first_kx, pixels.row_start)
    sum_unshifted(
        np.ascontiguousarray(spectra_tp), pixels.box, rows, np.ascontiguousarray(shifts_px, np.float64), out
    )
    return out
