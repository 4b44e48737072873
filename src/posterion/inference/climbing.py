r"""Climbing: Gauss-Newton from several rough poses to the different peaks of an image's posterior.

Near a peak the log-probability of a pose is a parabola. With D the derivatives of the model slice by the
rotation vector omega (in the image's frame, ``R -> exp(omega) R``) and by the shift,

    gradient = sum_p Re[ conj(D m) (d - c2 m) ],    normal = sum_p c2 Re[ conj(D m) D m ]

and the step ``normal^-1 gradient`` leads to the peak; `normal` is the information that the image holds on its
pose. Damped after Levenberg and Marquardt, so a step never loses log-probability. Bands go from coarse to
fine, and after each only different peaks go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posterion.inference.adaptive import LevelImages
from posterion.inference.images import ImageBatch
from posterion.inference.priors import PosePrior
from posterion.inference.search import SearchPlan
from posterion.kernels import SCORE_TERMS, score_poses
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import (
    matrices_from_rotation_vectors,
    rotation_vectors_from_matrices,
    trace_of_angle,
)
from posterion.physics.symmetry import point_group_operators

__all__ = ["Peaks", "PoseList", "apart", "climb", "peaks_of_batch"]

_MOST_STARTS, _STEPS_APART = 8, 1.5
_SAME_PEAK = 1.0
_TOLERANCE_NATS, _COARSE_TOLERANCE_NATS = 0.01, 0.5
_MOST_STEPS = 30
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-3, 1e-6, 1e4
_HALVING_DAMPING = 1.0  # less of it would hardly shorten a step that was too long
_PLAUSIBLE_GAIN_NATS = 1.0
_SETTLED_GAIN_NATS = 5.0  # what is promised three standard deviations from the peak, about
_LONGEST_STEP = 1.0
_UPPER = np.triu_indices(5)


@dataclass(frozen=True)
class PoseList:
    """Poses of the images of a batch, any number for each image.

    Attributes
    ----------
    image_k : (K,) int32, row of the batch, ascending
    matrices : (K, 3, 3) float64
    shifts_px : (K, 2) float64, (x, y) on top of the batch's whole-pixel offsets
    """

    image_k: NDArray[np.int32]
    matrices: NDArray[np.float64]
    shifts_px: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image_k)

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> PoseList:
        return PoseList(self.image_k[rows], self.matrices[rows], self.shifts_px[rows])

    @classmethod
    def joined(cls, parts: Sequence[PoseList]) -> PoseList:
        """All poses of several lists, ordered by image."""
        image_k = np.concatenate([part.image_k for part in parts])
        matrices = np.concatenate([part.matrices for part in parts])
        shifts_px = np.concatenate([part.shifts_px for part in parts])
        return cls(image_k, matrices, shifts_px)[np.argsort(image_k, kind="stable")]

    def moved(self, steps_ka: NDArray[np.float64]) -> PoseList:
        """Poses after steps (K, 5): rotation vector in the image's frame, radians, and shift, pixels."""
        turned = matrices_from_rotation_vectors(steps_ka[:, :3]) @ self.matrices
        return replace(self, matrices=turned, shifts_px=self.shifts_px + steps_ka[:, 3:])


