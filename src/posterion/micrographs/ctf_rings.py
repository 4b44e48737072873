"""Thon rings as data: a spectrum without its background, and how well a CTF's rings correlate with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.signal
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from posterion.micrographs.sector_spectrum import SectorSpectrum
from posterion.physics.ctf import contrast_transfer

__all__ = ["CtfParameters", "MicroscopeOptics", "Rings"]

Array = NDArray[np.float64]

_BACKGROUND_WIDTH = (
    0.08  # 1/Angstrom: wider than the rings of half a micrometre, narrower than the background
)
_ENVELOPE_WIDTH = 0.04
_OUTLIER = 4.0  # robust standard deviations: spots of crystalline ice stand out further
_USUAL_BFACTOR = 100.0  # Angstrom^2, of the rings before their envelope is known


@dataclass(frozen=True)
class CtfParameters:
    """Defocus U >= V in Angstrom, azimuth of U in degrees from x to y, phase shift in degrees."""

    defocus_u_angstrom: float
    defocus_v_angstrom: float
    defocus_angle_deg: float
    phase_shift_deg: float = 0.0

    @property
    def mean_defocus_angstrom(self) -> float:
        """(U + V) / 2."""
        return (self.defocus_u_angstrom + self.defocus_v_angstrom) / 2

    def shifted(self, by_angstrom: float) -> CtfParameters:
        """Move both defoci, which leaves the astigmatism as it is."""
        u, v = self.defocus_u_angstrom + by_angstrom, self.defocus_v_angstrom + by_angstrom
        return replace(self, defocus_u_angstrom=u, defocus_v_angstrom=v)


@dataclass(frozen=True)
class MicroscopeOptics:
    """What of the CTF belongs to the microscope: kV, mm, fraction."""

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1

    def ctf(self, frequency_x: Array, frequency_y: Array, parameters: CtfParameters) -> Array:
        """CTF at frequencies of any shape, 1/Angstrom, as `posterion.physics.ctf.contrast_transfer`."""
        p = parameters
        astigmatism = (p.defocus_u_angstrom, p.defocus_v_angstrom, p.defocus_angle_deg)
        ctf = self.ctf_of_many(frequency_x.ravel(), frequency_y.ravel(), astigmatism, p.phase_shift_deg)
        return np.asarray(ctf[0].reshape(frequency_x.shape))

    def ctf_of_many(
        self,
        fx_p: Array,
        fy_p: Array,
        defocus: tuple[ArrayLike, ArrayLike, ArrayLike],
        phase_shift_deg: float,
    ) -> Array:
        """CTFs (n, p) of n defoci U, V and azimuths at p frequencies."""
        ctf = contrast_transfer(
            fx_p,
            fy_p,
            *defocus,
            voltage_kv=self.voltage_kv,
            spherical_aberration_mm=self.spherical_aberration_mm,
            amplitude_contrast=self.amplitude_contrast,
            phase_shift_deg=phase_shift_deg,
        )
        return ctf.astype(np.float64)


@dataclass(frozen=True)
class Rings:
    """Rings of one spectrum between two frequencies.

    From the logarithm of the power, and in the same way from 2 C^2 - 1, a running parabola along the
    frequency (Savitzky-Golay, 0.08 / A wide) is taken away: what is smooth cancels from both alike.

    Attributes
    ----------
    spectrum : SectorSpectrum
        Reaches below ``lowest``, so that the background there is known from both sides.
    optics : MicroscopeOptics
        Of the model.
    lowest, highest : float
        Band of the correlation, 1/Angstrom.
    envelope_s : (s,) float64
        Half height of the rings in the logarithm, in the band; a guess until `with_envelope_of` measures it.
    """

    spectrum: SectorSpectrum
    optics: MicroscopeOptics
    lowest: float
    highest: float
    envelope_s: Array

    @classmethod
    def of(cls, spectrum: SectorSpectrum, optics: MicroscopeOptics, lowest: float, highest: float) -> Rings:
        """Rings with a usual envelope, exp(-B s^2 / 2) with B = 100 A^2."""
        frequency_s = spectrum.frequency_s
        band = frequency_s[(frequency_s >= lowest) & (frequency_s <= highest)]
        return cls(spectrum, optics, lowest, highest, np.exp(-_USUAL_BFACTOR / 2 * band**2))

    @cached_property
    def band(self) -> slice:
        """Shells of the spectrum inside the band."""
        inside = np.flatnonzero(
            (self.spectrum.frequency_s >= self.lowest) & (self.spectrum.frequency_s <= self.highest)
        )
        return slice(int(inside[0]), int(inside[-1]) + 1)

    @cached_property
    def _detrend(self) -> scipy.sparse.csr_array:
        frequency_s = self.spectrum.frequency_s
        count = len(frequency_s)
        half = round(_BACKGROUND_WIDTH / 2 / (frequency_s[1] - frequency_s[0]))
        width = min(2 * half + 1, count - (count + 1) % 2)
        smooth = scipy.signal.savgol_filter(np.eye(count), width, 2, axis=0)
        return scipy.sparse.csr_array(np.eye(count) - smooth)

    def without_background(self, curves: Array) -> Array:
        """Curves (n, s) over all shells of the spectrum less their running parabola."""
        return np.asarray((self._detrend @ curves.T).T)

    @cached_property
    def measured_as(self) -> Array:
        """Measured rings (a, s) in the band; bins that stand out, spots of a crystal, are clipped."""
        measured_as = self.without_background(self.spectrum.log_power_as)[:, self.band]
        limit = _OUTLIER * 1.4826 * float(np.median(abs(measured_as)))
        return np.clip(measured_as, -limit, limit)

    @cached_property
    def count_as(self) -> Array:
        """Fourier pixels (a, s) behind each value: its weight, as if pixels were correlated one by one."""
        return self.spectrum.count_as[:, self.band]

    def model_as(self, parameters: CtfParameters) -> Array:
        """Rings (a, s) of a CTF in the band, before the envelope: 2 C^2 - 1 less its running parabola."""
        ctf = self.optics.ctf(self.spectrum.frequency_x_as, self.spectrum.frequency_y_as, parameters)
        return self.without_background(2 * ctf**2 - 1)[:, self.band]

    @property
    def noise_correlation(self) -> float:
        """Standard deviation of `correlation` where there are no rings: one over the root of the bins."""
        return float(1 / np.sqrt(np.count_nonzero(self.count_as)))

    def correlation(self, parameters: CtfParameters) -> float:
        """Normalised cross-correlation of the measured rings with those of a CTF under the envelope."""
        model = self.model_as(parameters) * self.envelope_s
        norm = np.sqrt(np.sum(self.count_as * self.measured_as**2) * np.sum(self.count_as * model**2))
        return float(np.sum(self.count_as * self.measured_as * model) / norm) if norm > 0 else 0.0

    def with_envelope_of(self, parameters: CtfParameters) -> Rings:
        """Measure the envelope: the regression of the measured rings on a CTF's, 0.04 / A wide, from 0 up."""
        model = self.model_as(parameters)
        step = self.spectrum.frequency_s[1] - self.spectrum.frequency_s[0]
        window = np.ones(min(max(3, round(_ENVELOPE_WIDTH / step)), len(self.envelope_s)))
        product, square = (
            np.convolve(np.sum(self.count_as * values, axis=0), window, "same")
            for values in (self.measured_as * model, model**2)
        )
        return replace(self, envelope_s=np.maximum(product, 0) / np.maximum(square, 1e-30))
