r"""The posterior as a sum of Gaussians around its peaks, and the few poses that stand for it in the M-step.

Around a peak ``log Gamma = log_prob - 1/2 delta^T N delta`` in the five pose parameters, so (Laplace)

    evidence_k = exp(log_prob_k) (2 pi)^(5/2) |N_k|^(-1/2) / (8 pi^2 / |G|)

weighs the peaks of one image against each other, with a prior that is uniform over rotations up to the |G|
equivalent ones. Given the rotation, the shift is Gaussian too and is integrated exactly: its mean moves with
the rotation, its spread S damps high frequencies, ``E exp(2 pi i k.t / n) = exp(2 pi i k.t0 / n) exp(-2 pi^2
k^T S k / n^2)``. What is left, three angles, is carried by sigma points: 2m poses at ``sqrt(m)`` standard
deviations along the m principal axes that matter, exact for polynomials of the angles up to the third degree.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from posterion.inference.climbing import Peaks
from posterion.inference.search import SearchPlan
from posterion.physics.fourier import Disc
from posterion.physics.rotations import matrices_from_rotation_vectors
from posterion.physics.symmetry import point_group_operators

__all__ = ["GaussianPosterior", "damping", "gaussian_posteriors", "well_determined"]

_LEAST_NATS, _WIDEST_PX = 30.0, 0.7
_LEAST_WEIGHT = 1e-3
_NOTICEABLE_PX = 0.25
_NOTICEABLE_DAMPING = 0.01


@dataclass(frozen=True)
class GaussianPosterior:
    """Gamma of one particle as a sum of Gaussians.

    Attributes
    ----------
    matrices : (M, 3, 3) float64, sigma points of all peaks
    shifts_px : (M, 2) float64, mean shift at each
    weight_m : (M,) float64, sums to one
    peak_m : (M,) which peak each belongs to
    spread_kab : (K, 2, 2) float64, covariance of the shift about its mean at each peak, pixels^2
    log_evidence : log of the integral over all poses
    pmax : mass of the cell of the plan's last grid that lies on the highest peak
    effective_orientations : exp(entropy) of the orientations, in cells of that grid, at least 1
    matrix : (3, 3) float64, highest peak
    shift_px : (2,) float64
    """

    matrices: NDArray[np.float64]
    shifts_px: NDArray[np.float64]
    weight_m: NDArray[np.float64]
    peak_m: NDArray[np.intp]
    spread_kab: NDArray[np.float64]
    log_evidence: float
    pmax: float
    effective_orientations: float
    matrix: NDArray[np.float64]
    shift_px: NDArray[np.float64]


def well_determined(peaks: Peaks, radius: int) -> NDArray[np.bool_]:
    """Tell which peaks a Gaussian describes: converged, with 30 nats, and narrower than 0.7 Fourier pixels.

    Width is the largest standard deviation of an angle times the radius: how far the slice's edge moves. What
    an image says about being a particle at all is not in it: a hollow sphere may explain it by 60 nats in any
    orientation. Wider peaks are neither Gaussian nor alone (docs/log.md); such an image keeps its grid.

    Parameters
    ----------
    peaks : of any images
    radius : highest shell that was compared, Fourier pixels
    """
    determined_k = peaks.converged_k & (peaks.nats_k >= _LEAST_NATS)
    # Only of these: without a signal the normal matrix has no inverse.
    covariance_kab = np.linalg.inv(peaks.normal_kab[determined_k])[:, :3, :3]
    determined_k[determined_k] = np.sqrt(np.linalg.eigvalsh(covariance_kab)[:, -1]) * radius < _WIDEST_PX
    return determined_k


def gaussian_posteriors(peaks: Peaks, plan: SearchPlan, radius: int) -> list[GaussianPosterior]:
    """Weigh the peaks of each image and lay sigma points around them.

    Parameters
    ----------
    peaks : different peaks of each image, ordered by image
    plan : gives symmetry and the grid in whose cells the posterior is measured
    radius : highest shell that the sigma points have to serve, Fourier pixels

    Returns
    -------
    One posterior for each image that has peaks, in the order of the images.
    """
    rotations = 8 * np.pi**2 / len(point_group_operators(plan.point_group))
    _, log_det_k = np.linalg.slogdet(peaks.normal_kab)
    log_mass_k = peaks.log_prob_k + 2.5 * np.log(2 * np.pi) - 0.5 * log_det_k - np.log(rotations)
    covariance_kab = np.asarray(np.linalg.inv(peaks.normal_kab)[:, :3, :3], np.float64)
    spread_kab = np.asarray(np.linalg.inv(peaks.normal_kab[:, 3:, 3:]), np.float64)
    owner_m, turns_m = _sigma_points(covariance_kab, radius)
    # A turned slice fits best at another shift: N_tt dt = -N_tw dw.
    moves_m = -np.einsum("ma,mab,mbc->mc", turns_m, peaks.normal_kab[owner_m, :3, 3:], spread_kab[owner_m])
    matrices = matrices_from_rotation_vectors(turns_m) @ peaks.poses.matrices[owner_m]
    shifts_px = peaks.poses.shifts_px[owner_m] + moves_m
    cell = rotations / plan.cell_count
    cells_k = np.maximum(np.sqrt((2 * np.pi * np.e) ** 3 * np.linalg.det(covariance_kab)) / cell, 1.0)
    log_cell_k = np.log(cell * plan.levels[-1].shift_step_px ** 2) - 2.5 * np.log(2 * np.pi) + 0.5 * log_det_k
    posteriors = []
    first = np.flatnonzero(np.diff(peaks.poses.image_k, prepend=-1))
    for start, stop in pairwise([*first.tolist(), len(peaks.log_prob_k)]):
        log_evidence, weight_k = _normalised(log_mass_k[start:stop])
        points = slice(*np.searchsorted(owner_m, [start, stop]))
        count_k = np.bincount(owner_m[points] - start, minlength=stop - start)
        weight_m = (np.where(weight_k < _LEAST_WEIGHT, 0, weight_k) / count_k)[owner_m[points] - start]
        used = np.flatnonzero(weight_m) + points.start
        best = int(np.argmax(weight_k))
        spread_of = np.log(cells_k[start:stop]) - np.log(np.maximum(weight_k, 1e-300))
        posteriors.append(
            GaussianPosterior(
                matrices=matrices[used],
                shifts_px=shifts_px[used],
                weight_m=weight_m[weight_m > 0] / weight_m.sum(),
                peak_m=owner_m[used] - start,
                spread_kab=spread_kab[start:stop],
                log_evidence=log_evidence,
                pmax=float(weight_k[best] * np.exp(min(log_cell_k[start + best], 0.0))),
                effective_orientations=float(np.exp(weight_k @ spread_of)),
                matrix=peaks.poses.matrices[start + best],
                shift_px=peaks.poses.shifts_px[start + best],
            )
        )
    return posteriors


def _normalised(log_mass_k: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Log of the sum of masses, and the share of each."""
    top = log_mass_k.max()
    mass_k = np.exp(log_mass_k - top)
    total = mass_k.sum()
    return float(top + np.log(total)), mass_k / total


