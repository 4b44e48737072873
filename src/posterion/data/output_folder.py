"""An output folder: whose it is, what a run may replace in it, its log, and that one process works in it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posterion.data.atomic import write_text
from posterion.errors import PosterionError

__all__ = ["OutputFolder", "open_folder", "remove_files"]

_SUMMARY = "summary.json"
_RUN_LOG = "run.log"
_UNFINISHED = ".[0-9]*-unfinished-*"  # names of `posterion.data.atomic`
_MOST_TRIES = 100
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
    earlier_record : JSON file in which versions without a summary.json said whose the folder is, if any did
    """

    path: Path
    command: str
    results: tuple[str, ...]
    of: str = ""
    earlier_record: str = ""

    def claim(self, inputs: Iterable[Path | None] = ()) -> None:
        """See that nothing would be lost; writes nothing.

        Parameters
        ----------
        inputs : files that the run reads

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
        if self.is_ours():
            return
        self._refuse_files(self.path / name for name in self.results)

    def begin(self, products: Iterable[Path] = ()) -> None:
        """Write in summary.json whose the folder is, and remove results, which are of an earlier run.

        Parameters
        ----------
        products : files to be written that no record of an earlier run names

        Raises
        ------
        PosterionError
            As `claim`, where one of the products is there, in whatever folder, or a result cannot be removed.
        """
        self.claim()
        self._refuse_files(products)
        self.finish({})
        remove_files(self.path / name for name in self.results)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json: whose the folder is, and what is said of the run."""
        write_text(self.path / _SUMMARY, json.dumps({**self.owner, **summary}, indent=1) + "\n")

    @property
    def owner(self) -> dict[str, str]:
        """Whose the folder is, as summary.json and the records of single files say it."""
        return {"command": self.command} | ({"of": self.of} if self.of else {})

    def is_ours(self) -> bool:
        """Whether a run of ours has begun here; raises where one of something else has."""
        summary = self.path / _SUMMARY
        try:
            said = _owner(summary)
        except FileNotFoundError:
            return self._is_of_an_earlier_version()
        except NotADirectoryError:
            places = (self.path, *self.path.parents)
            file = next((place for place in places if place.exists() and not place.is_dir()), self.path)
            raise self._refused(f"{file} is a file") from None
        except OSError as error:
            raise self._refused(f"{summary} cannot be read ({error.strerror})") from None
        if said is None:
            raise self._refused(f"{summary} does not say which command's results are there")
        if said != (self.command, self.of):
            raise self._refused(
                f"{self.path} holds results of {_in_words(*said)} (its {_SUMMARY}), "
                f"not of {_in_words(self.command, self.of)}"
            )
        return True

    def _is_of_an_earlier_version(self) -> bool:
        if not self.earlier_record:
            return False
        try:
            return _owner(self.path / self.earlier_record) == (self.command, "")
        except OSError:
            return False

    def _refuse_files(self, files: Iterable[Path]) -> None:
        for file in files:
            if os.path.lexists(file):
                raise self._refused(
                    f"{file} is there already, and no 'posterion {self.command}' of this version wrote it"
                )

    def _refused(self, why: str) -> PosterionError:
        return PosterionError(f"{why}; move it away, or give another output folder")


def _owner(path: Path) -> tuple[str, str] | None:
    """Command, and of what, that a JSON file says it is of; None where it does not say."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        command, of = there["command"], there.get("of", "")
    except (ValueError, KeyError, TypeError):
        return None
    return (command, of) if isinstance(command, str) and isinstance(of, str) else None


def _in_words(command: str, of: str) -> str:
    return f"'posterion {command}'" + (f" of {of}" if of else "")


def remove_files(files: Iterable[Path]) -> None:
    """Remove files, as far as they are there.

    Raises
    ------
    PosterionError
        Where one cannot be removed: it is a folder, or another user's.
    """
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except NotADirectoryError:  # a part of its path is a file, so that it is not there
            continue
        except OSError as error:
            raise PosterionError(
                f"{file} cannot be removed ({error.strerror}); move it away, or give another output folder"
            ) from None


class _RunLog(logging.FileHandler):
    """The log with times; a disk that is full stops the results, not the log."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def fileno(self) -> int:
        """Give the number of the open file."""
        assert self.stream is not None, "opened at once"
        return self.stream.fileno()

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
        log = _locked_log(folder)
    except OSError as error:
        raise PosterionError(
            f"{folder}: cannot be written ({error.strerror}); give another output folder"
        ) from None
    level = _LOG.level
    try:
        _remove_unfinished(folder)
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


def _remove_unfinished(folder: Path) -> None:
    """Remove what killed runs left, among products too, but not where another command may be writing."""
    places = [folder]
    with suppress(OSError), os.scandir(folder) as entries:  # it may be one that cannot be listed
        inside = [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
        places += [
            path for path in inside if not any(map(os.path.lexists, (path / _RUN_LOG, path / _SUMMARY)))
        ]
    for place in places:
        with suppress(OSError):
            for leftover in place.glob(_UNFINISHED):
                process = leftover.name[1:].partition("-")[0]
                if process.isdecimal() and not _is_running(int(process)):
                    leftover.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Whether there is such a process: not all commands lock the folder that they write to."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # there is one, of another user
        pass
    return True


def _remove_if_empty(path: Path) -> None:
    with suppress(OSError):
        if not path.stat().st_size:
            path.unlink()


def _locked_log(folder: Path) -> _RunLog:
    """Open the log and hold its lock until it is closed; the system lets go when a process is killed."""
    path = folder / _RUN_LOG
    for _ in range(_MOST_TRIES):
        log = _RunLog(path)
        if not _lock(log):
            log.close()
            break
        if _is_open_as(path, log):
            return log
        log.close()  # removed by its process before we had the lock: the next one would lock a new file
    raise PosterionError(f"{folder}: another process is working in this folder; wait for it or stop it")


def _lock(log: _RunLog) -> bool:
    try:
        fcntl.flock(log.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_open_as(path: Path, log: _RunLog) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(log.fileno()))
    except FileNotFoundError:
        return False
