from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from posterion.cli import app
from posterion.data.mrc import write_map
from posterion.data.particles import OpticsGroup
from posterion.errors import PosterionError
from posterion.micrographs.micrograph_set import micrograph_set
from posterion.micrographs.simulation import CARBON, simulate_micrograph

OPTICS = OpticsGroup("", 300.0, 2.7, 0.1, 1.8, 0)


@pytest.fixture(scope="module")
def micrograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("micrographs") / "m.mrc"
    write_map(path, simulate_micrograph((600, 600), OPTICS, (12300.0, 11700.0, 30.0), CARBON)[None], 1.8)
    return path


def test_results_and_summary(micrograph: Path, tmp_path: Path) -> None:
    arguments = ["ctf", str(micrograph), "-o", str(tmp_path), "--threads", "1", "--patches", "2x1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 of 1 fitted" in result.output
    assert "1.8 A/px, 300 kV, Cs 2.7 mm, amplitude contrast 0.1" in result.output
    written = micrograph_set([tmp_path / "micrographs.star"])
    assert written.ctf is not None
    assert written.ctf.defocus_u_angstrom_i[0] == pytest.approx(12300, abs=50)
    assert (tmp_path / "diagnostics" / "m.png").stat().st_size > 10_000
    assert (tmp_path / "patches.star").exists()
    again = CliRunner().invoke(app, arguments)
    assert "1 of them from before" in again.output


def test_a_failure_is_told_and_gives_exit_code_1(micrograph: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat.mrc"
    write_map(flat, np.full((1, 600, 600), 3.0), 1.8)
    result = CliRunner().invoke(app, ["ctf", str(micrograph), str(flat), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1, result.output
    assert "1 of 2 fitted" in result.output
    assert (
        "1 of 2 micrographs could not be fitted; the reasons are above and in summary.json" in result.output
    )
    assert f"failed      {flat} is constant: all pixels are 3" in result.output
    assert len(micrograph_set([tmp_path / "out" / "micrographs.star"])) == 1
    result = CliRunner().invoke(app, ["ctf", str(flat), "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, PosterionError)
    assert f"none of 1 micrographs could be fitted; the first: {flat} is constant" in str(result.exception)
    assert not (tmp_path / "out" / "diagnostics" / "flat.png").exists()


def test_mistakes_begin_nothing(micrograph: Path, tmp_path: Path) -> None:
    for more, complaint in (
        (["--patches", "4"], "expected columns x rows"),
        (["--resolution", "5", "30"], "expected the larger first"),
        (["--defocus", "0", "30"], "expected two positive ones"),
    ):
        result = CliRunner().invoke(app, ["ctf", str(micrograph), "-o", str(tmp_path / "out"), *more])
        assert isinstance(result.exception, PosterionError)
        assert complaint in str(result.exception)
        assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, ["ctf", str(tmp_path / "no.star"), "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, PosterionError)
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_command_gets_no_log(micrograph: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"command": "pick"}')
    result = CliRunner().invoke(app, ["ctf", str(micrograph), "-o", str(tmp_path)])
    assert isinstance(result.exception, PosterionError)
    assert "not of 'posterion ctf'" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
