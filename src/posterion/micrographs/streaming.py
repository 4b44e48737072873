"""One micrograph after another: what is finished is not done again, and one that fails stops no other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posterion.compute import StageProgress, Workers
from posterion.data.atomic import write_text
from posterion.errors import PosterionError
from posterion.micrographs.micrograph_set import MicrographSet

__all__ = [
    "Failure",
    "Job",
    "Outcome",
    "claim_folder",
    "file_state",
    "micrograph_stem",
    "output_stems",
    "process_all",
]

_LOG = logging.getLogger("posterion")
_SUMMARY = "summary.json"
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
    settings : all that its results depend on, the state of its file among them
    record_path : JSON file that says what was found, and under which settings
    products : files that are written with it
    """

    name: str
    settings: Mapping[str, Any]
    record_path: Path
    products: tuple[Path, ...]


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


def file_state(path: str | Path) -> list[Any]:
    """Name, size and time of change of a file, to see later whether it is still the same."""
    absolute = str(Path(path).absolute())
    try:
        status = Path(path).stat()
    except OSError:
        return [absolute]
    return [absolute, status.st_size, status.st_mtime_ns]


def claim_folder(folder: Path, command: str, table: str | None = None) -> None:
    """See that a folder holds nothing of another command.

    Parameters
    ----------
    folder : to be written to
    command : that asks
    table : a file that the command never leaves without a summary.json, and others may write too

    Raises
    ------
    PosterionError
        Where summary.json says that it does, or there is only that table.
    """
    try:
        summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if table is None or not (folder / table).exists():
            return
        summary = {}
    except (OSError, ValueError):
        summary = {}
    if not isinstance(summary, dict) or summary.get("command") != command:
        raise PosterionError(
            f"{folder} holds results of something else than 'posterion {command}'; "
            "choose another folder with -o"
        )


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
    jobs: Sequence[Job],
    work: Callable[[int], Record],
    *,
    stage: str,
    progress: StageProgress | None = None,
    threads: int | None = None,
) -> Outcome:
    """Do all jobs that are not finished, several at once; a `PosterionError` of one is noted and told.

    Parameters
    ----------
    jobs : (n,) of the micrographs
    work : from index to a record that JSON can hold; writes the job's products
    stage : what is being done, in words
    progress : shows how far it is
    threads : micrographs at a time; all cores where None
    """
    records = [_finished(job) for job in jobs]
    waiting = [index for index, record in enumerate(records) if record is None]
    if len(waiting) < len(jobs):
        _LOG.info("%s: %d of %d micrographs were done before", stage, len(jobs) - len(waiting), len(jobs))
    failures = []

    def attempt(index: int) -> Record | str:
        try:
            record = work(index)
            settings = {"settings": dict(jobs[index].settings), "result": record}
            write_text(jobs[index].record_path, json.dumps(settings, indent=1) + "\n")
        except PosterionError as error:
            # What other settings found there would be taken for this run's.
            jobs[index].record_path.unlink(missing_ok=True)
            return str(error)
        return record

    shown = progress(stage, len(waiting), "micrographs") if progress and waiting else nullcontext()
    with shown as bar, Workers(threads) as workers:
        for index, result in zip(waiting, workers.map_ordered(attempt, waiting), strict=True):
            if isinstance(result, str):
                failures.append(Failure(jobs[index].name, result))
                _LOG.warning("%s", result)
            else:
                records[index] = result
            if bar is not None:
                bar.advance(1)
    return Outcome(tuple(records), tuple(failures), len(jobs) - len(waiting))


def _finished(job: Job) -> Record | None:
    """Record of an earlier run, if it had the same settings and all its files are there."""
    try:
        there = json.loads(job.record_path.read_text(encoding="utf-8"))
        same = there["settings"] == json.loads(json.dumps(dict(job.settings)))
        result: Record = there["result"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if same and all(product.is_file() for product in job.products) else None
