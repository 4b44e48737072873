"""The expectation step of one batch: search, posterior, and what the batch adds to the maximisation step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from posterion.inference.adaptive import LevelImages, refine, survivors_divided
from posterion.inference.branch_and_bound import BranchAndBound
from posterion.inference.climbing import Peaks, PoseList, apart, peaks_of_batch
from posterion.inference.contributions import (
    ImageTerms,
    gaussian_slices,
    gaussian_terms,
    grid_slices,
    grid_terms,
)
from posterion.inference.exhaustive import (
    SharedGrid,
    complete_candidates,
    dense_log_prob,
    dense_supports,
    few_shifts,
)
from posterion.inference.images import ImageBatch
from posterion.inference.laplace import GaussianPosterior, gaussian_posteriors, well_determined
from posterion.inference.local import LastPoses, local_candidates
from posterion.inference.polar import PolarReference, PolarSums, expect_polar
from posterion.inference.posterior import Posterior
from posterion.inference.search import (
    Candidates,
    LevelCount,
    Pruning,
    SearchPlan,
    floor_of_starts,
    margin_rule,
    total_counts,
)
from posterion.inference.slice_sums import SliceSums
from posterion.inference.thinning import thinned
from posterion.physics.projection import FourierVolume

__all__ = ["BatchExpectation", "expect_batch"]

_MASS = 0.999
_CLEAR_NATS = 100.0


@dataclass(frozen=True)
class BatchExpectation:
    """What one batch contributes; entries of unusable images are left out.

    Attributes
    ----------
    index_i : (n,) int64, particles
    matrices_i : (n, 3, 3), mean pose of each posterior
    shifts_px_i : (n, 2), mean total origin offset
    log_likelihood_i : (n,) float64, ``log p(y_i | V)`` over the compared pixels, up to the normalisation
        by sigma2
    correlation_i : (n,) float64, ``X.R / (|X||R|)`` of the whitened image with the expected reference
    pmax_i, effective_orientations_i : (n,) float64
    cross_is, square_is : (n, radius + 1), per-shell ``w Re(conj(E R) y) / sigma2`` and ``w E|R|^2 /
        sigma2`` with the
        expected reference R = C P V
    masked_power_is : (n, box//2+1), see `ImageBatch`
    scored_i : (n,) number of rotations scored at the last level, or of slices compared while climbing
    counts : poses scored and kept at each level of the grid search, over all images
    gaussian : how many of the posteriors are sums of Gaussians
    diverged : how many images kept the grid because their optimiser found no peak
    climbed, climbed_samples : slices compared while climbing and their coefficients, over all images, those
        that kept the grid among them
    sums : what the images add along rotations: each along its own, or all along those of a shared grid
    turned : the same along the grid's directions, at all turns
    """

    index_i: NDArray[np.int64]
    matrices_i: NDArray[np.float64]
    shifts_px_i: NDArray[np.float64]
    log_likelihood_i: NDArray[np.float64]
    correlation_i: NDArray[np.float64]
    pmax_i: NDArray[np.float64]
    effective_orientations_i: NDArray[np.float64]
    cross_is: NDArray[np.float64]
    square_is: NDArray[np.float64]
    masked_power_is: NDArray[np.float64]
    scored_i: NDArray[np.int64]
    counts: tuple[LevelCount, ...] = ()
    gaussian: int = 0
    diverged: int = 0
    climbed: int = 0
    climbed_samples: int = 0
    sums: tuple[SliceSums, ...] = ()
    turned: PolarSums | None = None


def expect_batch(
    batch: ImageBatch,
    volume: FourierVolume,
    plan: SearchPlan,
    shared: SharedGrid | PolarReference | None,
    previous: LastPoses | None,
    hard: bool = False,
    bounds: BranchAndBound | None = None,
) -> BatchExpectation:
    """Find the posterior over poses of each image of a batch, and its M-step terms.

    Parameters
    ----------
    batch : prepared images
    volume : reference of the batch's half set
    plan : search plan
    shared : slices of the first level; as harmonics where it is the only one and posteriors are broad; None
        for a local plan
    previous : last poses, where a local plan starts; None where there are none
    hard : keep only the best pose (projection matching) instead of the posterior
    bounds : of the reference, where cells are pruned by them; by the plan's margin where None
    """
    usable = np.flatnonzero(batch.finite_i).tolist()
    mass = 0.0 if hard else _MASS
    levels = [LevelImages.of(batch, level.radius) for level in plan.levels]
    if isinstance(shared, PolarReference):
        return _expect_by_harmonics(batch, usable, levels[-1], plan, shared, mass)
    if shared is not None and len(plan.levels) == 1:
        return _expect_on_shared_grid(batch, usable, levels[-1], plan, shared, mass)
    starts = _Starts.of(batch, plan, shared, previous)
    peaks = _Found() if not plan.climb else _climb(batch, usable, levels, volume, plan, starts)
    rules = [margin_rule(plan)] * len(batch) if bounds is None else bounds.rules(batch, levels)
    terms, sums, counts = [], [], []
    for row in usable:
        posterior = peaks.posteriors.get(row)
        if posterior is not None:
            terms.append(gaussian_terms(levels[-1], row, volume, posterior, peaks.evaluations[row]))
            sums.append(gaussian_slices(batch, row, posterior))
            continue
        start = starts.candidates(row, rules[row])
        support = refine(batch, row, levels, volume, plan, start, rules[row])
        counts.append(support.counts)
        own, kept = grid_terms(levels[-1], row, support, mass, plan.log_rotation_cell)
        terms.append(own)
        inserted = thinned(kept, int(batch.index_i[row]), plan.added_noise)
        sums.append(grid_slices(batch, row, inserted, support))
    collected = _collect(batch, usable, terms, levels[-1], plan)
    return replace(
        collected,
        sums=tuple(sums),
        counts=total_counts(counts),
        diverged=peaks.diverged,
        climbed=sum(peaks.evaluations.values()),
        climbed_samples=peaks.samples,
    )


def _expect_on_shared_grid(
    batch: ImageBatch,
    usable: list[int],
    images: LevelImages,
    plan: SearchPlan,
    shared: SharedGrid,
    mass: float,
) -> BatchExpectation:
    """Terms of a batch over all rotations of the shared grid, on which what is inserted is summed."""
    supports = dense_supports(batch, shared, plan)
    terms = [grid_terms(images, row, supports[row], mass, plan.log_rotation_cell)[0] for row in usable]
    posteriors = [own.posterior for own in terms if isinstance(own.posterior, Posterior)]
    shifts_px = supports[0].shifts_px
    few = few_shifts(plan, shifts_px, batch.pixels)
    sums = SliceSums.on_grid(batch, usable, posteriors, shared, shifts_px, few)
    collected = _collect(batch, usable, terms, images, plan)
    return replace(collected, counts=total_counts(supports[row].counts for row in usable), sums=(sums,))


def _expect_by_harmonics(
    batch: ImageBatch,
    usable: list[int],
    images: LevelImages,
    plan: SearchPlan,
    reference: PolarReference,
    mass: float,
) -> BatchExpectation:
    """Terms of a batch over all turns of the shared directions, along which what is inserted is summed."""
    posteriors, cross_is, square_is, sums = expect_polar(batch, reference, plan, mass)
    power_ij = batch.on_rings.power_ij
    images = replace(images, power_i=power_ij.sum(axis=1))
    terms = [
        ImageTerms(
            posterior=posteriors[row],
            log_evidence=posteriors[row].log_evidence + plan.log_rotation_cell,
            cross_s=cross_is[row],
            square_s=square_is[row],
            scored=len(reference.matrices),
        )
        for row in usable
    ]
    collected = _collect(batch, usable, terms, images, plan)
    # Agreement is in sums per shell, as many pixels each as the disc has: so is the power it is a share of.
    shares = cross_is, square_is, reference.grid.shell_sum(power_ij)
    correlation_i = _correlation(*(per_shell[usable].sum(axis=1) for per_shell in shares))
    scored = len(usable) * len(reference.matrices) * len(reference.shifts_px)
    counts = (LevelCount(scored, scored),)
    return replace(collected, correlation_i=correlation_i, counts=counts, turned=sums)


@dataclass(frozen=True)
class _Starts:
    """Where the search of each image of a batch starts: on the shared grid, or at the last pose."""

    batch: ImageBatch
    plan: SearchPlan
    shared: SharedGrid | None
    scores_itr: NDArray[np.float32] | None
    shifts_px: NDArray[np.float64]
    previous: LastPoses | None

    @classmethod
    def of(
        cls,
        batch: ImageBatch,
        plan: SearchPlan,
        shared: SharedGrid | None,
        previous: LastPoses | None,
    ) -> _Starts:
        """Score the shared grid, where there is one."""
        scores, shifts_px = None, np.zeros((0, 2))
        if shared is not None:
            scores, shifts_px = dense_log_prob(batch, shared, plan)
        return cls(batch, plan, shared, scores, shifts_px, previous)

    def candidates(self, row: int, prune: Pruning) -> Candidates:
        """List the cells that a search level by level scores first, or all of the last level."""
        if self.shared is not None and self.scores_itr is not None:
            everything = Candidates(0, self.shared.cell, self.shifts_px)
            return survivors_divided(everything, self.scores_itr[row].T, self.plan, prune)
        if self.plan.local_radius_deg is None:
            return complete_candidates(self.plan)
        if self.previous is None:
            raise ValueError("a local plan needs previous poses")
        last = self.previous
        pose = last.matrices[row], last.shifts_px[row] - self.batch.shift0_px[row]
        if self.plan.search == "exhaustive":
            return complete_candidates(self.plan, *pose)
        return local_candidates(*pose, self.plan)

    def poses(self, rows: list[int]) -> PoseList:
        """List the poses from which images climb: the best cells, far from each other, and the last pose."""
        parts = []
        if self.shared is not None and self.scores_itr is not None:
            parts = [self._best_cells(row, self.shared, self.scores_itr[row]) for row in rows]
        if self.previous is not None:
            known = np.array([row for row in rows if self.previous.known_i[row]], np.int32)
            shifts_px = self.previous.shifts_px[known] - self.batch.shift0_px[known]
            parts.append(PoseList(known, self.previous.matrices[known], shifts_px))
        return PoseList.joined(parts)

    def _best_cells(self, row: int, shared: SharedGrid, scores_tr: NDArray[np.float32]) -> PoseList:
        best_r = scores_tr.max(axis=0)
        floor = floor_of_starts(float(best_r.max()), self.plan)
        chosen = apart(shared.matrices, best_r, floor, self.plan.grid(0).step_deg)
        shifts_px = self.shifts_px[scores_tr[:, chosen].argmax(axis=0)]
        return PoseList(np.full(len(chosen), row, np.int32), shared.matrices[chosen], shifts_px)


@dataclass(frozen=True)
class _Found:
    """What climbing found: posteriors of the images that peaks describe, and at what cost.

    Attributes
    ----------
    posteriors : by row of the batch
    evaluations : slices compared, by row of the batch
    samples : coefficients of all those slices
    diverged : number of images whose best start reached no peak
    """

    posteriors: dict[int, GaussianPosterior] = field(default_factory=dict)
    evaluations: dict[int, int] = field(default_factory=dict)
    samples: int = 0
    diverged: int = 0


def _climb(
    batch: ImageBatch,
    usable: list[int],
    levels: list[LevelImages],
    volume: FourierVolume,
    plan: SearchPlan,
    starts: _Starts,
) -> _Found:
    """Climb from the starts of all usable images; those that peaks do not describe keep their grid."""
    if not usable:
        return _Found()
    peaks = peaks_of_batch(batch, levels, volume, plan, starts.poses(usable))
    image_k = peaks.poses.image_k
    best = peaks[np.flatnonzero(np.diff(image_k, prepend=-1))]
    trusted_k = well_determined(best, plan.radius) & _likely_highest(best, starts.previous)
    described = best.poses.image_k[trusted_k]
    posteriors = gaussian_posteriors(peaks[np.isin(image_k, described)], plan, batch.pixels.radius)
    return _Found(
        posteriors=dict(zip(described.tolist(), posteriors, strict=True)),
        evaluations=dict(enumerate(peaks.evaluations_i.tolist())),
        samples=int(peaks.samples_i.sum()),
        diverged=int(np.count_nonzero(~best.converged_k)),
    )


def _likely_highest(best: Peaks, previous: LastPoses | None) -> NDArray[np.bool_]:
    """Tell which peaks are likely the highest of their images: with a clear signal, or found more than once.

    Of images with 50 to 90 nats climbing from a few cells misses one highest peak in twenty, which later
    iterations find again; a newcomer, searched once beside images that have been before, is searched level by
    level there.
    """
    if previous is None:
        return np.ones(len(best.nats_k), bool)
    return np.asarray(previous.known_i[best.poses.image_k] | (best.nats_k >= _CLEAR_NATS))


def _collect(
    batch: ImageBatch,
    usable: list[int],
    terms: list[ImageTerms],
    images: LevelImages,
    plan: SearchPlan,
) -> BatchExpectation:
    """Stack the terms of a batch's images."""
    shells = plan.radius + 1
    cross_is = np.array([t.cross_s for t in terms]).reshape(-1, shells)
    square_is = np.array([t.square_s for t in terms]).reshape(-1, shells)
    power_i = images.power_i[usable]
    posteriors = [t.posterior for t in terms]
    return BatchExpectation(
        index_i=batch.index_i[usable],
        matrices_i=np.array([post.matrix for post in posteriors]).reshape(-1, 3, 3),
        shifts_px_i=np.array([post.shift_px for post in posteriors]).reshape(-1, 2) + batch.shift0_px[usable],
        log_likelihood_i=np.array([t.log_evidence for t in terms]) - power_i,
        correlation_i=_correlation(cross_is.sum(axis=1), square_is.sum(axis=1), power_i),
        pmax_i=np.array([post.pmax for post in posteriors]),
        effective_orientations_i=np.array([post.effective_orientations for post in posteriors]),
        cross_is=cross_is,
        square_is=square_is,
        masked_power_is=batch.masked_power_is[usable],
        scored_i=np.array([t.scored for t in terms], np.int64),
        gaussian=sum(isinstance(post, GaussianPosterior) for post in posteriors),
    )


def _correlation(
    cross_i: NDArray[np.float64], square_i: NDArray[np.float64], power_i: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Correlation coefficient ``X.R / (|X||R|)`` (L) from sums of whitened products."""
    lengths = np.sqrt(2 * power_i * square_i)
    return np.divide(cross_i, lengths, out=np.zeros_like(cross_i), where=lengths > 0)
