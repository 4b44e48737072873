"""The command ``posterion pick``, run as a user runs it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from posterion.cli import main
from posterion.data.mrc import write_map
from posterion.physics.phantom import phantom_map


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", "pick", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def micrograph(tmp_path: Path) -> Path:
    """Six dark particles in noise, 4 A per pixel."""
    density = phantom_map(48, 4.0)
    values = np.random.default_rng(1).standard_normal((250, 300)).astype(np.float32)
    image = density.sum(axis=0)
    for y in (60, 180):
        for x in (60, 150, 240):
            values[y - 24 : y + 24, x - 24 : x + 24] -= 3 * image / image.max()
    write_map(tmp_path / "m.mrc", values[None], 4.0)
    write_map(tmp_path / "map.mrc", density, 4.0)
    return tmp_path / "m.mrc"


def test_with_a_template(
    micrograph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, template = micrograph.parent / "out", micrograph.parent / "map.mrc"
    options = ("-d", 150, "--template", template, "--lowpass", 40, "-o", output, "--threads", 1)
    assert run(monkeypatch, micrograph, *options) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("particles    6 in 1 micrographs (6 each)\nthreshold    ")
    assert "which alone would give 1 per micrograph" in shown.out
    assert "picking: 1 micrographs in" in shown.err
    assert (output / "overlays" / "m.png").exists()
    assert run(monkeypatch, micrograph, *options) == 0
    assert "1 of 1 micrographs were done before" in capsys.readouterr().err


def test_a_bad_micrograph_among_good_ones(
    micrograph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = micrograph.with_name("empty.mrc")
    empty.write_bytes(b"")
    options = ("-d", 120, "--threshold", 3, "-o", micrograph.parent / "out", "--threads", 1)
    assert run(monkeypatch, micrograph, empty, *options) == 1
    shown = capsys.readouterr().err
    assert "empty.mrc is empty (0 bytes)" in shown
    assert "1 of 2 micrographs could not be picked" in shown


def test_nothing_found(
    micrograph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("-d", 120, "--threshold", 50, "-o", micrograph.parent / "out", "--threads", 1)
    assert run(monkeypatch, micrograph, *options) == 2
    assert "no particles were found in any micrograph" in capsys.readouterr().err
