import gzip
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posterion.data.frealign import read_frealign, read_par, write_frealign
from posterion.data.mrc import write_stack
from posterion.data.particles import Particles, Poses, Supplement
from posterion.errors import PosterionError
from posterion.physics.rotations import angular_distance_deg, matrices_from_euler

FIXTURES = Path(__file__).parent / "fixtures"
ROT, TILT, PSI, OFFSET_X, OFFSET_Y, U, V, ANGLE = np.loadtxt(FIXTURES / "truth.txt").T
SCOPE = Supplement(pixel_size_angstrom=1.35, voltage_kv=300.0, spherical_aberration_mm=2.7)


@pytest.mark.parametrize(("name", "precision"), [("frealign9.par", 0.006), ("frealign8.par", 0.0008)])
def test_every_convention_against_the_frozen_fixtures(name: str, precision: float) -> None:
    """Version 9 has shifts in Angstrom, version 8 in pixels; two and three decimals."""
    particles = read_frealign(FIXTURES / name, SCOPE)
    poses = particles.require_poses()
    distance = angular_distance_deg(poses.matrices(), matrices_from_euler(ROT, TILT, PSI))
    assert distance.max() < 2 * precision
    np.testing.assert_allclose(poses.shift_x_angstrom_i, OFFSET_X, atol=precision)
    np.testing.assert_allclose(poses.shift_y_angstrom_i, OFFSET_Y, atol=precision)
    np.testing.assert_allclose(particles.defocus_u_angstrom_i, U, atol=0.06)
    np.testing.assert_allclose(particles.defocus_v_angstrom_i, V, atol=0.06)
    np.testing.assert_allclose(particles.defocus_angle_deg_i, ANGLE, atol=0.006)
    np.testing.assert_array_equal(particles.image_index_i, np.arange(6))
    assert particles.optics[0].amplitude_contrast == 0.07
    assert not particles.half_i.any()


@pytest.mark.parametrize("name", ["frealign9.par", "frealign8.par"])
def test_values_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    write_frealign(tmp_path / "out.par", read_frealign(FIXTURES / name, SCOPE))
    before, after = read_par(FIXTURES / name), read_par(tmp_path / "out.par")
    assert list(before.columns) == list(after.columns)
    for column in before.columns:
        assert before.columns[column].text().tolist() == after.columns[column].text().tolist()


def test_changes_are_written(tmp_path: Path) -> None:
    particles = read_frealign(FIXTURES / "frealign9.par", SCOPE)
    old = particles.require_poses()
    moved = replace(particles, poses=replace(old, tilt_deg_i=old.tilt_deg_i + 1))
    write_frealign(tmp_path / "out.par", moved[2:])
    again = read_frealign(tmp_path / "out.par", SCOPE)
    np.testing.assert_allclose(again.require_poses().tilt_deg_i, old.tilt_deg_i[2:] + 1, atol=0.006)
    np.testing.assert_array_equal(again.image_index_i, [2, 3, 4, 5])
    assert read_par(tmp_path / "out.par").columns["SCORE"].text().tolist() == [
        b"22.00",
        b"23.00",
        b"24.00",
        b"25.00",
    ]


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(*[st.floats(-360, 360)] * 3, *[st.floats(-300, 300)] * 2), min_size=1, max_size=5)
)
def test_any_poses_survive_to_two_decimals(rows: list[tuple[float, ...]], tmp_path: Path) -> None:
    values = np.array(rows).T
    particles = read_frealign(FIXTURES / "frealign9.par", SCOPE)[np.zeros(len(rows), int)]
    write_frealign(tmp_path / "p.par", replace(particles, poses=Poses(*values), table=None))
    poses = read_frealign(tmp_path / "p.par", SCOPE).require_poses()
    assert angular_distance_deg(poses.matrices(), Poses(*values).matrices()).max() < 0.0151
    np.testing.assert_allclose(poses.shift_y_angstrom_i, values[4], atol=0.00501)


def test_phase_plate_makes_it_seventeen_columns(tmp_path: Path) -> None:
    particles = replace(read_frealign(FIXTURES / "frealign9.par", SCOPE), table=None)
    write_frealign(tmp_path / "a.par", particles)
    write_frealign(tmp_path / "b.par", replace(particles, phase_shift_deg_i=np.full(6, 90.0)))
    lines = [(tmp_path / name).read_text().splitlines()[1] for name in ("a.par", "b.par")]
    assert (len(lines[0].split()), len(lines[1].split())) == (16, 17)
    # cisTEM tells the two apart by the length of the line: 142 characters and more has the phase shift.
    assert len(lines[0]) + 1 < 142 <= len(lines[1]) + 1
    np.testing.assert_array_equal(read_frealign(tmp_path / "b.par", SCOPE).phase_shift_deg_i, 90.0)


