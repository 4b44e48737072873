"""The CTF of one micrograph from its Thon rings: spectrum, fit, score, and how far the rings fit."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.micrographs.ctf_profile import CtfProfile, ctf_profile
from posterion.micrographs.ctf_rings import CtfParameters, MicroscopeOptics, Rings
from posterion.micrographs.ctf_search import coarse_search, refine_ctf
from posterion.micrographs.periodogram import averaged_periodogram, tile_size, without_outliers
from posterion.micrographs.sector_spectrum import sector_spectrum

__all__ = ["CtfEstimate", "CtfOptions", "amplitude_score", "estimate_ctf", "fit_band"]

_NYQUIST_SHARE = 0.97
_FINEST_ANGSTROM = 2.5  # of the curves that tell how far rings fit
_FEWEST_RINGS = 3
_SIGNIFICANT = 9.0  # standard deviations of noise; pure noise, searched as here, reaches 5 to 8


@dataclass(frozen=True)
class CtfOptions:
    """How the CTF is estimated.

    Attributes
    ----------
    optics : MicroscopeOptics
        Voltage, Cs and amplitude contrast.
    fit_phase_shift : bool
        Fit the shift of a phase plate too, 0 to 180 degrees.
    lowest_resolution_angstrom, highest_resolution_angstrom : float
        Band of the fit; it ends at 0.97 of Nyquist at the latest.
    defocus_range_angstrom : (float, float)
        Mean defoci to try.
    tile_angstrom : float
        Edge of the tiles whose spectra are averaged.
    """

    optics: MicroscopeOptics = field(default_factory=MicroscopeOptics)
    fit_phase_shift: bool = False
    lowest_resolution_angstrom: float = 30.0
    highest_resolution_angstrom: float = 5.0
    defocus_range_angstrom: tuple[float, float] = (3000.0, 50000.0)
    tile_angstrom: float = 1000.0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        low, high = self.defocus_range_angstrom
        optics = self.optics
        complaints = {
            f"a voltage of {optics.voltage_kv:g} kV: expected 20 to 1500": not 20
            <= optics.voltage_kv
            <= 1500,
            f"a Cs of {optics.spherical_aberration_mm:g} mm: expected 0 to 20": (
                not 0 <= optics.spherical_aberration_mm <= 20
            ),
            f"an amplitude contrast of {optics.amplitude_contrast:g}: expected 0 to 1": (
                not 0 <= optics.amplitude_contrast <= 1
            ),
            f"a fit from {self.lowest_resolution_angstrom:g} to {self.highest_resolution_angstrom:g} A: "
            "expected the larger first, both positive": (
                not 0 < self.highest_resolution_angstrom < self.lowest_resolution_angstrom
            ),
            f"defoci from {low:g} to {high:g} A: expected two positive ones that rise": not 0 < low < high,
        }
        for complaint, wrong in complaints.items():
            if wrong:
                raise PosterionError(f"CTF options ask for {complaint}")


@dataclass(frozen=True)
class CtfEstimate:
    """CTF of one micrograph.

    Attributes
    ----------
    parameters : CtfParameters
        Defocus U >= V in Angstrom, azimuth of U in degrees from the columns towards the rows, in (-90, 90],
        and phase shift in degrees: RELION's and CTFFIND's convention.
    score : float
        CTFFIND's figure of merit, see `amplitude_score`.
    significance : float
        Correlation of the rings in standard deviations of what noise gives.
    profile : CtfProfile
        Curves over frequency, and the resolution to which rings fit.
    optics : MicroscopeOptics
        Used for the fit.
    pixel_size_angstrom : float
        Of the micrograph.
    power : (n, n // 2 + 1) float32
        Averaged periodogram, half spectrum, DC first.
    """

    parameters: CtfParameters
    score: float
    significance: float
    profile: CtfProfile
    optics: MicroscopeOptics
    pixel_size_angstrom: float
    power: NDArray[np.float32]


def estimate_ctf(
    values: NDArray[np.float32], pixel_size_angstrom: float, options: CtfOptions | None = None
) -> CtfEstimate:
    """Estimate defocus, astigmatism and, if asked for, phase shift of a micrograph.

    The periodogram, averaged over tiles, goes into sectors and shells; its logarithm less a smooth background
    is correlated with 2 C^2 - 1, first on a grid, then by a simplex with the measured envelope of the rings.

    Parameters
    ----------
    values : (ny, nx) float32
        Micrograph.
    pixel_size_angstrom : float
        Angstrom.
    options : CtfOptions, optional

    Raises
    ------
    PosterionError
        At this pixel size no ring can be seen; or none is seen that noise would not give.

    Notes
    -----
    Objective and figures of merit follow CTFFIND4 (Rohou & Grigorieff 2015, J. Struct. Biol. 192, 216).
    """
    options = options or CtfOptions()
    lowest, highest = fit_band(pixel_size_angstrom, options)
    tile_px = tile_size(values.shape, pixel_size_angstrom, options.tile_angstrom)
    power = averaged_periodogram(without_outliers(values), tile_px)
    to = max(highest, min(1 / _FINEST_ANGSTROM, _NYQUIST_SHARE / (2 * pixel_size_angstrom)))
    spectrum = sector_spectrum(power, pixel_size_angstrom, lowest / 2, to)
    guessed = Rings.of(spectrum, options.optics, lowest, highest)
    start = coarse_search(guessed, options.defocus_range_angstrom, options.fit_phase_shift)
    parameters, rings = refine_ctf(guessed, start, options.fit_phase_shift)
    significance = guessed.correlation(parameters) / guessed.noise_correlation
    profile = ctf_profile(rings, parameters) if significance >= _SIGNIFICANT else None
    if profile is None or profile.fit_resolution_angstrom is None:
        raise PosterionError(
            f"no ring fits between {1 / lowest:.3g} and {1 / highest:.3g} A at a pixel size of "
            f"{pixel_size_angstrom:g} A (best correlation {significance:.1f} times that of noise, expected "
            f"{_SIGNIFICANT:g} or more): check pixel size, voltage and defocus range, or leave it out"
        )
    score = amplitude_score(power, rings, parameters)
    pixel_size = float(pixel_size_angstrom)
    return CtfEstimate(
        parameters, score, significance, profile, options.optics, pixel_size, power.astype(np.float32)
    )


def fit_band(pixel_size_angstrom: float, options: CtfOptions) -> tuple[float, float]:
    """Lowest and highest frequency of the fit, 1/Angstrom.

    Raises
    ------
    PosterionError
        Where not even the largest defocus has rings between them.
    """
    if not pixel_size_angstrom > 0:
        raise PosterionError(f"a pixel size of {pixel_size_angstrom:g} A: expected a positive number")
    nyquist = 1 / (2 * pixel_size_angstrom)
    lowest = 1 / options.lowest_resolution_angstrom
    highest = min(1 / options.highest_resolution_angstrom, _NYQUIST_SHARE * nyquist)
    rings = 0
    if highest > lowest:
        largest = options.defocus_range_angstrom[1]
        frequency = np.linspace(lowest, highest, 1000)
        ctf = options.optics.ctf(frequency, 0 * frequency, CtfParameters(largest, largest, 0.0))
        rings = int(np.count_nonzero(np.sign(ctf[1:]) != np.sign(ctf[:-1])))
    if rings < _FEWEST_RINGS:
        raise PosterionError(
            f"at a pixel size of {pixel_size_angstrom:g} A (Nyquist {1 / nyquist:g} A) no ring can fit: a "
            f"defocus of {options.defocus_range_angstrom[1]:g} A has {rings} finer than {1 / lowest:g} A, "
            f"expected {_FEWEST_RINGS} or more; is the pixel size right?"
        )
    return lowest, highest


def amplitude_score(power: NDArray[np.floating], rings: Rings, parameters: CtfParameters) -> float:
    """Score a fit as CTFFIND does: correlate the amplitude spectrum, pixel by pixel, with |C| in the band.

    Both are taken less their mean, the amplitude first less its background, which is that of the rings.

    Parameters
    ----------
    power : (n, n // 2 + 1) float
        Half spectrum, DC first.
    rings : Rings
        Of this power.
    parameters : CtfParameters
        The fit.

    Notes
    -----
    Rohou & Grigorieff 2015, J. Struct. Biol. 192, 216. The noise of single pixels is in it, so it grows with
    the number of tiles: compare scores of micrographs of one kind.
    """
    spectrum = rings.spectrum
    background_as = spectrum.log_power_as - rings.without_background(spectrum.log_power_as)
    in_band = np.zeros(background_as.shape, bool)
    in_band[:, rings.band] = True
    chosen = in_band.ravel()[spectrum.bin_p]
    pixel_p, bin_p = spectrum.pixel_p[chosen], spectrum.bin_p[chosen]
    above_p = np.sqrt(power.ravel()[pixel_p]) - np.exp(background_as / 2).ravel()[bin_p]
    ctf_as = rings.optics.ctf(spectrum.frequency_x_as, spectrum.frequency_y_as, parameters)
    return float(np.corrcoef(above_p, abs(ctf_as).ravel()[bin_p])[0, 1])
