"""One batch of images made ready for comparison: centred, masked, transformed, times the CTF, whitened."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from posterion.data.particles import Particles
from posterion.data.unusable import usable_images
from posterion.physics.ctf import ctf_at
from posterion.physics.fourier import Disc, disc, hermitian_weights, shell_index_2d
from posterion.physics.polar import PolarGrid
from posterion.physics.soft_masks import soft_disc

__all__ = [
    "MASK_EDGE_PX",
    "ImageBatch",
    "NoiseModel",
    "PolarImages",
    "background_power",
    "mask_area",
    "prepare_images",
]

MASK_EDGE_PX = 5.0
"""Width of the soft edge of the disc in which images are compared, pixels."""


@dataclass(frozen=True)
class NoiseModel:
    """Noise spectra and intensity scales that turn an image into a likelihood.

    Attributes
    ----------
    sigma2_gs : (groups, box//2+1) float64, variance of the complex noise coefficient per shell and noise
        group
    noise_group_i : (N,) integers, noise group (optics group) of each particle
    scale_g : (scale groups,) float64, intensity of the signal relative to the reference
    scale_group_i : (N,) integers, scale group (micrograph) of each particle
    """

    sigma2_gs: NDArray[np.float64]
    noise_group_i: NDArray[np.integer]
    scale_g: NDArray[np.float64]
    scale_group_i: NDArray[np.integer]


@dataclass(frozen=True)
class PolarImages:
    """Images of a batch on the samples of two polar grids.

    Attributes
    ----------
    whitened_pi : (A J, n) complex64, ``C y / sigma2`` of masked images times the pixels of a ring
    ctf2_pi : (A J, n) float32, ``C^2 / sigma2`` times the same
    data_pi : (A' J', n) complex64, ``C y / sigma2`` of images outside of no mask, on the M-step's rings
    inserted_ctf2_pi : (A' J', n) float32, ``C^2 / sigma2`` there
    power_ij : (n, J) float64, half the whitened power of each masked image on every compared ring
    """

    whitened_pi: NDArray[np.complex64]
    ctf2_pi: NDArray[np.float32]
    data_pi: NDArray[np.complex64]
    inserted_ctf2_pi: NDArray[np.float32]
    power_ij: NDArray[np.float64]


@dataclass(frozen=True)
class ImageBatch:
    """Particles of one batch on the pixels of one disc.

    Attributes
    ----------
    index_i : (n,) int64, position of each particle in the set
    pixels : the disc
    whitened_ip : (n, P) complex64, ``w C y / sigma2`` of the masked image (w: Hermitian multiplicity, 0 at
        DC)
    ctf2_ip : (n, P) float32, ``w C^2 / sigma2``; C includes the intensity scale
    data_ip : (n, P) complex64, ``C y / sigma2`` of the image outside of no mask: what the M-step adds up
    power_ip : (n, P) float32, ``1/2 w |y|^2 / sigma2`` of the masked image
    masked_power_is : (n, box//2+1) float64, mean ``|y|^2`` of the masked image per shell, divided by the
        mask's area; on the pixels or rings that are compared
    shift0_px : (n, 2) float64, whole-pixel origin offsets already applied
    finite_i : (n,) bool, False where an image is not of `usable_images`; its entries are zero
    score_weight_ip : (n, P) float32 or None, factors of the M-step; ``data_ip`` holds them already
    polar : the images on polar grids; None where none were asked for
    """

    index_i: NDArray[np.int64]
    pixels: Disc
    whitened_ip: NDArray[np.complex64]
    ctf2_ip: NDArray[np.float32]
    data_ip: NDArray[np.complex64]
    power_ip: NDArray[np.float32]
    masked_power_is: NDArray[np.float64]
    shift0_px: NDArray[np.float64]
    finite_i: NDArray[np.bool_]
    score_weight_ip: NDArray[np.float32] | None = None
    polar: PolarImages | None = None

    def __len__(self) -> int:
        return len(self.index_i)

    @property
    def power_i(self) -> NDArray[np.float64]:
        """Half the whitened power of each masked image over the whole disc, (n,)."""
        return np.asarray(self.power_ip.sum(axis=1, dtype=np.float64))

    @property
    def on_rings(self) -> PolarImages:
        """The images on polar grids.

        Raises
        ------
        ValueError
            Where none were asked for.
        """
        if self.polar is None:
            raise ValueError("the images have not been sampled on polar grids")
        return self.polar

    def inserted_ctf2(self, rows: int | list[int]) -> NDArray[np.float32]:
        """``C^2 / sigma2`` that the M-step adds up beside ``data_ip``, for one image or several."""
        ctf2 = self.ctf2_ip[rows] / self.pixels.multiplicity_p
        return ctf2 if self.score_weight_ip is None else ctf2 * self.score_weight_ip[rows]

    def weighted(self, weight_ip: NDArray[np.float32]) -> ImageBatch:
        """Weigh the images in the M-step, not in the comparison: (n, P) factors.

        Raises
        ------
        ValueError
            Where the images are on polar grids too, of which the M-step's would stay as they are.
        """
        if self.polar is not None:
            raise ValueError("images on polar grids cannot be weighted")
        return replace(self, data_ip=self.data_ip * weight_ip, score_weight_ip=weight_ip)


def mask_area(box: int, diameter_px: float) -> float:
    """Mean of the squared soft disc: the share of white noise power that masking leaves."""
    return float(np.mean(soft_disc(box, diameter_px / 2, MASK_EDGE_PX) ** 2))


def background_power(images: NDArray[np.float32], diameter_px: float) -> NDArray[np.float64]:
    """Power per shell of what lies outside the particle, as if it filled the image.

    Parameters
    ----------
    images : (n, box, box) float32
    diameter_px : diameter of the soft disc that is cut out, pixels

    Returns
    -------
    (n, box//2+1) float64
    """
    box = images.shape[-1]
    outside = 1 - soft_disc(box, diameter_px / 2, MASK_EDGE_PX)
    mean = (images * outside).sum((1, 2)) / outside.sum()
    spectra = scipy.fft.rfft2((images - mean[:, None, None]) * outside)
    return _shell_power(spectra, box) / np.mean(outside**2)


def prepare_images(
    particles: Particles,
    index_i: NDArray[np.int64],
    images: NDArray[np.float32],
    radius: int,
    diameter_px: float,
    noise: NoiseModel,
    shift0_px: NDArray[np.float64],
    *,
    polar: tuple[PolarGrid, PolarGrid] | None = None,
) -> ImageBatch:
    """Centre, mask, transform and whiten a batch of images.

    Parameters
    ----------
    particles : the set, for the CTF
    index_i : (n,) int64, which particles these are
    images : (n, box, box) float32
    radius : highest shell compared, Fourier pixels
    diameter_px : diameter of the soft mask, pixels
    noise : spectra and scales
    shift0_px : (n, 2) whole-pixel origin offsets (x, y) applied before masking
    polar : grids to compare on and to collect on, where the dense pass goes by harmonics
    """
    box = images.shape[-1]
    pixels = disc(box, radius)
    finite_i = usable_images(images)
    centred = _roll(np.where(finite_i[:, None, None], images, 0), shift0_px)
    mask = soft_disc(box, diameter_px / 2, MASK_EDGE_PX)
    background = (centred * (1 - mask)).sum((1, 2)) / np.maximum((1 - mask).sum(), 1e-9)
    centred -= background[:, None, None]
    full = scipy.fft.rfft2(scipy.fft.ifftshift(centred, axes=(1, 2)))
    masked = scipy.fft.rfft2(scipy.fft.ifftshift(centred * mask, axes=(1, 2)))
    ctf_ip = ctf_at(pixels.kx_p, pixels.ky_p, box, particles, index_i)
    ctf_ip *= noise.scale_g[noise.scale_group_i[index_i]].astype(np.float32)[:, None]
    inverse_ip = _inverse_sigma2(noise, index_i, pixels.shell_p)
    inverse_ip[~finite_i] = 0
    weight_ip = inverse_ip * pixels.multiplicity_p
    weight_ip[:, pixels.shell_p == 0] = 0
    masked_ip = pixels.take(masked)
    power_is, on_rings = _shell_power(masked, box), None
    if polar is not None:
        on_rings, power_is[:, : polar[0].radius + 1] = _on_rings(
            particles, index_i, noise, finite_i, polar, (masked, full)
        )
    return ImageBatch(
        index_i=index_i,
        pixels=pixels,
        whitened_ip=masked_ip * (ctf_ip * weight_ip),
        ctf2_ip=ctf_ip**2 * weight_ip,
        data_ip=pixels.take(full) * (ctf_ip * inverse_ip),
        power_ip=0.5 * weight_ip * (masked_ip.real**2 + masked_ip.imag**2),
        masked_power_is=power_is / mask_area(box, diameter_px),
        shift0_px=shift0_px,
        finite_i=finite_i,
        polar=on_rings,
    )


def _on_rings(
    particles: Particles,
    index_i: NDArray[np.int64],
    noise: NoiseModel,
    finite_i: NDArray[np.bool_],
    grids: tuple[PolarGrid, PolarGrid],
    spectra: tuple[NDArray[np.complex64], NDArray[np.complex64]],
) -> tuple[PolarImages, NDArray[np.float64]]:
    """Sample masked images on the compared rings, unmasked ones on those collected; times CTF, whitened.

    Also the masked images' mean power per shell (n, radius + 1), on the rings where residuals are taken.
    """
    compared, collected = (grid.sample(spectrum) for grid, spectrum in zip(grids, spectra, strict=True))

    def ctf_and_weight(grid: PolarGrid, area_j: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """CTF and ``area / sigma2`` on a grid's samples, (A J, n) each."""
        ctf_ip = ctf_at(*grid.positions(), grid.box, particles, index_i)
        ctf_ip *= noise.scale_g[noise.scale_group_i[index_i]].astype(np.float32)[:, None]
        inverse_ij = _inverse_sigma2(noise, index_i, grid.ring_shell) * area_j
        inverse_ij[~finite_i] = 0
        inverse_ij[:, grid.ring_shell == 0] = 0
        return [ctf_ip.T, np.tile(inverse_ij, (1, grid.angles)).T]

    ctf_pi, weight_pi = ctf_and_weight(grids[0], grids[0].ring_area)
    power_pi = compared.real**2 + compared.imag**2
    power_ij = grids[0].ring_mean(power_pi * weight_pi) / 2
    whitened_pi, ctf2_pi = compared * (ctf_pi * weight_pi), np.ascontiguousarray(ctf_pi**2 * weight_pi)
    ctf_pi, weight_pi = ctf_and_weight(grids[1], np.ones(1, np.float32))
    data_pi, inserted_pi = collected * (ctf_pi * weight_pi), np.ascontiguousarray(ctf_pi**2 * weight_pi)
    images = PolarImages(whitened_pi, ctf2_pi, data_pi, inserted_pi, power_ij)
    return images, grids[0].shell_mean(power_pi)


def _roll(images: NDArray[np.float32], shift_px: NDArray[np.float64]) -> NDArray[np.float32]:
    """Move each image by whole pixels (x, y), around the edges."""
    moves = np.rint(shift_px).astype(int)
    return np.stack([np.roll(im, (dy, dx), axis=(0, 1)) for im, (dx, dy) in zip(images, moves, strict=True)])


def _inverse_sigma2(
    noise: NoiseModel, index_i: NDArray[np.int64], shell_p: NDArray[np.integer]
) -> NDArray[np.float32]:
    # The mean of one image's background is taken off, so its DC can have no variance at all.
    inverse_gs = np.divide(1, noise.sigma2_gs, out=np.zeros_like(noise.sigma2_gs), where=noise.sigma2_gs > 0)
    spectrum_gp = inverse_gs.astype(np.float32)[:, shell_p]
    return np.asarray(spectrum_gp[noise.noise_group_i[index_i]])


def _shell_power(spectra: NDArray[np.complex64], box: int) -> NDArray[np.float64]:
    """Mean ``|F|^2`` per shell 0 .. box//2 of the whole plane, from half spectra (n, box, box//2+1).

    Pixels weigh as they do where images are compared, else a residual ``|y|^2 - 2 y.R + |R|^2`` can come out
    negative in shells where the signal is strong and falls steeply.
    """
    shell = shell_index_2d(box)
    weight = np.broadcast_to(hermitian_weights(box), shell.shape).ravel()
    shell, weighted = shell.ravel(), np.abs(spectra.reshape(len(spectra), shell.size)) ** 2 * weight
    sums = np.array([np.bincount(shell, row)[: box // 2 + 1] for row in weighted])
    return sums.reshape(-1, box // 2 + 1) / np.bincount(shell, weight)[: box // 2 + 1]
