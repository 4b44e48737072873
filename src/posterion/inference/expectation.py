"""The expectation step of one batch: search, posterior, and what the batch adds to the maximisation step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.inference.adaptive import LevelImages, refine
from posterion.inference.exhaustive import SharedGrid, dense_candidates, dense_supports
from posterion.inference.images import ImageBatch
from posterion.inference.local import local_candidates
from posterion.inference.posterior import Posterior, Support, posterior_of
from posterion.inference.search import SearchPlan
from posterion.physics.projection import FourierVolume
from posterion.physics.shifts import shifted, unshifted_sum

__all__ = ["BatchExpectation", "expect_batch"]

_MASS = 0.999


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
    insert_matrices : (m, 3, 3) rotations of the slices below
    numerator_mp : (m, P) complex64, ``sum_t Gamma C y / sigma2`` of each slice
    weight_mp : (m, P) float32, ``sum_t Gamma C^2 / sigma2``
    cross_is, square_is : (n, radius + 1), per-shell ``w Re(conj(E R) y) / sigma2`` and ``w E|R|^2 /
        sigma2`` with the
        expected reference R = C P V
    masked_power_is : (n, box//2+1), see `ImageBatch`
    scored_i : (n,) number of rotations scored at the last level
    """

    index_i: NDArray[np.int64]
    matrices_i: NDArray[np.float64]
    shifts_px_i: NDArray[np.float64]
    log_likelihood_i: NDArray[np.float64]
    correlation_i: NDArray[np.float64]
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
    """One image's share of a `BatchExpectation`.

    Attributes
    ----------
    posterior : cut to nearly all of its mass
    shifted_tp : (kept T, P) complex64, ``C y / sigma2`` at the kept shifts
    cross_s, square_s : (radius + 1,) agreement with the expected reference
    scored : rotations scored at the last level
    """

    posterior: Posterior
    shifted_tp: NDArray[np.complex64]
    cross_s: NDArray[np.float64]
    square_s: NDArray[np.float64]
    scored: int


_Slices = tuple[NDArray[np.float64], NDArray[np.complex64], NDArray[np.float32]]


