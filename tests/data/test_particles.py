import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.data import mrc
from posterion.data.mrc import write_stack
from posterion.data.particles import OpticsGroup, Particles, Poses
from posterion.errors import PosterionError

FIXTURES = Path(__file__).parent / "fixtures"
RNG = np.random.default_rng(3)
IMAGES = RNG.normal(size=(6, 8, 8)).astype(np.float32)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Folder with the STAR fixture and its two stacks."""
    (tmp_path / "stacks").mkdir()
    write_stack(tmp_path / "stacks" / "mic1.mrcs", IMAGES[:3], 1.35)
    write_stack(tmp_path / "stacks" / "mic2.mrcs", IMAGES[3:].astype(np.float16), 1.35)
    (tmp_path / "p.star").write_text((FIXTURES / "relion31.star").read_text())
    return tmp_path


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.concatenate([IMAGES[:3], IMAGES[3:].astype(np.float16).astype(np.float32)])


def test_images_in_any_order(project: Path, images: NDArray[np.float32]) -> None:
    particles = Particles.read(project / "p.star")
    np.testing.assert_array_equal(particles.images(), images)
    np.testing.assert_array_equal(particles.images([5, 0, 5, 2]), images[[5, 0, 5, 2]])
    np.testing.assert_array_equal(particles.images(particles.half_i == 2), images[1::2])
    assert particles.images([]).shape == (0, 8, 8)
    assert particles.images().dtype == np.float32


def test_batches_run_through_the_files_in_order(project: Path, images: NDArray[np.float32]) -> None:
    particles = Particles.read(project / "p.star")[[5, 0, 3, 1, 4, 2]]
    seen, before = [], threading.enumerate()
    for indices, batch in particles.batches(4):
        np.testing.assert_array_equal(batch, particles.images(indices))
        seen += indices.tolist()
    assert seen == [1, 3, 5, 2, 4, 0]
    assert list(particles[:0].batches(4)) == []
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in left if thread.name.startswith("read-ahead")]


def test_error_while_reading_ahead_is_raised(project: Path) -> None:
    particles = Particles.read(project / "p.star")
    (project / "stacks" / "mic2.mrcs").unlink()
    with pytest.raises(PosterionError, match="does not exist"):
        list(particles.batches(3))


def test_contrast_sign_multiplies(project: Path, images: NDArray[np.float32]) -> None:
    sign_i = np.array([1, -1, 1, 1, -1, -1], np.int8)
    particles = replace(Particles.read(project / "p.star"), contrast_sign_i=sign_i)
    np.testing.assert_array_equal(particles.images([1, 2]), images[[1, 2]] * [[[-1]], [[1]]])
    assert particles[4:].contrast_sign_i is not None
    np.testing.assert_array_equal(particles[4:].images(), -images[4:])


def test_stacks_are_found_from_parents_and_current_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = project / "Refine3D" / "job001"
    job.mkdir(parents=True)
    (project / "p.star").rename(job / "p.star")
    assert Particles.read(job / "p.star").images().shape == (6, 8, 8)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (job / "p.star").rename(elsewhere / "p.star")
    with pytest.raises(
        PosterionError, match=r"line 50.*stacks/mic1.mrcs' does not exist; looked in .*elsewhere"
    ):
        Particles.read(elsewhere / "p.star").images()
    monkeypatch.chdir(project)
    assert Particles.read(elsewhere / "p.star").images().shape == (6, 8, 8)


def test_written_elsewhere_stacks_are_still_found(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    particles = Particles.read(project / "p.star")
    particles.write_star(project / "beside.star")
    assert Particles.read(project / "beside.star").stack_names == particles.stack_names
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    particles[3:].write_star(elsewhere / "q.star")
    again = Particles.read(elsewhere / "q.star")
    np.testing.assert_array_equal(again.images(), particles.images()[3:])
    assert all(Path(name).is_absolute() for name in again.stack_names)


def test_selection_cuts_every_column(project: Path) -> None:
    particles = Particles.read(project / "p.star")
    for selection in (2, -1, slice(1, 4), [3, 1], particles.half_i == 1):
        part = particles[selection]
        rows = np.atleast_1d(np.arange(6)[selection])
        assert len(part) == len(rows)
        np.testing.assert_array_equal(part.defocus_u_angstrom_i, particles.defocus_u_angstrom_i[rows])
        np.testing.assert_array_equal(
            part.require_poses().matrices(), particles.require_poses().matrices()[rows]
        )
        np.testing.assert_array_equal(part.images(), particles.images(rows))
    with pytest.raises(IndexError, match="there are 6"):
        particles[6]
    with pytest.raises(IndexError, match="mask of 2 for 6"):
        particles[np.array([True, False])]


def test_image_number_out_of_range(project: Path) -> None:
    write_stack(project / "stacks" / "mic2.mrcs", IMAGES[3:5], 1.35)
    particles = Particles.read(project / "p.star")
    complaint = (
        r"p\.star, line 55, column rlnImageName: image number 3 is out of range, .*mic2\.mrcs has 2 images"
    )
    for chosen in (particles, particles[4:]):
        with pytest.raises(PosterionError, match=complaint):
            chosen.images()


def test_truncated_stack(project: Path) -> None:
    path = project / "stacks" / "mic1.mrcs"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        PosterionError, match=r"mic1\.mrcs is truncated: .* need 1792 bytes, the file has 1791"
    ):
        Particles.read(project / "p.star").images()


def test_stack_of_another_box(project: Path) -> None:
    write_stack(project / "stacks" / "mic2.mrcs", np.zeros((3, 10, 10), np.float32), 1.35)
    with pytest.raises(
        PosterionError, match=r"line 53: images of .*mic2\.mrcs are 10 x 10 .* 'grid_B' says 8"
    ):
        Particles.read(project / "p.star").images()


def test_two_boxes_or_pixel_sizes(project: Path) -> None:
    particles = Particles.read(project / "p.star")
    first, second = particles.optics
    two_boxes = replace(particles, optics=(first, replace(second, box_px=10)))
    with pytest.raises(PosterionError, match="two box sizes, 8 and 10 pixels"):
        two_boxes.images()
    assert two_boxes[:3].box_px == 8
    two_pixels = replace(particles, optics=(first, replace(second, pixel_size_angstrom=1.4)))
    with pytest.raises(PosterionError, match=r"two pixel sizes, 1\.35 and 1\.4"):
        _ = two_pixels.pixel_size_angstrom


def test_no_poses_and_no_halves(project: Path) -> None:
    text = (project / "p.star").read_text().replace("_rlnAnglePsi", "_x").replace("_rlnRandomSubset", "_y")
    (project / "p.star").write_text(text)
    particles = Particles.read(project / "p.star")
    assert particles.poses is None
    assert not particles.half_i.any()
    with pytest.raises(PosterionError, match="has no poses: columns rlnAngleRot"):
        particles.require_poses()


def test_halves_are_given_where_there_are_any(project: Path) -> None:
    np.testing.assert_array_equal(Particles.read(project / "p.star").half_i, [1, 2, 1, 2, 1, 2])


def test_thousands_of_stacks_keep_few_open(tmp_path: Path) -> None:
    count = 300
    rows = []
    for k in range(count):
        write_stack(tmp_path / f"{k}.mrcs", np.full((1, 4, 4), k, np.float32), 1.0)
        rows.append(f"1@{k}.mrcs 10000 1")
    optics = (
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
    )
    optics += "_rlnImagePixelSize\n_rlnImageSize\n1 300 2.7 0.1 1.0 4\n"
    columns = "data_particles\nloop_\n_rlnImageName\n_rlnDefocusU\n_rlnOpticsGroup\n"
    (tmp_path / "p.star").write_text(optics + columns + "\n".join(rows) + "\n")
    images = Particles.read(tmp_path / "p.star").images()
    np.testing.assert_array_equal(images[:, 0, 0], np.arange(count))
    assert mrc._open_stack.cache_info().currsize <= 64


def test_poses_survive_matrices() -> None:
    angles = RNG.uniform(-180, 180, (3, 50))
    angles[1] = np.abs(angles[1])
    angles[1, :3] = 0, 180, 90
    shifts = RNG.normal(size=(50, 2))
    poses = Poses(*angles, *shifts.T)
    again = Poses.from_matrices(poses.matrices(), shifts)
    np.testing.assert_allclose(again.matrices(), poses.matrices(), atol=1e-9)
    np.testing.assert_array_equal(again.shift_y_angstrom_i, shifts[:, 1])
    assert len(poses[3:7]) == 4


def test_made_in_memory_written_and_read(tmp_path: Path) -> None:
    write_stack(tmp_path / "s.mrcs", IMAGES, 2.0)
    zeros = np.zeros(6)
    particles = Particles(
        optics=(OpticsGroup("one", 300.0, 2.7, 0.1, 2.0, 8),),
        optics_index_i=np.zeros(6, np.int32),
        stack_paths=(tmp_path / "s.mrcs",),
        stack_names=("s.mrcs",),
        stack_index_i=np.zeros(6, np.int32),
        image_index_i=np.arange(6),
        defocus_u_angstrom_i=zeros + 15000,
        defocus_v_angstrom_i=zeros + 14000,
        defocus_angle_deg_i=zeros + 30,
        phase_shift_deg_i=zeros,
        ctf_bfactor_i=zeros,
        ctf_scale_i=zeros + 1,
        micrograph_names=("m.mrc",),
        micrograph_index_i=np.zeros(6, np.int32),
        half_i=np.array([1, 2, 1, 2, 1, 2], np.int8),
        poses=Poses(zeros, zeros, zeros + 10, zeros + 1.5, zeros - 2.5),
    )
    particles.write_star(tmp_path / "p.star")
    again = Particles.read(tmp_path / "p.star")
    assert again.optics == particles.optics
    np.testing.assert_array_equal(again.images(), IMAGES)
    np.testing.assert_array_equal(again.require_poses().shift_x_angstrom_i, zeros + 1.5)
    assert again.micrograph_names == ("m.mrc",)
    assert particles.place(2) == "particle 3"


def test_missing_file() -> None:
    with pytest.raises(PosterionError, match=r"nowhere\.star cannot be read: No such file"):
        Particles.read("nowhere.star")
