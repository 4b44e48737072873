"""From scored cells to the peaks of the posterior: the best cells of each image climb, band by band."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from posterion.inference.adaptive import LevelImages
from posterion.inference.gauss_newton import Peaks, PoseList, climb
from posterion.inference.images import ImageBatch
from posterion.inference.search import SearchPlan
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import rotation_vectors_from_matrices
from posterion.physics.symmetry import point_group_operators

__all__ = ["apart", "peaks_of_batch"]

_MOST_STARTS = 8
_STEPS_APART = 1.5
_SAME_PEAK = 1.0
_TOLERANCE_NATS, _COARSE_TOLERANCE_NATS = 0.01, 0.5


def apart(
    matrices: NDArray[np.float64], value_r: NDArray[np.floating], floor: float, step_deg: float
) -> NDArray[np.intp]:
    """Choose rotations to start from: the best ones, each at least 1.5 grid steps from all better ones.

    Parameters
    ----------
    matrices : (R, 3, 3) float64
    value_r : (R,) log-probability of each
    floor : least value; the best is chosen in any case
    step_deg : angular step of the grid
    """
    order = np.argsort(-value_r, kind="stable")
    order = order[value_r[order] >= min(floor, float(value_r[order[0]]))]
    flat = matrices[order].reshape(-1, 9)
    # The trace of a rotation by an angle is 1 + 2 cos(angle).
    near = 1 + 2 * np.cos(np.radians(_STEPS_APART * step_deg))
    free = np.ones(len(order), bool)
    chosen: list[int] = []
    while free.any() and len(chosen) < _MOST_STARTS:
        best = int(np.argmax(free))
        chosen.append(best)
        free &= flat @ flat[best] < near
        free[best] = False
    return order[chosen]


def peaks_of_batch(
    batch: ImageBatch,
    levels: list[LevelImages],
    volume: FourierVolume,
    plan: SearchPlan,
    start: PoseList,
) -> Peaks:
    """Climb from all starts through the bands of a plan; after each band only peaks within the margin go on.

    Parameters
    ----------
    batch : prepared images
    levels : the batch cut to the band of each level of the plan
    volume : reference
    plan : gives bands, margin and prior
    start : poses to start from, at least one per usable image

    Returns
    -------
    Different peaks of each image at the plan's radius, ordered by image; ``evaluations_i`` counts all bands.
    """
    bands = {level.pixels.radius: level for level in levels}
    operators = point_group_operators(plan.point_group)
    poses, evaluations_i = start, np.zeros(len(batch), np.intp)
    for radius in sorted(bands):
        tolerance = _TOLERANCE_NATS if radius == plan.radius else _COARSE_TOLERANCE_NATS
        peaks = climb(bands[radius], batch.shift0_px, volume, plan.prior, poses, tolerance)
        evaluations_i += peaks.evaluations_i
        peaks = peaks[_different(peaks, plan.margin_nats, operators)]
        poses = peaks.poses
    return replace(peaks, evaluations_i=evaluations_i)


def _different(peaks: Peaks, margin_nats: float, operators: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows of the peaks within the margin of their image's best, each peak once, ordered by image."""
    image_k = peaks.poses.image_k
    order = np.lexsort((-peaks.log_prob_k, image_k))
    first = np.flatnonzero(np.diff(image_k[order], prepend=-1))
    kept: list[NDArray[np.intp]] = []
    for rows in np.split(order, first[1:]):
        near_best = rows[peaks.log_prob_k[rows] >= peaks.log_prob_k[rows[0]] - margin_nats]
        kept.append(_once(peaks, near_best, operators) if len(near_best) > 1 else near_best)
    return np.concatenate([np.empty(0, np.intp), *kept])


def _once(peaks: Peaks, rows: NDArray[np.intp], operators: NDArray[np.float64]) -> NDArray[np.intp]:
    """Drop peaks within one standard deviation of a better one of the same image; rows best first.

    R and R g are one peak where g is of the point group: the evidence counts each orientation once.
    """
    chosen: list[np.intp] = []
    left = rows
    while len(left):
        best, left = left[0], left[1:]
        chosen.append(best)
        moved_kb = peaks.poses.shifts_px[left] - peaks.poses.shifts_px[best]
        distance2_gk = [
            _distance2(
                peaks.poses.matrices[left] @ g, peaks.poses.matrices[best], moved_kb, peaks.normal_kab[best]
            )
            for g in operators
        ]
        left = left[np.min(distance2_gk, axis=0) > _SAME_PEAK**2]
    return np.array(chosen)


def _distance2(
    matrices: NDArray[np.float64],
    centre: NDArray[np.float64],
    moved_kb: NDArray[np.float64],
    normal_ab: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Squared distance of poses from a peak, in its standard deviations."""
    apart_ka = np.hstack([rotation_vectors_from_matrices(matrices @ centre.T), moved_kb])
    return np.asarray(np.einsum("ka,ab,kb->k", apart_ka, normal_ab, apart_ka))
