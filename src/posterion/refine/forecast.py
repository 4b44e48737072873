"""How much time and memory a refinement will need, said before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from posterion.physics.symmetry import point_group_operators
from posterion.refine.state import RefineConfig

__all__ = [
    "ITERATIONS",
    "Forecast",
    "IterationNumbers",
    "StageCosts",
    "forecast",
    "memory_available_bytes",
    "typical_costs",
]

_BASE_BYTES = 320e6  # the interpreter, its libraries and compiled kernels
_BYTES_PER_THREAD = 120e6  # a batch of images with its scores
_BYTES_PER_PARTICLE = 200.0  # columns, and estimates twice; see docs/refine.md
_BYTES_PER_VOXEL = 220.0  # both halves' sums and one's transform, at the last iteration's full radius
_BYTES_PER_VOXEL_SYMMETRIC = 130.0  # more, where sums are rotated onto each other
_START_SECONDS = 4.0
_SPEEDUP = 0.9  # exponent: wall time falls as threads**0.9
_FILES = 5
_SCALE_IMAGES, _SCALE_STEPS = 100, 5  # what fitting the reference's grey scale searches
_TYPICAL_BOX = 128


@dataclass(frozen=True)
class IterationNumbers:
    """How many iterations of each kind a run has: the first, other global ones, local ones."""

    first: int = 1
    everywhere: int = 3
    local: int = 3

    @property
    def total(self) -> int:
        """All of them."""
        return self.first + self.everywhere + self.local

    def at_most(self, limit: int) -> IterationNumbers:
        """Cut to the first ``limit`` iterations."""
        first = min(self.first, limit)
        everywhere = min(self.everywhere, limit - first)
        return IterationNumbers(first, everywhere, min(self.local, limit - first - everywhere))


ITERATIONS = IterationNumbers()
"""Of a usual run."""


@dataclass(frozen=True)
class StageCosts:
    """CPU seconds of each stage of a refinement at one box, symmetry and resolution.

    Attributes
    ----------
    prepare : per image and iteration: read, mask, transform, CTF
    first : per image: search of the first iteration, everywhere, from the low-passed reference
    everywhere : per image: a later search over all orientations
    local : per image: a search about the last pose
    insert : per image and iteration: what it adds to the map's sums
    iteration : per iteration, however many images: shared slices, transforms and solves of both halves
    """

    prepare: float
    first: float
    everywhere: float
    local: float
    insert: float
    iteration: float


# On a core of 2.5 GHz with AVX2, box 128, no symmetry: `posterion bench` prints the same for any machine.
_TYPICAL = StageCosts(
    prepare=0.0006, first=0.0025, everywhere=0.003, local=0.0015, insert=0.0008, iteration=1.0
)


@dataclass(frozen=True)
class Forecast:
    """What a run will need.

    Attributes
    ----------
    memory_bytes : peak of resident memory, reached in the last iteration, which uses all frequencies
    seconds : wall time of the whole run; good to a factor of two where posteriors become sharp, several times
        too short where they stay broad
    disk_bytes : of all files, the state between iterations among them
    cpu_seconds : CPU time of the whole run, all threads together
    """

    memory_bytes: float
    seconds: float
    disk_bytes: float
    cpu_seconds: float


def typical_costs(box_px: int, point_group: str) -> StageCosts:
    """Scale the costs of box 128 to another box and symmetry.

    Work on images grows with their pixels and on maps with their voxels; the first search scores a coarse
    grid of a fixed number of cells below a fixed resolution, of which symmetry leaves one in ``g``.

    Parameters
    ----------
    box_px : of the images
    point_group : RELION's name
    """
    order = len(point_group_operators(point_group))
    pixels, voxels = (box_px / _TYPICAL_BOX) ** 2, (box_px / _TYPICAL_BOX) ** 3
    return StageCosts(
        prepare=_TYPICAL.prepare * pixels,
        first=_TYPICAL.first * (0.5 + 0.5 / order),
        everywhere=_TYPICAL.everywhere * pixels,
        local=_TYPICAL.local * pixels,
        insert=_TYPICAL.insert * pixels,
        iteration=_TYPICAL.iteration * voxels,
    )


def forecast(
    n_particles: int, box_px: int, config: RefineConfig, threads: int, costs: StageCosts | None = None
) -> Forecast:
    """Forecast memory, time and disk from the sizes that matter; the constants were fitted to measured runs.

    ``memory = base + a threads + b N + c n^3``;
    ``CPU = start + sum over iterations (N (prepare + search + insert) + iteration)``.

    Parameters
    ----------
    n_particles : how many images
    box_px : of the images
    config : of the run
    threads : that work at a time
    costs : of the stages on this machine, as `posterion.report.bench.bench` measures them; typical where None
    """
    voxels = float(box_px) ** 3
    memory = _BASE_BYTES + threads * _BYTES_PER_THREAD + n_particles * _BYTES_PER_PARTICLE
    symmetric = len(point_group_operators(config.point_group)) > 1
    memory += voxels * (_BYTES_PER_VOXEL + symmetric * _BYTES_PER_VOXEL_SYMMETRIC)
    costs = costs or typical_costs(box_px, config.point_group)
    work = _cpu_seconds(n_particles, costs, ITERATIONS.at_most(config.max_iterations))
    disk = (_FILES + 2) * 4 * voxels + 300 * n_particles
    return Forecast(memory, _START_SECONDS + work / threads**_SPEEDUP, disk, _START_SECONDS + work)


def _cpu_seconds(n_particles: int, costs: StageCosts, numbers: IterationNumbers) -> float:
    """CPU time of the fit of the grey scale and of all iterations."""
    around = costs.prepare + costs.insert
    per_image = (
        numbers.first * (around + costs.first)
        + numbers.everywhere * (around + costs.everywhere)
        + numbers.local * (around + costs.local)
    )
    fitted = min(n_particles, _SCALE_IMAGES) * _SCALE_STEPS * (costs.prepare + costs.first)
    return fitted + n_particles * per_image + numbers.total * costs.iteration


def memory_available_bytes() -> float | None:
    """Memory that the machine can still give without swapping, bytes; None where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    return 1024.0 * kilobytes
