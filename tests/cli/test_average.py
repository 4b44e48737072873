"""The command ``posterion average``, run as a user runs it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from posterion.cli import main
from posterion.data.mrc import read_map
from posterion.data.particles import Particles
from posterion.physics.ctf_correction import SnrSpectrum


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_one_class(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "average", tiny_set / "truth.star", "-o", tmp_path, "-d", 150) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("class 1: 32 images, rings agree to ")
    assert "average: 32 particles in" in shown.err
    averages, pixel = read_map(tmp_path / "averages.mrcs")
    assert averages.shape == (1, 24, 24)
    assert pixel == 7.5
    snr = SnrSpectrum.read(tmp_path / "ssnr.tsv")
    assert len(snr.snr_s) == 13
    names, *rows = [line.split("\t") for line in (tmp_path / "ssnr.tsv").read_text().splitlines()]
    table = dict(zip(names, np.array(rows, float).T, strict=True))
    np.testing.assert_allclose(table["snr"] * table["k_w"], 1, rtol=1e-4)
    np.testing.assert_allclose(table["ssnr"] * table["k_w"], table["mean_ctf2"], rtol=1e-4)
    frc = np.clip(table["frc"], 1e-3, 0.999)
    np.testing.assert_allclose(table["ssnr"], 2 * frc / (1 - frc), rtol=1e-2)
    for name in ("average.png", "ssnr.png", "plain.mrcs"):
        assert (tmp_path / name).exists()


def test_several_classes(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    particles = Particles.read(tiny_set / "truth.star")
    source, output = tmp_path / "classes.star", tmp_path / "out"
    particles.write_star(source, extra_columns={"rlnClassNumber": 1 + 2 * (np.arange(32) % 2)})
    assert run(monkeypatch, "average", source, "-o", output) == 0
    assert "class 3: 16 images" in capsys.readouterr().out
    assert len(read_map(output / "averages.mrcs")[0]) == 2
    assert (output / "ssnr_class003.tsv").exists()


def test_poses_are_needed(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(monkeypatch, "average", tiny_set / "particles.star", "-o", output) == 2
    assert "has no poses" in capsys.readouterr().err
    assert not output.exists()
