"""The command ``posterion run``, run as a user runs it, with the commands there are."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from posterion.cli import main
from posterion.data.mrc import read_map

ROOT = Path(__file__).parents[2]
FROM_MICROGRAPHS = ["ctf", "pick", "extract", "refine", "postprocess"]

STEPS = """
threads = 1
output = "results"

[simulate]
embedded = true
number = 40
box = 24
pixel_size = 7.5
snr = 2.0
poses = true

[mask]
source = "{simulate}/truth.mrc"

[reconstruct]
particles = "{simulate}/particles.star"

[postprocess]
half1 = "{reconstruct}/half1.mrc"
half2 = "{reconstruct}/half2.mrc"
mask = "{mask}/mask.mrc"
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    (tmp_path / "w.toml").write_text(STEPS)
    return tmp_path / "w.toml"


def test_images_to_a_sharpened_map(
    workflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four commands, none written for it; a second call does nothing, a changed option what depends on it."""
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "run", "w.toml") == 0
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split()[:2] for line in lines] == [
        [name, "done"] for name in ("simulate", "mask", "reconstruct", "postprocess")
    ]
    assert "results/reconstruct: half1.mrc, half2.mrc, map.mrc, map_unfiltered.mrc, ..." in lines[2]
    sharpened = read_map(tmp_path / "results" / "postprocess" / "postprocessed.mrc")[0]
    assert sharpened.shape == (24, 24, 24)
    assert run(monkeypatch, "run", "w.toml") == 0
    assert capsys.readouterr().out.count("up to date") == 4
    workflow.write_text(STEPS + "bfactor = -50\n")
    assert run(monkeypatch, "run", "w.toml", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "reconstruct  up to date  results/reconstruct"
    assert lines[3] == "postprocess  would run   bfactor: not given -> -50"


def test_example_is_a_workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "run", "--example") == 0
    assert dry_run_steps(capsys.readouterr().out, tmp_path, monkeypatch, capsys) == FROM_MICROGRAPHS


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").glob("*.toml")), ids=lambda p: p.name)
def test_examples_of_the_docs_are_workflows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run_steps(path.read_text(), tmp_path, monkeypatch, capsys) == FROM_MICROGRAPHS


def dry_run_steps(
    text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Steps that would run; every step and option exists, files are given under the names they ask for."""
    (folder / "w.toml").write_text(text)
    (folder / "micrographs").mkdir()
    for name in ("micrographs/a.mrc", "micrographs/a.png", "reference.mrc", "reference_30A.mrc"):
        (folder / name).write_bytes(b"")
    assert run(monkeypatch, "run", folder / "w.toml", "--dry-run") == 0
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[mask]", "[msak]", "w.toml, line 13: step 'msak' is unknown, 'mask' may be meant; steps are "),
        ("box = 24", "boxx = 24", "w.toml, line 8: step 'simulate' has no option 'boxx', 'box' may be me"),
        (
            'particles = "{simulate}/particles.star"\n',
            "",
            "line 16: step 'reconstruct' lacks the key 'partic",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(
    workflow: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    complaint: str,
) -> None:
    workflow.write_text(STEPS.replace(old, new))
    assert run(monkeypatch, "run", workflow) == 2
    shown = capsys.readouterr()
    assert complaint in shown.err
    assert shown.err.count("\n") == 1
    assert not (workflow.parent / "results").exists()


def test_a_step_that_fails(
    workflow: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow.write_text(STEPS.replace('mask = "{mask}/mask.mrc"', 'mask = "{simulate}/particles.mrcs"'))
    assert run(monkeypatch, "run", workflow) == 2
    shown = capsys.readouterr()
    assert "posterion: step 'postprocess': " in shown.err
    assert shown.out.splitlines()[-1].split() == ["postprocess", "failed"]


def test_no_file_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "run") == 2
    assert "'posterion run --example > workflow.toml'" in capsys.readouterr().err


KILLED = """
import os, signal
from posterion.cli import main
from posterion.workflow.record import StepRecord

def write(record, folder):
    written(record, folder)
    if folder.name == "reconstruct":
        os.kill(os.getpid(), signal.SIGKILL)

written, StepRecord.write = StepRecord.write, write
main()
"""


def test_killed_and_run_again(workflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL as soon as the last step but one has begun: the first two are not run again."""
    program = [sys.executable, "-c", KILLED, "run", str(workflow)]
    process = subprocess.run(program, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    results = workflow.parent / "results"
    assert not (results / "reconstruct" / "map.mrc").exists()
    made = (results / "simulate" / "particles.star").stat().st_mtime_ns
    assert run(monkeypatch, "run", workflow) == 0
    assert (results / "simulate" / "particles.star").stat().st_mtime_ns == made
    assert (results / "postprocess" / "postprocessed.mrc").exists()
    assert not list(results.glob("*.old"))
