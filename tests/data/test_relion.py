import logging
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posterion.data.convert import convert
from posterion.data.cryosparc import write_cryosparc
from posterion.data.mrc import read_map, write_stack
from posterion.data.particles import OpticsGroup, Particles, Poses, Supplement
from posterion.data.relion import parse_image_names, read_relion, star_tables
from posterion.data.star import read_star, write_star
from posterion.data.table import Table, TextColumn
from posterion.errors import PosterionError

FIXTURES = Path(__file__).parent / "fixtures"
ROT, TILT, PSI, OFFSET_X, OFFSET_Y, U, V, ANGLE = np.loadtxt(FIXTURES / "truth.txt").T


def edited(tmp_path: Path, *changes: tuple[str, str], name: str = "relion31.star") -> Path:
    text = (FIXTURES / name).read_bytes().decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "p.star").write_bytes(text.encode())
    return tmp_path / "p.star"


def test_relion_31() -> None:
    particles = read_relion(FIXTURES / "relion31.star")
    poses = particles.require_poses()
    assert particles.optics == (
        OpticsGroup("grid_A", 300.0, 2.7, 0.1, 1.35, 8),
        OpticsGroup("grid_B", 200.0, 1.4, 0.07, 1.35, 8),
    )
    np.testing.assert_array_equal(particles.optics_index_i, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(poses.rot_deg_i, ROT)
    np.testing.assert_array_equal(poses.tilt_deg_i, TILT)
    np.testing.assert_array_equal(poses.psi_deg_i, PSI)
    np.testing.assert_array_equal(poses.shift_x_angstrom_i, OFFSET_X)
    np.testing.assert_array_equal(poses.shift_y_angstrom_i, OFFSET_Y)
    np.testing.assert_array_equal(particles.defocus_u_angstrom_i, U)
    np.testing.assert_array_equal(particles.defocus_v_angstrom_i, V)
    np.testing.assert_array_equal(particles.defocus_angle_deg_i, ANGLE)
    np.testing.assert_array_equal(particles.phase_shift_deg_i, [0, 0, 0, 90, 90, 90])
    np.testing.assert_array_equal(particles.ctf_bfactor_i, np.arange(6) + 0.25)
    np.testing.assert_array_equal(particles.half_i, [1, 2, 1, 2, 1, 2])
    assert particles.stack_names == ("stacks/mic1.mrcs", "stacks/mic2.mrcs")
    np.testing.assert_array_equal(particles.stack_index_i, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(particles.image_index_i, [0, 1, 2, 0, 1, 2])
    assert particles.micrograph_names == ("data_1.mrc", "data_2.mrc")


def test_relion_30_becomes_what_relion_makes_of_it(tmp_path: Path) -> None:
    """Against relion_convert_star (3.1.3) on the same table."""
    ours = read_relion(FIXTURES / "relion30.star")
    theirs = read_relion(FIXTURES / "relion30_converted_by_relion.star")
    assert [replace(group, box_px=0) for group in ours.optics] == list(theirs.optics)
    np.testing.assert_array_equal(ours.optics_index_i, theirs.optics_index_i)
    for axis in ("shift_x_angstrom_i", "shift_y_angstrom_i"):
        mine, other = getattr(ours.require_poses(), axis), getattr(theirs.require_poses(), axis)
        np.testing.assert_allclose(mine, other, atol=6e-6)  # RELION writes seven characters
    ours.write_star(tmp_path / "new.star")
    written = {t.name: set(t.columns) for t in read_star(tmp_path / "new.star")}
    converted = {t.name: set(t.columns) for t in read_star(FIXTURES / "relion30_converted_by_relion.star")}
    assert written["particles"] == converted["particles"]
    assert written["optics"] - {"rlnImageDimensionality"} == converted["optics"]


@pytest.mark.parametrize("name", ["relion30.star", "relion31.star"])
def test_unknown_columns_tables_and_text_survive(name: str, tmp_path: Path) -> None:
    source = {t.name: t for t in read_star(FIXTURES / name)}
    Particles.read(FIXTURES / name).write_star(tmp_path / "out.star")
    written = {t.name: t for t in read_star(tmp_path / "out.star")}
    particles = source.pop("images") if name == "relion30.star" else source.pop("particles")
    for column, text in written["particles"].columns.items():
        if column in particles.columns:
            assert text.text().tolist() == particles.columns[column].text().tolist()
    if name == "relion31.star":
        assert list(written["particles"].columns) == list(particles.columns)
    for table, content in source.items():
        for column, text in content.columns.items():
            assert written[table].columns[column].text().tolist() == text.text().tolist()


def test_changed_values_are_written_and_only_those(tmp_path: Path) -> None:
    particles = read_relion(FIXTURES / "relion31.star")
    old = particles.require_poses()
    poses = replace(old, rot_deg_i=old.rot_deg_i + 1)
    half_i = np.array([2, 2, 2, 1, 1, 1], np.int8)
    particles = replace(particles, half_i=half_i)
    extra = {"rlnMaxValueProbDistribution": np.linspace(0, 1, 6), "labNote": ["x y"] * 6, "labCount": [1] * 6}
    particles.write_star(tmp_path / "out.star", poses, extra)
    table = read_star(tmp_path / "out.star")[1]
    again = read_relion(tmp_path / "out.star")
    np.testing.assert_allclose(again.require_poses().rot_deg_i, ROT + 1, atol=1e-6)
    np.testing.assert_array_equal(again.half_i, half_i)
    assert table.columns["labNote"].strings()[0] == ["x y"]
    assert table.columns["labCount"].text().tolist() == [b"1"] * 6
    source = read_star(FIXTURES / "relion31.star")[-1]
    for name in ("rlnAngleTilt", "rlnOriginXAngst", "rlnDefocusU", "labScore"):
        assert table.columns[name].text().tolist() == source.columns[name].text().tolist()


def test_extra_column_of_another_length() -> None:
    particles = read_relion(FIXTURES / "relion31.star")
    with pytest.raises(ValueError, match="5 values for 6 particles"):
        star_tables(particles, {"a": np.zeros(5)}, Path())


def test_any_column_order(tmp_path: Path) -> None:
    optics, general, table = read_star(FIXTURES / "relion31.star")
    columns = dict(reversed(table.columns.items()))
    write_star(tmp_path / "p.star", [replace(table, columns=columns), general, optics])
    particles = read_relion(tmp_path / "p.star")
    np.testing.assert_array_equal(particles.require_poses().psi_deg_i, PSI)
    assert [t.name for t in particles.other_tables] == ["general"]


@settings(max_examples=30)
@given(
    rows=st.lists(
        st.tuples(*[st.floats(-360, 360)] * 3, *[st.floats(-500, 500)] * 2, st.floats(-1e5, 1e5)),
        min_size=1,
        max_size=5,
    )
)
def test_any_poses_survive(rows: list[tuple[float, ...]], tmp_path: Path) -> None:
    values = np.array(rows).T
    count = len(rows)
    particles = read_relion(FIXTURES / "relion31.star")[np.zeros(count, int)]
    particles = replace(particles, defocus_u_angstrom_i=values[5])
    particles.write_star(tmp_path / "p.star", Poses(*values[:5]))
    back = read_relion(tmp_path / "p.star")
    poses = back.require_poses()
    np.testing.assert_allclose(poses.matrices(), Poses(*values[:5]).matrices(), atol=2e-8)
    np.testing.assert_allclose(poses.shift_x_angstrom_i, values[3], atol=5.1e-7)
    np.testing.assert_allclose(back.defocus_u_angstrom_i, values[5], atol=5.1e-7)
    assert len(back) == count


def test_image_names() -> None:
    column = TextColumn.of(["000012@a b/x.mrcs", "3@y.mrc:mrcs", "single.mrc", "x@y.mrcs", "0@y.mrcs"])
    names, stack_i, image_i = parse_image_names(column)
    assert [names[s] for s in stack_i] == ["a b/x.mrcs", "y.mrc:mrcs", "single.mrc", "y.mrcs", "y.mrcs"]
    np.testing.assert_array_equal(image_i, [11, 2, 0, -1, -1])


def test_table_wins_over_header_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "stacks").mkdir()
    for stack, pixel in (("mic1", 90.3), ("mic2", 0.0)):
        write_stack(tmp_path / "stacks" / f"{stack}.mrcs", np.zeros((3, 8, 8), np.float32), pixel)
    with caplog.at_level(logging.WARNING, "posterion"):
        particles = read_relion(edited(tmp_path))
    assert particles.pixel_size_angstrom == 1.35
    assert "pixel size 1.35 A is used" in caplog.text
    assert "claims 90.3 A" in caplog.text
    assert "claims no pixel size" in caplog.text


def test_header_stands_in_for_missing_pixel_and_box(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "stacks").mkdir()
    for stack in ("mic1", "mic2"):
        write_stack(tmp_path / "stacks" / f"{stack}.mrcs", np.zeros((3, 10, 10), np.float32), 2.5)
    path = edited(tmp_path, ("_rlnImagePixelSize", "_labPixel"), ("_rlnImageSize", "_labSize"))
    with caplog.at_level(logging.WARNING, "posterion"):
        particles = read_relion(path)
    assert (particles.pixel_size_angstrom, particles.box_px) == (2.5, 10)
    assert "2.5 A is used" in caplog.text
    assert read_relion(path, Supplement(pixel_size_angstrom=3.0)).pixel_size_angstrom == 3.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ([("_rlnImageName", "_x")], "column rlnImageName is missing, so this is a file of micrographs"),
        ([("_rlnDefocusU", "_x")], "column rlnDefocusU is missing; it has"),
        ([("_rlnVoltage", "_x")], "table data_optics: column rlnVoltage is missing"),
        (
            [("20308", "x"), ("10308.830000", "abc")][1:],
            r"line 53, column rlnDefocusU: 'abc' is not a number",
        ),
        ([("10308.830000", "nan")], r"line 53, column rlnDefocusU: 'nan' is not a finite number"),
        ([("0.91 2 data", "0.91 3 data")], "line 51, column rlnRandomSubset: '3' is no half set"),
        (
            [("-0.373900 000001@", "-0.373900 000000@")],
            "line 53, column rlnImageName: '000000@stacks/mic2.mrcs'",
        ),
        ([("0.313500 3 ", "0.313500 4 ")], "line 53, column rlnOpticsGroup: '4' is not among the groups"),
        ([("_rlnImagePixelSize", "_x")], "the pixel size is unknown.*--pixel-size"),
    ],
)
def test_bad_tables(changes: list[tuple[str, str]], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(PosterionError, match=complaint):
        read_relion(edited(tmp_path, *changes))


def test_line_numbers_in_crlf_files(tmp_path: Path) -> None:
    path = edited(tmp_path, ("10308.830000", "abc"), name="relion30.star")
    line = (
        path.read_text().splitlines().index(next(t for t in path.read_text().splitlines() if "abc" in t)) + 1
    )
    with pytest.raises(PosterionError, match=f"line {line}, column rlnDefocusU: 'abc'"):
        read_relion(path)


def test_pixels_without_pixel_size(tmp_path: Path) -> None:
    path = edited(tmp_path, ("_rlnMagnification", "_x"), name="relion30.star")
    with pytest.raises(PosterionError, match="rlnOriginX is in pixels, but no column gives the pixel size"):
        read_relion(path)
    poses = read_relion(path, Supplement(pixel_size_angstrom=2.0)).require_poses()
    np.testing.assert_allclose(poses.shift_x_angstrom_i, 2 * OFFSET_X)


def test_no_particles(tmp_path: Path) -> None:
    write_star(tmp_path / "p.star", [Table.of("particles", {"rlnImageName": []})])
    with pytest.raises(PosterionError, match="there are no particles in it"):
        read_relion(tmp_path / "p.star")


def test_missing_amplitude_contrast_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "posterion"):
        particles = read_relion(edited(tmp_path, ("_rlnAmplitudeContrast", "_x"), name="relion30.star"))
    assert particles.optics[0].amplitude_contrast == 0.0
    assert "no rlnAmplitudeContrast; 0 is used" in caplog.text


