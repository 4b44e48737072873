"""A run's output folder: whose it is, its log, and that only one process works in it."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posterion.errors import PosterionError
from posterion.refine.checkpoint import Checkpoint, load_checkpoint, require_same_run

__all__ = [
    "CHECKPOINT",
    "RESULTS",
    "SUMMARY",
    "claim_for_reconstruction",
    "find_checkpoint",
    "finished_summary",
    "open_folder",
]

CHECKPOINT = "checkpoint.h5"
SUMMARY = "summary.json"
RESULTS = ("map.mrc", "map_unfiltered.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.tsv", "particles.star")
_RUN_LOG = "run.log"
_LOG = logging.getLogger("posterion")


class _RunLog(logging.FileHandler):
    """The log with times; a disk that is full stops the results, not the log."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Say nothing."""


@contextmanager
def open_folder(folder: Path) -> Iterator[None]:
    """Make the folder, keep others out of it, log into its run.log, remove what a killed run left unfinished.

    Raises
    ------
    PosterionError
        If the folder cannot be made or written, or another process works in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = _RunLog(folder / _RUN_LOG)
    except OSError as error:
        raise PosterionError(
            f"{folder}: cannot be written ({error.strerror}); choose another output folder with -o"
        ) from None
    level = _LOG.level
    try:
        _lock(log, folder)
        for leftover in folder.glob(".*-unfinished-*"):
            leftover.unlink(missing_ok=True)
        _LOG.addHandler(log)
        if not _LOG.isEnabledFor(logging.INFO):
            _LOG.setLevel(logging.INFO)
        yield
    finally:
        _LOG.removeHandler(log)
        _LOG.setLevel(level)
        log.close()


def _lock(log: _RunLog, folder: Path) -> None:
    """Hold the log's lock until it is closed; the system lets go of it when a process is killed."""
    if log.stream is None:
        return
    try:
        fcntl.flock(log.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PosterionError(
            f"{folder}: another process is working in this folder; wait for it or stop it"
        ) from None
    except OSError:  # a file system without locks
        return


def finished_summary(folder: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Summary of the same run if it is finished; None where there is none.

    Raises
    ------
    PosterionError
        If the folder holds the results of another run.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        there = summary["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PosterionError(
            f"{folder} holds results of something else than 'posterion refine' ({SUMMARY}); "
            "choose another output folder with -o"
        ) from None
    require_same_run(folder, there, fingerprint)
    return summary


def find_checkpoint(folder: Path, fingerprint: Mapping[str, Any]) -> Checkpoint | None:
    """Checkpoint of the same run that was stopped; None where nothing has begun.

    Raises
    ------
    PosterionError
        If the folder holds another run, or files under the names of results that no run here wrote.
    """
    path = folder / CHECKPOINT
    if path.exists():
        checkpoint = load_checkpoint(path)
        require_same_run(folder, checkpoint.fingerprint, fingerprint)
        return checkpoint
    _refuse_foreign_results(folder)
    return None


def claim_for_reconstruction(folder: Path) -> None:
    """Refuse a folder with results that no reconstruction wrote; an earlier reconstruction is replaced.

    Raises
    ------
    PosterionError
        If the folder holds a refinement, or files under the names of results.
    """
    if (folder / CHECKPOINT).exists() or (folder / "particles.star").exists():
        raise PosterionError(
            f"{folder} holds a refinement or a particle set; choose another output folder with -o"
        )
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        summary = {}
    if summary.get("command") != "reconstruct":
        _refuse_foreign_results(folder)


def _refuse_foreign_results(folder: Path) -> None:
    for name in RESULTS:
        if (folder / name).exists():
            raise PosterionError(
                f"{folder} already holds {name}, which this run would replace; "
                "choose another output folder with -o"
            )
