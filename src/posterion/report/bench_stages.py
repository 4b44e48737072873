"""The stages of a refinement timed one by one on a small simulated set, with what each compares counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from posterion.compute import Workers
from posterion.data.particles import Particles
from posterion.inference.exhaustive import SharedGrid, dense_log_prob
from posterion.inference.expectation import BatchExpectation, expect_batch
from posterion.inference.images import ImageBatch, NoiseModel, prepare_images
from posterion.inference.local import LastPoses
from posterion.inference.polar import PolarReference, PolarSums, polar_log_prob
from posterion.inference.search import SearchPlan
from posterion.inference.slice_sums import insert_slices
from posterion.mapping.masks import low_pass
from posterion.mapping.reconstruct import HalfSums
from posterion.physics.atomic_model import map_from_atoms
from posterion.physics.fourier import disc
from posterion.physics.phantom import phantom_atoms
from posterion.physics.polar import PolarGrid
from posterion.physics.projection import Accumulator, FourierVolume
from posterion.physics.simulate import SimulationOptions, simulate
from posterion.physics.symmetry import point_group_operators
from posterion.refine.context import RefineContext
from posterion.refine.first_level import first_level, polar_grids
from posterion.refine.inputs import prepare
from posterion.refine.options import RefineOptions
from posterion.refine.plan import make_plan, radii
from posterion.refine.schedule import SearchState
from posterion.refine.start import init
from posterion.refine.state import ParticleEstimates, RefinementState
from posterion.report.bench_harmonics import HarmonicCounts, counted, harmonic_counts
from posterion.report.bench_operations import Climbed, OperationCounts, Tally, operation_counts

__all__ = [
    "BenchProblem",
    "SearchTimes",
    "bench_problem",
    "broad_problem",
    "gemm_rate",
    "time_search",
    "time_solve",
]

_PHANTOM_ANGSTROM = 150.0  # what the embedded assembly fits into
_SOLVES = 4
_SHIFT_SD_PX = 2.0
_SNR, _WEAK_SNR, _WEAK_AT_PX = 0.1, 0.001, 128
_BROAD_SHARE = 0.02  # of all orientations, which the weak images' posteriors are said to have covered
_BROAD_RESOLUTION = 2.0  # times that of late iterations
_BATCH, _BATCH_BY_HARMONICS, _SCORED_TOGETHER = 8, 128, 4
_GEMM_SHAPE = 1344, 1256, 4608


@dataclass(frozen=True)
class BenchProblem:
    """A small set with what a refinement knows of it at its first iteration and near its end.

    Attributes
    ----------
    context : the run, one thread
    first : state before the first iteration
    late : state with the true map at the wanted resolution, true poses, global search
    """

    context: RefineContext
    first: RefinementState
    late: RefinementState

    @property
    def local(self) -> RefinementState:
        """The late state with a search about the last poses."""
        return replace(self.late, search=replace(self.late.search, local=True))


@dataclass(frozen=True)
class SearchTimes:
    """One kind of iteration: CPU seconds and operations.

    Attributes
    ----------
    radius, collected : highest shells compared and added to the map, Fourier pixels
    prepare, dense, harmonic, ragged, insert : per image; the dense pass over the shared grid, by pixels or by
        harmonics (0 where it is not taken), then all from there to the posterior, by harmonics its sums for
        the M-step too, and insertion
    shared : per iteration and half: the volume's transform and its slices on the shared grid
    once : per iteration and half: insertion of what all images have summed by harmonics
    support_share : mean effective number of orientations of the posteriors over the number of cells
    operations : per image
    """

    radius: int
    collected: int
    prepare: float
    dense: float
    harmonic: float
    ragged: float
    insert: float
    shared: float
    once: float
    support_share: float
    operations: OperationCounts

    @property
    def search(self) -> float:
        """CPU seconds per image of the whole search."""
        return self.dense + self.harmonic + self.ragged

    @property
    def by_harmonics(self) -> bool:
        """Whether the dense pass went by harmonics."""
        return self.operations.rings > 0

    @property
    def image(self) -> float:
        """CPU seconds per image, all together."""
        return self.prepare + self.search + self.insert


class _Clock:
    """CPU seconds of blocks of code, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