def test_files_without_heading(tmp_path: Path) -> None:
    rows = [line for line in (FIXTURES / "frealign9.par").read_text().splitlines() if line[0] != "C"]
    (tmp_path / "p.par").write_text("\n".join(rows) + "\n")
    particles = read_frealign(tmp_path / "p.par", SCOPE)
    np.testing.assert_allclose(particles.require_poses().shift_x_angstrom_i, OFFSET_X, atol=0.006)


def test_stack_of_the_same_name_or_the_only_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "p.par"
    path.write_text((FIXTURES / "frealign9.par").read_text())
    write_stack(tmp_path / "any.mrc", np.ones((6, 8, 8), np.float32), 1.35)
    write_stack(tmp_path / "map.mrc", np.ones((8, 8, 8), np.float32), 1.0)  # a cube: a map
    write_stack(tmp_path / "few.mrcs", np.ones((5, 8, 8), np.float32), 1.0)  # fewer images than rows
    scope = replace(SCOPE, pixel_size_angstrom=None)
    with caplog.at_level(logging.INFO, "posterion"):
        particles = Particles.read(path, scope)
    assert (particles.pixel_size_angstrom, particles.box_px) == (1.35, 8)
    assert "the only one beside it" in caplog.text
    assert "no pixel size; 1.35 A is used" in caplog.text
    assert (particles.images() == 1).all()
    write_stack(tmp_path / "p.mrcs", np.zeros((6, 8, 8), np.float32), 1.35)
    assert (Particles.read(path, scope).images() == 0).all()
    given = Particles.read(path, replace(scope, stack=tmp_path / "any.mrc"))
    assert (given.images() == 1).all()


def test_image_number_out_of_range(tmp_path: Path) -> None:
    path = tmp_path / "p.par"
    path.write_text((FIXTURES / "frealign9.par").read_text())
    write_stack(tmp_path / "p.mrcs", np.ones((5, 8, 8), np.float32), 1.35)
    with pytest.raises(PosterionError, match=r"p\.par, line 8, column C: image number 6 is out of range"):
        Particles.read(path, SCOPE).images()


def test_bad_rows(tmp_path: Path) -> None:
    text = (FIXTURES / "frealign9.par").read_text()
    first = text.splitlines()[2]
    (tmp_path / "p.par").write_text(text.replace(first, first.replace(first.split()[1], "7x.61")))
    with pytest.raises(PosterionError, match=r"line 3, column PSI: '7x\.61' is not a number"):
        read_frealign(tmp_path / "p.par", SCOPE)
    (tmp_path / "p.par").write_text(text.replace(first, first + " 9 9"))
    with pytest.raises(PosterionError, match="line 3: 18 values for 16 columns"):
        read_frealign(tmp_path / "p.par", SCOPE)


def test_what_has_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(PosterionError, match="give --pixel-size, --voltage, --cs"):
        read_frealign(FIXTURES / "frealign9.par")
    (tmp_path / "p.par").write_text("C nothing\n")
    with pytest.raises(PosterionError, match="there are no particles in it"):
        read_frealign(tmp_path / "p.par", SCOPE)


def test_several_stacks_or_no_poses_cannot_be_written(tmp_path: Path) -> None:
    particles = Particles.read(FIXTURES / "relion31.star")
    with pytest.raises(PosterionError, match="describes one stack, the particles lie in 2"):
        write_frealign(tmp_path / "out.par", particles)
    with pytest.raises(PosterionError, match="has no poses"):
        write_frealign(tmp_path / "out.par", replace(particles, poses=None)[:3])
    assert list(tmp_path.iterdir()) == []


def test_real_files(shared_data: Path, tmp_path: Path) -> None:
    real = shared_data / "metadata" / "frealign" / "13pf_2_r1.par.gz"
    (tmp_path / "old.par").write_bytes(gzip.decompress(real.read_bytes()))
    particles = Particles.read(real, SCOPE)
    assert len(particles) == 6179
    write_frealign(tmp_path / "out.par", particles)
    before, after = (read_par(tmp_path / name) for name in ("old.par", "out.par"))
    for column in before.columns:
        assert before.columns[column].text().tolist() == after.columns[column].text().tolist()


def test_shifts_in_pixels_and_wrong_header(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = shared_data / "small_stacks" / "freehand_ATPsynthase" / "parts-15_128x128f.par"
    with (
        caplog.at_level(logging.WARNING, "posterion"),
        pytest.raises(PosterionError, match="give --pixel-size"),
    ):
        Particles.read(path, replace(SCOPE, pixel_size_angstrom=None))
    assert "90.344 x 107.250 A; ignored" in caplog.text
    particles = Particles.read(path, replace(SCOPE, pixel_size_angstrom=2.8))
    np.testing.assert_allclose(particles.require_poses().shift_x_angstrom_i[:3], [14.0, 5.6, 2.8])
    assert particles.images().shape == (50, 128, 128)
