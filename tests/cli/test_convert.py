from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from posterion.cli import app
from posterion.data.mrc import write_stack
from posterion.data.particles import Particles
from posterion.errors import PosterionError

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"


def test_par_to_star_and_back(tmp_path: Path) -> None:
    write_stack(tmp_path / "s.mrcs", np.ones((6, 8, 8), np.float32), 0.0)
    options = ["--stack", str(tmp_path / "s.mrcs"), "--pixel-size", "1.35", "--voltage", "300", "--cs", "2.7"]
    target = tmp_path / "new.star"
    result = CliRunner().invoke(
        app,
        ["convert", str(FIXTURES / "frealign9.par"), str(target), *options, "--amplitude-contrast", "0.1"],
    )
    assert result.exit_code == 0, result.output
    assert "6 particles with poses, 1 optics groups" in result.output
    assert Particles.read(target).images().shape == (6, 8, 8)


def test_passthrough(tmp_path: Path) -> None:
    for name in ("cryosparc.cs", "cryosparc_passthrough_particles.cs"):
        (tmp_path / name.replace("passthrough_particles", "more")).write_bytes((FIXTURES / name).read_bytes())
    arguments = ["convert", str(tmp_path / "cryosparc.cs"), str(tmp_path / "new.star")]
    result = CliRunner().invoke(app, [*arguments, "--passthrough", str(tmp_path / "cryosparc_more.cs")])
    assert result.exit_code == 0, result.output
    assert len(Particles.read(tmp_path / "new.star")) == 6


def test_mistake_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "no.star"), str(tmp_path / "new.cs")])
    assert isinstance(result.exception, PosterionError)
    assert "no.star cannot be read: No such file" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
