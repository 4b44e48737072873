"""One iteration of a gold-standard refinement: ``step`` turns one state into the next."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posterion.inference.branch_and_bound import BranchAndBound
from posterion.inference.exhaustive import SharedGrid
from posterion.inference.expectation import BatchExpectation, expect_batch
from posterion.inference.images import ImageBatch, NoiseModel, prepare_images
from posterion.inference.local import LastPoses
from posterion.inference.polar import PolarReference
from posterion.inference.priors import estimate_direction_prior, estimate_offset_sigma
from posterion.inference.search import SearchPlan
from posterion.mapping.fsc import fourier_shell_correlation, fsc_curves
from posterion.mapping.reconstruct import ssnr_from_fsc
from posterion.physics.fourier import disc
from posterion.physics.projection import FourierVolume
from posterion.physics.sampling import shift_lattice
from posterion.physics.symmetry import point_group_operators
from posterion.refine.context import RefineContext
from posterion.refine.decisions import decide
from posterion.refine.first_level import first_level, polar_grids
from posterion.refine.iteration_report import report
from posterion.refine.plan import make_plan, method_now, radii
from posterion.refine.state import IterationInfo, ParticleEstimates, RefinementState
from posterion.refine.subsets import members
from posterion.refine.sums import ExpectationSums

__all__ = ["MapSet", "expect_half", "step"]

_LOG = logging.getLogger("posterion")

_BATCH_BYTES = 2**26
_BATCH, _BATCH_BY_HARMONICS = 32, 128
_FEWEST_SLICES = 8
_SLICES_PER_EFFECTIVE = 3.0
_SCORE_BFACTOR = 5.0
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


def step(
    context: RefineContext, state: RefinementState, final: bool = False
) -> tuple[RefinementState, IterationInfo, MapSet | None]:
    """Run one iteration: E-step over both halves, M-step, FSC, and the decision what comes next.

    Parameters
    ----------
    context : the run
    state : where it stands
    final : use all particles, collect all frequencies up to Nyquist and also join the halves into one map

    Returns
    -------
    The next state, what the iteration reports, and its maps: None where it only looked.
    """
    start = time.perf_counter()
    if final:
        state = replace(state, search=replace(state.search, subset=0, look=False))
    compared, radius = radii(context, state, final)
    plan = make_plan(context, state, compared, radius)
    look = state.search.look
    sums = ExpectationSums(context, state, plan, None if look else radius)
    for half in (0, 1):
        for part in expect_half(context, state, plan, half, plan.radius if look else radius):
            sums.add(part, half)
    expected = time.perf_counter()
    seconds = {"expectation": expected - start}
    maps = None if look else _maximise(context, sums, final)
    if maps is None:
        measured = replace(state, iteration=state.iteration + 1, particles=sums.estimates)
    else:
        seconds["maximisation"] = time.perf_counter() - expected
        measured = _next_state(context, state, sums, maps)
    info = report(context, state, measured, plan, sums, seconds)
    return decide(context, measured, state, info), info, maps


def expect_half(
    context: RefineContext, state: RefinementState, plan: SearchPlan, half: int, radius: int
) -> Iterator[BatchExpectation]:
    """Run the expectation step of one half set, or of the part that is searched now, batch by batch.

    Parameters
    ----------
    context, state : the run and where it stands
    plan : how to search
    half : 0 or 1
    radius : highest shell that the maximisation step collects, at least the plan's
    """
    volume = FourierVolume.from_map(state.half_maps[half], plan.radius, workers=context.workers.threads)
    shared = first_level(context, state, plan, half, volume, radius)
    polar = polar_grids(shared)
    bounds = BranchAndBound.of(volume, plan) if plan.search == "branch-and-bound" else None
    noise = NoiseModel(state.sigma2_gs, context.noise_group_i, state.scale_g, context.scale_group_i)
    hard = method_now(context, state) == "projection-matching"
    known = state.particles

    def expect(index_i: NDArray[np.int64]) -> BatchExpectation:
        shifts_px = known.shifts_px[index_i].astype(np.float64)
        matrices = known.matrices[index_i].astype(np.float64)
        previous = LastPoses(matrices, shifts_px, known.usable[index_i]) if state.iteration else None
        images = context.particles.images(index_i)
        batch = prepare_images(
            context.particles,
            index_i,
            images,
            radius,
            context.diameter_px,
            noise,
            np.rint(shifts_px),
            polar=polar,
        )
        if hard:
            batch = _weighted_by_score(context, known, batch)
        return expect_batch(batch, volume, plan, shared, previous, hard, bounds)

    def expect_all(index_i: NDArray[np.int64]) -> list[BatchExpectation]:
        return _in_what_fits(expect, index_i)

    search = state.search
    chosen = members(context.half_i, half, search.subset, context.config.seed, newest=search.look)
    size = _batch_size(plan, shared, state.search.support_share, len(disc(context.box, radius)))
    batches = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    for index_i, parts in zip(batches, context.workers.map_ordered(expect_all, batches), strict=True):
        yield from parts
        if context.observer is not None:
            context.observer(len(index_i))


def _in_what_fits(
    expect: Callable[[NDArray[np.int64]], BatchExpectation], index_i: NDArray[np.int64]
) -> list[BatchExpectation]:
    """Do a batch whole, or where memory is too small for it in halves, and say so."""
    try:
        return [expect(index_i)]
    except MemoryError:
        if len(index_i) == 1:
            raise
        _LOG.warning("memory is too small for a batch of %d images: halved", len(index_i))
    middle = len(index_i) // 2
    return _in_what_fits(expect, index_i[:middle]) + _in_what_fits(expect, index_i[middle:])


def _weighted_by_score(context: RefineContext, known: ParticleEstimates, batch: ImageBatch) -> ImageBatch:
    """Weigh images in the reconstruction by their last correlation, as FREALIGN does.

    ``w(f) = exp(B/4 (score - <score>) f^2)``, score = 100 CC, B = 5 A^2: images that match worse than the
    mean lose their high frequencies. The exponent is kept within [-8, 2]; at first all weigh the same.
    """
    if not known.usable.any():
        return batch
    mean = known.correlation.mean(dtype=np.float64, where=known.usable)
    correlation_i = known.correlation[batch.index_i].astype(np.float64)
    excess_i = np.where(known.usable[batch.index_i], 100 * (correlation_i - mean), 0.0)
    pixels = batch.pixels
    frequency2_p = (pixels.kx_p**2 + pixels.ky_p**2) / (context.box * context.pixel_size) ** 2
    exponent_ip = np.clip(np.outer(_SCORE_BFACTOR / 4 * excess_i, frequency2_p), -8, 2)
    return batch.weighted(np.exp(exponent_ip).astype(np.float32))


def _batch_size(
    plan: SearchPlan, shared: SharedGrid | PolarReference | None, support_share: float, collected: int
) -> int:
    """Images per batch: bounded memory for scores and what is inserted; no function of the threads.

    Until it is inserted an image is kept at those shifts of the last level that have any weight, or as its
    slices where these are fewer: see `SliceSums`. How many slices is guessed from how broad posteriors were
    in the iteration before.
    """
    if isinstance(shared, PolarReference):
        return int(np.clip(_BATCH_BYTES / shared.image_bytes, 1, _BATCH_BY_HARMONICS))
    first, last = (len(shift_lattice(plan.shift_range_px, plan.levels[i].shift_step_px)) for i in (0, -1))
    on_grid = shared is not None and len(plan.levels) == 1
    slices = max(_FEWEST_SLICES, _SLICES_PER_EFFECTIVE * support_share * plan.cell_count)
    size = _BATCH_BYTES / (8 * collected * (last if on_grid else min(slices, last)))
    if shared is not None:
        size = min(size, _BATCH_BYTES / (4 * first * len(shared.cell)))
    return int(np.clip(size, 1, _BATCH))


def _maximise(context: RefineContext, sums: ExpectationSums, final: bool) -> MapSet:
    """Solve both halves: FSC from the independent ones, then references that share their low resolution."""
    threads, mask = context.workers.threads, context.solvent_mask
    first, second = sums.take_halves()
    weights = first.shell_weight(), second.shell_weight()
    unfiltered = np.stack([first.solve(None, threads, weights[0]), second.solve(None, threads, weights[1])])
    radius = first.grid.radius
    fsc_s = _solvent_fsc(context, unfiltered, radius)
    ssnr_s = ssnr_from_fsc(fsc_s)[: radius + 1]
    weight_s = (weights[0] + weights[1]) / 2
    first.join_below(second, context.shell_of(context.config.join_halves_angstrom))
    halves = [own.solve(weight_s / ssnr_s, threads) * mask for own in (first, second)]
    tau2_s = np.zeros(len(fsc_s))
    tau2_s[: len(ssnr_s)] = ssnr_s / np.maximum(first.grid.padding**3 * weight_s, 1e-30)
    maps = MapSet(np.stack(halves), unfiltered, fsc_s, tau2_s)
    if not final:
        return maps
    first.add(second)
    weight_s = first.shell_weight()
    joined = first.solve(weight_s / (2 * ssnr_s), threads, weight_s)
    return replace(maps, joined=joined, joined_unfiltered=first.solve(None, threads, weight_s))


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
