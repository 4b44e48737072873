"""The command ``posterion correct``, run as a user runs it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from posterion.cli import main
from posterion.data.mrc import write_map
from posterion.data.particles import Particles
from posterion.data.star import write_star
from posterion.data.table import Table


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_particles(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny_set / "particles.star"
    assert run(monkeypatch, "correct", source, "--how", "wiener", "--k", 0.2, "-o", tmp_path) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'particles.star'}: 32 images, wiener\n"
    assert "correction: 32 particles in" in shown.err
    assert len(Particles.read(tmp_path / "particles.star").images()) == 32
    assert "correction: 32 particles in" in (tmp_path / "run.log").read_text()
    assert (tmp_path / "correction.png").stat().st_size > 5000


def test_snr_of_a_file_and_measured(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, first, again = tiny_set / "particles.star", tmp_path / "a", tmp_path / "b"
    assert run(monkeypatch, "correct", source, "--how", "wiener", "-o", first) == 0
    assert (first / "snr.png").exists()
    snr = first / "snr.tsv"
    assert run(monkeypatch, "correct", source, "--how", "wiener", "--snr", snr, "-o", again) == 0
    one, two = (Particles.read(folder / "particles.star").images() for folder in (first, again))
    np.testing.assert_allclose(one, two, atol=2e-3 * np.abs(one).max())
    assert "snr.tsv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (("--k", 0.1), "phase flipping needs neither k nor an SNR"),
        (("--how", "wiener", "--k", -1), "k = -1 is no Wiener constant"),
        (("--how", "wiener", "--snr", "none.tsv"), "none.tsv cannot be read: No such file or directory;"),
    ],
)
def test_mistakes_end_in_one_sentence(
    tiny_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: tuple[object, ...],
    complaint: str,
) -> None:
    output = tmp_path / "out"
    assert run(monkeypatch, "correct", tiny_set / "particles.star", "-o", output, *wrong) == 2
    assert complaint in capsys.readouterr().err
    assert not output.exists()


def test_a_refused_folder_is_one_sentence(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text('{"command": "pick"}')
    assert run(monkeypatch, "correct", tiny_set / "particles.star", "-o", tmp_path) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "not of 'posterion correct' of particles" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_micrographs_and_exit_code_of_a_bad_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_map(tmp_path / "a.mrc", np.random.default_rng(0).standard_normal((1, 80, 96)), 3.0)
    write_map(tmp_path / "b.mrc", np.ones((1, 80, 96)), 3.0)
    rows = {"rlnMicrographName": ["a.mrc", "b.mrc"], "rlnDefocusU": ["15000", "14000"]}
    optics = {"rlnOpticsGroupName": ["og"], "rlnOpticsGroup": ["1"], "rlnMicrographPixelSize": ["3.0"]}
    write_star(tmp_path / "m.star", [Table.of("optics", optics), Table.of("micrographs", rows)])
    assert run(monkeypatch, "correct", tmp_path / "m.star", "-o", tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert "1 micrographs, phase-flip" in shown.out
    assert "b.mrc" in shown.err
    assert "1 of 2 micrographs were left out; the reasons are above and in summary.json" in shown.err
    assert (tmp_path / "out" / "correction.png").exists()
    (tmp_path / "a.mrc").unlink()
    assert run(monkeypatch, "correct", tmp_path / "m.star", "-o", tmp_path / "out") == 2
    assert "none of 2 micrographs can be corrected; the first: " in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        "a.json",  # that a micrograph cannot be opened is no reason to remove what was made from it
        "a.mrc",
        "run.log",
        "summary.json",
    ]
    assert run(monkeypatch, "correct", tmp_path / "b.mrc", "-o", tmp_path / "none") == 2
    assert "b.mrc is an image: give particles (.star, .cs or .par), or a STAR" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
