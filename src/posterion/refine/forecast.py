"""How much time and memory a refinement will need, said before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from posterion.physics.symmetry import point_group_operators
from posterion.refine.decisions import mostly_peaks
from posterion.refine.grey_scale import SCALE_IMAGES, SCALE_SEARCHES
from posterion.refine.state import IterationInfo, RefineConfig
from posterion.refine.subsets import first_subset, larger_subset

__all__ = [
    "Forecast",
    "StageCosts",
    "UsualIteration",
    "forecast",
    "memory_available_bytes",
    "seconds_left",
    "typical_costs",
    "usual_iterations",
]

_BASE_BYTES = 320e6  # the interpreter, its libraries and compiled kernels
_BYTES_PER_THREAD = 120e6  # a batch of images with its scores
_BYTES_PER_PARTICLE = 200.0  # columns, and estimates twice; see docs/refine.md
_BYTES_PER_VOXEL = 220.0  # both halves' sums and one's transform, at the last iteration's full radius
_BYTES_PER_VOXEL_SYMMETRIC = 130.0  # more, where sums are rotated onto each other
_BYTES_PER_VOXEL_SUMMED = 128.0  # of that, sums while images are still searched
_BYTES_BROAD = (
    850e6  # from box 128: batches that wait, with weights of a whole grid, and what heaps keep; fitted
)
_START_SECONDS = 4.0
_SPEEDUP = 0.9  # exponent: wall time falls as threads**0.9
_FILES = 5
_TYPICAL_BOX = 128
_BROAD_ITERATIONS = 15


@dataclass(frozen=True)
class UsualIteration:
    """One of a usual run's.

    Attributes
    ----------
    kind : ``first``, ``everywhere`` or ``local``
    images : how many it searches
    maps : whether it inserts them and makes maps; a look does not
    """

    kind: str
    images: int
    maps: bool = True


def usual_iterations(n_particles: int, subset: str = "auto", most: int = 30) -> tuple[UsualIteration, ...]:
    """List the iterations of a usual run.

    Of small sets one first, three everywhere and three local; of large ones the first three search a part,
    which then grows, and a look at that part stands for the last search everywhere.

    Parameters
    ----------
    n_particles : how many images
    subset : the option
    most : as many iterations at most, and the last, which is local
    """
    largest = (n_particles + 1) // 2
    part = 0 if subset == "all" else first_subset(largest)
    if part:
        counts = [2 * part] * 3
        growing = part
        while growing := larger_subset(growing, largest):
            counts.append(2 * growing)
        counts += [*[n_particles] * 3, 2 * part, n_particles]
    else:
        counts = [n_particles] * 7
    kinds = ["first", *["everywhere"] * (len(counts) - 5), "local", "local", "everywhere", "local"]
    usual = [UsualIteration(kind, count) for kind, count in zip(kinds, counts, strict=True)]
    if part:
        usual[-2] = replace(usual[-2], maps=False)
    return (*usual[:-1][:most], usual[-1])


@dataclass(frozen=True)
class StageCosts:
    """CPU seconds of each stage of a refinement at one box, symmetry and resolution.

    Attributes
    ----------
    prepare : per image and iteration: read, mask, transform, CTF
    first : per image: search of the first iteration, everywhere, from the low-passed reference
    everywhere : per image: a later search over all orientations
    local : per image: a search about the last pose
    insert : per image and iteration with maps: what it adds to the map's sums
    references : per iteration, however many images: transforms of both references and shared slices
    maps : per iteration with maps: sums of both halves joined and solved
    """

    prepare: float
    first: float
    everywhere: float
    local: float
    insert: float
    references: float
    maps: float


# On a core of 2.5 GHz with AVX2, box 128, no symmetry: `posterion bench` prints the same for any machine.
_TYPICAL = StageCosts(
    prepare=0.0006, first=0.0025, everywhere=0.003, local=0.0015, insert=0.0008, references=0.2, maps=0.8
)


@dataclass(frozen=True)
class Forecast:
    """What a run will need.

    Attributes
    ----------
    memory_bytes : peak of resident memory, reached in the last iteration, which uses all frequencies
    broad_memory_bytes : the same where posteriors stay broad to the end: in small boxes the peak is then
        reached while images are searched, not while maps are made
    seconds : wall time of the whole run; good to a factor of two where posteriors become sharp, several times
        too short where they stay broad
    disk_bytes : of all files, the state between iterations among them
    cpu_seconds : CPU time of the whole run, all threads together
    """

    memory_bytes: float
    broad_memory_bytes: float
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
        references=_TYPICAL.references * voxels,
        maps=_TYPICAL.maps * voxels,
    )


def forecast(
    n_particles: int, box_px: int, config: RefineConfig, threads: int, costs: StageCosts | None = None
) -> Forecast:
    """Forecast memory, time and disk from the sizes that matter; the constants were fitted to measured runs.

    ``memory = base + a threads + b N + c n^3``, and with broad posteriors, where that is more,
    ``base + a threads + b N + d n^3 + e min(1, n/128)^2``;
    ``CPU = start + sum over iterations (images (prepare + search + insert) + references + maps)``.

    Parameters
    ----------
    n_particles : how many images
    box_px : of the images
    config : of the run
    threads : that work at a time
    costs : of the stages on this machine, as `posterion.report.bench.bench` measures them; typical where None
    """
    voxels, order = float(box_px) ** 3, len(point_group_operators(config.point_group))
    searching = _BASE_BYTES + threads * _BYTES_PER_THREAD + n_particles * _BYTES_PER_PARTICLE
    memory = searching + voxels * (_BYTES_PER_VOXEL + (order > 1) * _BYTES_PER_VOXEL_SYMMETRIC)
    # Best poses have one shift and one slice for each image.
    waiting = _BYTES_BROAD * min(1.0, box_px / _TYPICAL_BOX) ** 2 if config.method == "em" else 0.0
    broad = searching + voxels * _BYTES_PER_VOXEL_SUMMED + waiting
    costs = costs or typical_costs(box_px, config.point_group)
    usual = usual_iterations(n_particles, config.subset, config.max_iterations)
    work = _cpu_seconds(n_particles, costs, usual)
    disk = (_FILES + 2) * 4 * voxels + 300 * n_particles
    seconds = _START_SECONDS + work / threads**_SPEEDUP
    return Forecast(memory, max(memory, broad), seconds, disk, _START_SECONDS + work)


def _cpu_seconds(n_particles: int, costs: StageCosts, usual: Sequence[UsualIteration]) -> float:
    """CPU time of the fit of the grey scale and of all iterations."""
    fitted = min(n_particles, SCALE_IMAGES) * SCALE_SEARCHES * (costs.prepare + costs.first)
    maps = sum(each.maps for each in usual) * costs.maps
    return fitted + _search_seconds(usual, costs) + len(usual) * costs.references + maps


def _search_seconds(usual: Iterable[UsualIteration], costs: StageCosts) -> float:
    search = {"first": costs.first, "everywhere": costs.everywhere, "local": costs.local}
    return sum(each.images * (costs.prepare + search[each.kind] + each.maps * costs.insert) for each in usual)


def seconds_left(history: Sequence[IterationInfo], n_particles: int, config: RefineConfig) -> float:
    """Estimate the wall time left from what the last iteration took.

    Where posteriors are narrow, iterations go on as in a usual run, and cost against the last what they
    usually cost; where they stay broad, more of them follow and none is cheaper.

    Parameters
    ----------
    history : finished iterations, at least two: the first one's search is unlike all others
    n_particles : of the set
    config : of the run
    """
    last = history[-1]
    usual = usual_iterations(n_particles, config.subset, config.max_iterations)
    kind = "local" if last.search == "local" else "everywhere"
    if not mostly_peaks(last):
        more = max(min(_BROAD_ITERATIONS, config.max_iterations + 1) - last.iteration, 1)
        left: Sequence[UsualIteration] = [UsualIteration(kind, n_particles)] * more
    else:
        left = usual[last.iteration :] or usual[-1:]
    done = UsualIteration(kind, last.particles, maps=last.search != "look")
    scale = last.seconds["expectation"] / _search_seconds([done], _TYPICAL)
    # A look makes no map, but what follows it does.
    maps = next(info.seconds["maximisation"] for info in reversed(history) if info.search != "look")
    return scale * _search_seconds(left, _TYPICAL) + sum(each.maps for each in left) * maps


def memory_available_bytes() -> float | None:
    """Memory that the machine can still give without swapping, bytes; None where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    return 1024.0 * kilobytes
