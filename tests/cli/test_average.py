"""The command ``posterion average``, run as a user runs it."""

import dataclasses
import fcntl
import json
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


def test_poses_and_a_diameter_that_fits_are_needed(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(monkeypatch, "average", tiny_set / "particles.star", "-o", output) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "has no poses" in sentence
    assert run(monkeypatch, "average", tiny_set / "truth.star", "-o", output, "-d", 999) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "the diameter, 999 A, does not fit the box of 180.0 A" in sentence
    assert not output.exists()


def test_the_same_command_replaces_its_results_and_another_is_refused(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("average", tiny_set / "truth.star", "-o", tmp_path, "--threads", 1)
    assert run(monkeypatch, *arguments) == 0
    summary = {"command": "average", "images_per_class": {"1": 32}}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert "INFO average: 32 particles in" in (tmp_path / "run.log").read_text()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "ssnr_class007.tsv").write_text("of an earlier run with other classes\n")
    assert run(monkeypatch, *arguments) == 0
    before["run.log"] = (tmp_path / "run.log").read_bytes()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    capsys.readouterr()
    (tmp_path / "summary.json").write_text('{"command": "pick"}')
    before["summary.json"] = (tmp_path / "summary.json").read_bytes()
    assert run(monkeypatch, *arguments) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "holds results of 'posterion pick' (its summary.json), not of 'posterion average'" in sentence
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tables_that_only_begin_like_ours_stay(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("average", tiny_set / "truth.star", "-o", tmp_path, "--threads", 1)
    assert run(monkeypatch, *arguments) == 0
    mine = [tmp_path / name for name in ("ssnr_class002_before.tsv", "ssnr_classes.tsv", "ssnr_class02.tsv")]
    for path in mine:
        path.write_text("mine")
    ours = [tmp_path / name for name in ("ssnr_class002.tsv", "ssnr_class1234.tsv")]
    for path in ours:
        path.write_text("of an earlier run")
    assert run(monkeypatch, *arguments) == 0
    assert [path.read_text() for path in mine] == ["mine"] * 3
    assert not any(path.exists() for path in ours)


def test_one_process_at_a_time(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "run.log").open("w") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert run(monkeypatch, "average", tiny_set / "truth.star", "-o", tmp_path) == 2
    assert "another process is working in this folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.log"]


def test_averages_that_are_read_are_not_replaced(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "average", tiny_set / "truth.star", "-o", tmp_path) == 0
    one = dataclasses.replace(
        Particles.read(tiny_set / "truth.star")[:1],
        stack_paths=(tmp_path / "averages.mrcs",),
        stack_names=("averages.mrcs",),
        image_index_i=np.zeros(1, np.int64),
    )
    one.write_star(tmp_path / "one.star")
    before = (tmp_path / "averages.mrcs").read_bytes()
    assert run(monkeypatch, "average", tmp_path / "one.star", "-o", tmp_path) == 2
    assert "averages.mrcs is read by this run, which would replace it" in capsys.readouterr().err
    assert (tmp_path / "averages.mrcs").read_bytes() == before
