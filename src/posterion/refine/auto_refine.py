"""Gold-standard refinement: expectation, maximisation, measure, decide; ``init`` and ``step``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.compute import Workers
from posterion.data.particles import Particles
from posterion.inference.exhaustive import SharedGrid
from posterion.inference.expectation import BatchExpectation, expect_batch
from posterion.inference.images import NoiseModel, mask_area, prepare_images
from posterion.inference.likelihood import gaussian_log_prob, profile_log_prob
from posterion.inference.priors import PosePrior, estimate_direction_prior, estimate_offset_sigma
from posterion.inference.search import SearchPlan
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.mapping.reconstruct import HalfSums, ssnr_from_fsc
from posterion.physics.fourier import disc
from posterion.physics.projection import Accumulator, FourierVolume
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.sampling import shift_lattice
from posterion.physics.soft_masks import soft_sphere
from posterion.physics.symmetry import point_group_operators, symmetry_equivalents
from posterion.refine.schedule import search_levels
from posterion.refine.state import IterationInfo, ParticleEstimates, RefineConfig, RefinementState

__all__ = ["RefineContext", "step"]

_MAP_MARGIN_SHELLS = 10
_COMPARE_MARGIN_SHELLS = 4
_BATCH_BYTES = 2**26
_BATCH = 32


@dataclass(frozen=True)
class RefineContext:
    """What does not change during a refinement.

    Attributes
    ----------
    particles : the set
    half_i : (N,) int8, 1 or 2
    noise_group_i, scale_group_i : (N,) int32
    solvent_mask : (n, n, n) float32
    config : options
    workers : threads
    observer : called with the number of particles after each batch
    """

    particles: Particles
    half_i: NDArray[np.int8]
    noise_group_i: NDArray[np.int32]
    scale_group_i: NDArray[np.int32]
    solvent_mask: NDArray[np.float32]
    config: RefineConfig
    workers: Workers
    observer: Callable[[int], None] | None = None

    @property
    def box(self) -> int:
        """Image box, pixels."""
        return self.particles.box_px

    @property
    def pixel_size(self) -> float:
        """Pixel size, Angstrom."""
        return self.particles.pixel_size_angstrom

    @property
    def diameter_px(self) -> float:
        """Particle diameter, pixels."""
        return self.config.diameter_angstrom / self.pixel_size


class _Sums:
    """Running sums of one expectation step over both halves."""

    def __init__(self, context: RefineContext, state: RefinementState, radius: int, compare_radius: int) -> None:
        groups, shells = state.sigma2_gs.shape
        self.context, self.sigma2_gs, self.compare_radius = context, state.sigma2_gs, compare_radius
        self.pixels = disc(context.box, radius)
        self.accumulators = Accumulator(context.box, radius), Accumulator(context.box, radius)
        self.noise_gs = np.zeros((groups, shells))
        self.count_g = np.zeros(groups)
        self.cross_g, self.square_g = np.zeros((2, len(state.scale_g)))
        self.estimates = ParticleEstimates.empty(len(context.particles))
        self.estimates.usable[:] = False
        self.scored = 0

    def add(self, part: BatchExpectation, half: int) -> None:
        """Add one batch; called in the order of the batches, so the sums have the same bits for any thread count."""
        self.accumulators[half].insert(
            part.insert_matrices, self.pixels, part.numerator_mp, part.weight_mp, self.context.workers
        )
        index, e = part.index_i, self.estimates
        e.matrices[index], e.shifts_px[index], e.usable[index] = part.matrices_i, part.shifts_px_i, True
        e.log_likelihood[index], e.pmax[index] = part.log_likelihood_i, part.pmax_i
        e.effective_orientations[index] = part.effective_orientations_i
        self._add_noise(part)
        scale_group = self.context.scale_group_i[index]
        np.add.at(self.cross_g, scale_group, part.cross_is.sum(axis=1))
        np.add.at(self.square_g, scale_group, part.square_is.sum(axis=1))
        self.scored += int(part.scored_i.sum())

    def _add_noise(self, part: BatchExpectation) -> None:
        """Add ``|y|^2 - 2 y.R + |R|^2`` per shell, of masked images, scaled to the whole image's area."""
        group = self.context.noise_group_i[part.index_i]
        area = mask_area(self.context.box, self.context.diameter_px)
        compared = disc(self.context.box, self.compare_radius)
        count_s = compared.shell_sum(compared.multiplicity_p)
        residual_is = part.masked_power_is.copy()
        used = slice(0, self.compare_radius + 1)
        explained_is = (2 * part.cross_is - part.square_is) / np.maximum(count_s, 1)
        residual_is[:, used] -= self.sigma2_gs[group, used] * explained_is / area
        np.add.at(self.noise_gs, group, residual_is)
        np.add.at(self.count_g, group, 1)


