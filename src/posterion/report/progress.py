"""What a running command tells: progress with the time left, and the log.

On a terminal a bar; elsewhere (a batch queue, a file) plain lines, one every few seconds and one at a
stage's end. Library code takes a `posterion.compute.StageProgress`, by default one that shows nothing.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.errors import LiveError
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from posterion.compute import NullProgress

__all__ = ["Progress", "configure_logging", "format_duration"]

_LOG = logging.getLogger("posterion")
_RECENT_UPDATES = 20


def format_duration(seconds: float) -> str:
    """Say a duration in words: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress(NullProgress):
    """Progress of one stage, with the time left from the speed of the latest batches.

    Use as ``with Progress("expectation", total=n) as progress: progress.advance(k)``, from any thread.
    Plain lines go to the log ``posterion``, so they are in run.log too.

    Parameters
    ----------
    stage : what is being done
    total : how many units there are
    unit : what is counted
    interval_s : plain lines come at least this many seconds apart
    clock : seconds, for tests
    """

    def __init__(
        self,
        stage: str,
        total: int,
        unit: str = "particles",
        *,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stage, total, unit)
        self.done = 0
        self._interval_s, self._clock = interval_s, clock
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT_UPDATES)
        self._bar: RichProgress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._started = self._told = self._clock()
        self._recent.append((self._started, 0))
        if _console().is_terminal:
            self._open_bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar and say how long the stage took, or where it stopped."""
        if self._bar is not None:
            self._bar.stop()
        spent = format_duration(self._clock() - self._started)
        if kind is None:
            _LOG.info("%s: %s %s in %s", self.stage, f"{self.done:,}", self.unit, spent)
        else:
            _LOG.info(
                "%s: stopped after %s of %s %s", self.stage, f"{self.done:,}", f"{self.total:,}", self.unit
            )

    def advance(self, count: int = 1) -> None:
        """Count units as done."""
        with self._lock:
            now = self._clock()
            self.done += count
            self._recent.append((now, self.done))
            if self._bar is not None:
                self._bar.update(self._task, completed=self.done, left=self._left())
            elif now - self._told >= self._interval_s and self.done < self.total:
                self._told = now
                _LOG.info("%s: %s", self.stage, self._line())

    def seconds_left(self) -> float | None:
        """Estimate the time left from the latest batches, seconds; None before anything is known."""
        (first_time, first_done), (last_time, last_done) = self._recent[0], self._recent[-1]
        if last_done == first_done:
            return None
        return (self.total - self.done) * (last_time - first_time) / (last_done - first_done)

    def _left(self) -> str:
        left = self.seconds_left()
        return "" if left is None else f"{format_duration(left)} left"

    def _line(self) -> str:
        percent = 100 * self.done / max(self.total, 1)
        return f"{self.done:,} of {self.total:,} {self.unit} ({percent:.0f} %), {self._left()}"

    def _open_bar(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[unit]}  {task.fields[left]}"),
        )
        bar = RichProgress(*columns, console=_console(), transient=True)
        try:
            bar.start()
        except LiveError:  # another bar is on the screen: this stage tells in lines
            return
        self._task = bar.add_task(self.stage, total=self.total, unit=self.unit, left="")
        self._bar = bar


_CONSOLES: dict[int, Console] = {}


def _console() -> Console:
    """Give the one console on the present stderr, shared by bars and log lines so that they do not mix."""
    key = id(sys.stderr)
    if key not in _CONSOLES:
        _CONSOLES.clear()
        _CONSOLES[key] = Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    return _CONSOLES[key]


class _ConsoleHandler(logging.Handler):
    """Log lines on stderr, above a bar where there is one; warnings say that they are."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        _console().print(prefix + record.getMessage())


def configure_logging() -> None:
    """Send the log ``posterion`` to stderr; replaces what an earlier call set up, and no folder's log."""
    for old in [handler for handler in _LOG.handlers if isinstance(handler, _ConsoleHandler)]:
        _LOG.removeHandler(old)
        old.close()
    _LOG.addHandler(_ConsoleHandler())
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
