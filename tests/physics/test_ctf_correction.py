"""Undoing the CTF: filters against single waves, Wiener's optimum, the SNR against the truth."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.physics.ctf import contrast_transfer
from posterion.physics.ctf_correction import (
    LOWEST_SNR,
    SnrMeasurement,
    SnrSpectrum,
    filtered,
    half_spectrum_frequencies,
    phase_flip_filter,
    wiener_filter,
)

OPTICS = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
PIXEL = 1.5
SHAPES = [(32, 32), (33, 33), (30, 47), (47, 30)]


def ctf_of(shape: tuple[int, int], defocus: NDArray[np.floating]) -> NDArray[np.float32]:
    fx, fy = half_spectrum_frequencies(shape, PIXEL)
    flat = contrast_transfer(fx, fy, defocus, defocus - 300, np.full(len(defocus), 30.0), **OPTICS)
    return flat.reshape(len(defocus), shape[0], shape[1] // 2 + 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_filters_act_on_the_frequencies_they_mean(shape: tuple[int, int]) -> None:
    """A wave of one known frequency and azimuth comes out with the factor that the CTF there gives.

    The CTF of one frequency needs no layout of spectra: this is the independent way.
    """
    rows, columns = np.indices(shape)
    for cycles_y, cycles_x in [(0, 3), (5, 0), (4, 7), (-6, 2)]:
        wave = np.cos(2 * np.pi * (cycles_y * rows / shape[0] + cycles_x * columns / shape[1]))
        fx, fy = cycles_x / shape[1] / PIXEL, cycles_y / shape[0] / PIXEL
        factor = float(contrast_transfer([fx], [fy], [15000.0], [14700.0], [30.0], **OPTICS)[0, 0])
        ctf = ctf_of(shape, np.array([15000.0]))
        image = wave[None].astype(np.float32)
        np.testing.assert_allclose(
            filtered(image, phase_flip_filter(ctf))[0], np.sign(factor) * wave, atol=1e-5
        )
        wiener = factor / (factor**2 + 0.2)
        np.testing.assert_allclose(filtered(image, wiener_filter(ctf, 0.2))[0], wiener * wave, atol=1e-5)


def test_flipping_twice_is_not_flipping() -> None:
    image = np.random.default_rng(1).standard_normal((3, 31, 45)).astype(np.float32)
    flip = phase_flip_filter(ctf_of((31, 45), np.array([9000.0, 14000.0, 20000.0])))
    assert np.abs(filtered(image, flip) - image).max() > 1
    np.testing.assert_allclose(filtered(filtered(image, flip), flip), image, atol=1e-5)


def test_a_zero_of_the_ctf_is_kept() -> None:
    np.testing.assert_array_equal(phase_flip_filter(np.float32([-0.1, 0, 0.1])), [-1, 1, 1])


def test_wiener_is_best_at_noise_over_signal() -> None:
    """Squared error against the truth is least at k = |N|^2 / |A|^2 among other k."""
    rng, shape = np.random.default_rng(2), (64, 64)
    truth = rng.standard_normal((40, *shape)).astype(np.float32)
    ctf = ctf_of(shape, rng.uniform(8e3, 2e4, 40))
    seen = filtered(truth, ctf) + np.sqrt(0.5) * rng.standard_normal((40, *shape)).astype(np.float32)
    errors = [float(np.mean((filtered(seen, wiener_filter(ctf, k)) - truth) ** 2)) for k in (0.2, 0.5, 1.2)]
    assert errors[1] < errors[0]
    assert errors[1] < errors[2]


def simulated(
    count: int, n: int, snr: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    ctf = ctf_of((n, n), rng.uniform(1e4, 2e4, count))
    signal = np.fft.rfft2(rng.standard_normal((count, n, n))) * np.sqrt(snr) * ctf
    images = np.fft.irfft2(signal, s=(n, n)) + rng.standard_normal((count, n, n))
    return (40 * images + 7).astype(np.float32), ctf.reshape(count, -1)


def test_measured_snr_is_the_true_one() -> None:
    """White noise and a signal of known spectrum, whatever the grey scale and mean of the images."""
    n = 96
    frequency = np.hypot(*half_spectrum_frequencies((n, n), PIXEL))

    def truth(f: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(2 * np.exp(-((f / 0.06) ** 2)))

    images, ctf = simulated(200, n, truth(frequency).reshape(n, -1), seed=3)
    measurement = SnrMeasurement(n // 2, 0.5 / PIXEL)
    for part in np.array_split(np.arange(200), 3):
        measurement.add(images[part], ctf[part], frequency)
    found = measurement.spectrum()
    measurable = (found.frequency_s > 0.04) & (found.frequency_s < 0.1)
    np.testing.assert_allclose(found.snr_s[measurable], truth(found.frequency_s[measurable]), rtol=0.25)
    assert (found.snr_s[found.frequency_s > 0.17] == LOWEST_SNR).mean() > 0.95
    assert 1 < found.snr_s[0] < 2.5


@pytest.mark.parametrize("n", [24, 25])
def test_sums_are_those_of_the_whole_plane(n: int) -> None:
    """Half spectra stand for whole ones: every sum against full complex transforms."""
    images, _ = simulated(3, n, np.ones((n, n // 2 + 1)), seed=8)
    fx, fy = half_spectrum_frequencies((n, n), PIXEL)
    symmetric = (
        np.cos(40 * np.hypot(fx, fy))[None].repeat(3, 0).astype(np.float32)
    )  # radial: known everywhere
    measurement = SnrMeasurement(8, 0.5 / PIXEL)
    measurement.add(images, symmetric, np.hypot(fx, fy))
    whole_f = np.hypot(*np.meshgrid(np.fft.fftfreq(n, PIXEL), np.fft.fftfreq(n, PIXEL)))
    c2 = np.cos(40 * whole_f) ** 2
    power = (np.abs(np.fft.fft2(images)) ** 2).sum(0)
    shell = np.where(whole_f > 0, np.floor(whole_f * PIXEL * 2 * 8), 99)
    for row, values in enumerate((3 + 0 * c2, 3 * c2, 3 * c2**2, power, c2 * power)):
        expected = [values[shell == s].sum() for s in range(8)]
        np.testing.assert_allclose(measurement.sums[row], expected, rtol=1e-4)


def test_noise_alone_has_no_snr() -> None:
    n = 64
    images, ctf = simulated(100, n, np.zeros((n, n // 2 + 1)), seed=4)
    measurement = SnrMeasurement(n // 2, 0.5 / PIXEL)
    measurement.add(images, ctf, np.hypot(*half_spectrum_frequencies((n, n), PIXEL)))
    assert (measurement.spectrum().snr_s == LOWEST_SNR).mean() > 0.95


def test_snr_needs_a_ctf_that_varies() -> None:
    measurement = SnrMeasurement(16, 0.3)
    images = np.random.default_rng(5).standard_normal((4, 32, 32)).astype(np.float32)
    frequency = np.hypot(*half_spectrum_frequencies((32, 32), PIXEL))
    measurement.add(images, np.ones((4, len(frequency)), np.float32), frequency)
    with pytest.raises(PosterionError, match=r"C\^2 is the same .* give --k or --snr"):
        measurement.spectrum()


def test_snr_survives_its_file(tmp_path: Path) -> None:
    spectrum = SnrSpectrum(np.array([0.01, 0.05, 0.2]), np.array([3.0, 0.5, 0.001]))
    spectrum.write(tmp_path / "snr.tsv")
    again = SnrSpectrum.read(tmp_path / "snr.tsv")
    np.testing.assert_allclose(again.at(np.array([0.0, 0.03, 0.2, 0.3])), [3, 1.75, 0.001, 0.001])
    (tmp_path / "plain.txt").write_text("# frequency and SNR\n0.01 3\n0.05 0.5\n0.2 0\n")
    plain = SnrSpectrum.read(tmp_path / "plain.txt")
    np.testing.assert_allclose(plain.snr_s, [3, 0.5, LOWEST_SNR])
    (tmp_path / "wide.tsv").write_text("ring\tfrequency_per_angstrom\tfrc\tsnr\n0\t0.0\t1\t9\n1\t0.1\t1\t2\n")
    np.testing.assert_array_equal(SnrSpectrum.read(tmp_path / "wide.tsv").snr_s, [9, 2])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("shell fsc\n1 2\n", "frequency_per_angstrom and snr were expected, it has shell, fsc"),
        ("0.1 1\n0.05 2\n", "rising frequencies"),
        ("0.1 -1\n", "SNR of 0 or more"),
        ("0.1\n0.2\n", "two columns were expected"),
        ("0.1 x\n", "expected a table of numbers"),
        ("", "expected"),
    ],
)
def test_wrong_snr_files_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "snr.txt"
    path.write_text(text)
    with pytest.raises(PosterionError, match=complaint):
        SnrSpectrum.read(path)


def test_missing_snr_file(tmp_path: Path) -> None:
    expected = r"none\.txt cannot be read: No such file or directory; expected a text file of frequency"
    with pytest.raises(PosterionError, match=expected):
        SnrSpectrum.read(tmp_path / "none.txt")
    (tmp_path / "map.mrc").write_bytes(b"\xff\xfe")
    with pytest.raises(PosterionError, match=r"map\.mrc is no text; expected a file of frequency"):
        SnrSpectrum.read(tmp_path / "map.mrc")
