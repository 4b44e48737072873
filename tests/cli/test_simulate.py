"""``posterion simulate`` as a user types it."""

from pathlib import Path

import mrcfile
import pytest
from typer.testing import CliRunner

from posterion.cli import app
from posterion.data.mrc import write_map
from posterion.data.particles import Particles
from posterion.errors import PosterionError
from posterion.physics.phantom import phantom_map

run = CliRunner().invoke


def test_embedded(tmp_path: Path) -> None:
    arguments = (
        "--embedded -n 12 --box 32 --snr 0.5 --noise coloured --optics 300:2.7:0.1 --optics 200:1.4:0.07"
    )
    result = run(app, ["simulate", *arguments.split(), "-o", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "12 images, box 32 px, 5.625 A/px" in result.stdout
    particles = Particles.read(tmp_path / "particles.star")
    assert len(particles) == 12
    assert particles.poses is None
    assert [group.voltage_kv for group in particles.optics] == [300, 200] or len(particles.optics) == 1
    assert mrcfile.read(tmp_path / "particles.mrcs").dtype == "float16"
    assert Particles.read(tmp_path / "truth.star").poses is not None


def test_mixture_of_map_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / f"{name}.mrc", phantom_map(24, 7.0, seed=ord(name)), 7.0)
    sources = [str(tmp_path / "a.mrc"), str(tmp_path / "b.mrc")]
    options = ["--fraction", "0.7", "--fraction", "0.3", "-n", "5", "--float32", "--poses", "--snr", "inf"]
    result = run(app, ["simulate", *sources, *options, "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0
    assert mrcfile.read(tmp_path / "out" / "particles.mrcs").dtype == "float32"
    assert (tmp_path / "out" / "truth_class2.mrc").exists()
    assert Particles.read(tmp_path / "out" / "particles.star").poses is not None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "either maps or models"),
        ("--embedded absent.mrc", "either maps or models"),
        ("absent.mrc", r"absent\.mrc"),
        ("--embedded --optics 300", "expected kV:Cs:Q0"),
        ("--embedded --noise absent.txt", r"absent\.txt"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: str, complaint: str) -> None:
    with pytest.raises(PosterionError, match=complaint):
        run(app, ["simulate", *arguments.split(), "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert not (tmp_path / "out").exists()
