"""The command ``posterion fsc``, run as a user runs it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.cli import main
from posterion.data.mrc import write_map
from posterion.mapping.fsc import fourier_shell_correlation, read_fsc, resolution_at
from posterion.mapping.masks import soft_sphere

BOX, PIXEL_SIZE = 32, 2.0


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def half(seed: int, box: int = BOX) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return 8 * soft_sphere(box, box / 5, box / 8) + rng.standard_normal((box,) * 3, np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in (1, 2):
        write_map(tmp_path / f"half{seed}.mrc", half(seed), PIXEL_SIZE)
    write_map(tmp_path / "mask.mrc", soft_sphere(BOX, 10, 5), PIXEL_SIZE)
    return tmp_path


def test_table_and_resolutions(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "fsc", folder / "half1.mrc", folder / "half2.mrc") == 0
    shown = capsys.readouterr().out
    expected = resolution_at(fourier_shell_correlation(half(1), half(2)), 0.143, PIXEL_SIZE, BOX)
    assert f"unmasked: {expected:.2f} A at 0.143" in shown
    assert "masked" not in shown.replace("unmasked", "")


def test_json_with_mask_and_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = folder / "half1.mrc", folder / "half2.mrc"
    assert run(monkeypatch, "fsc", *maps, "--mask", folder / "mask.mrc", "-o", folder / "new", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["fsc"]) == {"unmasked", "masked", "randomised", "corrected"}
    curves = read_fsc(folder / "new" / "fsc.tsv")
    assert curves.resolution() == pytest.approx(record["resolution_at_0.143"]["corrected"], abs=1e-3)
    assert (folder / "new" / "fsc.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.mrc", "nowhere.mrc"),
        ("other_box.mrc", "the same box was expected"),
        ("other_pixel.mrc", "--pixel-size"),
        ("no_pixel.mrc", "--pixel-size"),
        ("not_finite.mrc", "NaN"),
        ("not_cubic.mrc", "a cubic map was expected"),
        ("text.mrc", "text.mrc"),
    ],
)
def test_bad_maps(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    write_map(folder / "other_box.mrc", half(2, 24), PIXEL_SIZE)
    write_map(folder / "other_pixel.mrc", half(2), 2.1)
    write_map(folder / "no_pixel.mrc", half(2), 0.0)
    write_map(folder / "not_finite.mrc", np.where(half(2) > 3, np.nan, half(2)), PIXEL_SIZE)
    write_map(folder / "not_cubic.mrc", half(2)[:20], PIXEL_SIZE)
    (folder / "text.mrc").write_text("this is not a map")
    assert run(monkeypatch, "fsc", folder / "half1.mrc", folder / name, "-o", folder / "new") == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (folder / "new").exists()


def test_a_given_pixel_size_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_map(folder / "no_pixel.mrc", half(2), 0.0)
    arguments = folder / "half1.mrc", folder / "no_pixel.mrc", "--pixel-size", 1.5, "-o", folder
    assert run(monkeypatch, "fsc", *arguments) == 0
    assert read_fsc(folder / "fsc.tsv").pixel_size_angstrom == 1.5


def test_a_mask_of_another_box(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_map(folder / "small.mrc", soft_sphere(24, 8, 4), PIXEL_SIZE)
    maps = folder / "half1.mrc", folder / "half2.mrc"
    assert run(monkeypatch, "fsc", *maps, "--mask", folder / "small.mrc") == 2
    assert "24x24x24 voxels but the map has 32x32x32" in capsys.readouterr().err


def test_output_that_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = folder / "half1.mrc", folder / "half2.mrc"
    assert run(monkeypatch, "fsc", *maps, "-o", folder / "mask.mrc" / "inside") == 2
    assert "cannot be written" in capsys.readouterr().err
