import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.data.mrc import write_map
from posterion.data.particles import Supplement
from posterion.data.star import read_star
from posterion.errors import PosterionError
from posterion.micrographs.micrograph_set import micrograph_set, write_micrographs

OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnMtfFileName #7
first 7 1.25 300 2.7 0.1 k3.star
second 3 0.8 200 1.4 0.07 k2.star

# version 30001

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
_rlnAccumMotionTotal #3
Mic/a.mrc 3 12.5
Mic/b.mrc 7 8.25
Mic/c.mrc 3 3.75

"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    values: NDArray[np.float32] = np.random.default_rng(1).normal(0, 1, (1, 40, 56)).astype(np.float32)
    for name, size in (("a", 0.8), ("b", 1.25), ("c", 0.8)):
        write_map(tmp_path / "Mic" / f"{name}.mrc", values, size)
    (tmp_path / "mics.star").write_text(OPTICS)
    return tmp_path


def test_star_with_optics_groups(project: Path) -> None:
    found = micrograph_set([project / "mics.star"])
    assert len(found) == 3
    assert [path.name for path in found.paths] == ["a.mrc", "b.mrc", "c.mrc"]
    assert all(path.is_file() for path in found.paths)
    assert found.ctf is None
    first, second = found.optics_of(1), found.optics_of(0)
    assert (first.name, first.pixel_size_angstrom, first.voltage_kv) == ("first", 1.25, 300)
    assert (second.name, second.pixel_size_angstrom, second.voltage_kv) == ("second", 0.8, 200)
    assert (second.spherical_aberration_mm, second.amplitude_contrast) == (1.4, 0.07)


def test_files_with_headers_make_groups_of_pixel_size(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [project / "Mic" / f"{name}.mrc" for name in "abc"]
    found = micrograph_set(paths, Supplement(voltage_kv=200))
    assert [group.pixel_size_angstrom for group in found.optics] == [0.8, 1.25]
    np.testing.assert_array_equal(found.optics_index_i, [0, 1, 0])
    assert found.optics[0].voltage_kv == 200
    assert (found.optics[0].spherical_aberration_mm, found.optics[0].amplitude_contrast) == (2.7, 0.1)
    with caplog.at_level(logging.WARNING, "posterion"):
        given = micrograph_set(paths, Supplement(pixel_size_angstrom=1.5))
    assert [group.pixel_size_angstrom for group in given.optics] == [1.5]
    assert "a.mrc: pixel size 1.5 A is used; its header claims 0.8 A" in caplog.text
    assert len(caplog.records) == 1


def test_who_does_not_say_a_pixel_size(project: Path) -> None:
    """A PNG never gets the pixel size of an MRC beside it; an MRC that cannot be read is told when it is."""
    with pytest.raises(PosterionError, match=r"x\.png does not say its pixel size; give --pixel-size"):
        micrograph_set([project / "Mic" / "a.mrc", project / "x.png"])
    (project / "broken.mrc").touch()
    found = micrograph_set([project / "broken.mrc", project / "Mic" / "b.mrc"])
    assert [group.pixel_size_angstrom for group in found.optics] == [1.25]
    with pytest.raises(PosterionError, match=r"broken\.mrc is no MRC file: it has 0 bytes"):
        micrograph_set([project / "broken.mrc"])


def test_old_table_without_optics(project: Path) -> None:
    columns = ("rlnMicrographName", "rlnVoltage", "rlnDetectorPixelSize", "rlnMagnification")
    head = "data_\n\nloop_\n" + "".join(f"_{name}\n" for name in columns)
    (project / "old.star").write_text(head + "Mic/a.mrc 200 5 40000\nMic/b.mrc 200 5 40000\n")
    found = micrograph_set([project / "old.star"])
    assert (found.optics[0].pixel_size_angstrom, found.optics[0].voltage_kv) == (1.25, 200)
    (project / "old.star").write_text(head + "Mic/a.mrc 200 5 40000\nMic/b.mrc 300 5 40000\n")
    with pytest.raises(PosterionError, match=r"line 9, column rlnVoltage: '300' differs"):
        micrograph_set([project / "old.star"])


def test_written_table_keeps_the_source(project: Path) -> None:
    found = micrograph_set([project / "mics.star"])
    out = project / "Ctf" / "job1" / "micrographs.star"
    columns = {
        "rlnDefocusU": ["10000.0", "20000.0"],
        "rlnDefocusV": ["9000.0", "19500.0"],
        "rlnDefocusAngle": ["-30.0", "12.5"],
    }
    write_micrographs(out, found, [0, 2], columns)
    again = micrograph_set([out])
    assert again.names == ("Mic/a.mrc", "Mic/c.mrc")
    assert again.paths == found.paths[::2]
    assert again.optics == found.optics
    np.testing.assert_array_equal(again.optics_index_i, found.optics_index_i[::2])
    assert again.ctf is not None
    np.testing.assert_array_equal(again.ctf.defocus_v_angstrom_i, [9000, 19500])
    np.testing.assert_array_equal(again.ctf.defocus_angle_deg_i, [-30, 12.5])
    np.testing.assert_array_equal(again.ctf.phase_shift_deg_i, [0, 0])
    optics, table = read_star(out)
    assert optics.columns["rlnMtfFileName"].text().tolist() == [b"k3.star", b"k2.star"]
    assert table.columns["rlnAccumMotionTotal"].text().tolist() == [b"12.5", b"3.75"]


def test_a_new_ctf_leaves_nothing_of_an_old_one(project: Path) -> None:
    old = (project / "mics.star").read_text().replace("_rlnAccumMotionTotal #3", "_rlnPhaseShift #3")
    (project / "old.star").write_text(old)
    found = micrograph_set([project / "old.star"])
    write_micrographs(project / "new.star", found, [0], {"rlnDefocusU": ["1.0"], "rlnDefocusV": ["1.0"]})
    write_micrographs(project / "same.star", found, [0], {})
    assert "rlnPhaseShift" not in read_star(project / "new.star")[1].columns
    assert "rlnPhaseShift" in read_star(project / "same.star")[1].columns


def test_names_that_do_not_lead_back_become_absolute(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    monkeypatch.chdir(project)
    found = micrograph_set(["Mic/a.mrc"])
    monkeypatch.chdir(elsewhere)
    write_micrographs(elsewhere / "out.star", found, [0], {})
    assert micrograph_set([elsewhere / "out.star"]).names[0].startswith("/")


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ([], "no micrographs"),
        (["mics.star", "Mic/a.mrc"], "either one STAR file"),
        (["Mic"], "is a folder"),
        (["Mic/a.mrc", "Mic/a.mrc"], "named twice"),
        (["nothing.png"], "give --pixel-size"),
    ],
)
def test_mistakes(project: Path, sources: list[str], complaint: str) -> None:
    with pytest.raises(PosterionError, match=complaint):
        micrograph_set([project / source for source in sources])


def test_mistakes_in_a_star_file(project: Path) -> None:
    star = project / "bad.star"
    star.write_text(OPTICS.replace("Mic/c.mrc 3", "Mic/c.mrc 4"))
    with pytest.raises(PosterionError, match="column rlnOpticsGroup: '4' is not among the groups"):
        micrograph_set([star])
    star.write_text("data_particles\n\nloop_\n_rlnImageName\n_rlnMicrographName\n1@s.mrcs m.mrc\n")
    with pytest.raises(PosterionError, match="no STAR file of micrographs"):
        micrograph_set([star])
    star.write_text("data_micrographs\n\nloop_\n_rlnMicrographName #1\n")
    with pytest.raises(PosterionError, match="no micrographs in it"):
        micrograph_set([star])
