"""Undoing the CTF of images: phase flipping, the Wiener filter, and the spectral SNR that it needs.

Images of any shape (particles, micrographs), as unnormalised ``rfft2`` half spectra with rows in FFT order.
Filters are real, so the origin of the images does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from posterion.data.atomic import write_text
from posterion.errors import PosterionError

__all__ = [
    "SnrMeasurement",
    "SnrSpectrum",
    "filtered",
    "half_spectrum_frequencies",
    "phase_flip_filter",
    "wiener_filter",
]

Real = NDArray[np.float32]
Curve = NDArray[np.float64]

LOWEST_SNR, HIGHEST_SNR = 1e-4, 1e3
_HALF_WINDOW = 2
_LEAST_SPREAD = 0.02
_SIGNIFICANT = 3.0
_FREQUENCY, _SNR = "frequency_per_angstrom", "snr"


def phase_flip_filter(ctf: Real) -> Real:
    """Compute ``sgn(C)``, with 1 where C is 0, so that flipping loses nothing and twice is not at all.

    Parameters
    ----------
    ctf : (...) float32

    Returns
    -------
    (...) float32, 1 or -1: ``A = sgn(C) X`` (L, "How to undo the CTF effects?").
    """
    return np.where(ctf < 0, np.float32(-1), np.float32(1))


def wiener_filter(ctf: Real, k: ArrayLike) -> Real:
    """Compute ``C / (C^2 + k)`` with ``k = 1/SNR = |N|^2 / |A|^2``.

    Parameters
    ----------
    ctf : (...) float32
    k : float, or array of the CTF's trailing shape; positive

    Returns
    -------
    (...) float32: ``A = C X / (C^2 + k)``, the A of least mean squared error under ``X = C A + N`` (L).
    """
    return np.asarray(ctf / (ctf**2 + np.asarray(k, np.float32)), np.float32)


def filtered(images: Real, filter_p: Real) -> Real:
    """Multiply the spectra of images ``(..., ny, nx)`` by a real filter ``(..., ny, nx//2+1)``."""
    spectra = scipy.fft.rfft2(np.asarray(images, np.float32))
    return np.asarray(scipy.fft.irfft2(spectra * filter_p, s=images.shape[-2:]), np.float32)


def half_spectrum_frequencies(shape: tuple[int, int], pixel_size_angstrom: float) -> tuple[Curve, Curve]:
    """Spatial frequencies of ``rfft2`` of images of any shape.

    Parameters
    ----------
    shape : rows and columns of the images
    pixel_size_angstrom : Angstrom

    Returns
    -------
    frequency_x, frequency_y : (ny * (nx//2+1),) float64 each, 1/Angstrom, row after row.
    """
    fx = scipy.fft.rfftfreq(shape[1], pixel_size_angstrom)
    fy = scipy.fft.fftfreq(shape[0], pixel_size_angstrom)
    grid_x, grid_y = np.broadcast_arrays(fx[None, :], fy[:, None])
    return grid_x.ravel(), grid_y.ravel()


@dataclass(frozen=True)
class SnrSpectrum:
    """Spectral signal-to-noise ratio ``|A|^2 / |N|^2`` of single images ``X = C A + N``.

    Attributes
    ----------
    frequency_s : (m,) float64, rising, 1/Angstrom
    snr_s : (m,) float64, positive
    path : file that it was read from, if any
    """

    frequency_s: Curve
    snr_s: Curve
    path: Path | None = None

    def at(self, frequency: Curve) -> Curve:
        """SNR at any frequencies (1/Angstrom), linear between those known, constant beyond them."""
        return np.asarray(np.interp(frequency, self.frequency_s, self.snr_s))

    def write(self, path: str | Path) -> None:
        """Write two tab-separated columns under a line of names."""
        rows = [f"{f:.6f}\t{snr:.6g}" for f, snr in zip(self.frequency_s, self.snr_s, strict=True)]
        write_text(path, "\n".join([f"{_FREQUENCY}\t{_SNR}", *rows]) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> SnrSpectrum:
        """Read columns ``frequency_per_angstrom`` and ``snr`` of a text file; without names, two columns.

        Raises
        ------
        PosterionError
            Where there are no such columns, frequencies do not rise or an SNR is negative.
        """
        names, rows = _table_of_text(Path(path))
        if names and not {_FREQUENCY, _SNR} <= set(names):
            raise PosterionError(
                f"{path}: columns {_FREQUENCY} and {_SNR} were expected, it has {', '.join(names)}"
            )
        columns = [names.index(_FREQUENCY), names.index(_SNR)] if names else [0, 1]
        if rows.ndim != 2 or rows.shape[1] <= max(columns):
            raise PosterionError(f"{path}: two columns were expected, frequency in 1/A and SNR")
        frequency_s, snr_s = rows[:, columns[0]], rows[:, columns[1]]
        if not len(rows) or (np.diff(frequency_s) <= 0).any() or not (snr_s >= 0).all():
            raise PosterionError(f"{path}: expected rising frequencies in 1/A and an SNR of 0 or more")
        return cls(frequency_s, np.clip(snr_s, LOWEST_SNR, HIGHEST_SNR), Path(path))


def _table_of_text(path: Path) -> tuple[list[str], Curve]:
    """Names in the first line, if it is no number, and all numbers."""
    try:
        lines = [line.split("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise PosterionError(
            f"{path} cannot be read: {error.strerror}; expected a text file of frequency in 1/A and SNR"
        ) from None
    except UnicodeDecodeError:
        raise PosterionError(f"{path} is no text; expected a file of frequency in 1/A and SNR") from None
    lines = [line for line in lines if line]
    names = lines.pop(0) if lines and not _is_number(lines[0][0]) else []
    try:
        return names, np.array([[float(word) for word in line] for line in lines], np.float64)
    except ValueError as error:
        raise PosterionError(f"{path}: expected a table of numbers ({error})") from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@dataclass(eq=False)
class SnrMeasurement:
    """Sums from which the spectral SNR of a set of images follows: they only ever add.

    In a shell s, ``|X|^2 = |A|^2 C^2 + |N|^2`` on average: a straight line over ``C^2``, whose slope and
    intercept are signal and noise. Where the CTF is 0 the images show noise alone; where it is 1, both.

    Attributes
    ----------
    n_shells : number of equal bins of frequency from 0 to ``highest_frequency``
    highest_frequency : 1/Angstrom
    independent : share of the pixels that are independent; less than 1 for windows that overlap
    sums : (5, n_shells) float64: pixels, ``C^2``, ``C^4``, ``|X|^2``, ``C^2 |X|^2``
    """

    n_shells: int
    highest_frequency: float
    independent: float = 1.0
    sums: Curve = field(init=False)

    def __post_init__(self) -> None:
        self.sums = np.zeros((5, self.n_shells))

    def add(self, images: Real, ctf: Real, frequency: Curve) -> None:
        """Add images.

        Parameters
        ----------
        images : (n, ny, nx) float32
        ctf : (n, ny * (nx//2+1)) float32, of the same half-spectrum pixels as
        frequency : (ny * (nx//2+1),) float64, radial, 1/Angstrom
        """
        centred = images - images.mean(axis=(-2, -1), keepdims=True, dtype=np.float64).astype(np.float32)
        spectra = scipy.fft.rfft2(centred).reshape(len(images), -1)
        power = spectra.real**2 + spectra.imag**2
        columns = images.shape[-1] // 2 + 1
        column = np.arange(len(frequency)) % columns
        single = (column == 0) | ((column == columns - 1) & (images.shape[-1] % 2 == 0))
        weight = np.where(single, 1.0, 2.0)
        shell = np.floor(frequency / self.highest_frequency * self.n_shells).astype(np.int64)
        inside = (shell < self.n_shells) & (frequency > 0)
        ctf2 = ctf.astype(np.float64) ** 2
        pixels, total = len(images) * np.ones_like(frequency), power.sum(0, dtype=np.float64)
        products = (pixels, ctf2.sum(0), (ctf2**2).sum(0), total, (ctf2 * power).sum(0))
        for row, product in enumerate(products):
            values = (weight * product)[inside]
            self.sums[row] += np.bincount(shell[inside], values, self.n_shells)

    def spectrum(self) -> SnrSpectrum:
        """Fit the line of every shell; slopes, relative to the shell's mean, are joined over five shells.

        Where ``C^2`` hardly varies (the lowest shells) the SNR is that of the nearest shell where it does;
        where no signal is seen (a slope below three times its standard error) it is the lowest, 1e-4.
        """
        count, c, cc, y, cy = self.sums
        count, y = np.maximum(count, 1e-30), np.maximum(y, 1e-30)
        centred = (count, c, cc - c**2 / count, cy * count / y - c)
        window = np.ones(2 * _HALF_WINDOW + 1)
        n, c, spread, together = (np.convolve(values, window, "same") for values in centred)
        known = spread > _LEAST_SPREAD * n
        # |X|^2 over its mean is (SNR C^2 + 1) / (SNR mean C^2 + 1): a line of slope SNR / (SNR mean C^2 + 1).
        slope = np.divide(together, spread, out=np.zeros_like(n), where=known)
        snr = slope / np.maximum(1 - slope * c / n, slope / HIGHEST_SNR + 1e-30)
        # Power of noise varies by its own mean; half as many pixels are independent as the full plane has.
        seen = slope > _SIGNIFICANT * np.sqrt(2 / np.maximum(self.independent * spread, 1e-30))
        snr = np.where(seen, np.clip(snr, LOWEST_SNR, HIGHEST_SNR), LOWEST_SNR)
        frequency_s = (np.arange(self.n_shells) + 0.5) * self.highest_frequency / self.n_shells
        return SnrSpectrum(frequency_s, _from_nearest_known(snr, known))


def _from_nearest_known(snr_s: Curve, known_s: NDArray[np.bool_]) -> Curve:
    if not known_s.any():
        raise PosterionError(
            "the SNR cannot be measured: C^2 is the same in all images and pixels of a shell, because the "
            "defocus does not vary or there is no CTF; give --k or --snr"
        )
    shells = np.flatnonzero(known_s)
    distance = np.abs(np.arange(len(snr_s))[:, None] - shells)
    return np.asarray(snr_s[shells[distance.argmin(axis=1)]])
