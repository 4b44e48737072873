"""One micrograph after another: what is finished is not done again, and one that fails stops no other."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posterion.compute import NullProgress, StageProgress, Workers
from posterion.data.atomic import write_text
from posterion.data.output_folder import OutputFolder, remove_files
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
_EARLIER_KEYS = {"settings", "result"}  # of records before they named their command
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
    record_path : JSON file that says what was found, under which settings, and which files belong to it
    products : files that are written with it
    stale : files that a run with other settings writes, and that this one removes
    """

    name: str
    source: Path
    settings: Mapping[str, Any]
    record_path: Path
    products: tuple[Path, ...]
    stale: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Earlier:
    """What an earlier run has left of a job.

    Attributes
    ----------
    files : that it wrote or was about to write; all others are the user's
    settings : of that run, with the state of the micrograph's file
    result : None where it did not come to its end
    """

    files: tuple[Path, ...] = ()
    settings: Any = None
    result: Record | None = None

    def result_of(self, job: Job) -> Record | None:
        """Return the result, if settings and file are the same as then, and all products are there."""
        same = self.settings == json.loads(json.dumps(_all_settings(job)))
        return self.result if same and all(os.path.isfile(product) for product in job.products) else None


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
        When the folder is another's, files of the user's or a micrograph lie where products would, or no
        micrograph can be opened; nothing is changed then.
    """
    earlier = _begin(folder, jobs)
    records = [there.result_of(job) for there, job in zip(earlier, jobs, strict=True)]
    waiting = [index for index, record in enumerate(records) if record is None]
    if len(waiting) < len(jobs):
        _LOG.info("%s: %d of %d micrographs were done before", stage, len(jobs) - len(waiting), len(jobs))
    failures = []

    def attempt(index: int) -> Record | str:
        try:
            return _do(folder, jobs[index], earlier[index].files, lambda: work(index))
        except PosterionError as error:
            return str(error)

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


def _begin(folder: OutputFolder, jobs: Sequence[Job]) -> list[_Earlier]:
    """Take the folder, if nothing of the user's would be replaced and there is something to read."""
    in_ours = folder.is_ours()
    earlier = [_read_record(job, folder.owner, in_ours) for job in jobs]
    sources = {job.source.resolve() for job in jobs}
    for job, there in zip(jobs, earlier, strict=True):
        for file in (*job.products, *there.files):
            if file.resolve() in sources:
                raise PosterionError(
                    f"{file} is a micrograph, which this run would replace; give another folder"
                )
    if jobs and all(_why_unreadable(job.source) for job in jobs):
        raise PosterionError(
            f"none of {len(jobs)} micrographs can be opened; the first: {_why_unreadable(jobs[0].source)}"
        )
    both = zip(jobs, earlier, strict=True)
    folder.begin(file for job, there in both for file in job.products if file not in there.files)
    return earlier


def _read_record(job: Job, owner: Mapping[str, str], in_ours: bool) -> _Earlier:
    """Read a job's record; in a folder of ours, one without a command is an earlier version's.

    Raises
    ------
    PosterionError
        Where the file is of another command, or no record at all.
    """
    try:
        there = json.loads(job.record_path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return _Earlier()
    except (OSError, ValueError):  # records are written whole or not at all: it is none
        there = None
    keys = there.keys() if isinstance(there, dict) else ()
    is_earlier = in_ours and set(keys) == _EARLIER_KEYS
    if not is_earlier and {key: there[key] for key in ("command", "of") if key in keys} != owner:
        raise PosterionError(
            f"{job.record_path} is there already, and no 'posterion {owner['command']}' of this version "
            "wrote it; move it away, or give another folder"
        )
    files, names = (*job.products, *job.stale), there.get("files")
    if isinstance(names, list):
        files = tuple(file for file in files if _from_record(job, file) in names)
    return _Earlier(files, there.get("settings"), there.get("result"))


def _write_record(
    folder: OutputFolder, job: Job, files: Iterable[Path], settings: Mapping[str, Any], result: Record | None
) -> None:
    names = sorted(_from_record(job, file) for file in files)
    there = {**folder.owner, "files": names, "settings": settings, "result": result}
    write_text(job.record_path, json.dumps(there, indent=1) + "\n")


def _from_record(job: Job, file: Path) -> str:
    """Name of a file that stays right when the folder is moved."""
    return Path(os.path.relpath(file, job.record_path.parent)).as_posix()


def _do(folder: OutputFolder, job: Job, left: Sequence[Path], work: Callable[[], Record]) -> Record:
    """Do one job: a picture must not outlive the numbers it shows, nor a file lie there without its record.

    What is left of an earlier run is only touched when the micrograph can be opened: its disk may be away.
    """
    unreadable = _why_unreadable(job.source)
    if unreadable:
        raise PosterionError(unreadable)
    settings = _all_settings(job)  # of the file as it is before the work, which it may be replaced under
    _write_record(folder, job, {*left, *job.products}, settings, None)
    remove_files(left)
    try:
        result = work()
        _write_record(folder, job, job.products, settings, result)
    except PosterionError:
        with suppress(PosterionError):  # the record goes last: it says whose the others are
            remove_files((*job.products, job.record_path))
        raise
    return result


def _why_unreadable(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            stream.read(1)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    return None


def _all_settings(job: Job) -> dict[str, Any]:
    return {**job.settings, "file": file_state(job.source)}
