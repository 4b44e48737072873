"""Which poses are scored: a plan of levels, each a grid of rotations, a band and a shift step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.inference.likelihood import Score, gaussian_log_prob
from posterion.inference.priors import PosePrior
from posterion.physics.sampling import RotationGrid
from posterion.physics.symmetry import point_group_operators

__all__ = [
    "LOG_INVERSE_EPSILON",
    "SEARCHES",
    "Candidates",
    "Kept",
    "Level",
    "LevelCount",
    "Pruning",
    "SearchPlan",
    "above_floor",
    "band_of_order",
    "floor_of_starts",
    "loss_of_cell",
    "margin_rule",
    "require_search",
    "total_counts",
    "within_margin",
]

SEARCHES = ("auto", "exhaustive", "adaptive", "branch-and-bound")
"""All poses of the last level; what is within a margin; what may still matter; the fastest of these."""

LOG_INVERSE_EPSILON = float(np.log(1e5))
"""A pose this many nats below the best is left out: beyond it lie 3e-4 of a normal posterior in five."""

_BAND_FACTOR = 1.2
_CELL_LOSS = 0.5
_START_SHARE = 0.7


def require_search(search: str) -> None:
    """Refuse a search that is none of `SEARCHES`."""
    if search not in SEARCHES:
        raise PosterionError(f"search '{search}' is unknown; choose one of {', '.join(SEARCHES)}")


@dataclass(frozen=True)
class Level:
    """One level of the search.

    Attributes
    ----------
    order : HEALPix order of the rotations
    radius : highest shell compared, Fourier pixels
    shift_step_px : step of the shifts, pixels
    cell_loss : share of its log-probability that the best pose inside a cell may lose by being scored at
        the centre
    """

    order: int
    radius: int
    shift_step_px: float
    cell_loss: float = 0.0


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
    climb : Gauss-Newton from the best cells, or from the previous pose, instead of finer levels
    local_radius_deg : where not None, the first level holds only rotations within this of the previous pose
    search : what survives a level, one of `SEARCHES`
    by_harmonics : compare at all in-plane angles of the only level at once, see `posterion.inference.polar`
    added_noise : share by which fewer slices of a posterior on a list of rotations may raise the variance of
        the map's noise, see `posterion.inference.thinning`; 0 inserts all
    """

    levels: tuple[Level, ...]
    shift_range_px: float
    margin_nats: float
    max_rotations: int
    point_group: str
    grid_offset: NDArray[np.float64]
    prior: PosePrior
    score: Score = gaussian_log_prob
    climb: bool = False
    local_radius_deg: float | None = None
    search: str = "adaptive"
    by_harmonics: bool = False
    added_noise: float = 0.0

    def grid(self, level: int) -> RotationGrid:
        """Rotations of a level."""
        return RotationGrid(self.levels[level].order, self.grid_offset)

    def shares(self, level: int, cell: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Part of each rotation of a level that lies in the asymmetric unit; None without symmetry."""
        return None if self.point_group == "C1" else self.grid(level).share_inside(cell, self.point_group)

    @property
    def radius(self) -> int:
        """Highest shell of the last level."""
        return self.levels[-1].radius

    @cached_property
    def cell_count(self) -> float:
        """Number of different rotations of the last level's grid."""
        grid = self.grid(len(self.levels) - 1)
        return grid.n_directions * grid.n_psi / len(point_group_operators(self.point_group))

    @property
    def log_rotation_cell(self) -> float:
        """Log of the prior mass of one rotation of the last level under the uniform prior."""
        return -float(np.log(self.cell_count))


@dataclass(frozen=True)
class LevelCount:
    """How many poses of a level were scored and how many of them survived it."""

    scored: int
    kept: int

    def __add__(self, other: LevelCount) -> LevelCount:
        return LevelCount(self.scored + other.scored, self.kept + other.kept)


@dataclass(frozen=True)
class Candidates:
    """What of a level is to be scored for one particle.

    Attributes
    ----------
    level : index into the plan's levels
    cell : (R,) int64 rotations of that level's grid
    shifts_px : (T, 2) float64 shifts, pixels
    counts : of the levels before
    """

    level: int
    cell: NDArray[np.int64]
    shifts_px: NDArray[np.float64]
    counts: tuple[LevelCount, ...] = ()


def total_counts(counts: Iterable[tuple[LevelCount, ...]]) -> tuple[LevelCount, ...]:
    """Sum counts of many images level by level, from the last level backwards."""
    total: list[LevelCount] = []
    for own in counts:
        total += [LevelCount(0, 0)] * (len(own) - len(total))
        for place, count in enumerate(reversed(own)):
            total[place] += count
    return tuple(reversed(total))


Kept = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Positions of the rotations and of the shifts that survive a level, ascending."""

Pruning = Callable[[Candidates, NDArray[np.float32]], Kept]
"""Rule by which one image's candidates survive a level: from them and their (R, T) log-probabilities."""


def band_of_order(order: int, box: int, diameter_px: float) -> float:
    """Highest shell that a grid of rotations resolves: one step moves the particle's edge by 1.2 periods.

    ``r = 1.2 n / (step D / 2)``, the rule by which RELION limits its coarse pass.

    Parameters
    ----------
    order : HEALPix order; the step is 60 degrees / 2**order
    box : pixels
    diameter_px : diameter of the particle, pixels
    """
    step_rad = np.radians(60.0 / 2**order)
    return float(_BAND_FACTOR * box / (step_rad * diameter_px / 2))


def loss_of_cell(band: float, resolved: float) -> float:
    """Share of its log-probability that the best pose of a cell may lose by being scored at the centre.

    Parameters
    ----------
    band : highest shell compared
    resolved : what the grid resolves, see `band_of_order`
    """
    return _CELL_LOSS * min(1.0, band / resolved) ** 2


def above_floor(log_prob_rt: NDArray[np.float32], floor: float, most: int | None = None) -> Kept:
    """Rotations and shifts with a pose of at least a log-probability; the best ``most`` rotations.

    Parameters
    ----------
    log_prob_rt : (R, T) float32
    floor : least log-probability; the best pose survives even below it
    most : at most so many rotations; all where None
    """
    best_r = log_prob_rt.max(axis=1)
    floor = min(floor, float(best_r.max()))
    keep_r = np.flatnonzero(best_r >= floor)
    if most is not None and len(keep_r) > most:
        keep_r = np.sort(keep_r[np.argsort(-best_r[keep_r], kind="stable")[:most]])
    keep_t = np.flatnonzero(log_prob_rt[keep_r].max(axis=0) >= floor)
    return keep_r, keep_t


def within_margin(log_prob_rt: NDArray[np.float32], plan: SearchPlan, level: int) -> Kept:
    """Rotations and shifts that survive a level: their cell may hold a pose within the margin.

    A cell is scored at its centre only; ``floor = best - max(margin, loss * best)`` leaves room for what
    that costs.

    Parameters
    ----------
    log_prob_rt : (R, T) float32
    plan : gives the margin, the loss and the largest number of rotations
    level : index into the plan's levels
    """
    best = float(log_prob_rt.max())
    floor = best - max(plan.margin_nats, plan.levels[level].cell_loss * best)
    return above_floor(log_prob_rt, floor, plan.max_rotations)


def floor_of_starts(best: float, plan: SearchPlan) -> float:
    """Least log-probability of a first level's cell from which climbing is worth while.

    A cell that is divided has to hold the peak; climbing also finds one beside the cell that it starts
    from, so 0.7 of the loss is enough.
    """
    return best - max(plan.margin_nats, _START_SHARE * plan.levels[0].cell_loss * best)


def margin_rule(plan: SearchPlan) -> Pruning:
    """`within_margin` as the rule of every image."""
    return lambda candidates, log_prob_rt: within_margin(log_prob_rt, plan, candidates.level)
