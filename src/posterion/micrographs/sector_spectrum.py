"""A power spectrum in polar bins: sectors of azimuth times shells of frequency, as logarithms.

The logarithm turns the background, which multiplies what varies by decades, into something that is added;
rings are then as high above it as they are strong relative to it, which is also how the noise goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SectorSpectrum", "sector_spectrum"]

_SECTORS = 36
_AXIS_PX = 1  # columns and rows about the axes are left out: detectors and tile edges leave lines there


@dataclass(frozen=True)
class SectorSpectrum:
    """Logarithm of the mean power in a azimuths and s shells.

    Attributes
    ----------
    log_power_as : (a, s) float64
        Natural logarithm of the mean power in each bin.
    count_as : (a, s) float64
        Fourier pixels in it.
    frequency_x_as, frequency_y_as : (a, s) float64
        Where it is, 1/Angstrom: root mean square radius, at the sector's middle.
    frequency_s : (s,) float64
        Middle of the shells, 1/Angstrom; they are equally wide.
    azimuth_deg_a : (a,) float64
        Middle of the sectors, degrees from x to y, between 0 and 180.
    pixel_p, bin_p : (p,) int64
        Which pixel of the flat half spectrum went into which flat bin.
    """

    log_power_as: NDArray[np.float64]
    count_as: NDArray[np.float64]
    frequency_x_as: NDArray[np.float64]
    frequency_y_as: NDArray[np.float64]
    frequency_s: NDArray[np.float64]
    azimuth_deg_a: NDArray[np.float64]
    pixel_p: NDArray[np.int64]
    bin_p: NDArray[np.int64]


def sector_spectrum(
    power: NDArray[np.float64], pixel_size_angstrom: float, lowest: float, highest: float
) -> SectorSpectrum:
    """Bin a power spectrum in azimuth (5 degrees) and frequency (a Fourier pixel).

    Parameters
    ----------
    power : (n, n // 2 + 1) float64
        Half spectrum, DC first.
    pixel_size_angstrom : float
        Angstrom.
    lowest, highest : float
        Frequencies to keep, 1/Angstrom.
    """
    n = power.shape[0]
    ky = np.fft.fftfreq(n, 1 / n)[:, None]
    kx = np.arange(n // 2 + 1)[None, :]
    radius = np.hypot(kx, ky)
    first, last = round(lowest * n * pixel_size_angstrom), int(highest * n * pixel_size_angstrom)
    kept = (abs(ky) > _AXIS_PX) & (kx > _AXIS_PX) & (np.rint(radius) >= first) & (np.rint(radius) <= last)
    shell_p = np.rint(radius[kept]).astype(np.int64) - first
    azimuth = np.mod(np.arctan2(*np.broadcast_arrays(ky, kx)), np.pi)[kept]
    sector_p = np.minimum((azimuth * (_SECTORS / np.pi)).astype(np.int64), _SECTORS - 1)
    bins, shape = sector_p * (last - first + 1) + shell_p, (_SECTORS, last - first + 1)
    count, power_sum, squares = (
        np.bincount(bins, weights, shape[0] * shape[1]).reshape(shape)
        for weights in (None, power[kept], radius[kept] ** 2)
    )
    middle_a = (np.arange(_SECTORS) + 0.5) * np.pi / _SECTORS
    shell_s = np.arange(first, last + 1)
    filled = np.maximum(count, 1)
    mean_radius = np.where(count > 0, np.sqrt(squares / filled), shell_s) / (n * pixel_size_angstrom)
    mean = np.where(count > 0, power_sum / filled, power_sum.sum(0) / np.maximum(count.sum(0), 1))
    return SectorSpectrum(
        np.log(mean),
        count.astype(np.float64),
        mean_radius * np.cos(middle_a)[:, None],
        mean_radius * np.sin(middle_a)[:, None],
        shell_s / (n * pixel_size_angstrom),
        np.degrees(middle_a),
        np.flatnonzero(kept),
        bins,
    )
