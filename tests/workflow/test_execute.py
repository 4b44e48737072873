"""Runs of small workflows: what runs, what is skipped, what goes on, and what is never lost."""

import os
import runpy
from pathlib import Path

import pytest

from posterion.errors import PosterionError
from posterion.workflow.execute import StepResult, run_workflow
from posterion.workflow.record import RECORD, StepRecord

MODULE = runpy.run_path(str(Path(__file__).with_name("commands.py")))
COMMANDS, CALLS = MODULE["COMMANDS"], MODULE["CALLS"]

TWO = "[make]\ntext = 'ab'\n[double]\nsource = '{make}/made.txt'\n"


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def write(folder: Path, text: str) -> Path:
    (folder / "w.toml").write_text(text)
    return folder / "w.toml"


def statuses(results: tuple[StepResult, ...]) -> list[str]:
    return [result.status for result in results]


def test_steps_run_once(tmp_path: Path) -> None:
    path = write(tmp_path, TWO)
    results = run_workflow(path, COMMANDS)
    assert statuses(results) == ["done", "done"]
    assert [result.outputs for result in results] == [("made.txt",), ("doubled.txt",)]
    assert (tmp_path / "w" / "double" / "doubled.txt").read_text() == "ABAB"
    assert StepRecord.read(tmp_path / "w" / "double").finished  # type: ignore[union-attr]
    assert statuses(run_workflow(path, COMMANDS)) == ["up to date", "up to date"]
    assert CALLS == ["make", "double"]


def test_a_changed_option_runs_its_step_and_what_follows_if_that_changes(tmp_path: Path) -> None:
    path = write(tmp_path, TWO)
    run_workflow(path, COMMANDS)
    results = run_workflow(write(tmp_path, TWO.replace("ab", "cd")), COMMANDS)
    assert [result.reason for result in results] == ["text: ab -> cd", "input w/make/made.txt has changed"]
    assert (tmp_path / "w" / "double" / "doubled.txt").read_text() == "CDCD"
    assert (tmp_path / "w" / "double.old" / "doubled.txt").read_text() == "ABAB"
    run_workflow(write(tmp_path, TWO), COMMANDS)
    assert (tmp_path / "w" / "double.old2" / "doubled.txt").read_text() == "CDCD"


def test_the_same_result_of_a_step_that_ran_again_leaves_the_rest_alone(tmp_path: Path) -> None:
    """Known by content: the new made.txt is later, but the same."""
    path = write(tmp_path, TWO)
    run_workflow(path, COMMANDS)
    (tmp_path / "w" / "make" / "made.txt").unlink()
    results = run_workflow(path, COMMANDS)
    assert statuses(results) == ["done", "up to date"]
    assert results[0].reason == "output made.txt is gone"


def test_threads_are_no_change(tmp_path: Path) -> None:
    run_workflow(write(tmp_path, TWO), COMMANDS)
    results = run_workflow(write(tmp_path, "threads = 4\n" + TWO), COMMANDS)
    assert statuses(results) == ["up to date", "up to date"]


