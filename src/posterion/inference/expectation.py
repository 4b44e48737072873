"""The expectation step of one batch: search, posterior, and what the batch adds to the maximisation step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.inference.adaptive import LevelImages, refine
from posterion.inference.exhaustive import SharedGrid, dense_candidates
from posterion.inference.images import ImageBatch
from posterion.inference.local import local_candidates
from posterion.inference.posterior import Posterior, Support, posterior_of
from posterion.inference.search import Candidates, SearchPlan
from posterion.physics.projection import FourierVolume
from posterion.physics.shifts import shifted, unshifted_sum

__all__ = ["BatchExpectation", "expect_batch"]


@dataclass(frozen=True)
class BatchExpectation:
    """What one batch contributes; entries of unusable images are left out.

    Attributes
    ----------
    index_i : (n,) int64, particles
    matrices_i : (n, 3, 3), mean pose of each posterior
    shifts_px_i : (n, 2), mean total origin offset
    log_likelihood_i : (n,) float64, ``log p(y_i | V)`` over the compared pixels, up to the normalisation by sigma2
    pmax_i, effective_orientations_i : (n,) float64
    insert_matrices : (m, 3, 3) rotations of the slices below
    numerator_mp : (m, P) complex64, ``sum_t Gamma C y / sigma2`` of each slice
    weight_mp : (m, P) float32, ``sum_t Gamma C^2 / sigma2``
    cross_is, square_is : (n, radius + 1), per-shell ``w Re(conj(E R) y) / sigma2`` and ``w E|R|^2 / sigma2`` with the
        expected reference R = C P V
    masked_power_is : (n, box//2+1), see `ImageBatch`
    scored_i : (n,) number of rotations scored at the last level
    """

    index_i: NDArray[np.int64]
    matrices_i: NDArray[np.float64]
    shifts_px_i: NDArray[np.float64]
    log_likelihood_i: NDArray[np.float64]
    pmax_i: NDArray[np.float64]
    effective_orientations_i: NDArray[np.float64]
    insert_matrices: NDArray[np.float64]
    numerator_mp: NDArray[np.complex64]
    weight_mp: NDArray[np.float32]
    cross_is: NDArray[np.float64]
    square_is: NDArray[np.float64]
    masked_power_is: NDArray[np.float64]
    scored_i: NDArray[np.int64]


@dataclass(frozen=True)
class _ImageTerms:
    """One image's share of a `BatchExpectation`."""

    posterior: Posterior
    matrices: NDArray[np.float64]
    numerator_rp: NDArray[np.complex64]
    weight_rp: NDArray[np.float32]
    cross_s: NDArray[np.float64]
    square_s: NDArray[np.float64]
    scored: int


def expect_batch(
    batch: ImageBatch,
    volume: FourierVolume,
    plan: SearchPlan,
    shared: SharedGrid | None,
    previous_matrices: NDArray[np.float64] | None,
    previous_shifts_px: NDArray[np.float64],
    hard: bool = False,
) -> BatchExpectation:
    """Find the posterior over poses of each image of a batch, and its M-step terms.

    Parameters
    ----------
    batch : prepared images
    volume : reference of the batch's half set
    plan : search plan
    shared : slices of the first level; None for a local plan
    previous_matrices, previous_shifts_px : (n, 3, 3), (n, 2) last poses; matrices only needed for a local plan
    hard : keep only the best pose (projection matching) instead of the posterior
    """
    starts: list[Candidates]
    if shared is not None:
        starts = dense_candidates(batch, shared, plan)
    else:
        assert previous_matrices is not None
        residual = previous_shifts_px - batch.shift0_px
        starts = [local_candidates(m, s, plan) for m, s in zip(previous_matrices, residual, strict=True)]
    levels = [LevelImages.of(batch, level.radius) for level in plan.levels]
    usable = np.flatnonzero(batch.finite_i)
    terms = []
    for row in usable:
        support = refine(batch, row, levels, volume, plan, starts[row])
        terms.append(_terms_of_image(batch, row, levels[-1], support, hard))
    return _collect(batch, usable, terms, plan)


def _terms_of_image(
    batch: ImageBatch, row: int, images: LevelImages, support: Support, hard: bool
) -> _ImageTerms:
    """Posterior-weighted sums of one image: ``sum_t Gamma y`` per rotation, and its agreement with the slices."""
    posterior = posterior_of(support, mass=0.0 if hard else 0.999)
    rotations, weight_rt = posterior.rotation_r, posterior.weight_rt
    shifts_px = support.shifts_px[posterior.shift_t]
    pixels = images.pixels
    data_tp = shifted(batch.data_ip[row], batch.pixels, shifts_px)
    slices_rp = support.slices_rp[rotations]
    # Reference expected in the image's own frame: sum over rotations first, then each shift undone.
    expected_tp = (weight_rt.T @ slices_rp.view(np.float32)).view(np.complex64)
    expected_p = unshifted_sum(expected_tp, pixels, shifts_px)
    marginal_r = weight_rt.sum(axis=1)
    power_p = marginal_r @ (slices_rp.real**2 + slices_rp.imag**2)
    ctf2_p = images.ctf2_ip[row]
    numerator_rp = (weight_rt @ data_tp.view(np.float32)).view(np.complex64)
    cross_p = (expected_p.conj() * images.whitened_ip[row]).real
    return _ImageTerms(
        posterior=posterior,
        matrices=support.matrices[rotations],
        numerator_rp=numerator_rp,
        weight_rp=np.outer(marginal_r, batch.ctf2_ip[row] / batch.pixels.multiplicity_p),
        cross_s=pixels.shell_sum(cross_p),
        square_s=pixels.shell_sum(ctf2_p * power_p),
        scored=len(support.matrices),
    )


def _collect(
    batch: ImageBatch, usable: NDArray[np.intp], terms: list[_ImageTerms], plan: SearchPlan
) -> BatchExpectation:
    """Stack the terms of a batch's images."""
    p, shells = len(batch.pixels), plan.radius + 1
    posteriors = [t.posterior for t in terms]
    evidence = np.array([post.log_evidence for post in posteriors]) + plan.log_rotation_cell
    return BatchExpectation(
        index_i=batch.index_i[usable],
        matrices_i=np.array([post.matrix for post in posteriors]).reshape(-1, 3, 3),
        shifts_px_i=np.array([post.shift_px for post in posteriors]).reshape(-1, 2) + batch.shift0_px[usable],
        log_likelihood_i=evidence - batch.power_i[usable],
        pmax_i=np.array([post.pmax for post in posteriors]),
        effective_orientations_i=np.array([post.effective_orientations for post in posteriors]),
        insert_matrices=np.concatenate([np.empty((0, 3, 3)), *[t.matrices for t in terms]]),
        numerator_mp=np.concatenate([np.empty((0, p), np.complex64), *[t.numerator_rp for t in terms]]),
        weight_mp=np.concatenate([np.empty((0, p), np.float32), *[t.weight_rp for t in terms]]),
        cross_is=np.array([t.cross_s for t in terms]).reshape(-1, shells),
        square_is=np.array([t.square_s for t in terms]).reshape(-1, shells),
        masked_power_is=batch.masked_power_is[usable],
        scored_i=np.array([t.scored for t in terms], np.int64),
    )
