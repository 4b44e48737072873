"""What noise alone looks like: its power spectrum, and how many false particles a threshold lets through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.optimize
from numpy.typing import NDArray

from posterion.micrographs.reduced import frequency_grid, hermitian_columns, mean_over_disc

__all__ = ["FalsePositives", "NoiseSpectrum", "noise_spectrum"]

Real = NDArray[np.float32]

_SMOOTHING_SHELLS = 2.0
_SMALLEST_POWER = 1e-6
_QUIET_SHARE = 0.25
_TAIL_PEAKS = 40  # their number says the level of the tail to 1 / sqrt(40) = 16 %, the threshold to 0.04
_CROWDING = 0.5  # above this many peaks per exclusion disc they hide each other: no tail


@dataclass(frozen=True)
class NoiseSpectrum:
    """Radially averaged power of noise; white noise of variance 1 has power 1.

    Attributes
    ----------
    cycles_per_px : (s,) float64
        Frequencies of the shells.
    power : (s,) float64
    """

    cycles_per_px: NDArray[np.float64]
    power: NDArray[np.float64]

    def at(self, cycles_per_px: Real) -> Real:
        """Power at frequencies of any shape, linear between shells."""
        return np.interp(cycles_per_px, self.cycles_per_px, self.power).astype(np.float32)

    def scaled(self, factor: float) -> NoiseSpectrum:
        """Give the spectrum times a factor."""
        return NoiseSpectrum(self.cycles_per_px, self.power * factor)


def noise_spectrum(values_yx: Real, disc_radius_px: float) -> NoiseSpectrum:
    """Power of the noise between the particles: of the quietest quarter of the micrograph.

    A first spectrum of all pixels whitens the micrograph; the quarter of them with the least whitened power
    within a disc tells by how much each shell's power has to change. Its scale is a little low, by choice of
    the quarter: by how much, white noise tells.

    Parameters
    ----------
    values_yx : (ny, nx) float32
        Micrograph with mean about zero.
    disc_radius_px : float
        Of the particle, pixels.
    """
    everywhere = _radial_power(values_yx, np.ones(values_yx.shape, np.bool_))
    ny, nx = values_yx.shape
    f = frequency_grid((ny, nx), 1.0)[2]
    whitened = scipy.fft.rfft2(values_yx) / np.sqrt(everywhere.at(f))
    slow = f < 1 / (6 * disc_radius_px)  # gradients are no noise
    square = scipy.fft.irfft2(whitened * ~slow, s=(ny, nx)) ** 2
    power, share = mean_over_disc(np.stack([square, np.ones_like(square)]), disc_radius_px)
    power = power / np.maximum(share, 0.2)
    quiet = power <= np.quantile(power, _QUIET_SHARE)
    change = _radial_power(np.asarray(scipy.fft.irfft2(whitened, s=(ny, nx)), np.float32), quiet)
    return NoiseSpectrum(everywhere.cycles_per_px, everywhere.power * change.power)


def _radial_power(values_yx: Real, valid_yx: NDArray[np.bool_]) -> NoiseSpectrum:
    """Rotational average of |F(k)|^2 / number of valid pixels, smoothed along the radius."""
    ny, nx = values_yx.shape
    power = np.abs(scipy.fft.rfft2(np.where(valid_yx, values_yx, np.float32(0)))) ** 2
    n = max(ny, nx)
    shell = np.rint(frequency_grid((ny, nx), 1.0)[2] * n).astype(np.int64)
    weights = np.broadcast_to(hermitian_columns(nx), power.shape)
    total = np.bincount(shell.ravel(), (weights * power).ravel())
    count = np.bincount(shell.ravel(), weights.ravel())
    mean = total / np.maximum(count, 1) / max(int(valid_yx.sum()), 1)
    mean = np.maximum(mean[: n // 2 + 1], _SMALLEST_POWER * mean.max())
    mean[0] = mean[1]  # the mean was subtracted
    smooth = np.exp(scipy.ndimage.gaussian_filter1d(np.log(mean), _SMOOTHING_SHELLS, mode="nearest"))
    return NoiseSpectrum(np.arange(len(smooth)) / n, smooth)


@dataclass(frozen=True)
class FalsePositives:
    """Expected number of peaks that noise alone sends above a threshold u, per area.

    n(u) = level (u^2 - 1) exp(-u^2 / 2): the high-threshold form for maxima of a Gaussian field with unit
    variance over position and one more dimension (here the family of templates). Its one constant is measured
    on simulated noise. Adler & Taylor 2007, Random Fields and Geometry, ch. 14.

    Attributes
    ----------
    level_per_angstrom2 : float
    """

    level_per_angstrom2: float

    def expected(self, threshold: float, area_angstrom2: float) -> float:
        """Peaks above a threshold (in noise standard deviations) in an area, Angstrom^2."""
        return self.level_per_angstrom2 * area_angstrom2 * _tail(threshold)

    def threshold(self, false_positives: float, area_angstrom2: float) -> float:
        """Lowest threshold u >= sqrt 3, where n(u) starts to fall, that noise passes so many times."""
        lowest = float(np.sqrt(3.0))
        if self.expected(lowest, area_angstrom2) <= false_positives:
            return lowest
        excess = scipy.optimize.brentq(
            lambda u: np.log(self.expected(u, area_angstrom2) / false_positives), lowest, 30.0
        )
        return float(excess)

    @classmethod
    def from_noise_peaks(
        cls, scores: NDArray[np.floating], area_angstrom2: float, exclusion_angstrom: float
    ) -> FalsePositives:
        """Fit the level to the highest peaks found in noise of a given area.

        The level is the number of the highest peaks over the number that level 1 would give above their
        lowest: as many as `_TAIL_PEAKS`, fewer where they would crowd each other.
        """
        cells = area_angstrom2 / (np.pi * exclusion_angstrom**2 / 4)
        count = int(min(_TAIL_PEAKS, max(4, _CROWDING * cells / 4), len(scores)))
        highest = np.sort(np.asarray(scores, np.float64))[::-1][:count]
        lowest = max(float(highest[-1]), float(np.sqrt(3.0)))
        return cls((count - 0.5) / (area_angstrom2 * _tail(lowest)))


def _tail(u: float) -> float:
    return float((u * u - 1) * np.exp(-u * u / 2))
