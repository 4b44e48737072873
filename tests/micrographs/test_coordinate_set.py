from pathlib import Path

import numpy as np
import pytest

from posterion.data.mrc import write_map
from posterion.data.particles import Supplement
from posterion.errors import PosterionError
from posterion.micrographs.coordinate_set import read_coordinate_set

OPTICS = (
    "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n_rlnVoltage\n_rlnSphericalAberration\n"
)
MICROGRAPHS = (
    f"{OPTICS}_rlnAmplitudeContrast\n1 1.5 300 2.7 0.1\n2 1.7 200 2.0 0.07\n\n"
    "data_micrographs\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n_rlnDefocusU\n"
    "mics/a.mrc 1 10000\nmics/b.mrc 2 20000\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "ab":
        noise = np.random.default_rng(ord(name)).standard_normal((1, 48, 56))
        write_map(tmp_path / "mics" / f"{name}.mrc", noise.astype(np.float32), 1.5)
    (tmp_path / "micrographs.star").write_text(MICROGRAPHS)
    (tmp_path / "a_pick.star").write_text("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n10 11\n12 13\n")
    (tmp_path / "b_pick.star").write_text("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n20 21\n")
    return tmp_path


def test_files_of_single_micrographs(folder: Path) -> None:
    files = [folder / "b_pick.star", folder / "a_pick.star"]
    found = read_coordinate_set(files, [folder / "micrographs.star"])
    assert found.micrograph_index_i.tolist() == [0, 0, 1]
    assert found.x_px_i.tolist() == [10, 12, 20]
    assert found.y_px_i.tolist() == [11, 13, 21]
    assert found.table.floats("rlnDefocusU").tolist() == [10000, 10000, 20000]
    assert found.table.integers("rlnOpticsGroup").tolist() == [1, 1, 2]
    assert found.rows_of(1).tolist() == [2]
    assert found.micrographs.optics_of(1).pixel_size_angstrom == 1.7


def test_box_files_in_a_folder(folder: Path) -> None:
    (folder / "boxes").mkdir()
    (folder / "boxes" / "a.box").write_text("5 6 10 10\n")
    found = read_coordinate_set([folder / "boxes"], [folder / "mics"])
    assert (found.x_px_i.tolist(), found.y_px_i.tolist()) == ([10], [11])
    with pytest.raises(PosterionError, match="does not name its micrograph"):
        read_coordinate_set([folder / "boxes"])


def test_list_of_relion_4(folder: Path) -> None:
    listed = "data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n"
    (folder / "autopick.star").write_text(f"{listed}mics/b.mrc b_pick.star\nmics/a.mrc a_pick.star\n")
    found = read_coordinate_set([folder / "autopick.star"], [folder / "micrographs.star"])
    assert found.micrograph_index_i.tolist() == [1, 0, 0]
    assert found.x_px_i.tolist() == [20, 10, 12]
    alone = read_coordinate_set([folder / "autopick.star"], supplement=Supplement(pixel_size_angstrom=1.5))
    assert alone.micrographs.names == ("mics/b.mrc", "mics/a.mrc")
    (folder / "b_pick.star").unlink()
    with pytest.raises(PosterionError, match=r"coordinate file b_pick.star does not exist"):
        read_coordinate_set([folder / "autopick.star"], [folder / "micrographs.star"])


PARTICLES = (
    "data_particles\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOpticsGroup\n_rlnDefocusU\n"
    "_rlnSomethingElse\nmics/b.mrc 20 21 2 19000 x\nmics/a.mrc 10 11 1 11000 y\nmics/b.mrc 22 23 2 18000 z\n"
)


def test_particles_that_name_their_micrographs_keep_their_columns(folder: Path) -> None:
    optics = MICROGRAPHS.split("data_micrographs", maxsplit=1)[0]
    (folder / "particles.star").write_text(optics + PARTICLES)
    for micrographs in ([], [folder / "micrographs.star"]):
        found = read_coordinate_set([folder / "particles.star"], micrographs)
        names = [found.micrographs.names[i] for i in found.micrograph_index_i]
        assert names == ["mics/b.mrc", "mics/a.mrc", "mics/b.mrc"]
        assert len(found.micrographs) == 2
        assert found.table.floats("rlnDefocusU").tolist() == [19000, 11000, 18000]  # its own go first
        assert found.table.column("rlnSomethingElse").text().tolist() == [b"x", b"y", b"z"]
        sizes = [found.micrographs.optics_of(i).pixel_size_angstrom for i in found.micrograph_index_i]
        assert sizes == [1.7, 1.5, 1.7]


def test_missing_ctf_comes_from_the_micrographs(folder: Path) -> None:
    (folder / "p.star").write_text(
        "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\nother/b.mrc 1 2\n"
    )
    found = read_coordinate_set([folder / "p.star"], [folder / "micrographs.star"])
    assert found.table.floats("rlnDefocusU").tolist() == [20000]  # found by the file's name


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "c_pick.star",
            "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n",
            "no micrograph of that name",
        ),
        ("p.star", PARTICLES.replace("a.mrc", "c.mrc"), "mics/c.mrc, which is not among"),
        ("p.star", PARTICLES.replace(" 11000 ", " "), "not STAR text|rows with too|values for"),
        (
            "p.star",
            PARTICLES.replace(" 10 11 ", " 10 q "),
            "line 10, column rlnCoordinateY: 'q' is not a number",
        ),
        ("a_pick.star", "data_\nloop_\n_rlnDefocusU\n1\n", "holds no coordinates"),
        (
            "e.star",
            "data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n",
            "no particles",
        ),
    ],
)
def test_what_cannot_be_used(folder: Path, name: str, text: str, sentence: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(PosterionError, match=sentence):
        read_coordinate_set([folder / name], [folder / "micrographs.star"])


def test_two_files_for_one_micrograph_and_none_at_all(folder: Path) -> None:
    (folder / "a_other.star").write_text((folder / "a_pick.star").read_text())
    with pytest.raises(PosterionError, match=r"are both for mics/a.mrc"):
        read_coordinate_set([folder / "a_pick.star", folder / "a_other.star"], [folder / "micrographs.star"])
    (folder / "empty").mkdir()
    with pytest.raises(PosterionError, match="holds no coordinate files"):
        read_coordinate_set([folder / "empty"], [folder / "micrographs.star"])