def _sigma_points(
    covariance_kab: NDArray[np.float64], radius: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Rotation vectors (M, 3) that stand for each peak, and whose they are (M,), ascending.

    A principal axis counts where it moves the slice's edge noticeably; a peak without one has a single point.
    """
    variance_kj, axes_kaj = np.linalg.eigh(covariance_kab)
    deviation_kj = np.sqrt(np.maximum(variance_kj, 0))
    used_kj = np.sqrt(3) * deviation_kj * radius > _NOTICEABLE_PX
    count_k = used_kj.sum(axis=1)
    k, j = np.nonzero(used_kj)
    half = (np.sqrt(count_k[k]) * deviation_kj[k, j])[:, None] * axes_kaj[k, :, j]
    single = np.flatnonzero(count_k == 0)
    owner_m = np.concatenate([k, k, single])
    turns_m = np.concatenate([half, -half, np.zeros((len(single), 3))])
    order = np.argsort(owner_m, kind="stable")
    return owner_m[order], turns_m[order]


def damping(spread_ab: NDArray[np.float64], pixels: Disc) -> NDArray[np.float32] | None:
    """Factor ``exp(-2 pi^2 k^T S k / n^2)`` of a Gaussian spread of the shift; None where it changes nothing.

    Parameters
    ----------
    spread_ab : (2, 2) float64, pixels^2
    pixels : disc

    Returns
    -------
    (P,) float32
    """
    scale = 2 * (np.pi / pixels.box) ** 2
    if scale * pixels.radius**2 * np.trace(spread_ab) < _NOTICEABLE_DAMPING:
        return None
    kx, ky = pixels.kx_p.astype(np.float32), pixels.ky_p.astype(np.float32)
    (xx, xy), (_, yy) = (scale * spread_ab).astype(np.float32)
    return np.asarray(np.exp(-(xx * kx * kx + 2 * xy * kx * ky + yy * ky * ky)))
