"""Time the stages of a refinement on this machine, predict a whole run, and count against the lecture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from posterion.compute import NullProgress, StageProgress
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
from posterion.refine.state import RefineConfig
from posterion.report.bench_operations import (
    Climbed,
    Compared,
    LectureCount,
    OperationCounts,
    Tally,
    lecture_operations,
    operation_counts,
)
from posterion.report.bench_stages import (
    SearchTimes,
    bench_problem,
    broad_problem,
    gemm_rate,
    time_search,
    time_solve,
)
from posterion.report.progress import format_duration

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

_SMALLEST_BOX, _LARGEST_BOX = 20, 1024  # the usual shift range, five pixels, is a quarter of 20
_BOX_OVER_DIAMETER = 1.2
_RESOLUTION_SHARE = 0.55  # of Nyquist: what usual sets reach
_USUAL = ("first", "everywhere", "local")
_KINDS = {
    "first": "first iteration, from the starting map",
    "everywhere": "later, over all orientations",
    "local": "later, about the last poses",
    "broad": "while posteriors cover more than 1 % of all orientations, as those of weak images do",
}
_LABEL, _COLUMN = 34, 12


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
    searches : stages of the four kinds of iterations
    costs : the same as the forecast takes them
    forecast : of the whole run
    weak_costs, weak_forecast : where posteriors are broad in all iterations between the first and the local
        ones
    lecture : operations of brute force for the same set
    solve : CPU seconds of each iteration's maps
    """

    options: BenchOptions
    gemm_per_second: float
    searches: dict[str, SearchTimes]
    costs: StageCosts
    forecast: Forecast
    weak_costs: StageCosts
    weak_forecast: Forecast
    lecture: LectureCount
    solve: float

    @property
    def operations(self) -> float:
        """Multiply-adds of all iterations on all images, from those counted in each kind of iteration."""
        return self._operations({})

    @property
    def weak_operations(self) -> float:
        """The same where posteriors are broad in all iterations between the first and the local ones."""
        return self._operations({"everywhere": "broad"})

    def _operations(self, instead: dict[str, str]) -> float:
        total = 0.0
        for usual in self.iterations:
            counts = self.searches[instead.get(usual.kind, usual.kind)].operations
            total += usual.images * (counts.total if usual.maps else counts.total - counts.insertion)
            total += 2 * counts.once * usual.maps
        return total

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
        record["operations"], record["weak_operations"] = self.operations, self.weak_operations
        record["lecture"] |= {"cpu_years": self.lecture.cpu_years()}
        return json.dumps(record, indent=1)

    def to_text(self) -> str:
        """Tables for people."""
        parts = (self._head(), self._stages(), self._counts(), self._prediction(), self._lecture())
        return "\n\n".join("\n".join(part) for part in parts)

    @property
    def by_harmonics(self) -> bool:
        """Whether `refine` takes the dense pass by harmonics in any of these iterations."""
        return any(times.by_harmonics for times in self.searches.values())

    def _head(self) -> Iterator[str]:
        o = self.options
        yield (
            f"box {o.box_px} px of {o.pixel_size:.3g} A, diameter {o.diameter_angstrom:g} A, "
            f"symmetry {o.symmetry}, late iterations at {o.resolution:.3g} A"
        )
        billions = self.gemm_per_second / 1e9
        yield f"one core's float32 matrix product: {billions:.0f} billion multiply-adds a second"
        yield ""
        yield "iterations:"
        yield from (f"  {kind:<12}{words}" for kind, words in _KINDS.items())

    def _row(self, label: str, values: Iterable[str]) -> str:
        return f"{label:<{_LABEL}}" + "".join(f"{value:>{_COLUMN}}" for value in values)

    def _stages(self) -> Iterator[str]:
        yield self._row("CPU ms per image, one core", _KINDS)
        rows = {"image preparation": "prepare", "dense pass, by pixels": "dense"}
        rows |= {"dense pass, by harmonics": "harmonic"} if self.by_harmonics else {}
        rows |= {"from there to the insertion": "ragged", "insertion": "insert", "together": "image"}
        for label, name in rows.items():
            values = (getattr(self.searches[kind], name) for kind in _KINDS)
            passed = {"dense", "harmonic"} & {name}
            yield self._row(label, ("-" if passed and not v else f"{1e3 * v:.2f}" for v in values))
        radii = (f"{times.radius} / {times.collected}" for times in self.searches.values())
        yield self._row("compared / collected, px", radii)
        shares = (f"{100 * times.support_share:.2g}" for times in self.searches.values())
        yield self._row("orientations in a posterior, %", shares)
        if not self.searches["broad"].by_harmonics:
            yield "broad ones go by pixels: harmonics want a finer grid, or smaller sums"
        yield ""
        yield self._row("CPU s per iteration, both halves", _KINDS)
        rows = {"slices of the references": "shared"}
        rows |= {"insertion of harmonics": "once"} if self.by_harmonics else {}
        for label, name in rows.items():
            values = (2 * getattr(self.searches[kind], name) for kind in _KINDS)
            yield self._row(label, (f"{value:.2f}" for value in values))
        yield self._row("maps", [f"{self.solve:.2f}"] * len(_KINDS))

    def _counts(self) -> Iterator[str]:
        yield self._row("counted, per image", _KINDS)
        rows = {"poses scored": "pairs", "  of them with derivatives": "climbed"}
        rows |= {"samples interpolated": "gathered", "samples inserted": "inserted"}
        rows |= {"multiply-adds: scoring": "scoring", "  interpolation": "slicing"}
        harmonics = {"  rings and their harmonics": "rings", "  sums under the posterior": "posterior"}
        rows |= harmonics if self.by_harmonics else {}
        rows |= {"  climbing": "climbing", "  insertion": "insertion", "  together": "total"}
        for label, name in rows.items():
            values = (getattr(self.searches[kind].operations, name) for kind in _KINDS)
            yield self._row(label, (f"{value:.3g}" for value in values))
        if self.by_harmonics:
            once = (2 * times.operations.once for times in self.searches.values())
            yield self._row("insertion, once an iteration", (f"{value:.3g}" for value in once))

    def _prediction(self) -> Iterator[str]:
        o = self.options
        images = {kind: sum(u.images for u in self.iterations if u.kind == kind) for kind in _USUAL}
        searched = {kind: count / o.n_particles for kind, count in images.items()}
        yield f"{o.n_particles:,} particles, {len(self.iterations)} iterations, to a factor of two:"
        yield from self._needs(self.forecast)
        yield (
            f"  an image is searched {searched['first']:.2g} times in a first iteration, "
            f"{searched['everywhere']:.2g} times everywhere, {searched['local']:.2g} times locally"
        )
        yield ""
        yield "the same of weak images, whose posteriors stay broad until the search is local:"
        yield from self._needs(self.weak_forecast)
        costs = self.weak_costs
        more = o.n_particles * self.searches["broad"].image + costs.references + costs.maps
        yield f"  and while they stay broad {format_duration(more)} of CPU time for each further iteration"

    def _needs(self, need: Forecast) -> Iterator[str]:
        o = self.options
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
        weak = self.weak_operations
        yield f"  the same of weak images: {weak:.2g}, {count.total / weak:.2g} times fewer"


