"""Gold-standard refinement: ``init`` makes the first state, ``step`` turns one state into the next."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posterion.inference.priors import PosePrior, estimate_direction_prior, estimate_offset_sigma
from posterion.inference.search import SearchPlan
from posterion.mapping.fsc import fourier_shell_correlation, fsc_curves
from posterion.mapping.masks import low_pass
from posterion.mapping.reconstruct import ssnr_from_fsc
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.symmetry import point_group_operators
from posterion.refine.context import RefineContext
from posterion.refine.expectation_step import ExpectationSums, expect_half, make_plan
from posterion.refine.grey_scale import background_sigma2, fit_grey_scale
from posterion.refine.schedule import COMPARE_MARGIN_SHELLS, MAP_MARGIN_SHELLS, SearchState
from posterion.refine.state import IterationInfo, ParticleEstimates, RefinementState

__all__ = ["MapSet", "init", "step"]

_CAUTIOUS_MARGIN_SHELLS, _KNOWN_SHARE = 10, 0.01
_FSC_LIMIT = 0.143
_SHARP_POSTERIOR = 2.5
_BROAD_POSTERIOR, _WORTH_REFINING = 200.0, 50.0
_COARSEST, _FINE_ENOUGH, _FINEST = 0.5, 4.0, 16.0
_GRIDS_UNCHANGED, _PEAKS_UNCHANGED = 0.02, 0.002
_MOSTLY, _SETTLED_DEG = 0.5, 1.0
_NOTHING_KNOWN, _BEST_ONLY_ITERATIONS = 0.3, 3
_BLOCK = 2**14


@dataclass(frozen=True)
class MapSet:
    """Maps of one iteration.

    Attributes
    ----------
    half_maps : (2, n, n, n) float32, regularised, solvent flattened, joined at low resolution: the next
        references
    unfiltered : (2, n, n, n) float32, half maps without regularisation
    fsc_s : (n//2+1,) float64, FSC of the unfiltered half maps inside the solvent mask
    tau2_s : (n//2+1,) float64, prior variance of the map's coefficients that regularised the half maps
    joined, joined_unfiltered : (n, n, n) float32, map of all particles; only in the last iteration
    """

    half_maps: NDArray[np.float32]
    unfiltered: NDArray[np.float32]
    fsc_s: NDArray[np.float64]
    tau2_s: NDArray[np.float64]
    joined: NDArray[np.float32] | None = None
    joined_unfiltered: NDArray[np.float32] | None = None


def init(context: RefineContext, reference: NDArray[np.float32]) -> tuple[RefinementState, float]:
    """Make the first state: low-passed reference on the images' grey scale, noise from the background.

    Parameters
    ----------
    context : the run
    reference : (n, n, n) float32, starting map on the images' box and pixel size, any grey scale

    Returns
    -------
    state : before the first iteration
    grey_scale : the factor that the reference was multiplied by
    """
    config = context.config
    start = low_pass(reference, config.initial_lowpass_angstrom, context.pixel_size) * context.solvent_mask
    shell = max(context.shell_of(config.initial_lowpass_angstrom), 3)
    sigma2_gs = background_sigma2(context)
    state = RefinementState(
        iteration=0,
        half_maps=np.stack([start, start]),
        sigma2_gs=sigma2_gs,
        scale_g=np.ones(int(context.scale_group_i.max()) + 1),
        tau2_s=np.zeros(sigma2_gs.shape[1]),
        particles=ParticleEstimates.empty(len(context.particles)),
        resolution_shell=shell,
        best_shell=shell,
        stalled=0,
        search=SearchState(),
        log_direction_d=PosePrior.uniform(1.0).log_direction_d,
        offset_sigma_px=config.shift_range_angstrom / context.pixel_size / 2,
        converged=False,
    )
    factor, support_share = fit_grey_scale(context, state)
    return (
        replace(
            state,
            half_maps=state.half_maps * np.float32(factor),
            search=replace(
                state.search, support_share=support_share, best_only=support_share > _NOTHING_KNOWN
            ),
        ),
        factor,
    )


def step(
    context: RefineContext, state: RefinementState, final: bool = False
) -> tuple[RefinementState, IterationInfo, MapSet]:
    """Run one iteration: E-step over both halves, M-step, FSC, and the decision what comes next.

    Parameters
    ----------
    context : the run
    state : where it stands
    final : collect all frequencies up to Nyquist and also join the halves into one map
    """
    start = time.perf_counter()
    nyquist = (context.box - 1) // 2
    # Where poses are hardly known halves agree on their average over orientations: no reason to hurry.
    known = state.search.support_share < _KNOWN_SHARE
    margin = MAP_MARGIN_SHELLS if known else _CAUTIOUS_MARGIN_SHELLS
    radius = nyquist if final else min(state.resolution_shell + margin, nyquist)
    plan = make_plan(context, state, min(state.resolution_shell + COMPARE_MARGIN_SHELLS, radius))
    sums = ExpectationSums(context, state, plan, radius)
    for half in (0, 1):
        for part in expect_half(context, state, plan, half, radius):
            sums.add(part, half)
    expected = time.perf_counter()
    maps = _maximise(context, sums, final)
    seconds = {"expectation": expected - start, "maximisation": time.perf_counter() - expected}
    measured = _next_state(context, state, sums, maps)
    info = _report(context, state, measured, plan, sums, seconds)
    return _decide(measured, state, info), info, maps


def _maximise(context: RefineContext, sums: ExpectationSums, final: bool) -> MapSet:
    """Solve both halves: FSC from the independent ones, then references that share their low resolution."""
    threads, mask = context.workers.threads, context.solvent_mask
    first, second = sums.take_halves()
    unfiltered = np.stack([first.solve(None, threads), second.solve(None, threads)])
    radius = first.grid.radius
    fsc_s = _solvent_fsc(context, unfiltered, radius)
    ssnr_s = ssnr_from_fsc(fsc_s)[: radius + 1]
    weight_s = (first.shell_weight() + second.shell_weight()) / 2
    first.join_below(second, context.shell_of(context.config.join_halves_angstrom))
    halves = [own.solve(weight_s / ssnr_s, threads) * mask for own in (first, second)]
    tau2_s = np.zeros(len(fsc_s))
    tau2_s[: len(ssnr_s)] = ssnr_s / np.maximum(first.grid.padding**3 * weight_s, 1e-30)
    maps = MapSet(np.stack(halves), unfiltered, fsc_s, tau2_s)
    if not final:
        return maps
    first.add(second)
    joined = first.solve(first.shell_weight() / (2 * ssnr_s), threads)
    return replace(maps, joined=joined, joined_unfiltered=first.solve(None, threads))


def _solvent_fsc(context: RefineContext, unfiltered: NDArray[np.float32], radius: int) -> NDArray[np.float64]:
    """FSC inside the solvent mask, corrected for a user's mask; zero beyond the collected shells."""
    mask, first, second = context.solvent_mask, *unfiltered
    if context.tight_mask:
        curves = fsc_curves(first, second, context.pixel_size, mask, workers=context.workers.threads)
        fsc_s = np.array(curves.corrected_s)
    else:
        fsc_s = fourier_shell_correlation(first * mask, second * mask)
    fsc_s[radius + 1 :] = 0
    return fsc_s


def _next_state(
    context: RefineContext, state: RefinementState, sums: ExpectationSums, maps: MapSet
) -> RefinementState:
    """Collect what this iteration measured, before any decision."""
    below = np.flatnonzero(maps.fsc_s[1:] < _FSC_LIMIT)
    shell = int(below[0]) if len(below) else len(maps.fsc_s) - 1
    found = sums.estimates
    operators = point_group_operators(context.config.point_group)
    return replace(
        state,
        iteration=state.iteration + 1,
        half_maps=maps.half_maps,
        sigma2_gs=sums.sigma2_gs(),
        scale_g=sums.scale_g(state.scale_g),
        tau2_s=maps.tau2_s,
        particles=found,
        resolution_shell=max(shell, 3),
        best_shell=max(shell, state.best_shell),
        log_direction_d=estimate_direction_prior(found.matrices[:, 2], operators, found.usable),
        offset_sigma_px=estimate_offset_sigma(found.shifts_px, found.usable),
    )


def _decide(measured: RefinementState, old: RefinementState, info: IterationInfo) -> RefinementState:
    """Decide what comes next, from what was measured: where to search, how finely, or that it is the end."""
    best_only = measured.search.best_only and measured.iteration < _BEST_ONLY_ITERATIONS
    search = replace(measured.search, support_share=info.support_share, best_only=best_only)
    if measured.search.best_only:
        return replace(measured, stalled=0, search=search)
    peaks = info.gaussian_share > _MOSTLY
    unchanged = _PEAKS_UNCHANGED if peaks else _GRIDS_UNCHANGED
    improving = measured.best_shell > old.best_shell or info.map_change > unchanged
    decide = _decide_on_peaks if peaks else _decide_on_grids
    return decide(replace(measured, search=search), old, info, improving)


def _decide_on_peaks(
    measured: RefinementState, old: RefinementState, info: IterationInfo, improving: bool
) -> RefinementState:
    """Posteriors are peaks: they climb from where they are once poses have settled.

    When neither the resolution rises nor the map changes, all orientations are searched once more; if that
    changes nothing either, the refinement has converged.
    """
    search = measured.search
    if improving:
        settled = info.angle_change_deg < _SETTLED_DEG
        return replace(measured, stalled=0, search=replace(search, local=settled))
    local = replace(search, local=not old.search.local)
    return replace(measured, stalled=old.stalled + 1, search=local, converged=not old.search.local)


def _decide_on_grids(
    measured: RefinementState, old: RefinementState, info: IterationInfo, improving: bool
) -> RefinementState:
    """Posteriors are grids: refined while posteriors are narrower than its cells, coarser where very broad.

    When neither the resolution rises nor the map changes by more than a turn of the grid does, the search
    becomes local, then finer, and then has converged.
    """
    search = measured.search
    if info.effective_orientations < _SHARP_POSTERIOR and search.fineness < _FINEST:
        return replace(measured, stalled=0, search=replace(search, fineness=2 * search.fineness))
    if info.effective_orientations > _BROAD_POSTERIOR and search.fineness > _COARSEST:
        return replace(measured, stalled=0, search=replace(search, fineness=search.fineness / 2))
    if improving:
        return replace(measured, stalled=0)
    if not search.local:
        return replace(measured, stalled=0, search=replace(search, local=True))
    if search.fineness < _FINE_ENOUGH and info.effective_orientations < _WORTH_REFINING:
        return replace(measured, stalled=0, search=replace(search, fineness=2 * search.fineness))
    stalled = old.stalled + 1
    return replace(measured, stalled=stalled, converged=stalled >= 2)


def _report(
    context: RefineContext,
    old: RefinementState,
    new: RefinementState,
    plan: SearchPlan,
    sums: ExpectationSums,
    seconds: dict[str, float],
) -> IterationInfo:
    """Summarise an iteration for people and for the schedule."""
    edge = context.box * context.pixel_size
    found, last = new.particles, plan.levels[-1]
    grid = plan.grid(len(plan.levels) - 1)
    operators = point_group_operators(context.config.point_group)
    used = found.usable if found.usable.any() else np.ones(1, bool)
    angle_change_deg, shift_change_px = _pose_changes(old.particles, found, operators)
    return IterationInfo(
        iteration=new.iteration,
        resolution_angstrom=edge / new.resolution_shell,
        compared_to_angstrom=edge / plan.radius,
        angular_step_deg=grid.step_deg,
        shift_step_px=last.shift_step_px,
        search=_name_of_search(old, plan),
        pmax=float(found.pmax[used].mean(dtype=np.float64)),
        log_likelihood=float(found.log_likelihood[used].mean(dtype=np.float64)),
        effective_orientations=float(np.median(found.effective_orientations[used])),
        support_share=float(found.effective_orientations[used].mean(dtype=np.float64) / plan.cell_count),
        angle_change_deg=angle_change_deg,
        shift_change_px=shift_change_px,
        map_change=_map_change(old, new),
        scored_rotations=sums.scored / max(int(found.usable.sum()), 1),
        poses_scored=[count.scored / len(found.usable) for count in sums.counts],
        poses_kept=[count.kept / len(found.usable) for count in sums.counts],
        gaussian_share=sums.gaussian / max(int(found.usable.sum()), 1),
        diverged=sums.diverged,
        quarantined=int((~found.usable).sum()),
        seconds=seconds,
    )


def _name_of_search(old: RefinementState, plan: SearchPlan) -> str:
    if old.search.local:
        return "local"
    return "dense" if len(plan.levels) == 1 else "global"


def _pose_changes(
    old: ParticleEstimates, new: ParticleEstimates, operators: NDArray[np.float64]
) -> tuple[float, float]:
    """Median angle, degrees, and shift, pixels, between the poses of two iterations; 180 and 0 without any.

    Equivalent poses count as equal. Taken block by block: memory for one number per particle.
    """
    both = old.usable & new.usable
    if not both.any():
        return 180.0, 0.0
    changes = []
    for change in (_turned_deg, _moved_px):
        change_i = np.empty(len(both), np.float32)
        for start in range(0, len(both), _BLOCK):
            block = slice(start, start + _BLOCK)
            change_i[block] = change(old, new, block, operators)
        changes.append(float(np.median(change_i[both])))
    return changes[0], changes[1]


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
