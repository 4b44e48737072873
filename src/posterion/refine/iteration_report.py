"""What an iteration reports: means over particles, and what changed since the one before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from posterion.inference.search import SearchPlan
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.symmetry import point_group_operators
from posterion.refine.context import RefineContext
from posterion.refine.state import IterationInfo, ParticleEstimates, RefinementState
from posterion.refine.sums import ExpectationSums

__all__ = ["report"]

_BLOCK = 2**14
_OTHER_PEAK_STEPS = 2.0


def report(
    context: RefineContext,
    old: RefinementState,
    new: RefinementState,
    plan: SearchPlan,
    sums: ExpectationSums,
    seconds: dict[str, float],
) -> IterationInfo:
    """Summarise an iteration for people and for the schedule.

    Parameters
    ----------
    context : the run
    old, new : before and after it
    plan : how poses were searched
    sums : of its expectation step
    seconds : wall seconds per phase
    """
    edge = context.box * context.pixel_size
    found, last = new.particles, plan.levels[-1]
    grid = plan.grid(len(plan.levels) - 1)
    operators = point_group_operators(context.config.point_group)
    used_i = found.usable if found.usable.any() else np.ones(len(found.usable), bool)
    used = int(np.count_nonzero(used_i))
    angle_change_deg, shift_change_px, moved_share = _pose_changes(
        old.particles, found, operators, _OTHER_PEAK_STEPS * grid.step_deg
    )
    return IterationInfo(
        iteration=new.iteration,
        particles=sums.searched,
        resolution_angstrom=edge / new.resolution_shell,
        compared_to_angstrom=edge / plan.radius,
        angular_step_deg=grid.step_deg,
        shift_step_px=last.shift_step_px,
        search=_name_of_search(old, plan),
        pmax=float(found.pmax[used_i].mean(dtype=np.float64)),
        log_likelihood=float(found.log_likelihood[used_i].mean(dtype=np.float64)),
        effective_orientations=float(np.median(found.effective_orientations[used_i])),
        support_share=float(found.effective_orientations[used_i].mean(dtype=np.float64) / plan.cell_count),
        angle_change_deg=angle_change_deg,
        shift_change_px=shift_change_px,
        moved_share=moved_share,
        map_change=0.0 if old.search.look else _map_change(old, new),
        scored_rotations=sums.scored / used,
        poses_scored=[level.scored / used for level in sums.counts],
        poses_kept=[level.kept / used for level in sums.counts],
        gaussian_share=sums.gaussian / used,
        diverged=sums.diverged,
        quarantined=sums.searched - int(found.usable.sum()),
        seconds=seconds,
    )


def _name_of_search(old: RefinementState, plan: SearchPlan) -> str:
    if old.search.local or old.search.look:
        return "local" if old.search.local else "look"
    if plan.by_harmonics:
        return "harmonic"
    return "dense" if len(plan.levels) == 1 else "global"


def _pose_changes(
    old: ParticleEstimates, new: ParticleEstimates, operators: NDArray[np.float64], other_peak_deg: float
) -> tuple[float | None, float | None, float | None]:
    """Median angle, degrees, and shift, pixels, between two iterations, and the share on another peak.

    None without any particle that has both poses. Equivalent poses count as equal. Taken block by block:
    memory for one number per particle.
    """
    both = old.usable & new.usable
    if not both.any():
        return None, None, None
    turned_deg = _of_each(_turned_deg, old, new, operators)[both]
    angle, moved_share = float(np.median(turned_deg)), float(np.mean(turned_deg > other_peak_deg))
    del turned_deg
    return angle, float(np.median(_of_each(_moved_px, old, new, operators)[both])), moved_share


_Change = Callable[[ParticleEstimates, ParticleEstimates, slice, NDArray[np.float64]], NDArray[np.floating]]


def _of_each(
    change: _Change, old: ParticleEstimates, new: ParticleEstimates, operators: NDArray[np.float64]
) -> NDArray[np.float32]:
    change_i = np.empty(len(old.usable), np.float32)
    for start in range(0, len(change_i), _BLOCK):
        block = slice(start, start + _BLOCK)
        change_i[block] = change(old, new, block, operators)
    return change_i


def _turned_deg(
    old: ParticleEstimates, new: ParticleEstimates, block: slice, operators: NDArray[np.float64]
) -> NDArray[np.float64]:
    before, now = old.matrices[block].astype(np.float64), new.matrices[block].astype(np.float64)
    return np.asarray(np.min([angular_distance_deg(before, now @ s) for s in operators], axis=0))


def _moved_px(
    old: ParticleEstimates, new: ParticleEstimates, block: slice, _operators: NDArray[np.float64]
) -> NDArray[np.float32]:
    return np.asarray(np.hypot(*(new.shifts_px[block] - old.shifts_px[block]).T))


def _map_change(old: RefinementState, new: RefinementState) -> float:
    """One minus the mean FSC of the new map with the old one, up to the resolution."""
    fsc_s = fourier_shell_correlation(old.half_maps.mean(axis=0), new.half_maps.mean(axis=0))
    return float(1 - fsc_s[1 : new.resolution_shell + 1].mean())
