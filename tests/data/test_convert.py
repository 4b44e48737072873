import logging
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from posterion.data.convert import convert
from posterion.data.mrc import write_stack
from posterion.data.particles import Particles, Supplement
from posterion.errors import PosterionError
from posterion.physics.rotations import angular_distance_deg

FIXTURES = Path(__file__).parent / "fixtures"
IMAGES = np.random.default_rng(5).normal(size=(6, 8, 8)).astype(np.float32)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Project folder with the fixtures and their stacks, as RELION and as cryoSPARC name them."""
    for folder in ("stacks", "J1/stacks", "J2"):
        (tmp_path / folder).mkdir(parents=True)
    for k in range(2):
        for name in (f"stacks/mic{k + 1}.mrcs", f"J1/stacks/mic{k + 1}.mrc"):
            write_stack(tmp_path / name, IMAGES[3 * k : 3 * k + 3], 1.35)
    (tmp_path / "p.star").write_bytes((FIXTURES / "relion31.star").read_bytes())
    (tmp_path / "p.par").write_bytes((FIXTURES / "frealign9.par").read_bytes())
    write_stack(tmp_path / "p.mrcs", IMAGES, 1.35)
    for path in FIXTURES.glob("*.cs"):
        (tmp_path / "J2" / path.name).write_bytes(path.read_bytes())
    return tmp_path


SOURCES = {"star": "p.star", "cs": "J2/cryosparc.cs", "par": "p.par"}
SCOPE = Supplement(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.1)


@pytest.mark.parametrize(("source", "target"), [*permutations(SOURCES, 2), *((s, s) for s in SOURCES)])
def test_each_into_each(source: str, target: str, project: Path) -> None:
    before = Particles.read(project / SOURCES[source], SCOPE)
    new_stack = project / "new.mrcs" if target == "par" and source != "par" else None
    convert(project / SOURCES[source], project / f"new.{target}", SCOPE, new_stack)
    after = Particles.read(project / f"new.{target}", SCOPE)
    distance = angular_distance_deg(before.require_poses().matrices(), after.require_poses().matrices())
    assert distance.max() < (0.0151 if target == "par" else 5e-5)
    for name in ("shift_x_angstrom_i", "shift_y_angstrom_i"):
        shifts = getattr(before.require_poses(), name), getattr(after.require_poses(), name)
        np.testing.assert_allclose(*shifts, atol=0.00501 if target == "par" else 2e-6)
    np.testing.assert_allclose(after.defocus_u_angstrom_i, before.defocus_u_angstrom_i, atol=0.0501)
    assert after.pixel_size_angstrom == before.pixel_size_angstrom
    if target != "par":
        np.testing.assert_array_equal(after.half_i, before.half_i)
    # STAR has no contrast sign: the images stay as they are on disk, and we say so.
    sign = -1 if (source, target) == ("cs", "star") else 1
    np.testing.assert_array_equal(after.images(), sign * before.images())


def test_dark_protein_is_said_or_inverted(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = project / SOURCES["cs"]
    with caplog.at_level(logging.WARNING, "posterion"):
        convert(source, project / "dark.star")
    assert "protein is dark in the stacks" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "posterion"):
        convert(source, project / "white.star", new_stack=project / "white.mrcs")
    assert "dark" not in caplog.text
    np.testing.assert_array_equal(Particles.read(project / "white.star").images(), -IMAGES)


def test_relion_is_told_that_mrc_is_a_stack(project: Path) -> None:
    convert(project / SOURCES["cs"], project / "new.star")
    assert "000001@J1/stacks/mic1.mrc:mrcs " in (project / "new.star").read_text()
    convert(project / "new.star", project / "back.cs")
    assert np.load(project / "back.cs")["blob/path"][0] == b"J1/stacks/mic1.mrc"


def test_what_is_lost_is_said(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "posterion"):
        convert(project / "p.star", project / "new.cs")
    assert "only optics, CTF, poses, half sets and names are converted" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "posterion"):
        convert(project / "p.star", project / "new.star")
    assert "converted" not in caplog.text


def test_several_stacks_into_par(project: Path) -> None:
    with pytest.raises(PosterionError, match=r"lie in 2; give --new-stack"):
        convert(project / "p.star", project / "new.par")
    assert not (project / "new.par").exists()


def test_unknown_extension_touches_nothing(project: Path) -> None:
    with pytest.raises(PosterionError, match=r"unknown extension '\.txt'; expected \.star, \.cs or \.par"):
        convert(project / "p.star", project / "new.txt", new_stack=project / "new.mrcs")
    assert not (project / "new.mrcs").exists()


def test_stack_missing_while_restacking_leaves_nothing(project: Path) -> None:
    (project / "stacks" / "mic2.mrcs").unlink()
    with pytest.raises(PosterionError, match="does not exist"):
        convert(project / "p.star", project / "new.star", new_stack=project / "new.mrcs")
    assert not [path for path in project.iterdir() if "new" in path.name]