def gemm_rate() -> float:
    """Multiply-adds per second of one core in a float32 matrix product of the dense pass's shape."""
    rows, inner, columns = _GEMM_SHAPE
    a, b = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
    with threadpool_limits(1):
        clock = _Clock()
        for attempt in range(4):
            with clock(str(attempt)):
                a @ b
    return rows * inner * columns / max(min(clock.seconds.values()), 1e-9)


def _density(box: int, point_group: str) -> NDArray[np.float32]:
    """Embedded assembly filling 5/6 of the box, symmetrised; as many atoms for every point group."""
    operators, atoms = point_group_operators(point_group), phantom_atoms()
    share = slice(None, None, len(operators))
    positions = np.concatenate([atoms.positions_angstrom[share] @ operator.T for operator in operators])
    copies = len(operators)
    weights, bfactors = (
        np.tile(column[share], copies) for column in (atoms.weights, atoms.bfactors_angstrom2)
    )
    return map_from_atoms(type(atoms)(positions, weights, bfactors), box, 1.2 * _PHANTOM_ANGSTROM / box)


@contextmanager
def bench_problem(
    box_px: int,
    pixel_size_angstrom: float,
    diameter_angstrom: float,
    point_group: str,
    resolution_angstrom: float,
    images: int,
) -> Iterator[BenchProblem]:
    """Simulate a set (SNR 0.1) in a temporary folder and make its states.

    Parameters
    ----------
    box_px, pixel_size_angstrom : of the images
    diameter_angstrom : of the particle's mask
    point_group : RELION's name
    resolution_angstrom : of the late state's map
    images : how many
    """
    size = box_px, pixel_size_angstrom, diameter_angstrom
    with _simulated(*size, point_group, resolution_angstrom, (images, _SNR)) as (context, first, late):
        yield BenchProblem(context, first, late)


@contextmanager
def broad_problem(
    box_px: int,
    pixel_size_angstrom: float,
    diameter_angstrom: float,
    point_group: str,
    resolution_angstrom: float,
    images: int,
) -> Iterator[tuple[RefineContext, RefinementState]]:
    """Simulate a weak set and its state at half the resolution, where posteriors are broad.

    The SNR is 0.001 at box 128, at other boxes that of the same images sampled otherwise.

    Parameters
    ----------
    box_px, pixel_size_angstrom, diameter_angstrom, point_group, resolution_angstrom, images : as for
        `bench_problem`
    """
    size = box_px, pixel_size_angstrom, diameter_angstrom
    reached = min(_BROAD_RESOLUTION * resolution_angstrom, box_px * pixel_size_angstrom / 4)
    snr = _WEAK_SNR * (_WEAK_AT_PX / box_px) ** 2
    with _simulated(*size, point_group, reached, (images, snr)) as (context, _, late):
        yield context, replace(late, search=replace(late.search, support_share=_BROAD_SHARE))


@contextmanager
def _simulated(
    box_px: int,
    pixel_size_angstrom: float,
    diameter_angstrom: float,
    point_group: str,
    resolution_angstrom: float,
    images_and_snr: tuple[int, float],
) -> Iterator[tuple[RefineContext, RefinementState, RefinementState]]:
    """Simulate a set; its first state, and one with the true map at a resolution and the true poses."""
    density = _density(box_px, point_group)
    options = SimulationOptions(*images_and_snr, shift_sd_angstrom=_SHIFT_SD_PX * pixel_size_angstrom)
    with TemporaryDirectory() as folder, Workers(1) as workers:
        made = simulate([density], pixel_size_angstrom, Path(folder) / "images", options)
        refine_options = RefineOptions(symmetry=point_group, threads=1)
        inputs = prepare(made.particles_path, density * made.scale, diameter_angstrom, refine_options)
        context = inputs.context(workers)
        first, _ = init(context, inputs.reference)
        late = _late_state(context, first, density * made.scale, resolution_angstrom)
        yield context, first, replace(late, particles=_known(Particles.read(made.truth_path)))


