"""`posterion doctor`: exit codes and JSON, on a set too broken to need images."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from posterion.cli import app
from posterion.data.mrc import write_stack
from posterion.errors import PosterionError

STAR = """data_optics

loop_
_rlnOpticsGroupName
_rlnOpticsGroup
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
_rlnImageSize
_rlnImageDimensionality
og1 1 300.0 2.7 0.1 2.0 16 2

data_particles

loop_
_rlnImageName
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnOpticsGroup
1@stack.mrcs 15000 15000 0 1
2@stack.mrcs 15000 15000 0 1
"""


@pytest.fixture
def star(tmp_path: Path) -> Path:
    import numpy as np

    images = np.random.default_rng(0).standard_normal((2, 16, 16)).astype(np.float32)
    write_stack(tmp_path / "stack.mrcs", images, 2.0)
    path = tmp_path / "particles.star"
    path.write_text(STAR)
    return path


def test_sound_set_ends_with_0(star: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", str(star)])
    assert result.exit_code == 0, result.output
    assert "2 particles" in result.stdout


def test_problems_end_with_1_and_json_is_clean(star: Path) -> None:
    (star.parent / "stack.mrcs").unlink()
    result = CliRunner().invoke(app, ["doctor", str(star), "--json"])
    assert result.exit_code == 1
    record = json.loads(result.stdout)
    assert record["sound"] is False
    assert any(finding["check"] == "stacks" for finding in record["findings"])


def test_missing_file_is_a_users_mistake(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "none.star")])
    assert isinstance(result.exception, PosterionError)
    assert "none.star" in str(result.exception)
