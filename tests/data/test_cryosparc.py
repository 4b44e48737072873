import gzip
import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from posterion.data.cryosparc import read_cryosparc, write_cryosparc
from posterion.data.mrc import write_stack
from posterion.data.particles import Particles, Poses, Supplement
from posterion.errors import PosterionError
from posterion.physics.rotations import angular_distance_deg, matrices_from_euler

FIXTURES = Path(__file__).parent / "fixtures"
ROT, TILT, PSI, OFFSET_X, OFFSET_Y, U, V, ANGLE = np.loadtxt(FIXTURES / "truth.txt").T


def saved(path: Path, records: np.ndarray) -> Path:
    with path.open("wb") as stream:
        np.save(stream, records)
    return path


@pytest.fixture
def records() -> np.ndarray:
    return np.load(FIXTURES / "cryosparc.cs")


def test_every_convention_against_the_frozen_fixture(caplog: pytest.LogCaptureFixture) -> None:
    """The fixture's rotation vectors were made by quaternions, from axes, not by our functions."""
    with caplog.at_level(logging.INFO, "posterion"):
        particles = read_cryosparc(FIXTURES / "cryosparc.cs")
    assert "cryosparc_passthrough_particles.cs" in caplog.text
    poses = particles.require_poses()
    distance = angular_distance_deg(poses.matrices(), matrices_from_euler(ROT, TILT, PSI))
    assert distance.max() < 2e-5  # single precision
    np.testing.assert_allclose(poses.shift_x_angstrom_i, OFFSET_X, atol=1e-6)
    np.testing.assert_allclose(poses.shift_y_angstrom_i, OFFSET_Y, atol=1e-6)
    np.testing.assert_allclose(particles.defocus_u_angstrom_i, U, rtol=1e-7)
    np.testing.assert_allclose(particles.defocus_v_angstrom_i, V, rtol=1e-7)
    np.testing.assert_allclose(particles.defocus_angle_deg_i, ANGLE, atol=1e-5)
    np.testing.assert_array_equal(particles.half_i, [1, 2, 1, 2, 1, 2])
    np.testing.assert_array_equal(particles.image_index_i, [0, 1, 2, 0, 1, 2])
    assert particles.contrast_sign_i is not None
    assert (particles.contrast_sign_i == -1).all()
    assert particles.stack_names == ("J1/stacks/mic1.mrc", "J1/stacks/mic2.mrc")
    assert particles.micrograph_names == ("J1/mic1.mrc", "J1/mic2.mrc")
    assert [(o.voltage_kv, o.spherical_aberration_mm, o.amplitude_contrast) for o in particles.optics] == [
        (300.0, 2.7, 0.1)
    ] * 2
    assert particles.pixel_size_angstrom == 1.35


def test_pose_about_one_axis(tmp_path: Path, records: np.ndarray) -> None:
    """Turning about z alone is rot + psi, about y alone is tilt, both with the vector's sign."""
    records["alignments3D/pose"][:2] = (0, 0, 0.5), (0, 0.7, 0)
    saved(tmp_path / "p.cs", records)
    poses = read_cryosparc(
        tmp_path / "p.cs", Supplement(passthrough=(FIXTURES / "cryosparc_passthrough_particles.cs",))
    ).require_poses()
    np.testing.assert_allclose(poses.rot_deg_i[0] + poses.psi_deg_i[0], np.degrees(0.5), atol=1e-5)
    np.testing.assert_allclose(poses.tilt_deg_i[:2], [0, np.degrees(0.7)], atol=1e-4)
    np.testing.assert_allclose([poses.rot_deg_i[1], poses.psi_deg_i[1]], 0, atol=1e-4)


def test_points_land_where_the_pose_says() -> None:
    """Atoms turned by the inverse of cryoSPARC's rotation, as RELION's matrix turns them."""
    vectors = np.load(FIXTURES / "cryosparc.cs")["alignments3D/pose"].astype(float)
    atoms = np.random.default_rng(0).normal(size=(5, 3))
    matrices = read_cryosparc(FIXTURES / "cryosparc.cs").require_poses().matrices()
    for vector, matrix in zip(vectors, matrices, strict=True):
        np.testing.assert_allclose(
            atoms @ matrix.T, Rotation.from_rotvec(vector).inv().apply(atoms), atol=1e-6
        )


def test_unchanged_records_come_back_bit_for_bit(tmp_path: Path) -> None:
    particles = read_cryosparc(FIXTURES / "cryosparc.cs")
    write_cryosparc(tmp_path / "out.cs", particles)
    before, after = particles.table.records, np.load(tmp_path / "out.cs")  # type: ignore[union-attr]
    assert before.dtype == after.dtype
    assert before.tobytes() == after.tobytes()