def bench(options: BenchOptions | None = None, progress: StageProgress = NullProgress) -> BenchReport:
    """Time the stages of a refinement on simulated images and predict a whole run from them.

    The images are of the embedded assembly, scaled to the diameter and symmetrised, SNR 0.1. The first
    iteration is timed from the low-passed reference, late ones with the true map at the wanted resolution.
    Iterations with broad posteriors are timed on images of SNR 0.001 with the true map at half of that.

    Parameters
    ----------
    options : the refinement to predict
    progress : shows how far it is

    Raises
    ------
    PosterionError
        When an option is out of range.
    """
    options = options or BenchOptions()
    _check(options)
    problem = options.box_px, options.pixel_size, options.diameter_angstrom, options.symmetry
    set_ = *problem, options.resolution, options.images
    searches: dict[str, SearchTimes] = {}
    with progress("bench", 3 + len(_KINDS), "stages") as stage:
        with bench_problem(*set_) as made:
            stage.advance()
            for kind, state in zip(_USUAL, (made.first, made.late, made.local), strict=True):
                time_search(made.context, state, images=2)  # compiles and loads what is not timed
                searches[kind] = time_search(made.context, state)
                stage.advance()
            solve = time_solve(made.context, searches["local"].collected)
            config = made.context.config
        with broad_problem(*set_) as (context, state):
            time_search(context, state, images=2)
            searches["broad"] = time_search(context, state)
            stage.advance()
        stage.advance()
        rate = gemm_rate()
        stage.advance()
    return _report(options, config, rate, searches, solve)


def _report(
    options: BenchOptions, config: RefineConfig, rate: float, searches: dict[str, SearchTimes], solve: float
) -> BenchReport:
    """Predict from what was measured."""
    costs = _costs(searches, solve)
    weak = _weak_costs(searches["broad"], costs, solve)
    size = options.n_particles, options.box_px
    need = forecast(*size, config, options.threads, costs)
    weak_need = forecast(*size, config, options.threads, weak)
    weak_need = replace(weak_need, memory_bytes=weak_need.broad_memory_bytes)
    return BenchReport(
        options, rate, searches, costs, need, weak, weak_need, lecture_operations(*size), solve
    )


def _costs(searches: dict[str, SearchTimes], solve: float) -> StageCosts:
    """Put together what the forecast takes; preparation as in late iterations, which collect most."""
    late = searches["everywhere"]
    return StageCosts(
        prepare=late.prepare,
        first=searches["first"].search,
        everywhere=late.search,
        local=searches["local"].search,
        insert=max(searches[kind].insert for kind in _USUAL),
        references=2 * late.shared,
        maps=2 * late.once + solve,
    )


def _weak_costs(broad: SearchTimes, usual: StageCosts, solve: float) -> StageCosts:
    """Put broad searches in the place of usual ones; what they prepare and insert more counts as search."""
    search = max(broad.image - usual.prepare - usual.insert, 0.0)
    return replace(usual, everywhere=search, references=2 * broad.shared, maps=2 * broad.once + solve)


def _check(options: BenchOptions) -> None:
    """Refuse what cannot be simulated, before anything is computed."""
    point_group_operators(options.symmetry)
    box, pixel, resolution = options.box_px, options.pixel_size, options.resolution
    if not _SMALLEST_BOX <= box <= _LARGEST_BOX or box % 2:
        raise PosterionError(
            f"--box {box}: expected an even number of pixels from {_SMALLEST_BOX} to {_LARGEST_BOX}"
        )
    for option, count in (("--particles", options.n_particles), ("--threads", options.threads)):
        if count < 1:
            raise PosterionError(f"{option} {count}: expected at least 1")
    if options.images < 2:
        raise PosterionError(f"images to time, {options.images}: expected at least 2, one for each half set")
    resolve(RefineOptions(symmetry=options.symmetry), options.diameter_angstrom, box, pixel)
    if not 2 * pixel <= resolution <= box * pixel / 4:
        raise PosterionError(
            f"--resolution {resolution:g} A is outside {2 * pixel:.3g} A (two pixels) to "
            f"{box * pixel / 4:.3g} A (a quarter of the box)"
        )
