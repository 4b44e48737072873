"""The command ``posterion reconstruct``, run as a user runs it."""

import importlib
import json
import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from posterion.cli import main
from posterion.data.mrc import read_map, write_stack
from posterion.data.output_folder import OutputFolder, open_folder
from posterion.data.particles import Particles
from posterion.mapping.fsc import read_fsc

MAPS = ("map.mrc", "map_unfiltered.mrc", "half1.mrc", "half2.mrc", "mask.mrc")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def own_set(tiny_set: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    shutil.copytree(tiny_set, folder)
    return folder


def test_maps_curves_figures_and_summary(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(monkeypatch, "reconstruct", own_set / "truth.star", "-o", output, "-d", 150) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("resolution  ")
    assert "reconstruction: 32 particles in" in shown.err
    volumes = {name: read_map(output / name)[0] for name in MAPS}
    truth = read_map(own_set / "truth.mrc")[0]
    inside = volumes["mask.mrc"] > 0.5
    assert np.corrcoef(volumes["map.mrc"][inside], truth[inside])[0, 1] > 0.85
    summary = json.loads((output / "summary.json").read_text())
    assert summary["command"] == "reconstruct"
    assert summary["resolution_angstrom"] == pytest.approx(
        read_fsc(output / "fsc.tsv").resolution(), rel=1e-4
    )
    for name in ("fsc.png", "summary.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    # Once more into the same folder: the same bytes on one thread.
    before = {name: (output / name).read_bytes() for name in MAPS}
    (output / "quarantine.txt").write_text("of an earlier run with other images\n")
    again = ("reconstruct", own_set / "truth.star", "-o", output, "-d", 150, "--threads", 1)
    assert run(monkeypatch, *again) == 0
    assert {name: (output / name).read_bytes() for name in MAPS} == before
    assert not (output / "quarantine.txt").exists()


def test_nan_image_is_left_out(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Particles.read(own_set / "truth.star").images()
    images[2, 3, 4], images[9] = np.inf, 0.0
    write_stack(own_set / "particles.mrcs", images, 7.5)
    assert run(monkeypatch, "reconstruct", own_set / "truth.star", "-o", tmp_path / "out") == 0
    shown = capsys.readouterr()
    assert "particles   30," in shown.out
    assert "warning: left out, see quarantine.txt: 2 of 32 images (6.25 %), the first: " in shown.err
    assert len((tmp_path / "out" / "quarantine.txt").read_text().splitlines()) == 2
    for name in MAPS:
        assert np.isfinite(read_map(tmp_path / "out" / name)[0]).all()


def test_a_second_grey_scale_is_kept_and_warned_of(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Particles.read(own_set / "truth.star").images()
    images[::4] *= 100
    write_stack(own_set / "particles.mrcs", images, 7.5)
    assert run(monkeypatch, "reconstruct", own_set / "truth.star", "-o", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["quarantined"] == []
    assert "about 25 % of the images of optics group" in summary["warnings"][0]


@pytest.mark.parametrize(
    ("table", "more", "sentence"),
    [
        ("particles.star", (), "has no poses: columns rlnAngleRot, rlnAngleTilt and rlnAnglePsi"),
        ("none.star", (), "none.star cannot be read"),
        ("truth.star", ("--symmetry", "Z"), "Z"),
        ("truth.star", ("-d", 999), "does not fit the box"),
    ],
)
def test_bad_input(
    own_set: Path, tmp_path: Path, monkeypatch, capsys, table: str, more: tuple[object, ...], sentence: str
) -> None:
    assert run(monkeypatch, "reconstruct", own_set / table, "-o", tmp_path / "out", *more) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("posterion: ")
    assert sentence in said
    assert not (tmp_path / "out").exists()


def test_truncated_stack(own_set: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    stack = own_set / "particles.mrcs"
    stack.write_bytes(stack.read_bytes()[:-7])
    assert run(monkeypatch, "reconstruct", own_set / "truth.star", "-o", tmp_path / "out") == 2
    assert "is truncated" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_of_a_refinement_is_refused(own_set: Path, monkeypatch, capsys) -> None:
    assert run(monkeypatch, "reconstruct", own_set / "truth.star", "-o", own_set) == 2
    assert "holds a refinement or a particle set" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pick", "ctf"])
def test_folder_of_another_command_is_refused(
    tiny_set: Path, tmp_path: Path, monkeypatch, capsys, command
) -> None:
    (tmp_path / "summary.json").write_text(f'{{"command": "{command}"}}')
    assert run(monkeypatch, "reconstruct", tiny_set / "truth.star", "-o", tmp_path) == 2
    assert capsys.readouterr().err == (
        f"posterion: {tmp_path} holds results of 'posterion {command}' (its summary.json), not of "
        "'posterion reconstruct'; move it away, or give another output folder\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert json.loads((tmp_path / "summary.json").read_text()) == {"command": command}


@pytest.mark.parametrize(
    ("command", "work"), [("reconstruct", "reconstruct_map"), ("average", "average_images")]
)
def test_a_folder_taken_meanwhile_is_refused_before_the_work(
    command: str,
    work: str,
    tiny_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another command ends in it just before ours opens it."""

    def begun(*_arguments: object) -> None:
        raise AssertionError("the work has begun")

    def open_after_another(path: Path) -> AbstractContextManager[None]:
        OutputFolder(path, "pick", ()).begin()
        return open_folder(path)

    module = importlib.import_module(f"posterion.cli.{command}")
    monkeypatch.setattr(module, work, begun)
    monkeypatch.setattr(module, "open_folder", open_after_another)
    assert run(monkeypatch, command, tiny_set / "truth.star", "-o", tmp_path) == 2
    assert "holds results of 'posterion pick'" in capsys.readouterr().err
