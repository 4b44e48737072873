"""One micrograph after another: what is finished is not done again, and one that fails stops no other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posterion.compute import NullProgress, StageProgress, Workers
from posterion.data.atomic import write_text
from posterion.data.output_folder import OutputFolder
from posterion.errors import PosterionError
from posterion.micrographs.micrograph_set import MicrographSet

__all__ = [
    "Failure",
    "Job",
    "Outcome",
    "file_state",
    "micrograph_stem",
    "output_stems",
    "process_all",
    "require_one",
]

_LOG = logging.getLogger("posterion")
_ENDINGS = (".gz", ".bz2", ".mrc", ".mrcs", ".map", ".tif", ".tiff", ".png")
Record = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A micrograph that could not be processed, and why, in one sentence."""

    name: str
    reason: str


@dataclass(frozen=True)
class Job:
    """One micrograph's share of a command.

    Attributes
    ----------
    name : as the user knows it
    source : its file
    settings : all that its results depend on but the state of its file
    record_path : JSON file that says what was found, and under which settings
    products : files that are written with it
    """

    name: str
    source: Path
    settings: Mapping[str, Any]
    record_path: Path
    products: tuple[Path, ...]

    def begin(self) -> None:
        """Remove what was found under other settings: a picture must not outlive the numbers it shows."""
        for path in (self.record_path, *self.products):
            path.unlink(missing_ok=True)

    def finish(self, record: Record) -> None:
        """Write the record, when all products are."""
        there = {"settings": self._all_settings(), "result": record}
        write_text(self.record_path, json.dumps(there, indent=1) + "\n")

    def finished(self) -> Record | None:
        """Record of an earlier run, if it had the same settings and all its files are there."""
        try:
            there = json.loads(self.record_path.read_text(encoding="utf-8"))
            same = there["settings"] == json.loads(json.dumps(self._all_settings()))
            result: Record = there["result"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return result if same and all(product.is_file() for product in self.products) else None

    def _all_settings(self) -> dict[str, Any]:
        return {**self.settings, "file": file_state(self.source)}


@dataclass(frozen=True)
class Outcome:
    """What became of all micrographs.

    Attributes
    ----------
    records : (n,) what was found in each micrograph; None where it failed
    failures : those that failed
    resumed : how many had been finished before
    """

    records: tuple[Record | None, ...]
    failures: tuple[Failure, ...]
    resumed: int

    @property
    def reasons(self) -> dict[str, str]:
        """Why micrographs failed, by name."""
        return {failure.name: failure.reason for failure in self.failures}


def file_state(path: str | Path) -> list[Any]:
    """Name, size and time of change of a file, to see later whether it is still the same."""
    absolute = str(Path(path).absolute())
    try:
        status = Path(path).stat()
    except OSError:
        return [absolute]
    return [absolute, status.st_size, status.st_mtime_ns]


def micrograph_stem(path: Path) -> str:
    """Name of a micrograph without folder and endings: ``a_01`` of ``Micrographs/a_01.mrc.gz``."""
    stem = path.name
    while Path(stem).suffix.lower() in _ENDINGS:
        stem = Path(stem).stem
    return stem


def output_stems(micrographs: MicrographSet) -> list[str]:
    """Names for the files of each micrograph: its own without folder and endings.

    Raises
    ------
    PosterionError
        Where two micrographs would share one.
    """
    stems: dict[str, str] = {}
    for name, path in zip(micrographs.names, micrographs.paths, strict=True):
        stem = micrograph_stem(path)
        if stem in stems:
            raise PosterionError(
                f"{stems[stem]} and {name} would both be written as {stem}; use two output folders"
            )
        stems[stem] = name
    return list(stems)


def process_all(
    folder: OutputFolder,
    jobs: Sequence[Job],
    work: Callable[[int], Record],
    *,
    stage: str,
    progress: StageProgress = NullProgress,
    threads: int | None = None,
) -> Outcome:
    """Do all jobs that are not finished, several at once; a `PosterionError` of one is noted and told.

    Parameters
    ----------
    folder : that the jobs write to
    jobs : (n,) of the micrographs
    work : from index to a record that JSON can hold; writes the job's products
    stage : what is being done, in words
    progress : shows how far it is
    threads : micrographs at a time; all cores where None

    Raises
    ------
    PosterionError
        When the folder is another's, or a micrograph lies where a product would.
    """
    _begin(folder, jobs)
    records = [job.finished() for job in jobs]
    waiting = [index for index, record in enumerate(records) if record is None]
    if len(waiting) < len(jobs):
        _LOG.info("%s: %d of %d micrographs were done before", stage, len(jobs) - len(waiting), len(jobs))
    failures = []

    def attempt(index: int) -> Record | str:
        jobs[index].begin()
        try:
            record = work(index)
            jobs[index].finish(record)
        except PosterionError as error:
            return str(error)
        return record

    shown = progress if waiting else NullProgress
    with shown(stage, len(waiting), "micrographs") as bar, Workers(threads) as workers:
        for index, result in zip(waiting, workers.map_ordered(attempt, waiting), strict=True):
            if isinstance(result, str):
                failures.append(Failure(jobs[index].name, result))
                _LOG.warning("%s", result)
            else:
                records[index] = result
            bar.advance()
    return Outcome(tuple(records), tuple(failures), len(jobs) - len(waiting))


def require_one(folder: OutputFolder, outcome: Outcome, what: str) -> None:
    """See that not all micrographs failed; where they did, summary.json says why.

    Parameters
    ----------
    folder, outcome : of the run
    what : could not be done with all of them, the beginning of a sentence
    """
    if all(record is None for record in outcome.records):
        folder.finish({"failures": outcome.reasons})
        raise PosterionError(f"{what}; the first: {outcome.failures[0].reason}")


def _begin(folder: OutputFolder, jobs: Sequence[Job]) -> None:
    """Take the folder, if nothing of the user's would be replaced."""
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        for product in job.products:
            if product.resolve() in sources:
                raise PosterionError(
                    f"{product} is a micrograph, which this run would replace; choose another folder with -o"
                )
    folder.begin(product for job in jobs if not job.record_path.exists() for product in job.products)