def step(context: RefineContext, state: RefinementState, final: bool = False) -> tuple[RefinementState, IterationInfo, _MapSet]:
    """Run one iteration: E-step over both halves, M-step, FSC, and the decision what comes next."""
    clock = _Clock()
    nyquist = (context.box - 1) // 2
    radius = nyquist if final else min(state.resolution_shell + _MAP_MARGIN_SHELLS, nyquist)
    compare_radius = min(state.resolution_shell + _COMPARE_MARGIN_SHELLS, nyquist)
    plan = make_plan(context, state, compare_radius)
    sums = _Sums(context, state, radius, plan.radius)
    for half in (0, 1):
        for part in _expect_half(context, state, plan, half, radius):
            sums.add(part, half)
    clock.lap("expectation")
    maps = _maximise(context, sums, final)
    clock.lap("maximisation")
    new_state = _next_state(context, state, sums, maps, plan)
    return new_state, _report(context, state, new_state, plan, sums, clock), maps


def make_plan(context: RefineContext, state: RefinementState, compare_radius: int) -> SearchPlan:
    """Decide how this iteration searches."""
    config = context.config
    first = state.iteration == 0
    range_px = config.shift_range_angstrom / context.pixel_size if first else 2.5
    levels = search_levels(compare_radius, context.box, context.diameter_px, state.fineness, range_px, state.local)
    rng = np.random.default_rng((config.seed, state.iteration))
    offset = Rotation.from_rotvec(np.radians(rng.uniform(-5, 5, 3))).as_matrix()
    return SearchPlan(
        levels=levels,
        shift_range_px=range_px,
        margin_nats=config.margin_nats,
        max_rotations=config.max_rotations,
        point_group=config.point_group,
        grid_offset=offset,
        prior=PosePrior(state.log_direction_d, state.offset_sigma_px),
        score=gaussian_log_prob if config.method == "em" else profile_log_prob,
        local_radius_deg=2 * 60.0 / 2 ** levels[0].order if state.local else None,
    )


def _expect_half(context: RefineContext, state: RefinementState, plan: SearchPlan, half: int, radius: int):
    """Expectation of one half set, batch by batch in file order."""
    volume = FourierVolume.from_map(state.half_maps[half], plan.radius, workers=context.workers.threads)
    shared = None if state.local else SharedGrid.of(volume, plan)
    noise = NoiseModel(state.sigma2_gs, context.noise_group_i, state.scale_g, context.scale_group_i)
    members = np.flatnonzero(context.half_i == half + 1)
    size = _batch_size(plan, shared)
    estimates = state.particles

    def expect(index: NDArray[np.int64]) -> BatchExpectation:
        shifts = estimates.shifts_px[index]
        batch = prepare_images(
            context.particles, index, context.particles.images(index), radius, context.diameter_px, noise, np.rint(shifts)
        )
        hard = context.config.method == "projection-matching"
        return expect_batch(batch, volume, plan, shared, estimates.matrices[index], shifts, hard)

    for part in context.workers.map_ordered(expect, [members[i : i + size] for i in range(0, len(members), size)]):
        yield part
        if context.observer is not None:
            context.observer(len(part.index_i))


