"""The command ``posterion postprocess``, run as a user runs it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from posterion.cli import main
from posterion.data.mrc import write_map
from posterion.mapping.masks import soft_sphere

BOX, PIXEL_SIZE = 32, 2.0
FILES = {"fsc.png", "fsc.tsv", "guinier.png", "mask.mrc", "postprocess.json", "postprocessed.mrc"}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    ball = soft_sphere(BOX, 7, 3)
    signal = ball * (4 + 4 * rng.standard_normal(ball.shape, np.float32))
    for name in ("half1", "half2"):
        write_map(tmp_path / f"{name}.mrc", signal + rng.standard_normal(ball.shape, np.float32), PIXEL_SIZE)
    return tmp_path / "half1.mrc", tmp_path / "half2.mrc"


def test_automatic_mask_and_b_factor(
    halves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = halves[0].with_name("out")
    assert run(monkeypatch, "postprocess", *halves, "-o", output) == 0
    assert {path.name for path in output.iterdir()} == FILES | {"postprocessed_masked.mrc"}
    record = json.loads((output / "postprocess.json").read_text())
    shown = capsys.readouterr()
    assert f"corrected: {record['resolution_angstrom']:.2f} A" in shown.out
    assert "never falls below 0.143" in shown.err


def test_no_mask_and_a_given_b_factor(
    halves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = halves[0].with_name("out")
    options = "--mask", "none", "--bfactor", "-25", "--json"
    assert run(monkeypatch, "postprocess", *halves, "-o", output, *options) == 0
    assert {path.name for path in output.iterdir()} == FILES - {"mask.mrc"}
    assert json.loads(capsys.readouterr().out)["bfactor_angstrom2"] == -25


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bfactor", "strong"], "a number in A^2 or 'auto'"),
        (["--mask", "nowhere.mrc"], "nowhere.mrc"),
        (["--pixel-size", "-1"], "--pixel-size"),
    ],
)
def test_bad_options(
    halves: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    output = halves[0].with_name("out")
    assert run(monkeypatch, "postprocess", *halves, "-o", output, *options) == 2
    assert said in capsys.readouterr().err
    assert not output.exists()


def test_bad_masks_and_outputs(
    halves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = halves[0].with_name("small.mrc")
    write_map(small, soft_sphere(16, 5, 3), PIXEL_SIZE)
    assert run(monkeypatch, "postprocess", *halves, "-o", small.with_name("out"), "--mask", small) == 2
    assert "16x16x16 voxels but the map has 32x32x32" in capsys.readouterr().err
    assert run(monkeypatch, "postprocess", *halves, "-o", small / "out") == 2
    assert "cannot be written" in capsys.readouterr().err
