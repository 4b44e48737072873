from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posterion.data.mrc import open_stack, write_map
from posterion.data.output_folder import open_folder
from posterion.data.particles import Particles, Supplement
from posterion.errors import PosterionError
from posterion.micrographs.extract_run import extract
from posterion.micrographs.extraction import ExtractOptions

OPTIONS = ExtractOptions(16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two micrographs of different sizes, with CTF, and coordinates, one of them at an edge."""
    for name, shape in (("a", (60, 70)), ("b", (80, 64))):
        rng = np.random.default_rng(ord(name))
        values = (100 + 7 * rng.standard_normal(shape)).astype(np.float32)
        values[30, 40] += 200
        write_map(tmp_path / f"{name}.mrc", values[None], 2.0)
    (tmp_path / "picks.star").write_text(
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n_rlnVoltage\n_rlnSphericalAberration\n"
        "_rlnAmplitudeContrast\n1 2.0 300 2.7 0.1\n\ndata_particles\nloop_\n_rlnMicrographName\n"
        "_rlnCoordinateX\n_rlnCoordinateY\n_rlnOpticsGroup\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
        "_rlnAutopickFigureOfMerit\na.mrc 40 30 1 10000 9000 10 7.5\nb.mrc 40 30 1 20000 19000 20 6.5\n"
        "a.mrc 5 30 1 10000 9000 10 5.5\nb.mrc 20.4 31.3 1 20000 19000 20 4.5\n"
    )
    return tmp_path


def test_particles_ready_for_refinement(folder: Path) -> None:
    result = extract([folder / "picks.star"], folder / "out", OPTIONS)
    assert (result.count, result.at_edge, result.outside, result.failures) == (3, 1, 0, ())
    particles = Particles.read(result.particles_path)
    assert particles.box_px == 16
    assert particles.pixel_size_angstrom == 2.0
    assert particles.defocus_u_angstrom_i.tolist() == [10000, 20000, 20000]
    assert particles.defocus_angle_deg_i.tolist() == [10, 20, 20]
    assert particles.table is not None
    images = particles.images()
    assert np.unravel_index(images[0].argmin(), (16, 16)) == (8, 8)  # bright in the micrograph: inverted
    y, x = np.mgrid[:16, :16] - 8
    outside = np.hypot(x, y) > 6
    np.testing.assert_allclose(images[:, outside].std(1), 1, atol=1e-4)
    assert images.dtype == np.float32
    table = Particles.read(result.particles_path).table
    assert table is not None
    assert "rlnAutopickFigureOfMerit" in result.particles_path.read_text()


def test_options_reach_the_images(folder: Path) -> None:
    plain = Particles.read(extract([folder / "picks.star"], folder / "p", OPTIONS).particles_path).images()
    kept = extract([folder / "picks.star"], folder / "k", ExtractOptions(16, keep_contrast=True))
    np.testing.assert_array_equal(Particles.read(kept.particles_path).images(), -plain)
    small = extract(
        [folder / "picks.star"], folder / "s", ExtractOptions(16, bin_to_angstrom=4.1, float16=True)
    )
    assert (small.boxes_px, small.pixel_sizes_angstrom) == ((8,), (4.0,))
    read = Particles.read(small.particles_path)
    assert (read.box_px, read.pixel_size_angstrom) == (8, 4.0)
    assert open_stack(read.stack_paths[0]).dtype == np.float16


def test_same_bits_for_any_threads_and_a_second_run_does_nothing(folder: Path) -> None:
    one = extract([folder / "picks.star"], folder / "one", OPTIONS, threads=1)
    two = extract([folder / "picks.star"], folder / "two", OPTIONS, threads=2)
    stacks = [(folder / run / "Particles" / "b.mrcs").read_bytes() for run in ("one", "two")]
    assert stacks[0] == stacks[1]
    before = (folder / "one" / "Particles" / "b.mrcs").stat().st_mtime_ns
    again = extract([folder / "picks.star"], folder / "one", OPTIONS, threads=1)
    assert (one.resumed, two.resumed, again.resumed, again.count) == (0, 0, 2, 3)
    assert (folder / "one" / "Particles" / "b.mrcs").stat().st_mtime_ns == before


def test_bad_micrographs_are_named_and_the_others_go_on(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = (folder / "picks.star").read_text()
    (folder / "picks.star").write_text(
        text.replace("a.mrc 40 30", "a.mrc 400 30").replace("a.mrc 5 30", "a.mrc -9 30")
    )
    result = extract([folder / "picks.star"], folder / "out", OPTIONS)
    assert [failure.name for failure in result.failures] == ["a.mrc"]
    assert (
        "2 of 2 coordinates lie outside the micrograph of 70 x 60 pixels (x up to 400"
        in result.failures[0].reason
    )
    assert result.count == 2


def test_box_larger_than_a_micrograph(folder: Path) -> None:
    write_map(folder / "a.mrc", np.random.default_rng(1).standard_normal((1, 40, 40)), 2.0)
    result = extract([folder / "picks.star"], folder / "out", ExtractOptions(46))
    assert result.count == 1
    assert "a.mrc: a box of 46 pixels is larger than the micrograph of 40 x 40" in result.failures[0].reason
    with pytest.raises(
        PosterionError, match=r"no particles could be extracted from 2 micrographs; the first: .*a.mrc"
    ):
        extract([folder / "picks.star"], folder / "none", ExtractOptions(90))
    assert not (folder / "none" / "particles.star").exists()


def test_without_ctf_it_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "p.star").write_text(
        "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\na.mrc 30 30\n"
    )
    extract([folder / "p.star"], folder / "out", OPTIONS, [folder / "a.mrc"])
    assert "the particles have no CTF" in caplog.text


def test_real_particles_are_those_of_the_data_readme(shared_data: Path, tmp_path: Path) -> None:
    """Windows around recentred picks, cut here from the PNG: inverted, divided by the ring's deviation."""
    source = shared_data / "apoferritin"
    rows = [line.split(",") for line in (source / "recentred_picks.csv").read_text().splitlines()[1:40]]
    rows = [row for row in rows if row[1].endswith(".0") and row[2].endswith(".0")]
    header = "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n"
    (tmp_path / "p.star").write_text(header + "".join(f"{' '.join(row)}\n" for row in rows))
    options = ExtractOptions(128, diameter_angstrom=156.0, remove_ramp=False)
    micrographs = sorted({source / row[0] for row in rows})
    result = extract(
        [tmp_path / "p.star"], tmp_path / "out", options, micrographs, Supplement(pixel_size_angstrom=1.5)
    )
    stack = np.concatenate(
        [np.array(open_stack(p)) for p in sorted((tmp_path / "out" / "Particles").iterdir())]
    )
    y, x = np.mgrid[:128, :128] - 64
    ring, number = np.hypot(x, y) > 52, 0
    for name, column, row in rows:
        grey = np.array(Image.open(source / name)).astype(np.float64)
        first_y, first_x = int(float(row)) - 64, int(float(column)) - 64
        if min(first_x, first_y) < 0 or first_x + 128 > grey.shape[1] or first_y + 128 > grey.shape[0]:
            continue
        window = -grey[first_y : first_y + 128, first_x : first_x + 128]
        np.testing.assert_allclose(
            stack[number], (window - window[ring].mean()) / window[ring].std(), atol=1e-5
        )
        number += 1
    assert number == result.count > 10


def test_its_own_table_is_not_read_and_replaced(folder: Path) -> None:
    made = extract([folder / "picks.star"], folder / "out", OPTIONS)
    before = made.particles_path.read_bytes()
    with pytest.raises(PosterionError, match=r"particles.star is read by this run, which would replace it"):
        extract([made.particles_path], folder / "out", OPTIONS)
    assert made.particles_path.read_bytes() == before
    for name in ("a.mrc", "b.mrc"):
        (folder / name).write_bytes(b"")
    with pytest.raises(PosterionError, match=r"no particles could be extracted from 2 micrographs; the fir"):
        extract([folder / "picks.star"], folder / "out", OPTIONS)
    left = sorted(path.name for path in (folder / "out").rglob("*") if path.is_file())
    assert left == ["run.log", "summary.json"]


def test_micrographs_on_a_disk_that_is_away_keep_their_particles(folder: Path) -> None:
    made = extract([folder / "picks.star"], folder / "out", OPTIONS)
    before = made.particles_path.read_bytes()
    for name in ("a", "b"):
        (folder / f"{name}.mrc").rename(folder / f"{name}.away")
    with pytest.raises(
        PosterionError, match=r"none of 2 micrographs can be opened; the first: .*a.mrc cannot"
    ):
        extract([folder / "picks.star"], folder / "out", OPTIONS)
    assert made.particles_path.read_bytes() == before
    (folder / "b.away").rename(folder / "b.mrc")
    result = extract([folder / "picks.star"], folder / "out", OPTIONS)
    assert (result.count, [failure.name for failure in result.failures]) == (2, ["a.mrc"])
    (folder / "a.away").rename(folder / "a.mrc")
    again = extract([folder / "picks.star"], folder / "out", OPTIONS)
    assert (again.count, again.resumed) == (3, 2)
    assert made.particles_path.read_bytes() == before


def test_one_process_at_a_time(folder: Path) -> None:
    with open_folder(folder / "out"), pytest.raises(PosterionError, match="another process is working"):
        extract([folder / "picks.star"], folder / "out", OPTIONS)
    assert not list((folder / "out").iterdir())
