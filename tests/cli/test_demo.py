"""The command ``posterion demo``; here on a set small enough for every day."""

import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from posterion.cli import main
from posterion.report import demo as demo_module


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def check(folder: Path, shown: str) -> dict[str, float]:
    for name in ("map", "FSC plot", "particle table", "one page"):
        path = re.search(rf"^{name} +(\S.*)$", shown, re.MULTILINE)
        assert path is not None
        assert Path(path[1]).exists()
    assert (folder / "refined" / "summary.png").read_bytes().startswith(b"\x89PNG")
    between, against = re.search(
        r"([\d.]+) A between half maps .*, ([\d.]+) A against the truth", shown
    ).groups()
    error = re.search(r"half of them within ([\d.]+) degrees", shown)[1]
    assert re.search(r"^time +simulate .* s, refine .* s, figures", shown, re.MULTILINE)
    return {"between": float(between), "against": float(against), "error": float(error)}


def test_a_tiny_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(demo_module, "_BOX_PX", 24)
    monkeypatch.setattr(demo_module, "_PIXEL_SIZE_ANGSTROM", 7.5)
    monkeypatch.setattr(demo_module, "_REFERENCE_ANGSTROM", 30.0)
    monkeypatch.setattr(demo_module, "_IMAGES", replace(demo_module._IMAGES, n_particles=40, snr=2.0))
    quick = partial(demo_module.RefineOptions, max_iterations=2, shift_range_angstrom=15.0)
    monkeypatch.setattr(demo_module, "RefineOptions", quick)
    assert run(monkeypatch, "demo", "-o", tmp_path / "demo", "--threads", 2) == 0
    found = check(tmp_path / "demo", capsys.readouterr().out)
    assert found["against"] < 20
    assert found["error"] < 5
    assert run(monkeypatch, "demo", "-o", tmp_path / "demo") == 0
    assert "this run is finished" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert run(monkeypatch, "demo", "-o", tmp_path / "demo") == 0
    found = check(tmp_path / "demo", capsys.readouterr().out)
    assert found["between"] < 8
    assert found["against"] < 8
    assert found["error"] < 2.5