def _batch_size(plan: SearchPlan, shared: SharedGrid | None) -> int:
    """Images per batch: bounded memory for the dense scores; never a function of the number of threads."""
    if shared is None:
        return _BATCH
    shifts = len(shift_lattice(plan.shift_range_px, plan.levels[0].shift_step_px))
    return int(np.clip(_BATCH_BYTES // (4 * shifts * len(shared.cell)), 1, _BATCH))


@dataclass(frozen=True)
class _MapSet:
    half_maps: NDArray[np.float32]
    unfiltered: NDArray[np.float32]
    fsc_s: NDArray[np.float64]
    joined: NDArray[np.float32] | None


def _maximise(context: RefineContext, sums: _Sums, final: bool) -> _MapSet:
    workers, threads = context.workers, context.workers.threads
    halves = [HalfSums.from_accumulator(a, context.config.point_group, workers) for a in sums.accumulators]
    unfiltered = [h.solve(None, threads) for h in halves]
    mask = context.solvent_mask
    fsc_s = fourier_shell_correlation(unfiltered[0] * mask, unfiltered[1] * mask)
    r = halves[0].grid.radius
    fsc_s[r + 1 :] = 0
    ssnr_s = ssnr_from_fsc(fsc_s)[: r + 1]
    joined = None
    if final:
        both = halves[0] + halves[1]
        joined = both.solve(both.shell_weight() / (2 * ssnr_s), threads)
    join = int(context.box * context.pixel_size / context.config.join_halves_angstrom)
    low = halves[0].joined_below(halves[1], join), halves[1].joined_below(halves[0], join)
    regular = [h.solve(h.shell_weight() / ssnr_s, threads) * mask for h in low]
    return _MapSet(np.stack(regular), np.stack(unfiltered), fsc_s, joined)


def _next_state(context, state, sums, maps, plan) -> RefinementState:
    below = np.flatnonzero(maps.fsc_s[1:] < 0.143)
    shell = int(below[0]) if len(below) else len(maps.fsc_s) - 1
    sigma2 = np.maximum(sums.noise_gs / np.maximum(sums.count_g, 1)[:, None], 1e-20)
    scale = _new_scales(state.scale_g, sums)
    operators = point_group_operators(context.config.point_group)
    est = sums.estimates
    stalled = 0 if shell > state.best_shell else state.stalled + 1
    fineness, local, converged = state.fineness, state.local, False
    if np.median(est.effective_orientations) < 2.5 and fineness < 16:
        fineness, stalled = 2 * fineness, 0
    elif stalled >= 1:
        if not local:
            local, stalled = True, 0
        elif stalled >= 2:
            converged = True
    return RefinementState(
        iteration=state.iteration + 1,
        half_maps=maps.half_maps,
        sigma2_gs=sigma2,
        scale_g=scale,
        fsc_s=maps.fsc_s,
        particles=est,
        resolution_shell=shell,
        best_shell=max(shell, state.best_shell),
        stalled=stalled,
        fineness=fineness,
        local=local,
        log_direction_d=estimate_direction_prior(est.matrices[:, 2], operators),
        offset_sigma_px=estimate_offset_sigma(est.shifts_px[est.usable]),
        converged=converged,
    )


def _new_scales(scale_g, sums):
    ratio = sums.cross_g / np.maximum(sums.square_g, 1e-30)
    new = scale_g * np.clip(ratio, 0.2, 5)
    return new / new.mean()


class _Clock:
    def __init__(self):
        self.last, self.laps = time.perf_counter(), {}

    def lap(self, name):
        now = time.perf_counter()
        self.laps[name] = round(now - self.last, 3)
        self.last = now


def _report(context, old, new, plan, sums, clock) -> IterationInfo:
    operators = point_group_operators(context.config.point_group)
    a, b = old.particles.matrices, new.particles.matrices
    change = np.min([angular_distance_deg(a, b @ s) for s in operators], axis=0)
    return IterationInfo(
        iteration=new.iteration,
        resolution_angstrom=context.box * context.pixel_size / max(new.resolution_shell, 1),
        compared_to_angstrom=context.box * context.pixel_size / plan.radius,
        angular_step_deg=60 / 2 ** plan.levels[-1].order,
        shift_step_px=plan.levels[-1].shift_step_px,
        search="local" if old.local else "global",
        pmax=float(new.particles.pmax.mean()),
        log_likelihood=float(new.particles.log_likelihood.mean()),
        effective_orientations=float(np.median(new.particles.effective_orientations)),
        angle_change_deg=float(np.median(change)),
        shift_change_px=float(np.median(np.hypot(*(new.particles.shifts_px - old.particles.shifts_px).T))),
        scored_rotations=sums.scored / len(context.particles),
        quarantined=int((~new.particles.usable).sum()),
        seconds=clock.laps,
    )