def test_stack_that_moved(tmp_path: Path) -> None:
    write_stack(tmp_path / "other.mrcs", np.ones((3, 8, 8), np.float32), 1.35)
    path = edited(tmp_path, ("stacks/mic2.mrcs", "stacks/mic1.mrcs"))
    particles = read_relion(path, Supplement(stack=tmp_path / "other.mrcs"))
    assert particles.images().shape == (6, 8, 8)
    with pytest.raises(PosterionError, match="names 2 stacks"):
        read_relion(FIXTURES / "relion31.star", Supplement(stack=tmp_path / "other.mrcs"))


def test_real_particle_sets(shared_data: Path, tmp_path: Path) -> None:
    counts = {
        "metadata/relion/ap_s_c2d.star.gz": 8915,
        "metadata/relion/FinalRefinement-OriginalParticles-PfCRT.star": 5,
        "metadata/relion/relion31.6opticsgroups.star": 139,
        "small_stacks/aspire_sample/sample_relion_data.star": 18,
        "small_stacks/cryojax_trpv1/trpv1_small_stack.star": 10,
        "betagal/particles.star": 101,
    }
    for name, count in counts.items():
        particles = read_relion(shared_data / name)
        assert len(particles) == count
        particles.write_star(tmp_path / "out.star")
        again = read_relion(tmp_path / "out.star")
        np.testing.assert_array_equal(again.defocus_u_angstrom_i, particles.defocus_u_angstrom_i)
        assert again.optics == particles.optics
    assert particles.images(range(3)).shape == (3, 192, 192)


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")
@pytest.mark.parametrize("suffix", [".mrcs", ".mrc"])
def test_relion_reads_what_we_write(suffix: str, tmp_path: Path) -> None:
    """A set made in memory and the same by way of .cs, whose stacks are called .mrc."""
    images = np.random.default_rng(0).normal(size=(6, 8, 8)).astype(np.float32)
    particles = read_relion(FIXTURES / "relion31.star")[[0, 1, 2]]
    write_stack(tmp_path / f"s{suffix}", images[:3], 1.35)
    particles = replace(particles, stack_names=(f"s{suffix}",), stack_paths=(tmp_path / f"s{suffix}",))
    write_cryosparc(tmp_path / "p.cs", particles)
    convert(tmp_path / "p.cs", tmp_path / "p.star")
    command = ["relion_reconstruct", "--i", "p.star", "--o", "map.mrc", "--ctf"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    values, pixel_size = read_map(tmp_path / "map.mrc")
    assert values.shape == (8, 8, 8)
    assert pixel_size == 1.35
    assert values.std() > 0


def test_effects_that_are_not_corrected_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Zernike lists and matrices; a magnification of one and coefficients of zero are no effect."""
    for values, complaint in (
        (("rlnOddZernike", "[0.1,-0.2,0,0,0,1.5]"), "p.star: rlnOddZernike are kept but not corrected for"),
        (("rlnOddZernike", "[0,0,-0.0,0,0,0e3]"), ""),
        (("rlnCtfDataAreCtfPremultiplied", "1"), "rlnCtfDataAreCtfPremultiplied are kept but not"),
        (("rlnMagMat00", "1.0000"), "p.star: rlnMagMat00 are"),  # the other group's is [0,0,0,0,0,0]
    ):
        caplog.clear()
        name, text = values
        with caplog.at_level(logging.WARNING, "posterion"):
            read_relion(edited(tmp_path, ("rlnOddZernike", name), ("[0.1,-0.2,0,0,0,1.5]", text)))
        assert complaint in caplog.text
        assert bool(complaint) == ("corrected" in caplog.text)