def expect_batch(
    batch: ImageBatch,
    volume: FourierVolume,
    plan: SearchPlan,
    shared: SharedGrid | None,
    previous_matrices: NDArray[np.float64],
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
    previous_matrices, previous_shifts_px : (n, 3, 3), (n, 2) last poses, where a local plan starts
    hard : keep only the best pose (projection matching) instead of the posterior
    """
    usable = np.flatnonzero(batch.finite_i).tolist()
    mass = 0.0 if hard else _MASS
    levels = [LevelImages.of(batch, level.radius) for level in plan.levels]
    if shared is not None and len(plan.levels) == 1:
        supports = dense_supports(batch, shared, plan)
        terms = [_terms_of_image(batch, row, levels[-1], supports[row], mass) for row in usable]
        return _collect(batch, usable, terms, levels[-1], plan, _sum_shared(batch, usable, terms, shared))
    if shared is not None:
        starts = dense_candidates(batch, shared, plan)
    else:
        residual = previous_shifts_px - batch.shift0_px
        starts = [local_candidates(m, s, plan) for m, s in zip(previous_matrices, residual, strict=True)]
    terms, slices = [], []
    for row in usable:
        support = refine(batch, row, levels, volume, plan, starts[row])
        terms.append(_terms_of_image(batch, row, levels[-1], support, mass))
        slices.append(_own_slices(batch, row, terms[-1], support))
    return _collect(batch, usable, terms, levels[-1], plan, _stack_slices(slices, len(batch.pixels)))


def _terms_of_image(
    batch: ImageBatch, row: int, images: LevelImages, support: Support, mass: float
) -> _ImageTerms:
    """Posterior of one image and its agreement with the reference that the posterior expects."""
    posterior = posterior_of(support, mass)
    rotations, weight_rt = posterior.rotation_r, posterior.weight_rt
    shifts_px = support.shifts_px[posterior.shift_t]
    pixels = images.pixels
    slices_rp = support.slices_rp[rotations]
    # Reference expected in the image's own frame: sum over rotations first, then each shift undone.
    expected_tp = (weight_rt.T @ slices_rp.view(np.float32)).view(np.complex64)
    expected_p = unshifted_sum(expected_tp, pixels, shifts_px)
    power_p = weight_rt.sum(axis=1) @ (slices_rp.real**2 + slices_rp.imag**2)
    cross_p = (expected_p.conj() * images.whitened_ip[row]).real
    return _ImageTerms(
        posterior=posterior,
        shifted_tp=shifted(batch.data_ip[row], batch.pixels, shifts_px),
        cross_s=pixels.shell_sum(cross_p),
        square_s=pixels.shell_sum(images.ctf2_ip[row] * power_p),
        scored=len(support.matrices),
    )


def _own_slices(batch: ImageBatch, row: int, terms: _ImageTerms, support: Support) -> _Slices:
    """Slices one image inserts: ``sum_t Gamma C y / sigma2``, ``sum_t Gamma C^2 / sigma2`` per rotation."""
    weight_rt = terms.posterior.weight_rt
    numerator_rp = (weight_rt @ terms.shifted_tp.view(np.float32)).view(np.complex64)
    weight_rp = np.outer(weight_rt.sum(axis=1), batch.inserted_ctf2(row))
    return support.matrices[terms.posterior.rotation_r], numerator_rp, weight_rp


def _stack_slices(slices: list[_Slices], pixels: int) -> _Slices:
    """Slices of all images of a batch, one after the other."""
    empty = np.empty((0, 3, 3)), np.empty((0, pixels), np.complex64), np.empty((0, pixels), np.float32)
    matrices, numerators, weights = zip(empty, *slices, strict=True)
    return np.concatenate(matrices), np.concatenate(numerators), np.concatenate(weights)


def _sum_shared(
    batch: ImageBatch, usable: list[int], terms: list[_ImageTerms], shared: SharedGrid
) -> _Slices:
    """Slices summed over a batch on the shared grid: the transpose of the dense pass, two matrix products.

    ``slice_sum_rp = Gamma^T @ images`` and ``weight_rp = Gamma^T @ [C^2/sigma2]`` (THEORY 4): one
    insertion per rotation, not one per image.
    """
    gamma_ri = np.zeros((len(shared.cell), len(terms)), np.float32)
    columns = [np.empty((len(shared.cell), 0), np.float32)]
    for i, image in enumerate(terms):
        full = np.zeros((len(shared.cell), image.posterior.weight_rt.shape[1]), np.float32)
        full[image.posterior.rotation_r] = image.posterior.weight_rt
        gamma_ri[:, i] = full.sum(axis=1)
        columns.append(full)
    used = np.flatnonzero(gamma_ri.any(axis=1))
    gamma_rt = np.concatenate(columns, axis=1)[used]
    shifted_tp = np.concatenate(
        [np.empty((0, len(batch.pixels)), np.complex64), *[t.shifted_tp for t in terms]]
    )
    numerator_rp = (gamma_rt @ shifted_tp.view(np.float32)).view(np.complex64)
    return shared.matrices[used], numerator_rp, gamma_ri[used] @ batch.inserted_ctf2(usable)


def _collect(
    batch: ImageBatch,
    usable: list[int],
    terms: list[_ImageTerms],
    images: LevelImages,
    plan: SearchPlan,
    slices: _Slices,
) -> BatchExpectation:
    """Stack the terms of a batch's images."""
    shells = plan.radius + 1
    cross_is = np.array([t.cross_s for t in terms]).reshape(-1, shells)
    square_is = np.array([t.square_s for t in terms]).reshape(-1, shells)
    power_i = images.power_i[usable]
    posteriors = [t.posterior for t in terms]
    evidence = np.array([post.log_evidence for post in posteriors]) + plan.log_rotation_cell
    return BatchExpectation(
        index_i=batch.index_i[usable],
        matrices_i=np.array([post.matrix for post in posteriors]).reshape(-1, 3, 3),
        shifts_px_i=np.array([post.shift_px for post in posteriors]).reshape(-1, 2) + batch.shift0_px[usable],
        log_likelihood_i=evidence - power_i,
        correlation_i=_correlation(cross_is.sum(axis=1), square_is.sum(axis=1), power_i),
        pmax_i=np.array([post.pmax for post in posteriors]),
        effective_orientations_i=np.array([post.effective_orientations for post in posteriors]),
        insert_matrices=slices[0],
        numerator_mp=slices[1],
        weight_mp=slices[2],
        cross_is=cross_is,
        square_is=square_is,
        masked_power_is=batch.masked_power_is[usable],
        scored_i=np.array([t.scored for t in terms], np.int64),
    )


def _correlation(
    cross_i: NDArray[np.float64], square_i: NDArray[np.float64], power_i: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Correlation coefficient ``X.R / (|X||R|)`` (L) from sums of whitened products."""
    lengths = np.sqrt(2 * power_i * square_i)
    return np.divide(cross_i, lengths, out=np.zeros_like(cross_i), where=lengths > 0)
