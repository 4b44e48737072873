"""Domain reduction (L): a cell of poses is pruned when all that it can gain leaves it below the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posterion.inference.adaptive import LevelImages, refine, score, survivors_divided
from posterion.inference.bounds import ExpectedRise, LargestRise, Limits
from posterion.inference.images import ImageBatch
from posterion.inference.likelihood import gaussian_log_prob
from posterion.inference.search import (
    LOG_INVERSE_EPSILON,
    Candidates,
    Kept,
    Pruning,
    SearchPlan,
    above_floor,
)
from posterion.physics.projection import FourierVolume

__all__ = ["Bound", "BranchAndBound"]

Bound = Literal["posterior", "full-band", "rigorous"]
"""What a cell is compared with, and how much it may gain; see `BranchAndBound`."""

_GREEDY_ROTATIONS, _GREEDY_SHIFTS = 4, 3
_FAILURE = 1e-2


@dataclass(frozen=True)
class BranchAndBound:
    """Pruning rules of one reference: a cell survives a level if it may hold a pose that matters.

    The floor of a level is ``target - rise - log(1/epsilon)``. First a greedy descent finds a good pose b.

    - ``posterior``: b's score in the level's own band, less what the score of the true pose rises by inside
      its cell in that band. The posterior of a band is the expected posterior of all bands, so what is cut
      off costs as much of Gamma as it holds now.
    - ``full-band``: b's score in the whole band, less what the score of the true pose rises by inside its
      cell and from the pixels beyond the level's band: cryoSPARC's bound.
    - ``rigorous``: the same with what any image can rise by; never wrong, and seldom of use.

    The first two fail with a stated probability per image and all levels together.

    Attributes
    ----------
    volume : reference
    plan : search plan
    bound : see above
    rise : bounds of the reference
    failure : probability with which the true pose's cell may be lost, over all levels
    """

    volume: FourierVolume
    plan: SearchPlan
    bound: Bound
    rise: ExpectedRise | LargestRise
    failure: float = _FAILURE

    @classmethod
    def of(
        cls,
        volume: FourierVolume,
        plan: SearchPlan,
        bound: Bound = "posterior",
        failure: float = _FAILURE,
    ) -> BranchAndBound:
        """Measure a reference.

        Raises
        ------
        ValueError
            When poses are not scored by the Gaussian log-probability, which is what the bounds are of.
        """
        if plan.score is not gaussian_log_prob:
            raise ValueError("branch and bound needs the Gaussian log-probability")
        rise = LargestRise.of(volume) if bound == "rigorous" else ExpectedRise.of(volume, plan)
        return cls(volume, plan, bound, rise, failure)

    def rules(self, batch: ImageBatch, levels: list[LevelImages]) -> list[Pruning]:
        """Make the rules of a batch's images.

        Parameters
        ----------
        batch : prepared images
        levels : the batch cut to the band of each level of the plan
        """
        coarse = range(len(self.plan.levels) - 1)
        if isinstance(self.rise, LargestRise):
            limits = [self.rise.limits(batch, self.plan, level) for level in coarse]
            floor: _Floor = partial(self._rigorous_floor, batch, limits)
        else:
            share, tail = self.failure / max(len(coarse), 1), self.bound == "full-band"
            floor = partial(
                self._probable_floor, [self.rise.rise_i(batch, self.plan, v, share, tail) for v in coarse]
            )
        return [_Rule(self, batch, row, levels, floor) for row in range(len(batch))]

    def _probable_floor(
        self, rise_li: list[NDArray[np.float64]], row: int, candidates: Candidates, known: _Known
    ) -> float:
        """Target less what the true pose's score rises by with all but a small probability."""
        level, levels = candidates.level, self.plan.levels
        # A level's cell of shifts holds several of the last level's, and its prior is their sum.
        cells = 2 * np.log(levels[level].shift_step_px / levels[-1].shift_step_px)
        if self.bound == "full-band":
            target = known.good_l[-1] + cells
        else:
            target = max(known.good_l[level] + cells, known.best)
        return float(target - rise_li[level][row] - LOG_INVERSE_EPSILON)

    def _rigorous_floor(
        self, batch: ImageBatch, limits: list[Limits], row: int, candidates: Candidates, known: _Known
    ) -> float:
        """Target less what any score can rise by; the prior at its best in the pose, at its worst before."""
        prior, levels, level = self.plan.prior, self.plan.levels, candidates.level
        shifts_px = batch.shift0_px[row] + candidates.shifts_px
        directions = prior.log_direction_d
        highest = directions.max() + prior.of_shifts(np.zeros(2), levels[-1].shift_step_px)
        lowest = directions.min() + prior.of_shifts(shifts_px, levels[level].shift_step_px).min()
        needed = float(known.good_l[-1] - LOG_INVERSE_EPSILON - highest)
        return limits[level].floor(row, needed) + float(lowest)


@dataclass(frozen=True)
class _Known:
    """Scores that a level's floor follows from.

    Attributes
    ----------
    good_l : (levels,) score of one good pose of the last level in the band of each
    best : best score of the level
    """

    good_l: NDArray[np.float64]
    best: float


_Floor = Callable[[int, Candidates, _Known], float]


@dataclass
class _Rule:
    """Rule of one image; its first call descends to a good pose, which every call compares with."""

    search: BranchAndBound
    batch: ImageBatch
    row: int
    levels: list[LevelImages]
    floor: _Floor
    good_l: NDArray[np.float64] | None = None

    def __call__(self, candidates: Candidates, log_prob_rt: NDArray[np.float32]) -> Kept:
        if self.good_l is None:
            self.good_l = self._descend(candidates, log_prob_rt)
        known = _Known(self.good_l, float(log_prob_rt.max()))
        return above_floor(log_prob_rt, self.floor(self.row, candidates, known))

    def _descend(self, candidates: Candidates, log_prob_rt: NDArray[np.float32]) -> NDArray[np.float64]:
        """Follow the best few cells down to a pose of the last level; its score in the band of each level."""
        plan, volume = self.search.plan, self.search.volume
        start = survivors_divided(candidates, log_prob_rt, plan, _greedy)
        found = refine(self.batch, self.row, self.levels, volume, plan, start, _greedy)
        rotation, shift = np.unravel_index(found.log_prob_rt.argmax(), found.log_prob_rt.shape)
        cell = np.asarray(found.cell)[[rotation]]
        good = Candidates(len(plan.levels) - 1, cell, found.shifts_px[[shift]])
        scores = [score(self.batch, self.row, images, volume, plan, good) for images in self.levels]
        return np.array([support.log_prob_rt[0, 0] for support in scores], np.float64)


def _greedy(candidates: Candidates, log_prob_rt: NDArray[np.float32]) -> Kept:
    """Keep the best few rotations and shifts."""
    keep_r = np.sort(np.argsort(-log_prob_rt.max(axis=1), kind="stable")[:_GREEDY_ROTATIONS])
    best_t = log_prob_rt[keep_r].max(axis=0)
    return keep_r, np.sort(np.argsort(-best_t, kind="stable")[:_GREEDY_SHIFTS])
