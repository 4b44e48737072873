"""One curve for all azimuths: the equiphase average of a spectrum, its fit, and how far it holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.micrographs.ctf_rings import CtfParameters, MicroscopeOptics, Rings
from posterion.physics.ctf import wavelength_angstrom

__all__ = ["CtfProfile", "ctf_profile", "equiphase_frequency", "local_correlation"]

Array = NDArray[np.float64]

_GOOD_FIT = 0.5
_SMALLEST_WINDOW = 1 / 40  # half width, share of the curve
_FINER = 16


@dataclass(frozen=True)
class CtfProfile:
    """Curves over the spatial frequency at the mean defocus; (s,) float64 each.

    Attributes
    ----------
    frequency_s : 1/Angstrom
    measured_s : equiphase average of the rings above their background, scaled to C^2 where it fits
    squared_ctf_s : C^2 at the mean defocus
    correlation_s : of both, in a window of a ring to each side
    fit_resolution_angstrom : where the correlation falls under 0.5 and stays there for a whole ring; None
        where it never was above
    """

    frequency_s: Array
    measured_s: Array
    squared_ctf_s: Array
    correlation_s: Array
    fit_resolution_angstrom: float | None


def equiphase_frequency(
    frequency_x: Array, frequency_y: Array, parameters: CtfParameters, optics: MicroscopeOptics
) -> Array:
    """Frequency at which the CTF of the mean defocus has the phase that the astigmatic one has here.

    The g with m g^2 - q g^4 = d f^2 - q f^4, where d is the defocus in the direction of f, m the mean
    defocus and q = Cs lambda^2 / 2; of the two solutions that below the turning point of the phase.

    Parameters
    ----------
    frequency_x, frequency_y : (...) float64
        1/Angstrom.
    parameters : CtfParameters
        Of the astigmatic CTF; its mean defocus must be positive.
    optics : MicroscopeOptics

    Returns
    -------
    frequency : (...) float64
        1/Angstrom; NaN beyond the turning point.

    Notes
    -----
    Equiphase averaging: Zhang 2016, J. Struct. Biol. 193, 1 (Gctf).
    """
    squared = frequency_x**2 + frequency_y**2
    mean = parameters.mean_defocus_angstrom
    half = parameters.defocus_u_angstrom - mean
    azimuth = np.arctan2(frequency_y, frequency_x) - np.radians(parameters.defocus_angle_deg)
    q = 0.5e7 * optics.spherical_aberration_mm * float(wavelength_angstrom(optics.voltage_kv)) ** 2
    path = (mean + half * np.cos(2 * azimuth)) * squared - q * squared**2
    with np.errstate(invalid="ignore"):
        frequency: Array = np.sqrt(2 * path / (mean + np.sqrt(mean**2 - 4 * q * path)))
    return frequency


def ctf_profile(rings: Rings, parameters: CtfParameters) -> CtfProfile:
    """Average a spectrum along lines of equal phase and compare it with the fit, shell by shell.

    The correlation is CTFFIND's: between the average and the squared CTF, both less their background, in a
    moving window of a ring to each side. Where it falls under 0.5 the rings are no longer fitted.

    Parameters
    ----------
    rings : Rings
        With the envelope of the fit; its spectrum may reach beyond its band.
    parameters : CtfParameters
        The fit.

    Notes
    -----
    Rohou & Grigorieff 2015, J. Struct. Biol. 192, 216, section 2.5.
    """
    frequency_s = rings.spectrum.frequency_s
    squared_ctf_s = rings.optics.ctf(frequency_s, 0 * frequency_s, _round(parameters)) ** 2
    average_s = _equiphase_average(rings, parameters)
    measured_s = rings.without_background(average_s[None])[0]
    model_s = rings.without_background(2 * squared_ctf_s[None] - 1)[0]
    ring_width_s = _ring_width(rings, parameters)
    half_width_s = np.maximum(ring_width_s, _SMALLEST_WINDOW * len(frequency_s))
    correlation_s = local_correlation(measured_s, model_s, half_width_s)
    envelope_s = _local_slope(measured_s, model_s, 2 * half_width_s)
    shown_s = squared_ctf_s + (measured_s / envelope_s - model_s) / 2
    resolution = _fit_resolution(frequency_s, correlation_s, ring_width_s, rings.lowest)
    return CtfProfile(frequency_s, shown_s, squared_ctf_s, correlation_s, resolution)


def _round(parameters: CtfParameters) -> CtfParameters:
    mean = parameters.mean_defocus_angstrom
    return CtfParameters(mean, mean, 0.0, parameters.phase_shift_deg)


def _equiphase_average(rings: Rings, parameters: CtfParameters) -> Array:
    """Average the logarithm of power (s,) over bins of equal phase, each shared by its two nearest shells."""
    spectrum = rings.spectrum
    frequency_s, last = spectrum.frequency_s, len(spectrum.frequency_s) - 1
    at = equiphase_frequency(spectrum.frequency_x_as, spectrum.frequency_y_as, parameters, rings.optics)
    place = (at - frequency_s[0]) / (frequency_s[1] - frequency_s[0])
    inside = np.isfinite(place) & (place >= 0) & (place <= last)
    lower, upper_share = np.divmod(np.where(inside, place, 0.0), 1.0)
    total_s, weight_s = np.zeros(last + 2), np.zeros(last + 2)
    for shell, share in ((lower, 1 - upper_share), (lower + 1, upper_share)):
        weight = np.where(inside, spectrum.count_as * share, 0.0).ravel()
        index = shell.astype(np.int64).ravel()
        weight_s += np.bincount(index, weight, last + 2)
        total_s += np.bincount(index, weight * spectrum.log_power_as.ravel(), last + 2)
    known = np.flatnonzero(weight_s[:-1] > 0)
    mean_s = total_s[known] / weight_s[known]
    return np.asarray(np.interp(np.arange(last + 1), known, mean_s))


def _ring_width(rings: Rings, parameters: CtfParameters) -> Array:
    """Distance (s,) between the zeros of the CTF on both sides, in shells."""
    frequency_s = rings.spectrum.frequency_s
    place = np.arange(0, len(frequency_s) - 1 + 1 / _FINER, 1 / _FINER)
    fine = np.interp(place, np.arange(len(frequency_s)), frequency_s)
    sign = np.sign(rings.optics.ctf(fine, 0 * fine, _round(parameters)))
    zeros = place[:-1][sign[1:] != sign[:-1]]
    if len(zeros) < 2:
        return np.full(len(frequency_s), float(len(frequency_s)))
    middles = (zeros[1:] + zeros[:-1]) / 2
    return np.asarray(np.interp(np.arange(len(frequency_s)), middles, np.diff(zeros)))


def local_correlation(first_s: Array, second_s: Array, half_width_s: Array) -> Array:
    """Pearson's correlation (s,) of two curves in a window about each point, cut at the ends.

    Parameters
    ----------
    first_s, second_s : (s,) float64
        Curves.
    half_width_s : (s,) float64
        Half widths of the windows, in points.
    """
    n, x, y, xx, yy, xy = _window_sums(first_s, second_s, half_width_s)
    variances = (xx - x * x / n) * (yy - y * y / n)
    covariance = xy - x * y / n
    return np.where(variances > 1e-30, covariance / np.sqrt(np.maximum(variances, 1e-30)), 0.0)


def _local_slope(first_s: Array, second_s: Array, half_width_s: Array) -> Array:
    """Regression (s,) of the first curve on the second in a window; at least a hundredth of the largest."""
    *_, yy, xy = _window_sums(first_s, second_s, half_width_s)
    slope = xy / np.maximum(yy, 1e-30)
    return np.maximum(slope, max(0.01 * float(slope.max()), 1e-6))


def _window_sums(first_s: Array, second_s: Array, half_width_s: Array) -> list[Array]:
    """Return sums over windows of 1, x, y, x x, y y and x y."""
    count, half = len(first_s), np.rint(half_width_s).astype(np.int64)
    start = np.maximum(np.arange(count) - half, 0)
    end = np.minimum(np.arange(count) + half + 1, count)
    curves = (np.ones(count), first_s, second_s, first_s**2, second_s**2, first_s * second_s)
    running = [np.concatenate([[0.0], np.cumsum(curve)]) for curve in curves]
    return [total[end] - total[start] for total in running]


def _fit_resolution(
    frequency_s: Array, correlation_s: Array, ring_width_s: Array, lowest: float
) -> float | None:
    """Resolution of the last shell before a ring (two shells at least) is under 0.5; None: none was above."""
    bad = correlation_s < _GOOD_FIT
    fitted = np.flatnonzero(~bad & (frequency_s >= lowest))
    if not len(fitted):
        return None
    needed_s = np.minimum(np.maximum(np.rint(ring_width_s), 2), len(bad) - np.arange(len(bad)))
    for shell in (np.flatnonzero(bad[fitted[0] :]) + fitted[0]).tolist():
        if bad[shell : shell + int(needed_s[shell])].all():
            return float(1 / frequency_s[shell - 1])
    return float(1 / frequency_s[-1])
