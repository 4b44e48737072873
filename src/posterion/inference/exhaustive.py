"""The dense pass: all rotations of a shared grid against all images of a batch, as two matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.inference.adaptive import children_of, survivors_divided
from posterion.inference.images import ImageBatch
from posterion.inference.posterior import Support
from posterion.inference.search import Candidates, LevelCount, Pruning, SearchPlan, margin_rule
from posterion.physics.fourier import Disc, disc
from posterion.physics.projection import FourierVolume
from posterion.physics.sampling import shift_lattice
from posterion.physics.shift_interpolation import ShiftInterpolation, interpolation
from posterion.physics.shifts import shift_phases

__all__ = [
    "SharedGrid",
    "complete_candidates",
    "dense_candidates",
    "dense_log_prob",
    "dense_supports",
    "few_shifts",
]


@dataclass(frozen=True)
class SharedGrid:
    """Slices of one volume on the first level's grid, computed once per expectation step.

    Attributes
    ----------
    cell : (R,) int64 rotations of the grid that are scored
    matrices : (R, 3, 3) float64, their rotations
    slices_rp : (R, P) complex64, the slices
    power_rp : (R, P) float32, squared moduli of the slices
    log_prior_r : (R,) float32
    pixels : disc of the level
    share_r : (R,) float32 or None, see `Support`
    """

    cell: NDArray[np.int64]
    matrices: NDArray[np.float64]
    slices_rp: NDArray[np.complex64]
    power_rp: NDArray[np.float32]
    log_prior_r: NDArray[np.float32]
    pixels: Disc
    share_r: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, volume: FourierVolume, plan: SearchPlan) -> SharedGrid:
        """Slice a volume on the plan's first level."""
        pixels = disc(volume.box, plan.levels[0].radius)
        cell = plan.grid(0).all_cells(plan.point_group)
        matrices = plan.grid(0).matrices(cell)
        slices_rp = volume.slices(matrices, pixels)
        power_rp = slices_rp.real**2 + slices_rp.imag**2
        prior_r = plan.prior.of_rotations(matrices)
        return cls(cell, matrices, slices_rp, power_rp, prior_r, pixels, plan.shares(0, cell))


def dense_log_prob(
    batch: ImageBatch, grid: SharedGrid, plan: SearchPlan
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Score all images of a batch at all rotations of the shared grid and all shifts.

    ``cross_(it)r = [Re, Im of shifted, whitened images] @ [Re, Im of slices]^T`` and
    ``norm_ir = [C^2/sigma2] @ [|slice|^2]^T`` (docs/theory.md 4). Where shifts are many
    for the band, cross terms of a few give all of them, see `posterion.physics.shift_interpolation`.

    Parameters
    ----------
    batch : prepared images
    grid : shared slices
    plan : search plan

    Returns
    -------
    log_prob_itr : (n, T, R) float32, log-likelihood plus log prior
    shifts_px : (T, 2) float64, pixels
    """
    inside = batch.pixels.within(grid.pixels.radius)
    step = plan.levels[0].shift_step_px
    shifts_px = shift_lattice(plan.shift_range_px, step)
    few = few_shifts(plan, shifts_px, grid.pixels)
    phases_sp = shift_phases(grid.pixels, shifts_px if few is None else shifts_px[few.kept_s])
    whitened = batch.whitened_ip[:, None, inside] * phases_sp
    n, s = whitened.shape[:2]
    images = np.ascontiguousarray(whitened.reshape(n * s, -1))  # indexing may leave pixels outermost
    cross_isr = (images.view(np.float32) @ grid.slices_rp.view(np.float32).T).reshape(n, s, -1)
    norm_ir = np.ascontiguousarray(batch.ctf2_ip[:, inside]) @ grid.power_rp.T
    log_prior_it = plan.prior.of_shifts(batch.shift0_px[:, None] + shifts_px, step)
    log_prob_itr = np.empty((n, len(shifts_px), len(grid.cell)), np.float32)
    for i, cross_sr in enumerate(cross_isr):
        scores_tr = plan.score(cross_sr if few is None else few.at_all(cross_sr), norm_ir[i])
        scores_tr += grid.log_prior_r
        np.add(scores_tr, log_prior_it[i][:, None], out=log_prob_itr[i])
    return log_prob_itr, shifts_px


def few_shifts(plan: SearchPlan, shifts_px: NDArray[np.float64], pixels: Disc) -> ShiftInterpolation | None:
    """Find few shifts that all of a list follow from; None where they save little, or scores must be exact.

    Exhaustive search is what others are held against, and bounds are on scores that are not interpolated.

    Parameters
    ----------
    plan : search plan
    shifts_px : (T, 2)
    pixels : disc on which images are moved
    """
    return interpolation(shifts_px, pixels) if plan.search == "adaptive" else None


def dense_candidates(
    batch: ImageBatch, grid: SharedGrid, plan: SearchPlan, rules: Sequence[Pruning] | None = None
) -> list[Candidates]:
    """Score a batch on the shared grid and list, per image, the children of what survives the level.

    Parameters
    ----------
    batch : prepared images
    grid : shared slices
    plan : search plan with at least two levels
    rules : what survives, per image; `within_margin` where None
    """
    log_prob_itr, shifts_px = dense_log_prob(batch, grid, plan)
    everything = Candidates(0, grid.cell, shifts_px)
    rules = [margin_rule(plan)] * len(batch) if rules is None else rules
    return [
        survivors_divided(everything, scores.T, plan, prune)
        for scores, prune in zip(log_prob_itr, rules, strict=True)
    ]


def dense_supports(batch: ImageBatch, grid: SharedGrid, plan: SearchPlan) -> list[Support]:
    """Score a batch on the shared grid as the only level: every image's support is the whole grid.

    Parameters
    ----------
    batch : prepared images
    grid : shared slices
    plan : search plan with one level
    """
    log_prob_itr, shifts_px = dense_log_prob(batch, grid, plan)
    step_deg = plan.grid(0).step_deg
    return [
        Support(
            grid.matrices,
            shifts_px,
            scores.T,
            grid.slices_rp,
            step_deg,
            (LevelCount(scores.size, scores.size),),
            share_r=grid.share_r,
        )
        for scores in log_prob_itr
    ]


def complete_candidates(
    plan: SearchPlan, matrix: NDArray[np.float64] | None = None, shift_px: NDArray[np.float64] | None = None
) -> Candidates:
    """List every pose of the last level, for the price of which the other searches were invented.

    Shifts are those that dividing the first level's reaches.

    Parameters
    ----------
    plan : search plan
    matrix : (3, 3) previous rotation, where the plan is a local one: only rotations near it
    shift_px : (2,) centre of the shifts; zero where None
    """
    last = len(plan.levels) - 1
    nowhere = np.zeros(0, np.int64)
    shifts = Candidates(0, nowhere, shift_lattice(plan.shift_range_px, plan.levels[0].shift_step_px))
    for _ in range(last):
        shifts = children_of(shifts, plan)
    grid = plan.grid(last)
    if plan.local_radius_deg is None or matrix is None:
        cell = grid.all_cells(plan.point_group)
    else:
        cell = grid.near(matrix, plan.local_radius_deg)
    return Candidates(last, cell, shifts.shifts_px + (0 if shift_px is None else shift_px))
