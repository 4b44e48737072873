"""Gold-standard refinement: ``init`` makes the first state, ``step`` turns one state into the next."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posterion.inference.priors import PosePrior, estimate_direction_prior, estimate_offset_sigma
from posterion.mapping.fsc import fourier_shell_correlation, fsc_curves
from posterion.mapping.masks import low_pass
from posterion.mapping.reconstruct import ssnr_from_fsc
from posterion.physics.symmetry import point_group_operators
from posterion.refine.context import RefineContext
from posterion.refine.decisions import decide, first_search
from posterion.refine.expectation_step import ExpectationSums, expect_half, make_plan
from posterion.refine.grey_scale import background_sigma2, fit_grey_scale
from posterion.refine.iteration_report import report
from posterion.refine.schedule import COMPARE_MARGIN_SHELLS, MAP_MARGIN_SHELLS, SearchState
from posterion.refine.state import IterationInfo, ParticleEstimates, RefinementState

__all__ = ["MapSet", "init", "step"]

_CAUTIOUS_MARGIN_SHELLS, _KNOWN_SHARE = 10, 0.01
_FSC_LIMIT = 0.143


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
    scaled = state.half_maps * np.float32(factor)
    return replace(state, half_maps=scaled, search=first_search(context, support_share)), factor


def step(
    context: RefineContext, state: RefinementState, final: bool = False
) -> tuple[RefinementState, IterationInfo, MapSet]:
    """Run one iteration: E-step over both halves, M-step, FSC, and the decision what comes next.

    Parameters
    ----------
    context : the run
    state : where it stands
    final : use all particles, collect all frequencies up to Nyquist and also join the halves into one map
    """
    start = time.perf_counter()
    if final:
        state = replace(state, search=replace(state.search, subset=0, look=False))
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
    info = report(context, state, measured, plan, sums, seconds)
    return decide(context, measured, state, info), info, maps


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
        # Of a part, too few images may be of one micrograph to tell its intensity.
        scale_g=state.scale_g if state.search.subset else sums.scale_g(state.scale_g),
        tau2_s=maps.tau2_s,
        particles=found,
        resolution_shell=max(shell, 3),
        best_shell=max(shell, state.best_shell),
        log_direction_d=estimate_direction_prior(found.matrices[:, 2], operators, found.usable),
        offset_sigma_px=estimate_offset_sigma(found.shifts_px, found.usable),
    )
