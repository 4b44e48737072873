"""An output folder: whose it is, what a run may replace in it, its log, and that one process works in it."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posterion.data.atomic import write_text
from posterion.errors import PosterionError

__all__ = ["OutputFolder", "open_folder"]

_SUMMARY = "summary.json"
_RUN_LOG = "run.log"
_LOG = logging.getLogger("posterion")


@dataclass(frozen=True)
class OutputFolder:
    """Folder that belongs to one command; its summary.json says to which.

    A stopped run has left its summary.json without results, so that the same command goes on there and
    any other is refused.

    Attributes
    ----------
    path : made when a run begins
    command : that writes to it
    results : files that join all that a run has done; only a run that came to its end leaves them
    of : what the command works on, where there are several kinds
    """

    path: Path
    command: str
    results: tuple[str, ...]
    of: str = ""

    def claim(self, inputs: Iterable[Path | None] = ()) -> None:
        """See that nothing would be lost; writes nothing.

        Parameters
        ----------
        inputs : tables that the run reads

        Raises
        ------
        PosterionError
            Where summary.json says that the folder is another's, results are there that no run of ours
            wrote, or one of them is read by this run.
        """
        read = {path.resolve() for path in inputs if path is not None}
        for name in self.results:
            if (self.path / name).resolve() in read:
                raise self._refused(f"{self.path / name} is read by this run, which would replace it")
        if self._is_ours():
            return
        self._refuse_files(self.path / name for name in self.results)

    def begin(self, products: Iterable[Path] = ()) -> None:
        """Write in summary.json whose the folder is, and remove results, which are of an earlier run.

        Parameters
        ----------
        products : files to be written that no earlier run is known to have written

        Raises
        ------
        PosterionError
            As `claim`, and where products are in a folder that was not ours.
        """
        self.claim()
        if not self._is_ours():
            self._refuse_files(products)
        self.finish({})
        for name in self.results:
            (self.path / name).unlink(missing_ok=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json: whose the folder is, and what is said of the run."""
        owner = {"command": self.command} | ({"of": self.of} if self.of else {})
        write_text(self.path / _SUMMARY, json.dumps({**owner, **summary}, indent=1) + "\n")

    def _is_ours(self) -> bool:
        """Whether a run of ours has begun here; raises where one of something else has."""
        try:
            there = json.loads((self.path / _SUMMARY).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            raise self._refused(f"{self.path} is a file") from None
        except (OSError, ValueError):
            there = None
        said = (there.get("command"), there.get("of", "")) if isinstance(there, dict) else None
        if said != (self.command, self.of):
            kind = f" of {self.of}" if self.of else ""
            raise self._refused(
                f"{self.path} holds results of something else than 'posterion {self.command}'{kind}"
            )
        return True

    def _refuse_files(self, files: Iterable[Path]) -> None:
        for file in files:
            if file.exists():
                raise self._refused(f"{file} is there already, and no earlier run of this command wrote it")

    def _refused(self, why: str) -> PosterionError:
        return PosterionError(f"{why}; choose another folder with -o")


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

    A log that nothing was said in, as by a run that is refused, does not stay.

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
        try:
            yield
        finally:  # still locked: no other process has this log
            _remove_if_empty(folder / _RUN_LOG)
    finally:
        _LOG.removeHandler(log)
        _LOG.setLevel(level)
        log.close()


def _remove_if_empty(path: Path) -> None:
    with suppress(OSError):
        if not path.stat().st_size:
            path.unlink()


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
