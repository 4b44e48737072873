"""Particles in one micrograph: templates or blobs against it, a threshold from its noise, peaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.micrographs.correlation import Correlator, ScoreMap, Transfer
from posterion.micrographs.noise_model import FalsePositives, NoiseSpectrum, noise_spectrum
from posterion.micrographs.outliers import unlike_places
from posterion.micrographs.peaks import find_peaks
from posterion.micrographs.reduced import ReducedMicrograph, reduce_micrograph
from posterion.micrographs.templates import TemplateBank

__all__ = ["PickOptions", "Picker", "Picks"]

Real = NDArray[np.float32]
CtfFunction = Callable[[Real, Real], Real]
"""From frequencies fx, fy (1/Angstrom, any shape) to the CTF, positive at low resolution."""

_PIXELS_PER_LOWPASS = 3.0
_NOISE_EDGE_DIAMETERS = 14  # of the simulated noise that the threshold comes from
_SEED = 20


@dataclass(frozen=True)
class PickOptions:
    """What to look for and how to judge it.

    Attributes
    ----------
    diameter_angstrom
        Of the particle.
    lowpass_angstrom
        Finest detail compared; a sixth of the diameter but at least 20 A where None.
    false_positives
        Expected number of peaks of pure noise per micrograph; sets the threshold.
    threshold
        Lowest score, in standard deviations of the noise, in place of that.
    exclusion_angstrom
        Two particles are not nearer than this; 0.7 diameters where None.
    outlier_limit_sd
        Ice, dirt and carbon: places whose grey or texture lies this many robust standard deviations beyond
        that of background and particles are left out; 0 keeps all.
    white_protein
        Particles are brighter than the ice; in micrographs they usually are darker.
    """

    diameter_angstrom: float
    lowpass_angstrom: float | None = None
    false_positives: float = 1.0
    threshold: float | None = None
    exclusion_angstrom: float | None = None
    outlier_limit_sd: float = 6.0
    white_protein: bool = False

    def __post_init__(self) -> None:
        positive = {
            "--diameter": self.diameter_angstrom,
            "--lowpass": self.lowpass_angstrom,
            "--false-positives": self.false_positives,
            "--minimum-distance": self.exclusion_angstrom,
        }
        for name, value in positive.items():
            if value is not None and not (np.isfinite(value) and value > 0):
                raise PosterionError(f"{name} {value:g}: a number above 0 was expected")

    @property
    def lowpass(self) -> float:
        """Finest detail compared, Angstrom."""
        return self.lowpass_angstrom or max(20.0, self.diameter_angstrom / 6)

    @property
    def exclusion(self) -> float:
        """Smallest distance of two particles, Angstrom."""
        return self.exclusion_angstrom or 0.7 * self.diameter_angstrom

    @property
    def search_pixel_angstrom(self) -> float:
        """Pixel that micrographs are reduced to, Angstrom: three to the finest detail."""
        return self.lowpass / _PIXELS_PER_LOWPASS


@dataclass(frozen=True)
class Picks:
    """Particles of one micrograph, highest score first.

    Attributes
    ----------
    x_px_i, y_px_i : (n,) float64
        Centres in pixels of the micrograph: column and row of the array, the centre of the first pixel at 0.
    score_i : (n,) float64
        Standard deviations of the noise.
    class_i : (n,) int32
        Number from 1 of the best direction, class average or blob size.
    psi_deg_i : (n,) float64
        In-plane angle of the best template.
    threshold : float
        Lowest score that was accepted.
    expected_false : float
        Peaks above the threshold that the micrograph's noise alone would give.
    best_score : float
        Highest score of the micrograph, accepted or not.
    left_out : (ny, nx) bool
        Places of the reduced micrograph that were not searched.
    reduced : ReducedMicrograph
        What was searched, for pictures.
    """

    x_px_i: NDArray[np.float64]
    y_px_i: NDArray[np.float64]
    score_i: NDArray[np.float64]
    class_i: NDArray[np.int32]
    psi_deg_i: NDArray[np.float64]
    threshold: float
    expected_false: float
    best_score: float
    left_out: NDArray[np.bool_]
    reduced: ReducedMicrograph

    def __len__(self) -> int:
        return len(self.x_px_i)


class Picker:
    """Finds particles in one micrograph after another; the templates are laid out once per size.

    Parameters
    ----------
    bank : TemplateBank
        Templates on ``options.search_pixel_angstrom``.
    options : PickOptions
    """

    def __init__(self, bank: TemplateBank, options: PickOptions) -> None:
        self.bank, self.options = bank, options
        self._correlator = lru_cache(maxsize=2)(self._new_correlator)
        pixel = options.search_pixel_angstrom
        edge = int(np.ceil(_NOISE_EDGE_DIAMETERS * options.diameter_angstrom / pixel))
        self._noise_field = self._new_correlator((edge, edge), pixel)
        self._quiet_share = self._quiet_power_of_white_noise()

    def pick(self, values_yx: Real, pixel_size_angstrom: float, ctf: CtfFunction | None = None) -> Picks:
        """Find the particles of one micrograph.

        Parameters
        ----------
        values_yx : (ny, nx) float32
            Grey values.
        pixel_size_angstrom : float
        ctf : function, optional
            The micrograph's CTF; templates are compared without one where None.

        Raises
        ------
        PosterionError
            When a particle is larger than the micrograph.
        """
        options = self.options
        if options.diameter_angstrom > min(values_yx.shape) * pixel_size_angstrom:
            raise PosterionError(
                f"a particle of {options.diameter_angstrom:g} A is larger than the micrograph of "
                f"{values_yx.shape[1]} x {values_yx.shape[0]} pixels of {pixel_size_angstrom:g} A; "
                "check --diameter and --pixel-size"
            )
        reduced = reduce_micrograph(values_yx, pixel_size_angstrom, options.search_pixel_angstrom)
        values = reduced.values_yx if options.white_protein else -reduced.values_yx
        pixel = reduced.pixel_size_angstrom
        radius_px = options.diameter_angstrom / (2 * pixel)
        noise = noise_spectrum(values, radius_px).scaled(1 / self._quiet_share)
        correlator = self._correlator((values.shape[0], values.shape[1]), round(pixel, 4))
        scores = correlator.score(values, _transfer(correlator, noise, ctf))
        area = values.size * pixel**2
        false_positives = self._false_positives(noise, ctf)
        threshold = options.threshold
        if threshold is None:
            threshold = false_positives.threshold(options.false_positives, area)
        _, candidates = find_peaks(scores.score_yx, threshold, options.exclusion / pixel)
        left_out = unlike_places(values, scores.local_sd_yx, candidates, radius_px, options.outlier_limit_sd)
        return self._picks(reduced, scores, left_out, threshold, false_positives.expected(threshold, area))

    def _new_correlator(self, shape_yx: tuple[int, int], pixel_size_angstrom: float) -> Correlator:
        options = self.options
        return Correlator(
            self.bank, shape_yx, pixel_size_angstrom, options.diameter_angstrom, options.lowpass
        )

    def _quiet_power_of_white_noise(self) -> float:
        """Power that `noise_spectrum` finds in white noise of power 1: quiet places have a little less."""
        field = self._noise_field
        white = np.random.default_rng(_SEED + 1).standard_normal(field.shape, np.float32)
        found = noise_spectrum(white, self.options.diameter_angstrom / (2 * field.pixel_size_angstrom))
        return float((found.at(field.cycles_per_px) * field.band).sum() / field.band.sum())

    def _false_positives(self, noise: NoiseSpectrum, ctf: CtfFunction | None) -> FalsePositives:
        """Search noise with the micrograph's spectrum and CTF, always the same noise, for its peaks."""
        field = self._noise_field
        scores = field.white_noise(np.random.default_rng(_SEED), _transfer(field, noise, ctf)).score_yx
        pixel = field.pixel_size_angstrom
        _, index = find_peaks(scores, 0.0, self.options.exclusion / pixel)
        heights = scores[index[:, 0], index[:, 1]]
        area = scores.size * pixel**2
        return FalsePositives.from_noise_peaks(heights, area, self.options.exclusion)

    def _picks(
        self,
        reduced: ReducedMicrograph,
        scores: ScoreMap,
        left_out: NDArray[np.bool_],
        threshold: float,
        expected_false: float,
    ) -> Picks:
        searched = np.where(left_out, np.float32(-np.inf), scores.score_yx)
        position, index = find_peaks(
            searched, threshold, self.options.exclusion / reduced.pixel_size_angstrom
        )
        rows, columns = index.T
        template = scores.best_templates(index)
        return Picks(
            x_px_i=position[:, 0] * reduced.step_px[1],
            y_px_i=position[:, 1] * reduced.step_px[0],
            score_i=searched[rows, columns].astype(np.float64),
            class_i=self.bank.class_k[template],
            psi_deg_i=self.bank.psi_deg_k[template],
            threshold=float(threshold),
            expected_false=float(expected_false),
            best_score=float(searched.max()),
            left_out=left_out,
            reduced=reduced,
        )


def _transfer(correlator: Correlator, noise: NoiseSpectrum, ctf: CtfFunction | None) -> Transfer:
    return correlator.transfer(noise, None if ctf is None else ctf(correlator.fx, correlator.fy))
