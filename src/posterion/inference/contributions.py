"""What one image adds to the M-step, from its posterior on a grid or from one that is a sum of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.inference.adaptive import LevelImages
from posterion.inference.images import ImageBatch
from posterion.inference.laplace import GaussianPosterior, damping
from posterion.inference.posterior import Posterior, Support, posterior_of
from posterion.inference.slice_sums import SliceSums
from posterion.physics.fourier import Disc
from posterion.physics.projection import FourierVolume
from posterion.physics.shifts import shifted, unshifted_sum

__all__ = ["ImageTerms", "gaussian_slices", "gaussian_terms", "grid_slices", "grid_terms"]


@dataclass(frozen=True)
class ImageTerms:
    """One image's share of a batch's expectation.

    Attributes
    ----------
    posterior : Gamma
    log_evidence : log of the likelihood averaged over the prior
    cross_s, square_s : (radius + 1,) agreement with the reference that the posterior expects
    scored : rotations compared at the last band
    """

    posterior: Posterior | GaussianPosterior
    log_evidence: float
    cross_s: NDArray[np.float64]
    square_s: NDArray[np.float64]
    scored: int


def grid_terms(
    images: LevelImages, row: int, support: Support, mass: float, log_cell: float
) -> tuple[ImageTerms, Posterior]:
    """Posterior of one image on scored poses and its agreement with the reference that it expects.

    Parameters
    ----------
    images : the batch on the disc of the last level
    row : which image of the batch
    support : scored poses
    mass : share of the posterior to keep
    log_cell : log prior mass of one rotation
    """
    posterior = posterior_of(support, mass)
    weight_rt, pixels = posterior.weight_rt, images.pixels
    slices_rp = support.slices_rp[posterior.rotation_r]
    # Reference expected in the image's own frame: sum over rotations first, then each shift undone.
    expected_tp = (weight_rt.T @ slices_rp.view(np.float32)).view(np.complex64)
    expected_p = unshifted_sum(expected_tp, pixels, support.shifts_px[posterior.shift_t])
    power_p = weight_rt.sum(axis=1) @ (slices_rp.real**2 + slices_rp.imag**2)
    terms = ImageTerms(
        posterior=posterior,
        log_evidence=posterior.log_evidence + log_cell,
        cross_s=pixels.shell_sum((expected_p.conj() * images.whitened_ip[row]).real),
        square_s=pixels.shell_sum(images.ctf2_ip[row] * power_p),
        scored=len(support.matrices),
    )
    return terms, posterior


def grid_slices(batch: ImageBatch, row: int, posterior: Posterior, support: Support) -> SliceSums:
    """Slices of a grid posterior: ``sum_t Gamma C y / sigma2``, ``sum_t Gamma C^2 / sigma2`` per rotation."""
    moved_tp = shifted(batch.data_ip[row], batch.pixels, support.shifts_px[posterior.shift_t])
    matrices = support.matrices[posterior.rotation_r]
    return SliceSums.of_image(batch, row, matrices, posterior.weight_rt, moved_tp)


def gaussian_terms(
    images: LevelImages, row: int, volume: FourierVolume, posterior: GaussianPosterior, scored: int
) -> ImageTerms:
    """Agreement of one image with the reference that a sum of Gaussians expects, over its sigma points.

    Parameters
    ----------
    images : the batch on the disc of the last level
    row : which image of the batch
    volume : reference
    posterior : of the image
    scored : rotations compared while climbing
    """
    pixels = images.pixels
    slices_mp = volume.slices(posterior.matrices, pixels)
    data_mp = _spread(shifted(images.whitened_ip[row], pixels, posterior.shifts_px), posterior, images.pixels)
    weight_m = posterior.weight_m.astype(np.float32)
    cross_p = weight_m @ (slices_mp.real * data_mp.real + slices_mp.imag * data_mp.imag)
    power_p = weight_m @ (slices_mp.real**2 + slices_mp.imag**2)
    return ImageTerms(
        posterior=posterior,
        log_evidence=posterior.log_evidence,
        cross_s=pixels.shell_sum(cross_p),
        square_s=pixels.shell_sum(images.ctf2_ip[row] * power_p),
        scored=scored,
    )


def gaussian_slices(batch: ImageBatch, row: int, posterior: GaussianPosterior) -> SliceSums:
    """Slices of a sum of Gaussians: one for each sigma point, the image at its mean shift."""
    moved_mp = shifted(batch.data_ip[row], batch.pixels, posterior.shifts_px)
    moved_mp = _spread(moved_mp, posterior, batch.pixels)
    gamma_mm = np.diag(posterior.weight_m.astype(np.float32))
    return SliceSums.of_image(batch, row, posterior.matrices, gamma_mm, moved_mp)


def _spread(
    data_mp: NDArray[np.complex64], posterior: GaussianPosterior, pixels: Disc
) -> NDArray[np.complex64]:
    """Average shifted images over the spread of the shift about each sigma point, in place."""
    for peak in np.unique(posterior.peak_m):
        factor_p = damping(posterior.spread_kab[peak], pixels)
        if factor_p is not None:
            data_mp[posterior.peak_m == peak] *= factor_p
    return data_mp
