"""CTFFIND's texts: fits with and without a header, rotational averages, and lines that are neither."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from posterion.cli import app
from posterion.data.ctffind import convert_ctffind, read_ctffind, read_ctffind_profiles
from posterion.data.particles import Supplement
from posterion.data.star import read_star
from posterion.errors import PosterionError

HEADER = (
    "# Output from CTFFind version 4.1.8\n# Input file: /somewhere/m.mrc ; Number of micrographs: 2\n"
    "# Pixel size: 1.327 Angstroms ; acceleration voltage: 300.0 keV ; spherical aberration: 2.70 mm ; "
    "amplitude contrast: 0.07\n"
)
FIRST = "1.000000 14477.870117 13500.001953 75.000012 0.500000 0.001071 12.144508"
SECOND = "2.000000 18332.730469 17896.296875 -84.116628 0.000000 0.006649 inf"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fits.txt"
    path.write_text(text)
    return path


def test_fits_and_header(tmp_path: Path) -> None:
    fits = read_ctffind(written(tmp_path, HEADER + FIRST + "\n" + SECOND + "\n"))
    assert fits.micrograph_names == ("000001@m.mrc", "000002@m.mrc")
    np.testing.assert_array_equal(fits.defocus_u_angstrom, [14477.870117, 18332.730469])
    np.testing.assert_array_equal(fits.defocus_angle_deg, [75.000012, -84.116628])
    assert fits.phase_shift_deg[0] == pytest.approx(28.6478898)
    assert np.isinf(fits.fit_resolution_angstrom[1])
    assert fits.optics == {
        "pixel_size_angstrom": 1.327,
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.07,
    }


def test_columns_with_names_become_micrographs(tmp_path: Path) -> None:
    source, target = written(tmp_path, f"a.mrc {FIRST}\nb.mrc {SECOND}\n"), tmp_path / "micrographs.star"
    with pytest.raises(PosterionError, match="pixel_size_angstrom"):
        convert_ctffind(source, target)
    assert not target.exists()
    convert_ctffind(source, target, Supplement(None, 1.5, 200.0, 2.7, 0.1))
    optics, micrographs = read_star(target)
    assert optics.floats("rlnVoltage").tolist() == [200.0]
    assert micrographs.column("rlnMicrographName").entries.tolist() == [b"a.mrc", b"b.mrc"]
    np.testing.assert_allclose(micrographs.floats("rlnDefocusV"), [13500.001953, 17896.296875])


def test_convert_reaches_it_from_the_command_line(tmp_path: Path) -> None:
    source, target = written(tmp_path, HEADER + FIRST + "\n"), tmp_path / "micrographs.star"
    done = CliRunner().invoke(app, ["convert", str(source), str(target)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "1 micrograph" in done.stdout
    assert read_star(target)[1].name == "micrographs"


@pytest.mark.parametrize("line", ["1.0 2.0 three 4 5 6 7", "1 2 3", "a b 1 2 3 4 5 6 7"])
def test_a_line_that_is_no_fit_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(PosterionError, match="line 5: expected 7 numbers"):
        read_ctffind(written(tmp_path, HEADER + FIRST + "\n" + line + "\n"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PosterionError, match=r"nowhere\.txt cannot be read"):
        read_ctffind(tmp_path / "nowhere.txt")


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PosterionError, match="no CTF fits"):
        read_ctffind(written(tmp_path, HEADER))


def test_profiles(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(2, 6, 2)
    text = "# six lines\n" + "\n".join(" ".join(map(str, row)) for row in values.reshape(12, 2))
    np.testing.assert_array_equal(read_ctffind_profiles(written(tmp_path, text)), values)
    with pytest.raises(PosterionError, match="6 lines"):
        read_ctffind_profiles(written(tmp_path, text + "\n1 2\n"))
    with pytest.raises(PosterionError, match="line 2: expected numbers"):
        read_ctffind_profiles(written(tmp_path, "1 2\nx 2\n"))


def test_every_public_text_parses(shared_data: Path) -> None:
    folder = shared_data / "metadata" / "ctffind"
    assert len(read_ctffind(folder / "017_ctffind4.txt").score) == 60
    assert read_ctffind(folder / "diagnostic_output.txt").defocus_u_angstrom.tolist() == [9982.50293]
    many = read_ctffind(folder / "EMPIAR-10061_ctf_1539_micrographs_ctffind_columns.txt")
    assert len(many.score) == 1539
    assert many.micrograph_names[-1] == "EMD-2984_1538.mrc"
    profiles = read_ctffind_profiles(folder / "mmm_CTF_0_avrot.txt")
    assert profiles.shape[:2] == (1, 6)
    assert profiles[0, 0, 1] == pytest.approx(0.000049)
    assert len(read_star(folder / "017_gctf.star")[0]) > 0
