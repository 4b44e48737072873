"""Time the stages of a refinement on this machine, predict a whole run, and count against the lecture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from posterion.errors import PosterionError
from posterion.physics.symmetry import point_group_operators
from posterion.refine.forecast import (
    Forecast,
    StageCosts,
    UsualIteration,
    forecast,
    memory_available_bytes,
    usual_iterations,
)
from posterion.refine.options import RefineOptions, resolve
from posterion.report.bench_operations import (
    Climbed,
    Compared,
    LectureCount,
    OperationCounts,
    Tally,
    lecture_operations,
    operation_counts,
)
from posterion.report.bench_stages import SearchTimes, bench_problem, gemm_rate, time_search, time_solve
from posterion.report.progress import NullProgress, format_duration

__all__ = [
    "BenchOptions",
    "BenchReport",
    "Climbed",
    "Compared",
    "LectureCount",
    "OperationCounts",
    "Tally",
    "bench",
    "lecture_operations",
    "operation_counts",
]

_SMALLEST_BOX, _LARGEST_BOX = 16, 1024
_BOX_OVER_DIAMETER = 1.2
_RESOLUTION_SHARE = 0.55  # of Nyquist: what usual sets reach
_KINDS = {"first": "first iteration", "everywhere": "later, all orientations", "local": "later, local"}


@dataclass(frozen=True)
class BenchOptions:
    """The refinement to predict.

    Attributes
    ----------
    n_particles : N
    box_px : box, pixels
    diameter_angstrom : of the particle, Angstrom
    symmetry : point group, RELION's name
    pixel_size_angstrom : None: the box is 1.2 diameters wide
    resolution_angstrom : that the late iterations have; None: 0.55 of Nyquist's frequency
    threads : that the run would have
    images : on how many simulated images stages are timed
    """

    n_particles: int = 100_000
    box_px: int = 128
    diameter_angstrom: float = 180.0
    symmetry: str = "C1"
    pixel_size_angstrom: float | None = None
    resolution_angstrom: float | None = None
    threads: int = 1
    images: int = 48

    @property
    def pixel_size(self) -> float:
        """Pixel size, Angstrom."""
        return self.pixel_size_angstrom or _BOX_OVER_DIAMETER * self.diameter_angstrom / self.box_px

    @property
    def resolution(self) -> float:
        """Resolution of the late iterations, Angstrom."""
        return self.resolution_angstrom or 2 * self.pixel_size / _RESOLUTION_SHARE


@dataclass(frozen=True)
class BenchReport:
    """What was measured and what follows from it.

    Attributes
    ----------
    options : what was asked
    gemm_per_second : multiply-adds per second of one core's float32 matrix product
    searches : stages of the three kinds of iterations
    costs : the same as the forecast takes them
    forecast : of the whole run
    lecture : operations of brute force for the same set
    """

    options: BenchOptions
    gemm_per_second: float
    searches: dict[str, SearchTimes]
    costs: StageCosts
    forecast: Forecast
    lecture: LectureCount

    @property
    def operations(self) -> float:
        """Multiply-adds of all iterations on all images, from those counted in each kind of iteration."""
        each = {name: times.operations.total for name, times in self.searches.items()}
        return float(sum(usual.images * each[usual.kind] for usual in self.iterations))

    @property
    def iterations(self) -> tuple[UsualIteration, ...]:
        """Of a usual run on so many images."""
        return usual_iterations(self.options.n_particles)

    def to_json(self) -> str:
        """All numbers; seconds, bytes, multiply-adds."""
        record: dict[str, Any] = asdict(self)
        record["options"] |= {
            "pixel_size_angstrom": self.options.pixel_size,
            "resolution_angstrom": self.options.resolution,
        }
        record["iterations"] = [asdict(usual) for usual in self.iterations]
        record["operations"] = self.operations
        record["lecture"] |= {"cpu_years": self.lecture.cpu_years()}
        return json.dumps(record, indent=1)

    def to_text(self) -> str:
        """Tables for people."""
        parts = (self._head(), self._stages(), self._counts(), self._prediction(), self._lecture())
        return "\n\n".join("\n".join(part) for part in parts)

    def _head(self) -> Iterator[str]:
        o = self.options
        yield (
            f"box {o.box_px} px of {o.pixel_size:.3g} A, diameter {o.diameter_angstrom:g} A, "
            f"symmetry {o.symmetry}, late iterations at {o.resolution:.3g} A"
        )
        billions = self.gemm_per_second / 1e9
        yield f"one core's float32 matrix product: {billions:.0f} billion multiply-adds a second"

    def _stages(self) -> Iterator[str]:
        yield f"{'CPU ms per image, one core':<28}{''.join(f'{name:>26}' for name in _KINDS.values())}"
        rows = {"image preparation": "prepare", "dense pass, shared grid": "dense"}
        rows |= {"from there to the posterior": "ragged", "insertion": "insert"}
        for label, name in rows.items():
            values = (1e3 * getattr(self.searches[kind], name) for kind in _KINDS)
            yield f"{label:<28}" + "".join(f"{value:>26.2f}" for value in values)
        radii = (f"{self.searches[kind].radius} / {self.searches[kind].collected}" for kind in _KINDS)
        yield f"{'compared / collected, px':<28}" + "".join(f"{radius:>26}" for radius in radii)
        yield f"each iteration besides, maps of both halves: {self.costs.iteration:.2f} CPU-s"

    def _counts(self) -> Iterator[str]:
        yield f"{'counted, per image':<28}{''.join(f'{name:>26}' for name in _KINDS.values())}"
        rows = {"poses scored": "pairs", "  of them with derivatives": "climbed"}
        rows |= {"samples interpolated": "gathered", "samples inserted": "inserted"}
        rows |= {"multiply-adds: scoring": "scoring", "  interpolation": "slicing"}
        rows |= {"  climbing": "climbing", "  insertion": "insertion", "  together": "total"}
        for label, name in rows.items():
            values = (getattr(self.searches[kind].operations, name) for kind in _KINDS)
            yield f"{label:<28}" + "".join(f"{value:>26.3g}" for value in values)

    def _prediction(self) -> Iterator[str]:
        o, need = self.options, self.forecast
        images = {kind: sum(u.images for u in self.iterations if u.kind == kind) for kind in _KINDS}
        searched = {kind: count / o.n_particles for kind, count in images.items()}
        yield (
            f"{o.n_particles:,} particles, {len(self.iterations)} iterations, in which an image is searched "
            f"{searched['first']:.2g} times in a first one, {searched['everywhere']:.2g} times over all "
            f"orientations, {searched['local']:.2g} times locally; to a factor of two:"
        )
        yield (
            f"  CPU time {format_duration(need.cpu_seconds)}, "
            f"{need.cpu_seconds / o.n_particles:.3f} CPU-s per particle"
        )
        threads = f"{o.threads} thread" + ("s" if o.threads > 1 else "")
        yield f"  wall time {format_duration(need.seconds)} with {threads}"
        available = memory_available_bytes()
        left = "" if available is None else f" (this machine has {available / 1e9:.1f} GB left)"
        yield f"  memory {need.memory_bytes / 1e9:.1f} GB{left}, disk {need.disk_bytes / 1e6:.0f} MB"

    def _lecture(self) -> Iterator[str]:
        count, rate = self.lecture, self.gemm_per_second
        yield "operations, one multiply-add each:"
        yield (
            f"  brute force, (pi^3/8) t^2 n^5 N + pi n^4 + N n^2 with t = 7: {count.total:.2g}, "
            f"{count.cpu_years():.3g} CPU-years at the lecture's 1e9 a second"
        )
        yield f"  the same at this core's matrix product: {count.cpu_years(rate):.3g} CPU-years"
        yield (
            f"  this program, all iterations, from the counts above: {self.operations:.2g}, "
            f"{count.total / self.operations:.2g} times fewer"
        )


def bench(options: BenchOptions | None = None, progress: type[NullProgress] = NullProgress) -> BenchReport:
    """Time the stages of a refinement on simulated images and predict a whole run from them.

    The images are of the embedded assembly, scaled to the diameter and symmetrised, SNR 0.1. The first
    iteration is timed from the low-passed reference, late ones with the true map at the wanted resolution.

    Parameters
    ----------
    options : the refinement to predict
    progress : class that shows the progress

    Raises
    ------
    PosterionError
        When an option is out of range.
    """
    options = options or BenchOptions()
    _check(options)
    problem = (options.box_px, options.pixel_size, options.diameter_angstrom, options.symmetry)
    with (
        progress("bench", 3 + len(_KINDS), "stages") as stage,
        bench_problem(*problem, options.resolution, options.images) as made,
    ):
        stage.advance()
        states = dict(zip(_KINDS, (made.first, made.late, made.local), strict=True))
        for state in states.values():
            time_search(made.context, state, images=2)  # compiles and loads what is not timed
        searches = {}
        for kind, state in states.items():
            searches[kind] = time_search(made.context, state)
            stage.advance()
        solve = time_solve(made.context, searches["local"].collected)
        stage.advance()
        rate = gemm_rate()
        stage.advance()
        costs = _costs(searches, solve)
        need = forecast(options.n_particles, options.box_px, made.context.config, options.threads, costs)
    lecture = lecture_operations(options.n_particles, options.box_px)
    return BenchReport(options, rate, searches, costs, need, lecture)


def _costs(searches: dict[str, SearchTimes], solve: float) -> StageCosts:
    """Put together what the forecast takes; preparation as in late iterations, which collect most."""
    late = searches["everywhere"]
    return StageCosts(
        prepare=late.prepare,
        first=searches["first"].search,
        everywhere=late.search,
        local=searches["local"].search,
        insert=max(times.insert for times in searches.values()),
        iteration=2 * late.shared + solve,
    )


def _check(options: BenchOptions) -> None:
    """Refuse what cannot be simulated, before anything is computed."""
    point_group_operators(options.symmetry)
    box, pixel, resolution = options.box_px, options.pixel_size, options.resolution
    if not _SMALLEST_BOX <= box <= _LARGEST_BOX or box % 2:
        raise PosterionError(
            f"--box {box}: expected an even number of pixels from {_SMALLEST_BOX} to {_LARGEST_BOX}"
        )
    if min(options.n_particles, options.threads) < 1 or options.images < 2:
        raise PosterionError(
            "--particles and --threads must be at least 1, the images to time at least 2, one for each half"
        )
    resolve(RefineOptions(symmetry=options.symmetry), options.diameter_angstrom, box, pixel)
    if not 2 * pixel <= resolution <= box * pixel / 4:
        raise PosterionError(
            f"--resolution {resolution:g} A is outside {2 * pixel:.3g} A (two pixels) to "
            f"{box * pixel / 4:.3g} A (a quarter of the box)"
        )
