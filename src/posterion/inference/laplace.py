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

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from posterion.inference.gauss_newton import Peaks
from posterion.inference.search import SearchPlan
from posterion.physics.fourier import Disc
from posterion.physics.rotations import matrices_from_rotation_vectors
from posterion.physics.symmetry import point_group_operators

__all__ = ["GaussianPosterior", "damping", "gaussian_posterior", "well_determined"]

_LEAST_NATS = 40.0
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
    spread_mab : (M, 2, 2) float64, covariance of the shift about that mean, pixels^2
    log_evidence : log of the integral over all poses
    pmax : mass of the cell of the plan's last grid that lies on the highest peak
    effective_orientations : exp(entropy) of the orientations, in cells of that grid, at least 1
    matrix : (3, 3) float64, highest peak
    shift_px : (2,) float64
    """

    matrices: NDArray[np.float64]
    shifts_px: NDArray[np.float64]
    weight_m: NDArray[np.float64]
    spread_mab: NDArray[np.float64]
    log_evidence: float
    pmax: float
    effective_orientations: float
    matrix: NDArray[np.float64]
    shift_px: NDArray[np.float64]


def well_determined(peaks: Peaks) -> NDArray[np.bool_]:
    """Tell which peaks a Gaussian describes: converged, and explaining the image by 40 nats or more.

    Below about 30 nats the width of the posterior is wrong by a fifth and more (docs/log.md).
    """
    return peaks.converged_k & (peaks.nats_k >= _LEAST_NATS)


def gaussian_posterior(peaks: Peaks, plan: SearchPlan, radius: int) -> GaussianPosterior:
    """Weigh the peaks of one image and lay sigma points around them.

    Parameters
    ----------
    peaks : of one image, different from each other
    plan : gives symmetry and the grid in whose cells the posterior is measured
    radius : highest shell that the sigma points have to serve, Fourier pixels
    """
    volume = np.log(8 * np.pi**2 / len(point_group_operators(plan.point_group)))
    _, log_det_k = np.linalg.slogdet(peaks.normal_kab)
    log_mass_k = peaks.log_prob_k + 2.5 * np.log(2 * np.pi) - 0.5 * log_det_k - volume
    log_evidence = float(logsumexp(log_mass_k))
    weight_k = np.exp(log_mass_k - log_evidence)
    keep = np.flatnonzero(weight_k >= min(_LEAST_WEIGHT, weight_k.max())).tolist()
    covariance_kab = np.asarray(np.linalg.inv(peaks.normal_kab)[:, :3, :3], np.float64)
    spread_kab = np.asarray(np.linalg.inv(peaks.normal_kab[:, 3:, 3:]), np.float64)
    points = [_sigma_points(peaks, k, covariance_kab[k], spread_kab[k], radius) for k in keep]
    counts = [len(matrices) for matrices, _ in points]
    weight_m = np.repeat(weight_k[keep] / counts, counts)
    best = int(np.argmax(weight_k))
    cells_k = _cells(covariance_kab, plan)
    entropy = float(np.sum(weight_k * (np.log(cells_k) - np.log(np.maximum(weight_k, 1e-300)))))
    return GaussianPosterior(
        matrices=np.concatenate([matrices for matrices, _ in points]),
        shifts_px=np.concatenate([shifts for _, shifts in points]),
        weight_m=weight_m / weight_m.sum(),
        spread_mab=np.repeat(spread_kab[keep], counts, axis=0),
        log_evidence=log_evidence,
        pmax=float(weight_k[best] * _mass_of_cell(peaks.normal_kab[best], plan)),
        effective_orientations=float(np.exp(max(entropy, 0.0))),
        matrix=peaks.poses.matrices[best],
        shift_px=peaks.poses.shifts_px[best],
    )


def _sigma_points(
    peaks: Peaks,
    k: int,
    covariance_ab: NDArray[np.float64],
    spread_ab: NDArray[np.float64],
    radius: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Poses that stand for one peak; a single one where the angles move nothing by a quarter of a pixel."""
    variance_j, axes_aj = np.linalg.eigh(covariance_ab)
    deviation_j = np.sqrt(np.maximum(variance_j, 0))
    used = np.flatnonzero(np.sqrt(3) * deviation_j * radius > _NOTICEABLE_PX)
    matrix, shift_px = peaks.poses.matrices[k], peaks.poses.shifts_px[k]
    if not len(used):
        return matrix[None], shift_px[None]
    half = (np.sqrt(len(used)) * deviation_j[used] * axes_aj[:, used]).T
    turns_ma = np.concatenate([half, -half])
    # A turned slice fits best at another shift: N_tt dt = -N_tw dw.
    moves_mb = -turns_ma @ peaks.normal_kab[k, :3, 3:] @ spread_ab
    return matrices_from_rotation_vectors(turns_ma) @ matrix, shift_px + moves_mb


def _cells(covariance_kab: NDArray[np.float64], plan: SearchPlan) -> NDArray[np.float64]:
    """exp(entropy) of Gaussians over rotations, in cells of the plan's last grid, at least 1."""
    cell = 8 * np.pi**2 / len(point_group_operators(plan.point_group)) / plan.cell_count
    volume_k = np.sqrt((2 * np.pi * np.e) ** 3 * np.linalg.det(covariance_kab))
    return np.asarray(np.maximum(volume_k / cell, 1.0))


def _mass_of_cell(normal_ab: NDArray[np.float64], plan: SearchPlan) -> float:
    """Mass of a Gaussian within the cell of the plan's last grid of rotations and shifts about its centre."""
    cell = 8 * np.pi**2 / len(point_group_operators(plan.point_group)) / plan.cell_count
    volume = cell * plan.levels[-1].shift_step_px ** 2
    return float(min(1.0, volume * np.sqrt(np.linalg.det(normal_ab / (2 * np.pi)))))


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
