"""The stages of a refinement timed one by one on a small simulated set, with what each compares counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from posterion.inference.search import SearchPlan
from posterion.mapping.masks import low_pass
from posterion.mapping.reconstruct import HalfSums
from posterion.physics.atomic_model import map_from_atoms
from posterion.physics.fourier import disc
from posterion.physics.phantom import phantom_atoms
from posterion.physics.projection import Accumulator, FourierVolume
from posterion.physics.simulate import SimulationOptions, simulate
from posterion.physics.symmetry import point_group_operators
from posterion.refine.context import RefineContext
from posterion.refine.inputs import prepare
from posterion.refine.options import RefineOptions
from posterion.refine.plan import make_plan
from posterion.refine.schedule import COMPARE_MARGIN_SHELLS, MAP_MARGIN_SHELLS
from posterion.refine.start import init
from posterion.refine.state import ParticleEstimates, RefinementState
from posterion.report.bench_operations import Climbed, OperationCounts, Tally, operation_counts

__all__ = ["BenchProblem", "SearchTimes", "bench_problem", "gemm_rate", "time_search", "time_solve"]

_PHANTOM_ANGSTROM = 150.0  # what the embedded assembly fits into
_SOLVES = 4
_SHIFT_SD_PX = 2.0
_BATCH = 8
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
    prepare, dense, ragged, insert : per image; the dense pass over the shared grid (0 where there is none),
        then all from there to the posterior, and insertion
    shared : per iteration and half: the volume's transform and its slices on the shared grid
    operations : per image
    """

    radius: int
    collected: int
    prepare: float
    dense: float
    ragged: float
    insert: float
    shared: float
    operations: OperationCounts

    @property
    def search(self) -> float:
        """CPU seconds per image of the whole search."""
        return self.dense + self.ragged


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
    density = _density(box_px, point_group)
    options = SimulationOptions(images, snr=0.1, shift_sd_angstrom=_SHIFT_SD_PX * pixel_size_angstrom)
    with TemporaryDirectory() as folder, Workers(1) as workers:
        made = simulate([density], pixel_size_angstrom, Path(folder) / "images", options)
        refine_options = RefineOptions(symmetry=point_group, threads=1)
        inputs = prepare(made.particles_path, density * made.scale, diameter_angstrom, refine_options)
        context = inputs.context(workers)
        first, _ = init(context, inputs.reference)
        late = _late_state(context, first, density * made.scale, resolution_angstrom)
        truth = Particles.read(made.truth_path)
        yield BenchProblem(context, first, replace(late, particles=_known(truth)))


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
        search=replace(first.search, support_share=0.0),
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
    nyquist = (context.box - 1) // 2
    radius = min(state.resolution_shell + COMPARE_MARGIN_SHELLS, nyquist)
    collected = min(state.resolution_shell + MAP_MARGIN_SHELLS, nyquist)
    clock, tally, count = _Clock(), Tally(), images or len(context.particles)
    plan = make_plan(context, state, radius)
    with clock("shared"):
        volume = tally.volume(FourierVolume.from_map(state.half_maps[0], plan.radius))
        shared = None if state.search.local else SharedGrid.of(volume, plan)
    accumulator, pixels = _warm_accumulator(context.box, collected), disc(context.box, collected)
    inserted, climbed = 0, Climbed()
    for index_i in np.array_split(np.arange(count), -(-count // _BATCH)):
        with clock("prepare"):
            batch = _prepared(context, state, collected, index_i)
        if shared is not None:
            tally.on(len(shared.pixels))
            with clock("dense"):
                dense_log_prob(batch, shared, plan)
        with clock("whole"):
            part = _expected(batch, state, volume, tally.plan(plan), shared)
        with clock("insert"):
            accumulator.insert(part.insert_matrices, pixels, part.numerator_mp, part.weight_mp)
        inserted += int(np.count_nonzero(part.weight_mp))
        climbed = climbed.plus(part)
    each = {name: seconds / count for name, seconds in clock.seconds.items()}
    dense = each.get("dense", 0.0)
    return SearchTimes(
        radius=radius,
        collected=collected,
        prepare=each["prepare"],
        dense=dense,
        ragged=max(each["whole"] - dense, 0.0),
        insert=each["insert"],
        shared=clock.seconds["shared"],
        operations=operation_counts(tally.compared, count, inserted, climbed),
    )


def _prepared(
    context: RefineContext, state: RefinementState, radius: int, index_i: NDArray[np.int64]
) -> ImageBatch:
    """Read and prepare a batch, as `auto_refine.expect_half` does."""
    noise = NoiseModel(state.sigma2_gs, context.noise_group_i, state.scale_g, context.scale_group_i)
    images, shifts_px = context.particles.images(index_i), np.rint(state.particles.shifts_px[index_i])
    return prepare_images(context.particles, index_i, images, radius, context.diameter_px, noise, shifts_px)


def _expected(
    batch: ImageBatch,
    state: RefinementState,
    volume: FourierVolume,
    plan: SearchPlan,
    shared: SharedGrid | None,
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
