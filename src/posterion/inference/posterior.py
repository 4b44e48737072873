"""From log-probabilities to the posterior Gamma of one particle: weights, evidence, Pmax and a pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.inference.search import LevelCount
from posterion.physics.rotations import trace_of_angle

__all__ = ["Posterior", "Support", "posterior_of"]


@dataclass(frozen=True)
class Support:
    """Poses scored for one particle: every rotation with every shift.

    Attributes
    ----------
    matrices : (R, 3, 3) float64
    shifts_px : (T, 2) float64, origin offsets (x, y) on top of the batch's whole-pixel ones
    log_prob_rt : (R, T) float32, log-likelihood plus log prior
    slices_rp : (R, P) complex64, the slices that were compared
    step_deg : angular step of the rotations
    counts : poses scored and kept at each level that led here, this one the last
    cell : (R,) int64, numbers of the rotations in their grid; None where they are of no grid
    share_r : (R,) float32, part of each rotation's cell that counts, less than one on the border of the
        asymmetric unit; None where all count whole
    """

    matrices: NDArray[np.float64]
    shifts_px: NDArray[np.float64]
    log_prob_rt: NDArray[np.float32]
    slices_rp: NDArray[np.complex64]
    step_deg: float
    counts: tuple[LevelCount, ...] = ()
    cell: NDArray[np.int64] | None = None
    share_r: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Posterior:
    """Gamma of one particle, cut to the poses that hold nearly all of its mass.

    Attributes
    ----------
    rotation_r, shift_t : positions of the kept rotations and shifts in the `Support`
    weight_rt : (kept R, kept T) float32, sums to one
    log_evidence : log sum of all scored poses
    pmax : largest weight of a single pose
    effective_orientations : exp(entropy) of the rotation marginal, in whole cells
    matrix : (3, 3) float64, mean rotation about the best one
    shift_px : (2,) float64, mean shift
    """

    rotation_r: NDArray[np.intp]
    shift_t: NDArray[np.intp]
    weight_rt: NDArray[np.float32]
    log_evidence: float
    pmax: float
    effective_orientations: float
    matrix: NDArray[np.float64]
    shift_px: NDArray[np.float64]


def posterior_of(support: Support, mass: float = 0.999) -> Posterior:
    """Compute ``Gamma(phi) = P(X|V,phi) / int P(X|V,phi) dphi`` (L) on scored poses and cut it to ``mass``.

    Parameters
    ----------
    support : scored poses
    mass : share of the posterior to keep, the most probable poses first; the rest is dropped and the kept
        renormalised

    Raises
    ------
    ValueError
        Where the best score is NaN or infinite, which no usable image gives.
    """
    top = support.log_prob_rt.max()
    if not np.isfinite(top):
        raise ValueError("the scores of a particle are not finite")
    # Single precision for each pose and along its shifts, double for sums over rotations.
    weight_rt = np.exp(support.log_prob_rt - top)
    share_r = np.ones(len(weight_rt), np.float32) if support.share_r is None else support.share_r
    if support.share_r is not None:
        weight_rt *= share_r[:, None]
    sum_r = (weight_rt @ np.ones(weight_rt.shape[1], np.float32)).astype(np.float64)
    total = float(sum_r.sum())
    marginal_r = sum_r / total
    entropy = -np.sum(marginal_r * np.log(np.maximum(marginal_r, 1e-300) / share_r))
    least = _least_kept(weight_rt, total, mass)
    kept_r, kept_t = np.divmod(np.flatnonzero(weight_rt >= least), weight_rt.shape[1])
    rotation_r, shift_t = np.flatnonzero(np.bincount(kept_r)), np.flatnonzero(np.bincount(kept_t))
    kept = weight_rt[np.ix_(rotation_r, shift_t)]
    kept[kept < least] = 0
    matrix, near_r = _mean_rotation(support, marginal_r)
    shift_weight = weight_rt[near_r].sum(axis=0, dtype=np.float64)
    return Posterior(
        rotation_r=rotation_r,
        shift_t=shift_t,
        weight_rt=kept / np.float32(kept.sum(dtype=np.float64)),
        log_evidence=float(top) + float(np.log(total)),
        pmax=float(weight_rt.max()) / total,
        effective_orientations=max(float(np.exp(entropy)), 1.0),
        matrix=matrix,
        shift_px=shift_weight @ support.shifts_px / shift_weight.sum(),
    )


def _least_kept(weight_rt: NDArray[np.float32], total: float, mass: float) -> np.float32:
    """Smallest of the largest weights that together hold a share ``mass`` of the total."""
    if mass >= 1:
        return np.float32(0)
    # All weights below this together hold less than what may be dropped.
    weight_x = weight_rt[weight_rt >= np.float32((1 - mass) * total / weight_rt.size)]
    # The leading bits of positive numbers ascend as they do: bins, of which only one needs sorting.
    bin_x = weight_x.view(np.uint32) >> 16
    above_b = np.cumsum(np.bincount(bin_x, weight_x)[::-1])[::-1]
    cut = int(np.flatnonzero(above_b >= min(mass * total, above_b[0]))[-1])
    descending = np.sort(weight_x[bin_x == cut])[::-1]
    more = above_b[cut + 1] if cut + 1 < len(above_b) else 0.0
    last = int(np.searchsorted(more + np.cumsum(descending, dtype=np.float64), mass * total))
    return np.float32(descending[min(last, len(descending) - 1)])


def _mean_rotation(
    support: Support, marginal_r: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Chordal mean of the rotations within two steps of the most probable one, and which those are."""
    best = support.matrices[np.argmax(marginal_r)]
    least = trace_of_angle(min(2 * support.step_deg, 180.0))
    near_r = np.flatnonzero(support.matrices.reshape(-1, 9) @ best.ravel() >= least - 1e-9)
    u, _, vt = np.linalg.svd(np.einsum("r,rij->ij", marginal_r[near_r], support.matrices[near_r]))
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt, near_r