@dataclass(frozen=True)
class Peaks:
    """Where the poses climbed to.

    Attributes
    ----------
    poses : the peaks
    log_prob_k : (K,) float64, log-likelihood plus log prior
    nats_k : (K,) float64, log-likelihood alone: how much better than no signal the pose explains the image
    gradient_ka : (K, 5) float64
    normal_kab : (K, 5, 5) float64, information on rotation vector (radians) and shift (pixels)
    converged_k : (K,) bool, whether no step promises anything any more
    evaluations_i : (n,) number of slices compared with each image of the batch
    samples_i : (n,) number of coefficients of those slices; fine bands have more of them than coarse ones
    """

    poses: PoseList
    log_prob_k: NDArray[np.float64]
    nats_k: NDArray[np.float64]
    gradient_ka: NDArray[np.float64]
    normal_kab: NDArray[np.float64]
    converged_k: NDArray[np.bool_]
    evaluations_i: NDArray[np.intp]
    samples_i: NDArray[np.intp]

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Peaks:
        return Peaks(
            self.poses[rows],
            self.log_prob_k[rows],
            self.nats_k[rows],
            self.gradient_ka[rows],
            self.normal_kab[rows],
            self.converged_k[rows],
            self.evaluations_i,
            self.samples_i,
        )


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
    high = np.flatnonzero(value_r >= min(floor, float(value_r.max())))
    order = high[np.argsort(-value_r[high], kind="stable")]
    flat = matrices[order].reshape(-1, 9)
    near = trace_of_angle(_STEPS_APART * step_deg)
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
    """Climb from all starts to different peaks of each image.

    In a local search most images start on the peak where the last iteration left them: where a step in the
    finest band promises so little that this is so, coarser bands have nothing to say and are left out.

    Parameters
    ----------
    batch : prepared images
    levels : the batch cut to the band of each level of the plan
    volume : reference
    plan : gives bands, margin and prior
    start : poses to start from, at least one per usable image

    Returns
    -------
    Different peaks of each image at the plan's radius, ordered by image; evaluations and samples are of all
    bands.
    """
    if plan.local_radius_deg is None:
        return _through_bands(batch, levels, volume, plan, start)
    finest = _Scene(levels[-1], batch.shift0_px, volume, plan.prior)
    here = finest.look(_own(start))
    _, gain_k = _steps(here, np.zeros(len(start)), _longest_step(levels[-1]))
    settled_k = gain_k < _SETTLED_GAIN_NATS
    found = _ascend(finest, here[settled_k], _TOLERANCE_NATS)
    if not settled_k.all():
        found = _joined(found, _through_bands(batch, levels, volume, plan, start[~settled_k]))
    return found[_different(found, plan.margin_nats, point_group_operators(plan.point_group))]


def _through_bands(
    batch: ImageBatch,
    levels: list[LevelImages],
    volume: FourierVolume,
    plan: SearchPlan,
    start: PoseList,
) -> Peaks:
    """Climb through the bands of a plan; after each band only different peaks within the margin go on."""
    bands = {level.pixels.radius: level for level in levels}
    operators = point_group_operators(plan.point_group)
    poses = start
    evaluations_i, samples_i = np.zeros((2, len(batch)), np.intp)
    for radius in sorted(bands):
        tolerance = _TOLERANCE_NATS if radius == plan.radius else _COARSE_TOLERANCE_NATS
        peaks = climb(bands[radius], batch.shift0_px, volume, plan.prior, poses, tolerance)
        evaluations_i += peaks.evaluations_i
        samples_i += peaks.samples_i
        peaks = peaks[_different(peaks, plan.margin_nats, operators)]
        poses = peaks.poses
    return replace(peaks, evaluations_i=evaluations_i, samples_i=samples_i)


def _joined(some: Peaks, others: Peaks) -> Peaks:
    """Peaks of one batch found in two ways, ordered by image; evaluations are added up."""
    columns = ("log_prob_k", "nats_k", "gradient_ka", "normal_kab", "converged_k")
    poses = PoseList.joined([some.poses, others.poses])
    order = np.argsort(np.concatenate([some.poses.image_k, others.poses.image_k]), kind="stable")
    return Peaks(
        poses=poses,
        evaluations_i=some.evaluations_i + others.evaluations_i,
        samples_i=some.samples_i + others.samples_i,
        **{name: np.concatenate([getattr(some, name), getattr(others, name)])[order] for name in columns},
    )


