"""Which poses are scored: a plan of levels, each with its grid of rotations, band of frequencies and shift step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from posterion.inference.likelihood import Score, gaussian_log_prob
from posterion.inference.priors import PosePrior
from posterion.physics.sampling import RotationGrid

__all__ = ["Candidates", "Level", "SearchPlan", "within_margin"]


@dataclass(frozen=True)
class Level:
    """One level of the search.

    Attributes
    ----------
    order : HEALPix order of the rotations
    radius : highest shell compared, Fourier pixels
    shift_step_px : step of the shifts, pixels
    """

    order: int
    radius: int
    shift_step_px: float


@dataclass(frozen=True)
class SearchPlan:
    """How one expectation step searches, the same for all particles.

    Attributes
    ----------
    levels : coarse to fine; each level's rotations are the children of the one before
    shift_range_px : radius of the shifts searched around the previous offset, pixels
    margin_nats : a pose survives a level if its log-probability is within this of the level's best
    max_rotations : at most this many rotations survive a level, the best ones
    point_group : symmetry
    grid_offset : (3, 3) rotation of the whole grid
    prior : prior over poses
    score : log-probability from cross and norm terms
    local_radius_deg : where not None, the first level holds only rotations within this of the previous pose
    """

    levels: tuple[Level, ...]
    shift_range_px: float
    margin_nats: float
    max_rotations: int
    point_group: str
    grid_offset: NDArray[np.float64]
    prior: PosePrior
    score: Score = gaussian_log_prob
    local_radius_deg: float | None = None

    def grid(self, level: int) -> RotationGrid:
        """Rotations of a level."""
        return RotationGrid(self.levels[level].order, self.grid_offset)

    @property
    def radius(self) -> int:
        """Highest shell of the last level."""
        return self.levels[-1].radius

    @cached_property
    def log_rotation_cell(self) -> float:
        """Log of the prior mass of one rotation of the last level under the uniform prior."""
        grid = self.grid(len(self.levels) - 1)
        return -float(np.log(grid.n_directions * grid.n_psi))


@dataclass(frozen=True)
class Candidates:
    """What of a level is to be scored for one particle.

    Attributes
    ----------
    level : index into the plan's levels
    cell : (R,) int64 rotations of that level's grid
    shifts_px : (T, 2) float64 shifts, pixels
    """

    level: int
    cell: NDArray[np.int64]
    shifts_px: NDArray[np.float64]


def within_margin(
    log_prob_rt: NDArray[np.float32], plan: SearchPlan
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rotations and shifts that survive a level: those with a pose within the margin of the best.

    Parameters
    ----------
    log_prob_rt : (R, T) float32
    plan : gives the margin and the largest number of rotations

    Returns
    -------
    Positions of the rotations and of the shifts, ascending.
    """
    best_r = log_prob_rt.max(axis=1)
    floor = best_r.max() - plan.margin_nats
    keep_r = np.flatnonzero(best_r >= floor)
    if len(keep_r) > plan.max_rotations:
        keep_r = np.sort(keep_r[np.argsort(-best_r[keep_r], kind="stable")[: plan.max_rotations]])
    keep_t = np.flatnonzero(log_prob_rt[keep_r].max(axis=0) >= floor)
    return keep_r, keep_t
