"""The expectation step over a whole set: plans, batches in file order, and the sums that the M-step needs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.inference.branch_and_bound import BranchAndBound
from posterion.inference.exhaustive import SharedGrid
from posterion.inference.expectation import BatchExpectation, expect_batch
from posterion.inference.images import ImageBatch, NoiseModel, mask_area, prepare_images
from posterion.inference.likelihood import gaussian_log_prob, profile_log_prob
from posterion.inference.local import LastPoses
from posterion.inference.priors import PosePrior
from posterion.inference.search import LevelCount, SearchPlan, total_counts
from posterion.mapping.reconstruct import HalfSums
from posterion.physics.fourier import disc
from posterion.physics.projection import Accumulator, FourierVolume
from posterion.physics.sampling import shift_lattice
from posterion.physics.symmetry import point_group_operators
from posterion.refine.context import RefineContext
from posterion.refine.schedule import local_radius_deg, search_levels
from posterion.refine.state import ParticleEstimates, RefinementState
from posterion.refine.subsets import members, searched_count

__all__ = ["ExpectationSums", "expect_half", "make_plan"]

_LOG = logging.getLogger("posterion")

_BATCH_BYTES = 2**26
_BATCH = 32
_FEWEST_SLICES = 8
_SLICES_PER_EFFECTIVE = 3.0
_SCORE_BFACTOR = 5.0
_GRID_TURN_DEG = 5.0
_LATER_SHIFT_RANGE_PX = 2.5


def make_plan(context: RefineContext, state: RefinementState, compare_radius: int) -> SearchPlan:
    """Decide how an iteration searches: levels, ranges, prior, and a random turn of the grid."""
    config = context.config
    method = method_now(context, state)
    search = _search_of(config.search, method)
    anywhere = state.iteration == 0 or state.search.newcomers
    range_px = config.shift_range_angstrom / context.pixel_size if anywhere else _LATER_SHIFT_RANGE_PX
    levels = search_levels(
        compare_radius,
        context.box,
        context.diameter_px,
        state.search,
        range_px,
        len(point_group_operators(config.point_group)),
        small_cells=search == "branch-and-bound",
    )
    rng = np.random.default_rng((config.seed, state.iteration))
    turn = Rotation.from_rotvec(np.radians(rng.uniform(-_GRID_TURN_DEG, _GRID_TURN_DEG, 3)))
    return SearchPlan(
        levels=levels,
        shift_range_px=range_px,
        margin_nats=config.margin_nats,
        max_rotations=config.max_rotations,
        point_group=config.point_group,
        grid_offset=turn.as_matrix(),
        prior=PosePrior(state.log_direction_d, state.offset_sigma_px),
        score=gaussian_log_prob if method == "em" else profile_log_prob,
        climb=method == "em" and config.search == "auto",
        local_radius_deg=local_radius_deg(levels) if state.search.local else None,
        search=search,
    )


def method_now(context: RefineContext, state: RefinementState) -> str:
    """Tell the method of this iteration: best poses where the schedule asks for them, else the option."""
    return "projection-matching" if state.search.best_only else context.config.method


def _search_of(search: str, method: str) -> str:
    """Which rule prunes; correlations, by which the grey scale is fitted, have no bound."""
    no_bound = search == "branch-and-bound" and method != "em"
    return "adaptive" if no_bound or search == "auto" else search


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
    complete = plan.search == "exhaustive" and len(plan.levels) > 1
    shared = None if state.search.local or complete else SharedGrid.of(volume, plan)
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
            context.particles, index_i, images, radius, context.diameter_px, noise, np.rint(shifts_px)
        )
        if hard:
            batch = _weighted_by_score(context, known, batch)
        return expect_batch(batch, volume, plan, shared, previous, hard, bounds)

    def expect_all(index_i: NDArray[np.int64]) -> list[BatchExpectation]:
        return _in_what_fits(expect, index_i)

    chosen = members(context.half_i, half, state.search.subset, context.config.seed)
    size = _batch_size(plan, shared, state.search.support_share, len(disc(context.box, radius)))
    batches = (chosen[start : start + size] for start in range(0, len(chosen), size))
    for index_i, parts in zip(
        (chosen[start : start + size] for start in range(0, len(chosen), size)),
        context.workers.map_ordered(expect_all, batches),
        strict=True,
    ):
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


def _batch_size(plan: SearchPlan, shared: SharedGrid | None, support_share: float, collected: int) -> int:
    """Images per batch: bounded memory for scores and slices to insert; no function of the threads.

    How many slices an image inserts is guessed from how broad posteriors were in the iteration before.
    """
    slices = max(_FEWEST_SLICES, _SLICES_PER_EFFECTIVE * support_share * plan.cell_count)
    size = _BATCH_BYTES / (12 * collected * slices) if shared is None or len(plan.levels) > 1 else _BATCH
    if shared is not None:
        shifts = len(shift_lattice(plan.shift_range_px, plan.levels[0].shift_step_px))
        size = min(size, _BATCH_BYTES / (4 * shifts * len(shared.cell)))
    return int(np.clip(size, 1, _BATCH))


class ExpectationSums:
    """Sums of one expectation step over both halves; added in order, so the bits are always the same.

    Parameters
    ----------
    context, state : the run and where it stands
    plan : how poses were searched
    radius : highest shell collected

    Attributes
    ----------
    accumulators : numerator and weight of each half
    searched : images that were looked at
    estimates : of each particle
    noise_gs, count_g : residual power per shell and number of images per noise group
    cross_g, square_g : agreement with the reference per scale group
    scored : rotations scored at the last level, over all images
    counts : poses scored and kept at each level of the grid search, over all images
    gaussian : images whose posterior is a sum of Gaussians
    diverged : images that kept the grid because their optimiser found no peak
    """

    def __init__(self, context: RefineContext, state: RefinementState, plan: SearchPlan, radius: int) -> None:
        groups, shells = state.sigma2_gs.shape
        self._context, self._sigma2_gs, self._compared = (
            context,
            state.sigma2_gs,
            disc(context.box, plan.radius),
        )
        self._collected = disc(context.box, radius)
        self.accumulators = [Accumulator(context.box, radius), Accumulator(context.box, radius)]
        self.noise_gs = np.zeros((groups, shells))
        self.count_g = np.zeros(groups)
        self.cross_g, self.square_g = np.zeros((2, len(state.scale_g)))
        self.estimates = ParticleEstimates.empty(len(context.particles))
        self.searched = searched_count(context.half_i, state.search.subset)
        self.scored = self.gaussian = self.diverged = 0
        self.counts: tuple[LevelCount, ...] = ()

    def add(self, part: BatchExpectation, half: int) -> None:
        """Add one batch of a half (0 or 1)."""
        self.accumulators[half].insert(
            part.insert_matrices, self._collected, part.numerator_mp, part.weight_mp, self._context.workers
        )
        self.estimates.put(part)
        self._add_noise(part)
        scale_group = self._context.scale_group_i[part.index_i]
        np.add.at(self.cross_g, scale_group, part.cross_is.sum(axis=1))
        np.add.at(self.square_g, scale_group, part.square_is.sum(axis=1))
        self.scored += int(part.scored_i.sum())
        self.counts = total_counts([self.counts, part.counts])
        self.gaussian += part.gaussian
        self.diverged += part.diverged

    def _add_noise(self, part: BatchExpectation) -> None:
        """Add ``|y|^2 - 2 y.R + |R|^2`` per shell, of masked images, scaled to the whole image's area."""
        group = self._context.noise_group_i[part.index_i]
        area = mask_area(self._context.box, self._context.diameter_px)
        count_s = np.maximum(self._compared.shell_sum(self._compared.multiplicity_p), 1)
        used = slice(0, self._compared.radius + 1)
        explained_is = (2 * part.cross_is - part.square_is) / (count_s * area)
        residual_is = part.masked_power_is.copy()
        residual_is[:, used] -= self._sigma2_gs[group, used] * explained_is
        np.add.at(self.noise_gs, group, residual_is)
        np.add.at(self.count_g, group, 1)

    def take_halves(self) -> tuple[HalfSums, HalfSums]:
        """Hand over the sums of both halves; each accumulator, the largest array, is let go on the way."""
        group, workers = self._context.config.point_group, self._context.workers
        first = HalfSums.from_accumulator(self.accumulators.pop(0), group, workers)
        return first, HalfSums.from_accumulator(self.accumulators.pop(0), group, workers)

    def sigma2_gs(self) -> NDArray[np.float64]:
        """Compute new noise spectra; a group of which no image was used keeps its old one."""
        mean_gs = self.noise_gs / np.maximum(self.count_g, 1)[:, None]
        smallest = 1e-3 * self._sigma2_gs
        return np.where(self.count_g[:, None] > 0, np.maximum(mean_gs, smallest), self._sigma2_gs)

    def scale_g(self, old_g: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute new intensity scales ``sum y.R / sum |R|^2`` per group, relative to their mean."""
        ratio_g = np.where(self.square_g > 0, self.cross_g / np.maximum(self.square_g, 1e-30), 1.0)
        new_g = old_g * np.clip(ratio_g, 0.2, 5.0)
        return np.asarray(new_g / new_g.mean())
