"""The command ``posterion extract``, run as a user runs it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from posterion.cli import main
from posterion.data.mrc import write_map
from posterion.data.particles import Particles


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", "extract", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "ab":
        noise = np.random.default_rng(ord(name)).standard_normal((1, 60, 70))
        write_map(tmp_path / f"{name}.mrc", noise.astype(np.float32), 2.0)
        (tmp_path / f"{name}.box").write_text("20 20 16 16\n0 -4 16 16\n")
    (tmp_path / "micrographs.star").write_text(
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n_rlnVoltage\n_rlnSphericalAberration\n"
        "_rlnAmplitudeContrast\n1 2.0 300 2.7 0.1\n\ndata_micrographs\nloop_\n_rlnMicrographName\n"
        "_rlnOpticsGroup\n_rlnDefocusU\na.mrc 1 10000\nb.mrc 1 12000\n"
    )
    return tmp_path


def test_box_files_of_another_picker(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--micrographs", folder / "micrographs.star", "--box", 16, "--bin-to", 4, "-o", folder / "out")
    assert run(monkeypatch, folder / "a.box", folder / "b.box", *options) == 0
    shown = capsys.readouterr()
    expected = "particles    2 (2 crossed the edge)\nbox          8 px of 4 A\n"
    assert shown.out == f"{expected}table        {folder / 'out' / 'particles.star'}\n"
    particles = Particles.read(folder / "out" / "particles.star")
    assert particles.images().shape == (2, 8, 8)
    assert particles.defocus_u_angstrom_i.tolist() == [10000, 12000]


def test_a_bad_micrograph_among_good_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.mrc").unlink()
    options = ("--micrographs", folder / "micrographs.star", "--box", 16, "-o", folder / "out")
    assert run(monkeypatch, folder, *options) == 1
    shown = capsys.readouterr().err
    assert "b.mrc cannot be read" in shown
    assert "1 of 2 micrographs gave no particles" in shown


def test_an_odd_box_and_missing_micrographs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, folder / "a.box", "--box", 15, "-o", folder / "out") == 2
    assert "--box 15: an even number" in capsys.readouterr().err
    assert run(monkeypatch, folder / "a.box", "--box", 16, "-o", folder / "out") == 2
    assert "give the micrographs, or their STAR file, with --micrographs" in capsys.readouterr().err
    assert not (folder / "out").exists()
