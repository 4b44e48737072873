"""Micrographs with a known CTF: amorphous ice or carbon under the microscope, and noise without rings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from posterion.data.particles import OpticsGroup
from posterion.errors import PosterionError
from posterion.physics.ctf import contrast_transfer

__all__ = ["CARBON", "ICE", "Support", "simulate_micrograph"]


@dataclass(frozen=True)
class Support:
    """What fills a micrograph between the particles.

    Attributes
    ----------
    contrast : float
        Power of its image over that of the noise, at low frequency and where the CTF is 1.
    bfactor_angstrom2 : float
        B of the envelope exp(-B s^2 / 4) of its amplitude, Angstrom^2.
    """

    contrast: float
    bfactor_angstrom2: float


ICE = Support(contrast=0.8, bfactor_angstrom2=120.0)
"""Vitreous ice on a counting detector: rings of a few percent of the background, seen to about 4 A."""
CARBON = Support(contrast=2.0, bfactor_angstrom2=60.0)
"""A thin carbon film: rings stronger than the noise at low resolution."""

_NOISE_FLOOR, _NOISE_RISE_ANGSTROM = 0.3, 30.0


def simulate_micrograph(
    shape_px: tuple[int, int],
    optics: OpticsGroup,
    defocus: tuple[float, float, float],
    support: Support = ICE,
    *,
    phase_shift_deg: float = 0.0,
    density: NDArray[np.floating] | None = None,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Micrograph of an amorphous support, C (a + density) + n, with its CTF C known.

    a and n are Gaussian; the power of n is 0.3 + 1 / (1 + (30 A s)^2), that of a is ``contrast
    exp(-B s^2 / 2)`` times the former. Protein and ice are dark, as on a detector: C is minus
    `contrast_transfer`.

    Parameters
    ----------
    shape_px : (int, int)
        Rows and columns.
    optics : OpticsGroup
        Voltage, Cs, amplitude contrast and pixel size.
    defocus : (float, float, float)
        U and V in Angstrom, azimuth of U in degrees from the columns towards the rows.
    support : Support
        `ICE` or `CARBON`, or another.
    phase_shift_deg : float
        Of a phase plate, degrees.
    density : (rows, columns) float, optional
        What lies on the support, white, as it would be seen without CTF, in units of the noise's standard
        deviation (about 0.6).
    seed : int
        Same seed, same micrograph.

    Returns
    -------
    values : (rows, columns) float32

    Raises
    ------
    PosterionError
        Where the density has another shape.
    """
    if density is not None and density.shape != shape_px:
        raise PosterionError(f"density of shape {density.shape} does not go with a micrograph of {shape_px}")
    rows, columns = shape_px
    fy = scipy.fft.fftfreq(rows, optics.pixel_size_angstrom)[:, None]
    fx = scipy.fft.rfftfreq(columns, optics.pixel_size_angstrom)[None, :]
    squared = fx**2 + fy**2
    noise = _NOISE_FLOOR + 1 / (1 + _NOISE_RISE_ANGSTROM**2 * squared)
    frequency_x, frequency_y = (f.ravel() for f in np.broadcast_arrays(fx, fy))
    u, v, azimuth = defocus
    ctf = -contrast_transfer(
        frequency_x,
        frequency_y,
        u,
        v,
        azimuth,
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
        amplitude_contrast=optics.amplitude_contrast,
        phase_shift_deg=phase_shift_deg,
    ).reshape(squared.shape)
    signal = support.contrast * np.exp(-support.bfactor_angstrom2 / 2 * squared) * ctf**2
    amplitude = np.sqrt(noise * (1 + signal)).astype(np.float32)  # of the Gaussian sum C a + n
    white = np.random.default_rng(seed).standard_normal(shape_px, dtype=np.float32)
    spectrum = scipy.fft.rfft2(white) * amplitude
    if density is not None:
        spectrum += scipy.fft.rfft2(density.astype(np.float32)) * ctf
    values: NDArray[np.float32] = scipy.fft.irfft2(spectrum, s=shape_px)
    return values