def _late_state(
    context: RefineContext, first: RefinementState, truth: NDArray[np.float32], resolution_angstrom: float
) -> RefinementState:
    """Return the first state with the true map at a resolution and poses that are known."""
    half = low_pass(truth, resolution_angstrom, context.pixel_size) * context.solvent_mask
    shell = context.shell_of(resolution_angstrom)
    return replace(
        first,
        iteration=8,
        half_maps=np.stack([half, half]).astype(np.float32),
        resolution_shell=shell,
        best_shell=shell,
        offset_sigma_px=_SHIFT_SD_PX,
        search=SearchState(),
    )


def _known(truth: Particles) -> ParticleEstimates:
    """Estimates that are the truth."""
    poses = truth.require_poses()
    shifts = np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], -1) / truth.pixel_size_angstrom
    empty = ParticleEstimates.empty(len(truth))
    return replace(
        empty,
        matrices=poses.matrices().astype(empty.matrices.dtype),
        shifts_px=shifts.astype(empty.shifts_px.dtype),
        usable=np.ones(len(truth), bool),
    )


def time_search(context: RefineContext, state: RefinementState, images: int | None = None) -> SearchTimes:
    """Time one expectation step, stage by stage, against the first half's map.

    Parameters
    ----------
    context : the run, one thread
    state : where it stands
    images : how many, the first ones; all where None
    """
    radius, collected = radii(context, state)
    clock, count = _Clock(), images or len(context.particles)
    plan = make_plan(context, state, radius, collected)
    with clock("shared"):
        timed = _Timed.of(context, state, plan, collected, clock)
    by_harmonics = isinstance(timed.shared, PolarReference)
    size = _BATCH_BY_HARMONICS if by_harmonics else _BATCH
    for index_i in np.array_split(np.arange(count), -(-count // size)):
        timed.expect(index_i)
    with clock("once"):
        if timed.turned is not None:
            timed.turned.insert(timed.accumulator)
    each = {name: seconds / count for name, seconds in clock.seconds.items()}
    dense = each.get("dense", 0.0)
    return SearchTimes(
        radius=radius,
        collected=collected,
        prepare=each["prepare"],
        dense=0.0 if by_harmonics else dense,
        harmonic=dense if by_harmonics else 0.0,
        ragged=max(each["whole"] - dense, 0.0),
        insert=each["insert"],
        shared=clock.seconds["shared"],
        once=clock.seconds["once"],
        support_share=timed.effective / count / plan.cell_count,
        operations=timed.operations(count),
    )


@dataclass
class _Timed:
    """An expectation step whose stages are timed and whose operations are counted.

    Attributes
    ----------
    context, state, plan, collected : what is done
    volume : the first half's, which counts its slices
    shared, tallied : first level, and where that is by harmonics the same with rings that count
    accumulator : sums of the map
    clock, tally : CPU seconds by stage, and counts
    turned : what images have summed by harmonics
    inserted, climbed, effective : samples inserted, what climbed, effective orientations; of all images
    """

    context: RefineContext
    state: RefinementState
    plan: SearchPlan
    collected: int
    volume: FourierVolume
    shared: SharedGrid | PolarReference | None
    tallied: SharedGrid | PolarReference | None
    accumulator: Accumulator
    clock: _Clock
    tally: Tally
    turned: PolarSums | None = None
    inserted: int = 0
    climbed: Climbed = field(default_factory=Climbed)
    effective: float = 0.0

    @classmethod
    def of(
        cls, context: RefineContext, state: RefinementState, plan: SearchPlan, collected: int, clock: _Clock
    ) -> _Timed:
        """Do what a half set shares: its volume, slices, and the matrices that sample images on rings."""
        tally, accumulator = Tally(), _warm_accumulator(context.box, collected)
        volume = tally.volume(FourierVolume.from_map(state.half_maps[0], plan.radius))
        shared = first_level(context, state, plan, 0, volume, collected)
        tallied = shared
        if isinstance(shared, PolarReference):
            _prepared(context, state, collected, np.arange(1), polar_grids(shared))
            tallied = counted(shared)
        return cls(context, state, plan, collected, volume, shared, tallied, accumulator, clock, tally)

    def expect(self, index_i: NDArray[np.int64]) -> None:
        """Do one batch."""
        with self.clock("prepare"):
            polar = polar_grids(self.tallied)
            batch = _prepared(self.context, self.state, self.collected, index_i, polar)
        self._score(batch)
        with self.clock("whole"):
            plan = self.tally.plan(self.plan)
            part = _expected(batch, self.state, self.volume, plan, self.tallied)
        with self.clock("insert"):
            pixels = disc(self.context.box, self.collected)
            insert_slices(part.sums, self.accumulator, pixels)
            if part.turned is not None:
                self.turned = part.turned.added_to(self.turned)
        self.inserted += sum(own.samples for own in part.sums)
        self.climbed = self.climbed.plus(part)
        self.effective += float(part.effective_orientations_i.sum())

    def _score(self, batch: ImageBatch) -> None:
        """Do the first level alone, uncounted, for its time; the expectation does it again."""
        if isinstance(self.shared, PolarReference):
            with self.clock("dense"):
                for first in range(0, len(batch), _SCORED_TOGETHER):
                    rows = slice(first, min(first + _SCORED_TOGETHER, len(batch)))
                    polar_log_prob(batch, rows, self.shared, self.plan)
        elif self.shared is not None:
            self.tally.on(len(self.shared.pixels))
            with self.clock("dense"):
                dense_log_prob(batch, self.shared, self.plan)

    def operations(self, count: int) -> OperationCounts:
        """Operations of so many images."""
        tallied = self.tallied
        harmonics = harmonic_counts(tallied) if isinstance(tallied, PolarReference) else HarmonicCounts()
        return operation_counts(self.tally.compared, count, self.inserted, self.climbed, harmonics)


def _prepared(
    context: RefineContext,
    state: RefinementState,
    radius: int,
    index_i: NDArray[np.int64],
    polar: tuple[PolarGrid, PolarGrid] | None,
) -> ImageBatch:
    """Read and prepare a batch, as `auto_refine.expect_half` does."""
    noise = NoiseModel(state.sigma2_gs, context.noise_group_i, state.scale_g, context.scale_group_i)
    images, shifts_px = context.particles.images(index_i), np.rint(state.particles.shifts_px[index_i])
    diameter_px = context.diameter_px
    return prepare_images(
        context.particles, index_i, images, radius, diameter_px, noise, shifts_px, polar=polar
    )


def _expected(
    batch: ImageBatch,
    state: RefinementState,
    volume: FourierVolume,
    plan: SearchPlan,
    shared: SharedGrid | PolarReference | None,
) -> BatchExpectation:
    matrices = state.particles.matrices[batch.index_i].astype(np.float64)
    shifts_px = state.particles.shifts_px[batch.index_i].astype(np.float64)
    usable_i = state.particles.usable[batch.index_i]
    previous = LastPoses(matrices, shifts_px, usable_i) if state.iteration else None
    return expect_batch(batch, volume, plan, shared, previous)


def _warm_accumulator(box: int, radius: int) -> Accumulator:
    """Make empty sums whose memory and kernel are there before the clock starts."""
    accumulator, pixels = Accumulator(box, radius), disc(box, radius)
    accumulator.values.fill(0)
    nothing = np.zeros((1, len(pixels)), np.float32)
    accumulator.insert(np.eye(3)[None], pixels, nothing.astype(np.complex64), nothing)
    return accumulator


def time_solve(context: RefineContext, collected: int) -> float:
    """CPU seconds per iteration of joining both halves' sums and solving four maps, on empty sums."""
    clock = _Clock()
    accumulator = Accumulator(context.box, collected)
    accumulator.values += 1
    group = context.config.point_group
    with clock("join"):
        sums = HalfSums.from_accumulator(accumulator, group, context.workers)
    with clock("solve"):
        sums.solve(None)
    return 2 * clock.seconds["join"] + _SOLVES * clock.seconds["solve"]
