"""Progress and log, with a clock of our own."""

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from posterion.data.output_folder import open_folder
from posterion.errors import PosterionError
from posterion.report.progress import Progress, configure_logging, format_duration


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    log = logging.getLogger("posterion")
    before = log.level, log.propagate, list(log.handlers)
    yield
    for handler in log.handlers:
        handler.close()
    log.level, log.propagate, log.handlers = before


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (3.21, "3.2 s"),
        (9.97, "10 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_in_words(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


def test_plain_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    clock = Clock()
    with Progress("expectation", total=1000, clock=clock) as progress:
        for _ in range(100):
            clock.now += 0.125
            progress.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "expectation: 400 of 1,000 particles (40 %), 7.5 s left",
        "expectation: 800 of 1,000 particles (80 %), 2.5 s left",
        "expectation: 1,000 particles in 12 s",
    ]


def test_time_left_follows_the_latest_batches() -> None:
    clock = Clock()
    with Progress("x", total=1000, clock=clock) as progress:
        assert progress.seconds_left() is None
        for step in (10.0,) * 10 + (1.0,) * 30:
            clock.now += step
            progress.advance(10)
        assert progress.seconds_left() == pytest.approx(60)


def test_a_stage_that_fails_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    progress = Progress("maximisation", 10, "slabs").__enter__()
    progress.advance(3)
    progress.__exit__(ValueError, ValueError("broken"), None)
    assert "maximisation: stopped after 3 of 10 slabs" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    configure_logging()
    with Progress("expectation", total=20) as progress, Progress("inside", total=2, unit="halves") as inner:
        progress.advance(20)
        inner.advance(2)
    shown = terminal.getvalue()
    assert "━" in shown
    assert "expectation: 20 particles in" in shown


def test_log_goes_to_the_screen_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("posterion")
    for _ in range(2):
        configure_logging()
    log.info("all [well]")
    log.debug("unseen")
    log.warning("tight mask")
    assert capsys.readouterr().err.splitlines() == ["all [well]", "warning: tight mask"]


def test_the_log_of_a_folder_stays_with_it(tmp_path: Path) -> None:
    """Its handler holds the lock: a command that is called while a folder is open must not close it."""
    with open_folder(tmp_path):
        configure_logging()
        logging.getLogger("posterion").info("still here")
        with pytest.raises(PosterionError, match="another process is working"), open_folder(tmp_path):
            pass
    assert "still here" in (tmp_path / "run.log").read_text()
