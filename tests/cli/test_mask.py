"""The command ``posterion mask``, run as a user runs it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from posterion.cli import main
from posterion.data.mrc import read_map, write_map
from posterion.mapping.masks import soft_sphere

BALL = soft_sphere(40, 8, 2)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_map(tmp_path / "map.mrc", BALL, 3.0)
    return tmp_path / "map.mrc"


def test_a_mask_is_made(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = source.with_name("mask.mrc")
    assert run(monkeypatch, "mask", source, "-o", output) == 0
    mask, pixel_size = read_map(output)
    assert pixel_size == pytest.approx(3.0)
    assert mask[BALL > 0.5].min() > 0.99
    assert "% of the box" in capsys.readouterr().out


def test_options_are_lengths_in_angstrom(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = source.with_name("mask.mrc")
    options = "--lowpass", 12, "--threshold", 0.5, "--dilate", 9, "--soft-edge", 12
    assert run(monkeypatch, "mask", source, "-o", output, *options) == 0
    profile = read_map(output)[0][20, 20, 20:]
    radius = float(np.interp(-0.5, -profile, np.arange(20)))
    assert radius == pytest.approx(9 + 3 + 2, abs=1)  # half maximum of the ball, 9 A more, half of the edge


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threshold", 50], "lower --threshold"),
        (["--pixel-size", 0], "--pixel-size"),
    ],
)
def test_bad_options(
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[object],
    said: str,
) -> None:
    output = source.with_name("mask.mrc")
    assert run(monkeypatch, "mask", source, "-o", output, *arguments) == 2
    assert said in capsys.readouterr().err
    assert not output.exists()


def test_bad_paths(source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "mask", source.with_name("nowhere.mrc"), "-o", source.with_name("m.mrc")) == 2
    assert "nowhere.mrc" in capsys.readouterr().err
    assert run(monkeypatch, "mask", source, "-o", source / "inside" / "mask.mrc") == 2
    assert "cannot be written" in capsys.readouterr().err
