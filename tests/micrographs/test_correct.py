"""Micrographs with their CTF undone: by the formula, of any shape, listed as what they are now."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.data.mrc import read_map, write_map
from posterion.data.output_folder import open_folder
from posterion.data.star import read_star, write_star
from posterion.data.table import Table
from posterion.errors import PosterionError
from posterion.mapping.correct import Correction
from posterion.micrographs.correct import correct_micrograph, correct_micrographs
from posterion.micrographs.micrograph_set import micrograph_set
from posterion.physics.ctf import contrast_transfer
from posterion.physics.ctf_correction import SnrSpectrum, half_spectrum_frequencies

OPTICS = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
PIXEL = 3.0
DEFOCUS = [12000.0, 15000.0, 19000.0]


def ctf_values(fx: NDArray[np.float64], fy: NDArray[np.float64], defocus: float) -> NDArray[np.float32]:
    return contrast_transfer(fx, fy, defocus, defocus - 500, 20.0, **OPTICS)[0]


def seen_through_ctf(shape: tuple[int, int], defocus: float, seed: int, noise: float) -> tuple:
    """A specimen that is white up to 10 A, and its micrograph."""
    rng = np.random.default_rng(seed)
    fx, fy = (f.reshape(shape[0], -1) for f in half_spectrum_frequencies(shape, PIXEL))
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * (np.hypot(fx, fy) < 0.1)
    specimen = np.fft.irfft2(spectrum, s=shape)
    ctf = ctf_values(fx.ravel(), fy.ravel(), defocus).reshape(fx.shape)
    image = np.fft.irfft2(spectrum * ctf, s=shape) + noise * rng.standard_normal(shape) + 50
    return specimen, image.astype(np.float32)


@pytest.fixture
def star(tmp_path: Path) -> Path:
    """Three micrographs that are not square."""
    for number, defocus in enumerate(DEFOCUS):
        image = seen_through_ctf((250, 311), defocus, number, 0.1)[1]
        write_map(tmp_path / f"m{number}.mrc", image[None], PIXEL)
    return listed(tmp_path, [f"m{number}.mrc" for number in range(3)])


def listed(folder: Path, names: list[str]) -> Path:
    optics = {
        "rlnOpticsGroupName": ["og"],
        "rlnOpticsGroup": ["1"],
        "rlnMicrographPixelSize": ["3.0"],
        "rlnVoltage": ["300"],
        "rlnSphericalAberration": ["2.7"],
        "rlnAmplitudeContrast": ["0.1"],
    }
    rows = {
        "rlnMicrographName": names,
        "rlnOpticsGroup": ["1"] * len(names),
        "rlnDefocusU": [f"{value:.1f}" for value in DEFOCUS],
        "rlnDefocusV": [f"{value - 500:.1f}" for value in DEFOCUS],
        "rlnDefocusAngle": ["20.0"] * len(names),
    }
    write_star(folder / "in.star", [Table.of("optics", optics), Table.of("micrographs", rows)])
    return folder / "in.star"


@pytest.mark.parametrize("shape", [(120, 151), (131, 90)])
def test_specimen_comes_back(shape: tuple[int, int]) -> None:
    """Without noise and with a tiny k the Wiener filter undoes the CTF; the mean stays."""
    specimen, image = seen_through_ctf(shape, 14000.0, 3, 0.0)
    made = correct_micrograph(
        image, PIXEL, lambda fx, fy: ctf_values(fx, fy, 14000.0), Correction("wiener", k=1e-6)
    )
    assert np.corrcoef(made.ravel(), specimen.ravel())[0, 1] > 0.99
    assert np.corrcoef(image.ravel(), specimen.ravel())[0, 1] < 0.7
    assert made.mean() == pytest.approx(50, abs=0.01)


def test_flipped_micrographs_and_their_star(star: Path, tmp_path: Path) -> None:
    made = correct_micrographs(micrograph_set([star]), tmp_path / "out", Correction("phase-flip"), threads=1)
    assert made.failures == ()
    assert [path.name for path in made.paths.values()] == ["m0.mrc", "m1.mrc", "m2.mrc"]
    optics, table = read_star(made.star_path)
    assert optics.integers("rlnCtfDataArePhaseFlipped").tolist() == [1]
    np.testing.assert_array_equal(table.floats("rlnDefocusU"), DEFOCUS)
    image, flipped = read_map(tmp_path / "m1.mrc")[0][0], read_map(made.paths[1])[0][0]
    assert flipped.shape == (250, 311)
    for ky, kx in [(3, 20), (200, 45), (0, 31), (77, 80)]:
        fx, fy = kx / 311 / PIXEL, (ky - 250 * (ky > 125)) / 250 / PIXEL
        sign = np.sign(ctf_values(np.array([fx]), np.array([fy]), DEFOCUS[1])[0])
        ratio = np.fft.rfft2(flipped)[ky, kx] / np.fft.rfft2(image)[ky, kx]
        assert ratio == pytest.approx(sign, abs=0.01)
    with pytest.raises(PosterionError, match="phase flipped already"):
        correct_micrographs(micrograph_set([made.star_path]), tmp_path / "b", Correction("phase-flip"))


def test_measured_snr_and_a_ctf_of_one(star: Path, tmp_path: Path) -> None:
    """The specimen of the set ends at 10 A: so does the SNR, which is 1/0.01 before."""
    made = correct_micrographs(micrograph_set([star]), tmp_path / "out", Correction("wiener"), threads=1)
    snr = SnrSpectrum.read(tmp_path / "out" / "snr.tsv")
    inside = (snr.frequency_s > 0.05) & (snr.frequency_s < 0.09)
    assert 30 < np.median(snr.snr_s[inside]) < 250
    assert (snr.snr_s[snr.frequency_s > 0.115] < 0.05).all()
    again = micrograph_set([made.star_path])
    optics, ctf = again.optics[0], again.ctf
    assert ctf is not None
    assert (optics.spherical_aberration_mm, optics.amplitude_contrast) == (0.0, 1.0)
    np.testing.assert_array_equal(ctf.defocus_u_angstrom_i, 0)


def test_bad_micrographs_are_named_and_the_others_go_on(star: Path, tmp_path: Path) -> None:
    (tmp_path / "m1.mrc").write_bytes((tmp_path / "m1.mrc").read_bytes()[:5000])
    made = correct_micrographs(micrograph_set([star]), tmp_path / "out", Correction("wiener", k=0.1))
    assert [(index, path.stem) for index, path in made.paths.items()] == [(0, "m0"), (2, "m2")]
    assert [failure.name for failure in made.failures] == ["m1.mrc"]
    assert "m1.mrc is truncated" in made.failures[0].reason
    assert len(read_star(made.star_path)[1]) == 2
    for number in (0, 2):
        (tmp_path / f"m{number}.mrc").unlink()
    assert list(json.loads((tmp_path / "out" / "summary.json").read_text())["failures"]) == ["m1.mrc"]
    with pytest.raises(PosterionError, match="none of 3 micrographs can be corrected; the first: "):
        correct_micrographs(micrograph_set([star]), tmp_path / "none", Correction("phase-flip"))


def test_a_ctf_is_needed(tmp_path: Path) -> None:
    write_map(tmp_path / "m.mrc", np.random.default_rng(0).standard_normal((1, 64, 64)), PIXEL)
    with pytest.raises(PosterionError, match="run 'posterion ctf'"):
        correct_micrographs(micrograph_set([tmp_path / "m.mrc"]), tmp_path / "out", Correction("phase-flip"))


def test_the_source_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "micrographs"
    folder.mkdir()
    for number in range(3):
        image = seen_through_ctf((64, 64), DEFOCUS[number], number, 0.1)[1]
        write_map(folder / f"m{number}.mrc", image[None], PIXEL)
    before = (folder / "m0.mrc").read_bytes()
    star = listed(tmp_path, [f"micrographs/m{number}.mrc" for number in range(3)])
    with pytest.raises(PosterionError, match=r"m0.mrc is a micrograph, which this run would replace"):
        correct_micrographs(micrograph_set([star]), tmp_path, Correction("phase-flip"))
    assert (folder / "m0.mrc").read_bytes() == before


def test_the_folder_of_another_run_is_left_alone(star: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", micrograph_set([star])
    correct_micrographs(source, out, Correction("phase-flip"), threads=1)
    summary = {"command": "correct", "of": "micrographs", "how": "phase-flip", "k": None, "micrographs": 3}
    assert json.loads((out / "summary.json").read_text()) == summary | {"failures": {}}
    with pytest.raises(PosterionError, match=r"out.micrographs.star is read by this run"):
        correct_micrographs(micrograph_set([out / "micrographs.star"]), out, Correction("wiener", k=0.1))
    (out / "summary.json").write_text('{"command": "ctf"}')
    before = (out / "micrographs.star").read_bytes()
    with pytest.raises(PosterionError, match="not of 'posterion correct' of micrographs"):
        correct_micrographs(source, out, Correction("phase-flip"))
    assert (out / "micrographs.star").read_bytes() == before


def test_a_stopped_call_goes_on(star: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = correct_micrographs(micrograph_set([star]), out, Correction("wiener", k=0.1))
    for path in first.paths.values():
        os.utime(path, (10, 10))  # long ago: a clock of files may not tell two writings of one second apart
    first.paths[1].unlink()
    correct_micrographs(micrograph_set([star]), out, Correction("wiener", k=0.1))
    assert [path.stat().st_mtime == 10 for path in first.paths.values()] == [True, False, True]
    (out / "snr.tsv").touch()
    correct_micrographs(micrograph_set([star]), out, Correction("wiener", k=0.2))
    assert not (out / "snr.tsv").exists()
    assert all(path.stat().st_mtime > 10 for path in first.paths.values())


def test_one_process_at_a_time(star: Path, tmp_path: Path) -> None:
    with open_folder(tmp_path / "out"), pytest.raises(PosterionError, match="another process is working"):
        correct_micrographs(micrograph_set([star]), tmp_path / "out", Correction("phase-flip"))
    assert not list((tmp_path / "out").iterdir())


def test_a_spectrum_of_the_users_stays(star: Path, tmp_path: Path) -> None:
    snr = tmp_path / "out" / "snr.tsv"
    snr.parent.mkdir()
    snr.write_text("0.00 2.0 # measured by eye\n0.05 1.0\n")
    before, given = snr.read_bytes(), Correction("wiener", snr=SnrSpectrum.read(snr))
    with pytest.raises(PosterionError, match=r"out.snr.tsv is read by this run, which would replace it"):
        correct_micrographs(micrograph_set([star]), snr.parent, given)
    with pytest.raises(PosterionError, match=r"out.snr.tsv is there already"):
        correct_micrographs(micrograph_set([star]), snr.parent, Correction("phase-flip"))
    assert [path.name for path in snr.parent.iterdir()] == ["snr.tsv"]
    assert snr.read_bytes() == before


def test_other_frequencies_of_a_spectrum_are_another_correction(star: Path, tmp_path: Path) -> None:
    made = []
    for folder, top in (("a", 0.1), ("a", 0.03), ("b", 0.03)):
        spectrum = SnrSpectrum(np.array([0.0, top]), np.array([10.0, 0.1]))
        source = micrograph_set([star])
        done = correct_micrographs(source, tmp_path / folder, Correction("wiener", snr=spectrum), threads=1)
        made.append(done.paths[0].read_bytes())
    assert made[0] != made[1]
    assert made[1] == made[2]