def test_an_input_from_outside(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    path = write(tmp_path, "[double]\nsource = 'a.txt'\n")
    run_workflow(path, COMMANDS)
    os.utime(tmp_path / "a.txt")
    assert statuses(run_workflow(path, COMMANDS)) == ["up to date"]
    (tmp_path / "a.txt").write_text("b")
    assert run_workflow(path, COMMANDS)[0].reason == "input a.txt has changed"


def test_a_stopped_step_goes_on_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("")
    text = "[refine]\nparticles = 'p'\nreference = 'p'\ndiameter = 3\n[mask]\nsource = '{refine}/map.txt'\n"
    path, told = write(tmp_path, text), []
    with pytest.raises(KeyboardInterrupt):
        run_workflow(path, COMMANDS, told=told.append)
    assert [(result.name, result.status) for result in told] == [
        ("refine", "failed"),
        ("mask", "not reached"),
    ]
    assert told[0].reason == "interrupted"
    results = run_workflow(path, COMMANDS)
    assert statuses(results) == ["done", "done"]
    assert results[0].reason == "stopped before it was finished"
    assert not (tmp_path / "w" / "refine.old").exists()
    assert CALLS == ["refine", "refine", "mask"]


def test_a_stopped_step_with_new_options_starts_afresh(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("")
    text = "[refine]\nparticles = 'p'\nreference = 'p'\ndiameter = {}\n"
    for diameter in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            run_workflow(write(tmp_path, text.format(diameter)), COMMANDS)
    assert (tmp_path / "w" / "refine.old" / "state.txt").exists()


def test_a_failing_step_says_which_and_keeps_what_is_done(tmp_path: Path) -> None:
    path, told = write(tmp_path, TWO.replace("ab", "bad")), []
    with pytest.raises(PosterionError, match=r"^step 'double': .*made\.txt: bad text$"):
        run_workflow(path, COMMANDS, told=told.append)
    assert [(result.name, result.status) for result in told] == [("make", "done"), ("double", "failed")]
    with pytest.raises(PosterionError, match="step 'double'"):
        run_workflow(path, COMMANDS)
    assert CALLS == ["make", "double", "double"]


def test_exit_codes(tmp_path: Path) -> None:
    """1 of ctf, pick, extract and correct: some micrographs are left out; of another command: a failure."""
    assert statuses(run_workflow(write(tmp_path, "[ctf]\ncode = 1\n"), COMMANDS)) == ["done"]
    assert StepRecord.read(tmp_path / "w" / "ctf").exit_code == 1  # type: ignore[union-attr]
    with pytest.raises(PosterionError, match="'posterion make' ended with exit code 1"):
        run_workflow(write(tmp_path, "[make]\ncode = 1\n"), COMMANDS)
    with pytest.raises(PosterionError, match="exit code 2"):
        run_workflow(write(tmp_path, "[ctf]\ncode = 2\n"), COMMANDS)


def test_a_file_that_a_step_does_not_write(tmp_path: Path) -> None:
    path = write(tmp_path, TWO.replace("made.txt", "other.txt"))
    with pytest.raises(PosterionError, match=r"line 4: .*step 'make' has not written .*it wrote made\.txt"):
        run_workflow(path, COMMANDS)
    assert CALLS == ["make"]


def test_dry_run_says_why_and_does_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, TWO)
    told = run_workflow(path, COMMANDS, dry_run=True)
    assert [(result.status, result.reason) for result in told] == [
        ("would run", "never run"),
        ("would run", "its input comes from make"),
    ]
    assert not (tmp_path / "w").exists()
    run_workflow(path, COMMANDS)
    assert statuses(run_workflow(path, COMMANDS, dry_run=True)) == ["up to date", "up to date"]
    told = run_workflow(write(tmp_path, TWO.replace("ab", "cd")), COMMANDS, dry_run=True)
    assert [(result.status, result.reason) for result in told] == [
        ("would run", "text: ab -> cd"),
        ("may run", "its input comes from make"),
    ]
    assert CALLS == ["make", "double"]


def test_foreign_folders_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "w" / "double").mkdir(parents=True)
    (tmp_path / "w" / "double" / "mine.txt").write_text("mine")
    with pytest.raises(PosterionError, match=r"w/double holds files that no workflow wrote"):
        run_workflow(write(tmp_path, TWO), COMMANDS)
    assert CALLS == []


def test_an_unreadable_record_starts_afresh(tmp_path: Path) -> None:
    path = write(tmp_path, TWO)
    run_workflow(path, COMMANDS)
    (tmp_path / "w" / "make" / RECORD).write_text("{")
    results = run_workflow(path, COMMANDS)
    assert statuses(results) == ["done", "up to date"]
    assert (tmp_path / "w" / "make.old").is_dir()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path, "[make]\n")

    def make_again(**arguments: object) -> None:
        run_workflow(path, COMMANDS)

    nested = dict(COMMANDS)
    make_again.__signature__ = __import__("inspect").signature(COMMANDS["make"])  # type: ignore[attr-defined]
    make_again.__annotations__ = COMMANDS["make"].__annotations__
    nested["make"] = make_again
    with pytest.raises(PosterionError, match="another run of a workflow is working in this folder"):
        run_workflow(path, nested)