def _different(peaks: Peaks, margin_nats: float, operators: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows of the peaks within the margin of their image's best, each peak once, ordered by image."""
    image_k = peaks.poses.image_k
    order = np.lexsort((-peaks.log_prob_k, image_k))
    first, count = _runs(image_k[order])
    best_k = np.repeat(peaks.log_prob_k[order[first]], count)
    order = order[peaks.log_prob_k[order] >= best_k - margin_nats]
    pairs = [np.stack(np.triu_indices(n, 1)) + start for start, n in zip(*_runs(image_k[order]), strict=True)]
    better, worse = np.hstack([np.empty((2, 0), np.intp), *pairs])
    same = _distance2(peaks[order[worse]], peaks[order[better]], operators) <= _SAME_PEAK**2
    repeated = np.zeros(len(order), bool)
    for one, other in zip(better[same], worse[same], strict=True):
        repeated[other] |= not repeated[one]
    return order[~repeated]


def _runs(image_k: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where the poses of each image begin, and how many there are."""
    first = np.flatnonzero(np.diff(image_k, prepend=-1))
    return first, np.diff(np.append(first, len(image_k)))


def _distance2(some: Peaks, centres: Peaks, operators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance of each peak from a centre, in the centre's standard deviations.

    R and R g are one peak where g is of the point group: the nearest of them counts.
    """
    turned_kij = some.poses.matrices
    if len(operators) > 1:
        trace_gk = np.einsum("kij,gjl,kil->gk", turned_kij, operators, centres.poses.matrices, optimize=True)
        turned_kij = turned_kij @ operators[trace_gk.argmax(axis=0)]
    turn_ka = rotation_vectors_from_matrices(turned_kij @ centres.poses.matrices.transpose(0, 2, 1))
    apart_ka = np.hstack([turn_ka, some.poses.shifts_px - centres.poses.shifts_px])
    return np.asarray(np.einsum("ka,kab,kb->k", apart_ka, centres.normal_kab, apart_ka))


@dataclass(frozen=True)
class _Scene:
    """What poses are compared with."""

    images: LevelImages
    shift0_px: NDArray[np.float64]
    volume: FourierVolume
    prior: PosePrior

    def look(self, poses: PoseList) -> Peaks:
        """Log-probability of poses with gradient and normal matrix, prior included."""
        images, pixels, volume = self.images, self.images.pixels, self.volume
        terms = np.empty((len(poses), SCORE_TERMS))
        score_poses(
            volume.values,
            volume.centre,
            np.ascontiguousarray(volume.padding * poses.matrices, np.float32),
            poses.shifts_px,
            poses.image_k,
            (pixels.row_ky, pixels.row_first_kx, pixels.row_start),
            volume.box,
            images.whitened_ip,
            images.ctf2_ip,
            terms,
        )
        nats_k = terms[:, 0] - 0.5 * terms[:, 1]
        normal_kab = np.empty((len(poses), 5, 5))
        normal_kab[:, _UPPER[0], _UPPER[1]] = normal_kab[:, _UPPER[1], _UPPER[0]] = terms[:, 7:]
        gradient_ka = terms[:, 2:7]
        total = self.shift0_px[poses.image_k] + poses.shifts_px
        information = 1 / self.prior.offset_sigma_px**2
        gradient_ka[:, 3:] -= information * total
        normal_kab[:, (3, 4), (3, 4)] += information
        log_prob_k = nats_k + self.prior.log_density(poses.matrices, total)
        evaluations_i = np.bincount(poses.image_k, minlength=len(images.power_i))
        return Peaks(
            poses=poses,
            log_prob_k=log_prob_k,
            nats_k=nats_k,
            gradient_ka=gradient_ka,
            normal_kab=normal_kab,
            converged_k=np.zeros(len(poses), bool),
            evaluations_i=evaluations_i,
            samples_i=evaluations_i * len(pixels),
        )


def climb(
    images: LevelImages,
    shift0_px: NDArray[np.float64],
    volume: FourierVolume,
    prior: PosePrior,
    start: PoseList,
    tolerance_nats: float = 0.05,
) -> Peaks:
    """Climb from poses to peaks of the posterior, all images of a batch at once.

    Parameters
    ----------
    images : the batch on the disc to compare on
    shift0_px : (n, 2) whole-pixel offsets that the images have been moved by
    volume : reference
    prior : over poses; its shift part joins gradient and normal matrix, directions only the values
    start : poses to start from
    tolerance_nats : a pose is on its peak when a step gains less

    Returns
    -------
    Peaks in the order of ``start``; those that did not converge are marked.
    """
    scene = _Scene(images, shift0_px, volume, prior)
    return _ascend(scene, scene.look(_own(start)), tolerance_nats)


def _own(poses: PoseList) -> PoseList:
    """Copy poses, which climbing overwrites."""
    return replace(poses, matrices=poses.matrices.copy(), shifts_px=poses.shifts_px.copy())


def _ascend(scene: _Scene, best: Peaks, tolerance_nats: float) -> Peaks:
    """Climb from poses that have been looked at, in place."""
    evaluations_i, samples_i = best.evaluations_i, best.samples_i
    damping_k = np.full(len(best.poses), _FIRST_DAMPING)
    longest = _longest_step(scene.images)
    for _ in range(_MOST_STEPS):
        step_ka, gain_k = _steps(best, damping_k, longest)
        best.converged_k[gain_k < tolerance_nats] = True
        active = np.flatnonzero(~best.converged_k & (damping_k < _MOST_DAMPING))
        if not len(active):
            break
        trial = scene.look(best.poses[active].moved(step_ka[active]))
        evaluations_i += trial.evaluations_i
        samples_i += trial.samples_i
        gained_k = trial.log_prob_k - best.log_prob_k[active]
        better = gained_k > 0
        # Trilinear interpolation has creases, on which a step keeps promising a little and gaining nothing.
        settled = (gained_k < tolerance_nats) & (gain_k[active] < _PLAUSIBLE_GAIN_NATS)
        best.converged_k[active[settled]] = True
        _put(best, active[better], trial[better])
        less, more = 0.1 * damping_k[active], 10 * damping_k[active]
        damping_k[active] = np.where(
            better, np.maximum(less, _LEAST_DAMPING), np.maximum(more, _HALVING_DAMPING)
        )
    return best


def _longest_step(images: LevelImages) -> NDArray[np.float64]:
    """Change of each parameter that moves the slice by one Fourier pixel at the edge, or a phase by 1 rad."""
    box, radius = images.pixels.box, images.pixels.radius
    wave_number = 2 * np.pi * radius / box
    return _LONGEST_STEP * np.array([1 / radius] * 3 + [1 / wave_number] * 2)


def _steps(
    best: Peaks, damping_k: NDArray[np.float64], longest: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Damped Gauss-Newton steps (K, 5), shortened where too long, and the gain each promises, nats."""
    normal_kab = best.normal_kab.copy()
    diagonal_ka = np.einsum("kaa->ka", normal_kab)  # a view: what is added to it is added to the matrices
    diagonal_ka += damping_k[:, None] * diagonal_ka + 1e-12 * (1 + diagonal_ka.max(axis=1, keepdims=True))
    step_ka = np.asarray(np.linalg.solve(normal_kab, best.gradient_ka[:, :, None])[:, :, 0], np.float64)
    step_ka[~np.isfinite(step_ka).all(axis=1)] = 0
    excess_k = (np.abs(step_ka) / longest).max(axis=1, initial=1.0)
    step_ka /= excess_k[:, None]
    gain_k = np.einsum("ka,ka->k", best.gradient_ka, step_ka)
    gain_k -= 0.5 * np.einsum("ka,kab,kb->k", step_ka, best.normal_kab, step_ka)
    return step_ka, gain_k


def _put(best: Peaks, rows: NDArray[np.intp], better: Peaks) -> None:
    """Write better peaks over the ones at ``rows``, in place."""
    best.poses.matrices[rows], best.poses.shifts_px[rows] = better.poses.matrices, better.poses.shifts_px
    best.log_prob_k[rows], best.nats_k[rows] = better.log_prob_k, better.nats_k
    best.gradient_ka[rows], best.normal_kab[rows] = better.gradient_ka, better.normal_kab
