"""How much every place of a micrograph looks like the best of all templates: locally normalised correlation.

With noise of power P, the best linear detector of a template t seen through a contrast transfer C is the
correlation of X C / P with t; over its own standard deviation on noise it is a score with variance 1. It is
divided by the local noise level, so that carbon, ice and dense places compete on equal terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from posterion.micrographs.noise_model import NoiseSpectrum
from posterion.micrographs.reduced import (
    frequency_grid,
    grid_shape,
    hermitian_columns,
    mean_over_disc,
)
from posterion.micrographs.templates import TemplateBank

__all__ = ["Correlator", "ScoreMap", "Transfer"]

Real = NDArray[np.float32]

_BLOCK_VALUES = 1 << 20  # templates times pixels, so that a block stays in the cache
_SMALLEST_SHARE = 0.2  # of a disc inside the micrograph: corners have 0.25


@dataclass(frozen=True)
class ScoreMap:
    """Best template everywhere.

    Attributes
    ----------
    score_yx : (ny, nx) float32
        Score of the best template, in standard deviations of the local noise; of all noise for blobs.
    local_sd_yx : (ny, nx) float32
        Local standard deviation of the whitened micrograph over its mean one, within a particle's disc.
    fields_ryx : (R, ny, nx) float32
        Correlations with the bank's images.
    weights_kr : (K, R) float32
        Templates as combinations of these, each with variance 1 on noise.
    """

    score_yx: Real
    local_sd_yx: Real
    fields_ryx: Real
    weights_kr: Real

    def best_templates(self, index_yx: NDArray[np.intp]) -> NDArray[np.intp]:
        """Template (n,) with the highest score at each of the pixels (n, 2), row and column."""
        at_pixels = self.fields_ryx[:, index_yx[:, 0], index_yx[:, 1]]
        return np.asarray((self.weights_kr @ at_pixels).argmax(axis=0))


@dataclass(frozen=True)
class Transfer:
    """What lies between template and micrograph, as functions on the half spectrum of a grid.

    Attributes
    ----------
    whitening : (n, m) float32
        band / sqrt(P): makes the micrograph's noise white within the band.
    detector : (n, m) float32
        What the whitened micrograph is multiplied by before it meets templates: C band / sqrt(P).
    """

    whitening: Real
    detector: Real


class Correlator:
    """Templates laid out on one grid; used for many micrographs, by several threads at once.

    Parameters
    ----------
    bank : TemplateBank
        Templates on the grid's pixel size.
    shape_yx : (ny, nx)
        Of the reduced micrographs, pixels.
    pixel_size_angstrom, diameter_angstrom, lowpass_angstrom : float
        Of the grid, the particle, and the band's end, Angstrom; the band starts at three diameters.
    """

    def __init__(
        self,
        bank: TemplateBank,
        shape_yx: tuple[int, int],
        pixel_size_angstrom: float,
        diameter_angstrom: float,
        lowpass_angstrom: float,
    ) -> None:
        self.bank, self.shape = bank, shape_yx
        self.pixel_size_angstrom = pixel_size_angstrom
        self._radius_px = diameter_angstrom / (2 * pixel_size_angstrom)
        self._grid = grid_shape(shape_yx, bank.box_px)
        self.fx, self.fy, f = frequency_grid(self._grid, pixel_size_angstrom)
        self.cycles_per_px = f * np.float32(pixel_size_angstrom)
        self.band = _band(f, lowpass_angstrom, 3 * diameter_angstrom)
        self._spectra_r = np.conj(_laid_out(bank.images_r, self._grid))

    def transfer(self, noise: NoiseSpectrum, ctf: Real | None) -> Transfer:
        """Make the filters for a micrograph's noise and CTF (on ``fx``, ``fy``; 1 everywhere where None)."""
        whitening = np.asarray(self.band / np.sqrt(noise.at(self.cycles_per_px)), np.float32)
        return Transfer(whitening, whitening if ctf is None else np.asarray(whitening * ctf, np.float32))

    def score(self, values_yx: Real, transfer: Transfer) -> ScoreMap:
        """Correlate a micrograph (protein positive) with all templates.

        Parameters
        ----------
        values_yx : (ny, nx) float32
            Mean about zero, which is also what lies outside.
        transfer : Transfer

        Notes
        -----
        Roseman 2003, Ultramicroscopy 94, 225, with whitening and the CTF.
        """
        whitened = scipy.fft.rfft2(values_yx, s=self._grid) * transfer.whitening
        local_sd = self._local_sd(whitened)
        fields = self._fields(whitened * transfer.detector)
        weights = np.asarray(self.bank.weights_kr / self._noise_sd(transfer)[:, None], np.float32)
        score = _largest(fields.reshape(len(fields), -1), weights).reshape(self.shape)
        return ScoreMap(score / local_sd if self.bank.has_shape else score, local_sd, fields, weights)

    def white_noise(self, rng: np.random.Generator, transfer: Transfer) -> ScoreMap:
        """Score of noise that has the micrograph's spectrum and nothing else, to learn what noise can do."""
        white = rng.standard_normal(self.shape, np.float32)
        return self.score(white, Transfer(self.band, transfer.detector))

    def _local_sd(self, whitened: NDArray[np.complex64]) -> Real:
        """Root mean square of the whitened micrograph over a disc, relative to noise of the band."""
        ny, nx = self.shape
        image = scipy.fft.irfft2(whitened, s=self._grid)[:ny, :nx]
        square, share = mean_over_disc(np.stack([image**2, np.ones_like(image)]), self._radius_px)
        weights = hermitian_columns(self._grid[1])
        expected = float((self.band**2 * weights).sum()) / (self._grid[0] * self._grid[1])
        floor = np.float32(_SMALLEST_SHARE)
        level = np.maximum(square, 1e-6) / np.maximum(share, floor) / np.float32(expected)
        return np.asarray(np.sqrt(level), np.float32)

    def _fields(self, spectrum: NDArray[np.complex64]) -> Real:
        """Correlations (R, ny, nx) of the micrograph with the bank's images."""
        ny, nx = self.shape
        fields = np.empty((len(self._spectra_r), ny, nx), np.float32)
        for r, image_spectrum in enumerate(self._spectra_r):
            fields[r] = scipy.fft.irfft2(spectrum * image_spectrum, s=self._grid)[:ny, :nx]
        return fields

    def _noise_sd(self, transfer: Transfer) -> NDArray[np.float64]:
        """Compute the (K,) standard deviations of correlations with whitened noise: sqrt(a^T G a)."""
        amplitude = np.sqrt(hermitian_columns(self._grid[1])) * self.band * transfer.detector
        inside = amplitude != 0
        seen = self._spectra_r[:, inside] * amplitude[inside]
        parts = np.ascontiguousarray(seen).view(np.float32)
        gram = (parts @ parts.T).astype(np.float64) / (self._grid[0] * self._grid[1])
        weights = self.bank.weights_kr.astype(np.float64)
        variance = ((weights @ gram) * weights).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(variance, 1e-30)))


