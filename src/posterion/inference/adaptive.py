"""The ragged passes: survivors of a coarse level are subdivided and scored at a finer one, image by image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posterion.inference.images import ImageBatch
from posterion.inference.likelihood import cross_and_norm
from posterion.inference.posterior import Support
from posterion.inference.search import (
    LOG_INVERSE_EPSILON,
    Candidates,
    LevelCount,
    Pruning,
    SearchPlan,
    above_floor,
    margin_rule,
)
from posterion.physics.fourier import Disc, disc
from posterion.physics.projection import FourierVolume
from posterion.physics.sampling import shift_children
from posterion.physics.shifts import shifted

__all__ = ["LevelImages", "children_of", "refine", "score", "survivors_divided"]

_BLOCK_BYTES = 2**27


@dataclass(frozen=True)
class LevelImages:
    """The images of a batch cut to the band of one level.

    Attributes
    ----------
    pixels : disc of the level
    whitened_ip, ctf2_ip : as in `ImageBatch`, on that disc
    power_i : (n,) float64, half the whitened power of each masked image on that disc
    """

    pixels: Disc
    whitened_ip: NDArray[np.complex64]
    ctf2_ip: NDArray[np.float32]
    power_i: NDArray[np.float64]

    @classmethod
    def of(cls, batch: ImageBatch, radius: int) -> LevelImages:
        """Cut a batch to a radius."""
        inside = batch.pixels.within(radius)
        power_i = batch.power_ip[:, inside].sum(axis=1, dtype=np.float64)
        pixels = disc(batch.pixels.box, radius)
        # Indexing may leave pixels outermost; kernels walk them innermost.
        whitened_ip = np.ascontiguousarray(batch.whitened_ip[:, inside])
        return cls(pixels, whitened_ip, np.ascontiguousarray(batch.ctf2_ip[:, inside]), power_i)


def refine(
    batch: ImageBatch,
    row: int,
    levels: list[LevelImages],
    volume: FourierVolume,
    plan: SearchPlan,
    start: Candidates,
    prune: Pruning | None = None,
) -> Support:
    """Score the candidates of one image level by level, dividing what survives each.

    Parameters
    ----------
    batch : prepared images
    row : which image of the batch
    levels : the batch cut to the band of each level of the plan
    volume : reference
    plan : search plan
    start : what to score first
    prune : what survives a level; `within_margin` where None
    """
    candidates, prune = start, prune or margin_rule(plan)

    def scored(some: Candidates) -> Support:
        return score(batch, row, levels[some.level], volume, plan, some)

    while candidates.level < len(plan.levels) - 1:
        pieces = _in_blocks(candidates, levels[candidates.level].pixels)
        log_prob_rt = np.concatenate([scored(piece).log_prob_rt for piece in pieces])
        candidates = survivors_divided(candidates, log_prob_rt, plan, prune)
    return _last_level(candidates, _in_blocks(candidates, levels[-1].pixels), scored)


def _in_blocks(candidates: Candidates, pixels: Disc) -> list[Candidates]:
    """Split candidates by rotations, so that the slices of a part fit into bounded memory."""
    size = max(1, _BLOCK_BYTES // (8 * len(pixels) + 4 * len(candidates.shifts_px)))
    starts = range(0, max(len(candidates.cell), 1), size)
    return [replace(candidates, cell=candidates.cell[start : start + size]) for start in starts]


def _last_level(
    candidates: Candidates, pieces: list[Candidates], scored: Callable[[Candidates], Support]
) -> Support:
    """Score all candidates; where their slices do not fit, only those of the most probable are held."""
    if len(pieces) == 1:
        return scored(candidates)
    floor, cells, tops_r = -np.inf, [], []
    top_t = np.full(len(candidates.shifts_px), -np.inf, np.float32)
    for piece in pieces:
        log_prob_rt = scored(piece).log_prob_rt
        floor = max(floor, float(log_prob_rt.max()) - LOG_INVERSE_EPSILON)
        keep_r, _ = above_floor(log_prob_rt, floor)
        cells.append(piece.cell[keep_r])
        tops_r.append(log_prob_rt[keep_r].max(axis=1))
        top_t = np.maximum(top_t, log_prob_rt.max(axis=0))
    cell = np.concatenate(cells)[np.concatenate(tops_r) >= floor]
    support = scored(replace(candidates, cell=cell, shifts_px=candidates.shifts_px[top_t >= floor]))
    every = len(candidates.cell) * len(candidates.shifts_px)
    return replace(support, counts=(*candidates.counts, LevelCount(every, support.log_prob_rt.size)))


def survivors_divided(
    candidates: Candidates, log_prob_rt: NDArray[np.float32], plan: SearchPlan, prune: Pruning
) -> Candidates:
    """Children of what survives a level, and the count of both.

    Parameters
    ----------
    candidates : of one level
    log_prob_rt : (R, T) float32, their scores
    plan : search plan
    prune : what survives
    """
    keep_r, keep_t = prune(candidates, log_prob_rt)
    count = LevelCount(log_prob_rt.size, len(keep_r) * len(keep_t))
    return children_of(
        replace(
            candidates,
            cell=candidates.cell[keep_r],
            shifts_px=candidates.shifts_px[keep_t],
            counts=(*candidates.counts, count),
        ),
        plan,
    )


def score(
    batch: ImageBatch,
    row: int,
    images: LevelImages,
    volume: FourierVolume,
    plan: SearchPlan,
    candidates: Candidates,
) -> Support:
    """Compare one image with its candidates: one gather per rotation, one matrix product over the shifts.

    Parameters
    ----------
    batch : prepared images
    row : which image of the batch
    images : the batch cut to the band of the candidates' level
    volume : reference
    plan : search plan
    candidates : what to score
    """
    pixels, level = images.pixels, plan.levels[candidates.level]
    grid = plan.grid(candidates.level)
    matrices = grid.matrices(candidates.cell)
    whitened_tp = shifted(images.whitened_ip[row], pixels, candidates.shifts_px)
    slices_rp = volume.slices(matrices, pixels)
    cross_tr, norm_r = cross_and_norm(slices_rp, whitened_tp, images.ctf2_ip[row])
    log_prob_rt = np.ascontiguousarray(plan.score(cross_tr, norm_r).T)
    log_prob_rt += plan.prior.of_rotations(matrices)[:, None]
    log_prob_rt += plan.prior.of_shifts(batch.shift0_px[row] + candidates.shifts_px, level.shift_step_px)
    last = LevelCount(log_prob_rt.size, log_prob_rt.size)
    counts = (*candidates.counts, last)
    return Support(
        matrices,
        candidates.shifts_px,
        log_prob_rt,
        slices_rp,
        grid.step_deg,
        counts,
        candidates.cell,
        _share(candidates, plan),
    )


def _share(candidates: Candidates, plan: SearchPlan) -> NDArray[np.float32] | None:
    """Part of each cell of the last level that counts; around a pose, whose equivalents are far, all do."""
    if candidates.level < len(plan.levels) - 1 or plan.local_radius_deg is not None:
        return None
    return plan.shares(candidates.level, candidates.cell)


def children_of(candidates: Candidates, plan: SearchPlan) -> Candidates:
    """Subdivide rotations into 8 and, where the next level's step is finer, shifts into 4."""
    level, finer = plan.levels[candidates.level], plan.levels[candidates.level + 1]
    cell = plan.grid(candidates.level).children(candidates.cell)
    shifts_px = candidates.shifts_px
    if finer.shift_step_px < 0.75 * level.shift_step_px:
        shifts_px = shift_children(shifts_px, level.shift_step_px)
    return Candidates(candidates.level + 1, cell, shifts_px, candidates.counts)