def test_changes_are_written_beside_unknown_fields(tmp_path: Path) -> None:
    particles = read_cryosparc(FIXTURES / "cryosparc.cs")[[4, 1]]
    moved = replace(particles, half_i=np.array([2, 1], np.int8), defocus_u_angstrom_i=np.array([9e3, 8e3]))
    write_cryosparc(tmp_path / "out.cs", moved)
    after = np.load(tmp_path / "out.cs")
    before = particles.table.records  # type: ignore[union-attr]
    np.testing.assert_array_equal(after["alignments3D/split"], [1, 0])
    np.testing.assert_array_equal(after["ctf/df1_A"], [9e3, 8e3])
    for name in ("uid", "alignments3D/error", "ctf/tilt_A", "alignments3D/pose", "blob/path"):
        np.testing.assert_array_equal(after[name], before[name])


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(*[st.floats(-360, 360)] * 3, *[st.floats(-300, 300)] * 2), min_size=1, max_size=5)
)
def test_any_poses_survive(rows: list[tuple[float, ...]], tmp_path: Path) -> None:
    values = np.array(rows).T
    particles = read_cryosparc(FIXTURES / "cryosparc.cs")[np.zeros(len(rows), int)]
    particles = replace(particles, poses=Poses(*values), table=None)
    write_cryosparc(tmp_path / "p.cs", particles)
    poses = read_cryosparc(tmp_path / "p.cs").require_poses()
    assert angular_distance_deg(poses.matrices(), Poses(*values).matrices()).max() < 5e-5
    np.testing.assert_allclose(poses.shift_x_angstrom_i, values[3], atol=5e-5)


def test_images_are_multiplied_by_the_sign(tmp_path: Path) -> None:
    (tmp_path / "J1" / "stacks").mkdir(parents=True)
    (tmp_path / "J2").mkdir()
    for name in ("mic1", "mic2"):
        write_stack(tmp_path / "J1" / "stacks" / f"{name}.mrc", np.ones((3, 8, 8), np.float32), 1.35)
    for path in FIXTURES.glob("*.cs"):
        (tmp_path / "J2" / path.name).write_bytes(path.read_bytes())
    assert (Particles.read(tmp_path / "J2" / "cryosparc.cs").images() == -1).all()


def test_one_half_is_none(tmp_path: Path, records: np.ndarray) -> None:
    records["alignments3D/split"] = 0
    particles = read_cryosparc(
        saved(tmp_path / "p.cs", records),
        Supplement(passthrough=(FIXTURES / "cryosparc_passthrough_particles.cs",)),
    )
    assert not particles.half_i.any()


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.cs"
    with path.open("wb") as stream:
        np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(PosterionError, match=r"p\.cs is not read: it holds pickled Python objects"):
        Particles.read(path)


def test_other_bad_files(tmp_path: Path, records: np.ndarray) -> None:
    for content, complaint in (
        (b"\x94CSDAT and so on", "cryoSPARC's own compressed format"),
        (b"no array", "does not start as a NumPy array"),
        ((FIXTURES / "cryosparc.cs").read_bytes()[:-100], "is not read"),
    ):
        (tmp_path / "p.cs").write_bytes(content)
        with pytest.raises(PosterionError, match=complaint):
            Particles.read(tmp_path / "p.cs")
    with pytest.raises(PosterionError, match="without named fields"):
        Particles.read(saved(tmp_path / "p.cs", np.zeros(3)))
    with pytest.raises(PosterionError, match="there are no particles in it"):
        Particles.read(saved(tmp_path / "p.cs", records[:0]))


def test_missing_field_asks_for_passthrough(tmp_path: Path, records: np.ndarray) -> None:
    with pytest.raises(PosterionError, match=r"field ctf/df1_A is missing; give the passthrough file"):
        Particles.read(saved(tmp_path / "p.cs", records))


def test_passthrough_without_some_particles(tmp_path: Path, records: np.ndarray) -> None:
    other = np.load(FIXTURES / "cryosparc_passthrough_particles.cs")[:4]
    saved(tmp_path / "q.cs", other)
    with pytest.raises(PosterionError, match=r"2 of 6 particles of .* \(by uid\) are not in it"):
        Particles.read(saved(tmp_path / "p.cs", records), Supplement(passthrough=(tmp_path / "q.cs",)))


def test_not_finite_values_are_named(tmp_path: Path, records: np.ndarray) -> None:
    records["alignments3D/pose"][2, 1] = np.nan
    supplement = Supplement(passthrough=(FIXTURES / "cryosparc_passthrough_particles.cs",))
    with pytest.raises(PosterionError, match=r"p\.cs, row 3, field alignments3D/pose"):
        Particles.read(saved(tmp_path / "p.cs", records), supplement)


def test_real_file(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "metadata" / "cryosparc" / "cryosparc_P12_J24_001_particles.cs.gz"
    particles = Particles.read(path)
    assert len(particles) == 2019
    assert particles.box_px == 180
    write_cryosparc(tmp_path / "out.cs", particles)
    records = np.load(tmp_path / "out.cs")
    assert records.tobytes() == np.load(io.BytesIO(gzip.decompress(path.read_bytes()))).tobytes()
    vectors = Rotation.from_matrix(particles.require_poses().matrices().transpose(0, 2, 1))
    difference = (vectors * Rotation.from_rotvec(records["alignments3D/pose"]).inv()).magnitude()
    assert difference.max() < 1e-6