def _band(f: Real, lowpass_angstrom: float, highpass_angstrom: float) -> Real:
    """Soft band: 1 between 1 / high-pass and 1 / low-pass, zero at the origin."""
    low = 1 / np.sqrt(1 + (f * np.float32(lowpass_angstrom)) ** 16)
    with np.errstate(divide="ignore"):
        high = 1 / np.sqrt(1 + (1 / (f * np.float32(highpass_angstrom))) ** 8)
    band = np.asarray(low * high, np.float32)
    band[band < 1e-3] = 0
    return band


def _laid_out(images_r: Real, grid: tuple[int, int]) -> NDArray[np.complex64]:
    """Half spectra of small images on a large grid, their origin at its corner."""
    box = images_r.shape[-1]
    out = np.empty((len(images_r), grid[0], grid[1] // 2 + 1), np.complex64)
    for r, image in enumerate(images_r):
        large = np.zeros(grid, np.float32)
        large[:box, :box] = image
        out[r] = scipy.fft.rfft2(np.roll(large, (-(box // 2), -(box // 2)), (0, 1)))
    return out


def _largest(fields_rp: Real, weights_kr: Real) -> Real:
    """Largest of all templates' scores at each pixel, in blocks that stay in the cache."""
    count = fields_rp.shape[1]
    block = max(64, min(4096, _BLOCK_VALUES // len(weights_kr)))
    score = np.empty(count, np.float32)
    for start in range(0, count, block):
        scores_kp = weights_kr @ fields_rp[:, start : start + block]
        scores_kp.max(axis=0, out=score[start : start + block])
    return score
