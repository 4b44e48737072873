"""Corrected sets: images by the formula, tables that say so, and nothing corrected twice downstream."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import posterion
from posterion.compute import NullProgress, Workers
from posterion.data.mrc import read_stack_header, write_stack
from posterion.data.output_folder import open_folder
from posterion.data.particles import Particles
from posterion.data.star import read_star
from posterion.errors import PosterionError
from posterion.mapping.correct import Correction, correct, measure_snr
from posterion.mapping.reconstruct import reconstruct
from posterion.physics.ctf import ctf_half_spectrum
from posterion.physics.ctf_correction import SnrMeasurement, SnrSpectrum, half_spectrum_frequencies
from posterion.physics.phantom import phantom_map


@pytest.fixture(scope="module")
def source(tiny_set: Path) -> Particles:
    return Particles.read(tiny_set / "truth.star")


@pytest.fixture(scope="module")
def flipped(source: Particles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flipped")
    correct(source, folder, Correction("phase-flip"))
    return folder


def by_hand(source: Particles, factor: np.ndarray) -> np.ndarray:
    """Full complex transforms, the CTF filled in for negative kx by its symmetry: a slow second way."""
    n = source.box_px
    full = np.empty((len(source), n, n))
    full[..., : n // 2 + 1] = factor
    for kx in range(n // 2 + 1, n):
        full[..., kx] = factor[:, -np.arange(n) % n, n - kx]
    return np.asarray(np.fft.ifft2(np.fft.fft2(source.images()) * full).real)


def test_flipped_images_and_table(source: Particles, flipped: Path) -> None:
    made = Particles.read(flipped / "particles.star")
    assert len(made) == len(source)
    assert all(group.phase_flipped for group in made.optics)
    assert read_star(flipped / "particles.star")[0].integers("rlnCtfDataArePhaseFlipped").tolist() == [1]
    ctf = ctf_half_spectrum(source.box_px, source)
    expected = by_hand(source, np.where(ctf < 0, -1, 1))
    # Nyquist's column stands for both signs of kx, whose flips differ: compare without it.
    difference = np.fft.rfft2(made.images() - expected)[..., : source.box_px // 2]
    assert np.abs(difference).max() < 0.01 * np.abs(np.fft.rfft2(expected)).max()
    np.testing.assert_allclose(ctf_half_spectrum(source.box_px, made), np.abs(ctf), atol=1e-6)


def test_names_lead_back(source: Particles, flipped: Path) -> None:
    table = read_star(flipped / "particles.star")[1]
    names, code_i = table.column("rlnImageOriginalName").strings()
    assert names[code_i[4]] == "000005@particles.mrcs"


def test_float16_stays_float16(flipped: Path) -> None:
    assert read_stack_header(flipped / "stacks" / "particles.mrcs").dtype == np.float16


def test_flipped_and_raw_images_give_the_same_map(source: Particles, flipped: Path) -> None:
    """The reader knows that they are flipped; only float16 differs."""
    raw = reconstruct(source, threads=1)
    again = reconstruct(Particles.read(flipped / "particles.star"), threads=1)
    assert np.corrcoef(raw.map.ravel(), again.map.ravel())[0, 1] > 0.9999


def test_flipping_again_is_refused(flipped: Path, tmp_path: Path) -> None:
    with pytest.raises(PosterionError, match=r"particles\.star.*phase flipped already"):
        correct(Particles.read(flipped / "particles.star"), tmp_path, Correction("phase-flip"))
    assert not list(tmp_path.iterdir())


def test_wiener_images_by_hand_and_a_ctf_of_one(source: Particles, tmp_path: Path) -> None:
    correct(source, tmp_path / "w", Correction("wiener", k=0.3))
    made = Particles.read(tmp_path / "w" / "particles.star")
    ctf = ctf_half_spectrum(source.box_px, source)
    difference = np.fft.rfft2(made.images() - by_hand(source, ctf / (ctf**2 + 0.3)))
    scale = np.abs(np.fft.rfft2(made.images())).max()
    assert np.abs(difference[..., : source.box_px // 2]).max() < 0.01 * scale
    np.testing.assert_allclose(ctf_half_spectrum(source.box_px, made), 1, atol=1e-6)
    assert made.poses is not None
    np.testing.assert_array_equal(made.poses.rot_deg_i, source.require_poses().rot_deg_i)


def test_wiener_of_flipped_is_wiener_of_raw(source: Particles, flipped: Path, tmp_path: Path) -> None:
    raw = correct(source, tmp_path / "raw", Correction("wiener", k=0.5))
    again = correct(Particles.read(flipped / "particles.star"), tmp_path / "w", Correction("wiener", k=0.5))
    box = source.box_px
    ours, theirs = (np.fft.rfft2(made.images())[..., : box // 2] for made in (again, raw))
    # Rows of the Nyquist frequency along y are as ambiguous.
    np.testing.assert_allclose(np.delete(ours, box // 2, 1), np.delete(theirs, box // 2, 1), atol=0.5)


def test_snr_spectrum_is_used_and_written(source: Particles, tmp_path: Path) -> None:
    """SNR 1e-4 beyond a frequency is a low-pass there; a constant SNR is a constant k."""
    steps = SnrSpectrum(np.array([0.0, 0.02, 0.021, 0.1]), np.array([1.0, 1.0, 1e-4, 1e-4]))
    made = correct(source, tmp_path / "a", Correction("wiener", snr=steps))
    power = (np.abs(np.fft.rfft2(made.images())) ** 2).mean(0)
    edge = int(0.021 * source.box_px * source.pixel_size_angstrom) + 2
    assert power[0, edge : source.box_px // 2].max() < 1e-4 * power[0, 1:edge].max()
    assert (tmp_path / "a" / "snr.tsv").exists()
    flat = correct(
        source, tmp_path / "b", Correction("wiener", snr=SnrSpectrum(np.array([0.0]), np.array([2.0])))
    )
    same = correct(source, tmp_path / "c", Correction("wiener", k=0.5))
    np.testing.assert_array_equal(flat.images(), same.images())


def test_measured_snr(source: Particles, tmp_path: Path) -> None:
    correct(source, tmp_path, Correction("wiener"))
    box, pixel = source.box_px, source.pixel_size_angstrom
    measurement = SnrMeasurement(box // 2, 0.5 / pixel)
    ctf = ctf_half_spectrum(box, source).reshape(len(source), -1)
    measurement.add(source.images(), ctf, np.hypot(*half_spectrum_frequencies((box, box), pixel)))
    found = SnrSpectrum.read(tmp_path / "snr.tsv")
    np.testing.assert_allclose(found.snr_s, measurement.spectrum().snr_s, rtol=1e-3)
    assert found.snr_s[3] > 0.5


def test_stacks_in_file_order_names_and_odd_boxes(source: Particles, tmp_path: Path) -> None:
    """Two stacks of the same name in two folders, rows shuffled, an odd box, one image left out."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 4, 25, 25)).astype(np.float32)
    for folder, stack in zip("ab", images, strict=True):
        (tmp_path / folder).mkdir()
        write_stack(tmp_path / folder / "x.mrcs", stack, 7.5)
    order = np.array([5, 0, 7, 2, 3, 1, 4])
    chosen = replace(
        source[:7],
        optics=tuple(replace(group, box_px=25) for group in source.optics),
        stack_paths=(tmp_path / "a" / "x.mrcs", tmp_path / "b" / "x.mrcs"),
        stack_names=("a/x.mrcs", "b/x.mrcs"),
        stack_index_i=(order // 4).astype(np.int32),
        image_index_i=order % 4,
    )
    made = correct(chosen, tmp_path / "out", Correction("phase-flip"))
    assert sorted(path.name for path in (tmp_path / "out" / "stacks").iterdir()) == ["x.mrcs", "x_2.mrcs"]
    np.testing.assert_array_equal(made.image_index_i, [1, 0, 2, 2, 3, 1, 0])
    flip = np.where(ctf_half_spectrum(25, chosen) < 0, -1, 1)
    expected = np.fft.irfft2(np.fft.rfft2(images.reshape(8, 25, 25)[order]) * flip, s=(25, 25))
    np.testing.assert_allclose(made.images(), expected, atol=1e-5)


def test_a_stopped_call_keeps_the_stacks_it_wrote(source: Particles, tmp_path: Path) -> None:
    correct(source, tmp_path, Correction("wiener", k=0.5))
    stack = tmp_path / "stacks" / "particles.mrcs"
    text = (tmp_path / "particles.star").read_text()
    os.utime(stack, (10, 10))  # long ago: a clock of files may not tell two writings of one second apart
    (tmp_path / "particles.star").unlink()
    correct(source, tmp_path, Correction("wiener", k=0.5))
    assert stack.stat().st_mtime == 10
    assert (tmp_path / "particles.star").read_text() == text
    correct(source, tmp_path, Correction("wiener", k=0.6))
    assert stack.stat().st_mtime > 10


def test_the_source_is_never_overwritten(source: Particles, tmp_path: Path) -> None:
    made = correct(source, tmp_path, Correction("wiener", k=0.5))
    with pytest.raises(PosterionError, match="is a stack to be corrected"):
        correct(made, tmp_path, Correction("wiener", k=0.5))


def test_threads_do_not_matter(source: Particles, tmp_path: Path) -> None:
    for threads in (1, 3):
        correct(source, tmp_path / str(threads), Correction("wiener"), threads=threads)
    one, three = (tmp_path / str(threads) / "stacks" / "particles.mrcs" for threads in (1, 3))
    assert one.read_bytes() == three.read_bytes()


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"how": "divide"}, "'divide' is unknown; choose one of phase-flip, wiener"),
        ({"how": "phase-flip", "k": 0.1}, "needs neither k nor an SNR"),
        ({"how": "wiener", "k": 0.0}, "k = 0 is no Wiener constant"),
        ({"how": "wiener", "k": 1.0, "snr": SnrSpectrum(np.ones(1), np.ones(1))}, "either k or an SNR"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object], complaint: str) -> None:
    with pytest.raises(PosterionError, match=complaint):
        Correction(**wrong)  # type: ignore[arg-type]


def test_formats_that_cannot_say_flipped_are_warned_of(
    flipped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from posterion.data.convert import convert

    convert(flipped / "particles.star", tmp_path / "p.cs")
    assert "phase flipped, and a .cs file cannot say so" in caplog.text
    convert(flipped / "particles.star", tmp_path / "p.star")
    assert posterion.Particles.read(tmp_path / "p.star").optics[0].phase_flipped


def test_blank_images_do_not_count_in_a_measured_snr(tmp_path: Path) -> None:
    """The last batch holds nothing but blank images: the spectrum is that of the others."""
    options = posterion.SimulationOptions(130, snr=2.0, seed=3)
    posterion.simulate([phantom_map(24, 7.5)], 7.5, tmp_path, options)
    whole = Particles.read(tmp_path / "truth.star")
    images = whole.images().copy()
    images[128:] = 1.0
    write_stack(tmp_path / "particles.mrcs", images, 7.5)
    with Workers(1) as workers:
        measured = measure_snr(Particles.read(tmp_path / "truth.star"), workers)
    assert np.isfinite(measured.snr_s).all()
    assert measured.snr_s[2] > 1


def test_a_folder_of_another_run_and_a_table_that_is_read(source: Particles, tmp_path: Path) -> None:
    made = tmp_path / "made"
    correct(source, made, Correction("wiener", k=0.5))
    summary = {"command": "correct", "of": "particles", "how": "wiener", "k": 0.5, "particles": len(source)}
    assert json.loads((made / "summary.json").read_text()) == summary
    before = (made / "particles.star").read_bytes()
    with pytest.raises(PosterionError, match=r"particles.star is read by this run, which would replace it"):
        correct(Particles.read(made / "particles.star"), made, Correction("phase-flip"))
    (made / "summary.json").write_text('{"command": "extract"}')
    with pytest.raises(PosterionError, match="results of 'posterion extract'"):
        correct(source, made, Correction("wiener", k=0.5))
    assert (made / "particles.star").read_bytes() == before


def test_a_stopped_call_leaves_no_stack_of_another_correction(source: Particles, tmp_path: Path) -> None:
    correct(source, tmp_path / "a", Correction("wiener", k=0.5))

    class Stopped(NullProgress):
        def advance(self, count: int = 1) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        correct(source, tmp_path / "a", Correction("phase-flip"), threads=1, progress=Stopped)
    again = correct(source, tmp_path / "a", Correction("phase-flip"))
    fresh = correct(source, tmp_path / "b", Correction("phase-flip"))
    np.testing.assert_array_equal(again.images(), fresh.images())


def test_no_stack_of_the_set_is_replaced(source: Particles, tmp_path: Path) -> None:
    """Not even by the correction of another of the same name."""
    for folder in ("elsewhere", "stacks"):
        write_stack(tmp_path / folder / "x.mrcs", source.images(range(4)), source.pixel_size_angstrom)
    two = replace(
        source[:8],
        stack_paths=(tmp_path / "elsewhere" / "x.mrcs", tmp_path / "stacks" / "x.mrcs"),
        stack_index_i=np.repeat(np.arange(2, dtype=np.int32), 4),
        image_index_i=np.tile(np.arange(4), 2),
    )
    before = (tmp_path / "stacks" / "x.mrcs").read_bytes()
    with pytest.raises(PosterionError, match=r"stacks.x.mrcs is a stack to be corrected"):
        correct(two, tmp_path, Correction("phase-flip"))
    assert (tmp_path / "stacks" / "x.mrcs").read_bytes() == before


def test_one_process_at_a_time(source: Particles, tmp_path: Path) -> None:
    with open_folder(tmp_path), pytest.raises(PosterionError, match="another process is working"):
        correct(source, tmp_path, Correction("phase-flip"))
    assert not list(tmp_path.iterdir())


def other_voltage(source: Particles) -> Particles:
    return replace(source, optics=tuple(replace(group, voltage_kv=120.0) for group in source.optics))[:3]


def more_defocus(source: Particles) -> Particles:
    return replace(source, defocus_u_angstrom_i=source.defocus_u_angstrom_i + 900)[:3]


def other_rows(source: Particles) -> Particles:
    return source[3:6]


@pytest.mark.parametrize("change", [other_voltage, more_defocus, other_rows])
def test_other_images_or_ctfs_of_the_same_table_are_corrected_anew(
    source: Particles, tmp_path: Path, change: Callable[[Particles], Particles]
) -> None:
    how = Correction("wiener", k=0.5)
    correct(source[:3], tmp_path / "a", how)
    again, fresh = (correct(change(source), tmp_path / folder, how) for folder in "ab")
    np.testing.assert_array_equal(again.images(), fresh.images())


def test_other_frequencies_of_a_spectrum_are_another_correction(source: Particles, tmp_path: Path) -> None:
    steps, finer = (SnrSpectrum(np.array([0.0, top]), np.array([10.0, 0.1])) for top in (0.06, 0.03))
    correct(source[:3], tmp_path / "a", Correction("wiener", snr=steps))
    again, fresh = (
        correct(source[:3], tmp_path / folder, Correction("wiener", snr=finer)) for folder in "ab"
    )
    np.testing.assert_array_equal(again.images(), fresh.images())


def test_a_spectrum_of_the_users_stays(source: Particles, tmp_path: Path) -> None:
    """As it is where it lies elsewhere; where the run would write its own a spectrum is not replaced."""
    text = "0.00 2.0 # measured by eye\n0.05 1.0\n"
    outside, inside = tmp_path / "mine.tsv", tmp_path / "out" / "snr.tsv"
    outside.write_text(text)
    inside.parent.mkdir()
    inside.write_text(text)
    with pytest.raises(PosterionError, match=r"out.snr.tsv is read by this run, which would replace it"):
        correct(source[:3], inside.parent, Correction("wiener", snr=SnrSpectrum.read(inside)))
    for how in (Correction("phase-flip"), Correction("wiener", snr=SnrSpectrum.read(outside))):
        with pytest.raises(PosterionError, match=r"out.snr.tsv is there already"):
            correct(source[:3], inside.parent, how)
    assert [path.name for path in inside.parent.iterdir()] == ["snr.tsv"]
    assert inside.read_text() == outside.read_text() == text


def test_the_same_call_with_a_spectrum_keeps_its_stacks(source: Particles, tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").write_text("0.00 2.0\n0.05 1.0\n")
    stack = tmp_path / "out" / "stacks" / "particles.mrcs"
    for times in ((10, 10), None):
        how = Correction("wiener", snr=SnrSpectrum.read(tmp_path / "mine.tsv"))
        correct(source, tmp_path / "out", how)
        if times is not None:
            os.utime(stack, times)
    assert stack.stat().st_mtime == 10
    assert SnrSpectrum.read(tmp_path / "out" / "snr.tsv").snr_s.tolist() == [2.0, 1.0]


def test_a_stack_that_no_run_wrote_stays(source: Particles, tmp_path: Path) -> None:
    """In a folder of ours too; those that earlier runs wrote of other sets remain known."""
    mine = tmp_path / "stacks" / "x.mrcs"
    write_stack(tmp_path / "set" / "x.mrcs", source.images(range(4)), source.pixel_size_angstrom)
    other = replace(source[:4], stack_paths=(tmp_path / "set" / "x.mrcs",), image_index_i=np.arange(4))
    correct(source, tmp_path, Correction("phase-flip"))
    mine.write_text("mine")
    with pytest.raises(PosterionError, match=r"x.mrcs is there already, and no 'posterion correct'"):
        correct(other, tmp_path, Correction("phase-flip"))
    assert mine.read_text() == "mine"
    assert (tmp_path / "particles.star").exists()
    mine.unlink()
    correct(other, tmp_path, Correction("phase-flip"))
    correct(source, tmp_path, Correction("phase-flip"))
    assert json.loads((tmp_path / "correction.json").read_text())["files"] == [
        "stacks/particles.mrcs",
        "stacks/x.mrcs",
    ]


def test_a_record_of_something_else_stays(source: Particles, tmp_path: Path) -> None:
    (tmp_path / "correction.json").write_text('{"gain": 1.2}')
    with pytest.raises(PosterionError, match=r"correction.json is there already"):
        correct(source, tmp_path, Correction("phase-flip"))
    assert [path.name for path in tmp_path.iterdir()] == ["correction.json"]


def test_a_folder_of_an_earlier_version_is_gone_on_with(source: Particles, tmp_path: Path) -> None:
    """It has no summary.json, and its record names no files and no rows: its stacks are made anew."""
    correct(source[:3], tmp_path, Correction("phase-flip"))
    (tmp_path / "summary.json").unlink()
    (tmp_path / "correction.json").write_text('{"command": "correct", "how": "phase-flip", "k": null}')
    made = correct(source, tmp_path, Correction("phase-flip"))
    assert len(made.images()) == len(source)


def test_a_folder_where_a_stack_should_go_is_named(source: Particles, tmp_path: Path) -> None:
    correct(source, tmp_path, Correction("phase-flip"))
    (tmp_path / "stacks" / "particles.mrcs").unlink()
    (tmp_path / "stacks" / "particles.mrcs").mkdir()
    with pytest.raises(PosterionError, match=r"particles.mrcs cannot be removed \(Is a directory\)"):
        correct(source, tmp_path, Correction("wiener", k=0.5))


@pytest.mark.parametrize("away", ["removed", "cut off"])
def test_a_stack_that_cannot_be_read_costs_nothing_of_an_earlier_run(
    source: Particles, tmp_path: Path, away: str
) -> None:
    """Its disk may not be mounted."""
    stack = tmp_path / "set" / "x.mrcs"
    write_stack(stack, source.images(range(4)), source.pixel_size_angstrom)
    chosen = replace(source[:4], stack_paths=(stack,), image_index_i=np.arange(4))
    correct(chosen, tmp_path / "out", Correction("phase-flip"))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    if away == "removed":
        stack.unlink()
    else:
        stack.write_bytes(stack.read_bytes()[:2000])
    for how in (Correction("phase-flip"), Correction("wiener", k=0.5)):
        with pytest.raises(PosterionError, match=r"does not exist|x.mrcs is truncated"):
            correct(chosen, tmp_path / "out", how)
    assert {path: path.read_bytes() for path in before} == before
