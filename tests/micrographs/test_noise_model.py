import numpy as np
import pytest

from posterion.micrographs.noise_model import FalsePositives, NoiseSpectrum, noise_spectrum


def power(f: np.ndarray) -> np.ndarray:
    return 0.2 + 1 / (1 + (f * 30) ** 2)


def coloured(shape: tuple[int, int], seed: int) -> np.ndarray:
    f = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    white = np.fft.rfft2(np.random.default_rng(seed).standard_normal(shape))
    return np.fft.irfft2(white * np.sqrt(power(f)), s=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(200, 240), (181, 203)])
def test_spectrum_of_known_noise_but_for_its_scale(shape: tuple[int, int]) -> None:
    found = noise_spectrum(coloured(shape, 1), 9.0)
    f = np.linspace(0.04, 0.45, 30).astype(np.float32)
    ratio = found.at(f) / power(f)
    assert 0.6 < np.median(ratio) < 1.05  # the quietest quarter is a little quieter than the mean
    np.testing.assert_allclose(ratio / np.median(ratio), 1, atol=0.25)  # shells of some 50 pixels, smoothed
    assert abs(np.polyfit(f, ratio, 1)[0]) < 0.6


def test_particles_raise_the_spectrum_less_than_they_raise_the_power() -> None:
    """Discs that cover a third and have ten times the noise's power at low frequency."""
    noise = coloured((240, 240), 2)
    y, x = np.mgrid[:240, :240]
    discs = np.zeros_like(noise)
    for row in range(30, 240, 60):
        for column in range(30, 240, 60):
            discs += np.hypot(y - row, x - column) < 18
    with_discs = noise + 3 * (discs - discs.mean())
    spectrum = np.fft.rfft2(with_discs)
    phases = np.fft.rfft2(np.random.default_rng(3).standard_normal((240, 240)))
    everywhere = np.fft.irfft2(np.abs(spectrum) * phases / np.abs(phases), s=(240, 240))  # the same power
    f = np.arange(6, 15, dtype=np.float32) / 240
    crowd, even = (noise_spectrum(v.astype(np.float32), 9.0).at(f).mean() for v in (with_discs, everywhere))
    assert even > 10 * power(f).mean()
    assert crowd < 0.7 * even


def test_threshold_undoes_expected() -> None:
    tail = FalsePositives(0.01)
    for wanted in (0.1, 1.0, 30.0):
        threshold = tail.threshold(wanted, 1e6)
        assert tail.expected(threshold, 1e6) == pytest.approx(wanted, rel=1e-6)
    assert tail.threshold(0.1, 1e6) > tail.threshold(1.0, 1e6)
    assert tail.threshold(1.0, 1.0) == pytest.approx(np.sqrt(3))


def test_level_from_heights_drawn_from_the_tail() -> None:
    """Peaks above u0 drawn by inverting n(u) / n(u0); the level is found to its statistical error."""
    level, area, lowest = 2e-3, 4e6, 3.0
    grid = np.linspace(lowest, 9, 20000)
    tail = (grid**2 - 1) * np.exp(-(grid**2) / 2)
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        count = rng.poisson(level * area * tail[0])
        heights = np.interp(rng.uniform(0, 1, count), (tail / tail[0])[::-1], grid[::-1])
        ratios.append(FalsePositives.from_noise_peaks(heights, area, 100.0).level_per_angstrom2 / level)
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    assert np.std(ratios) < 0.3


def test_scaled() -> None:
    spectrum = NoiseSpectrum(np.array([0.0, 0.5]), np.array([2.0, 4.0]))
    assert spectrum.scaled(0.5).at(np.float32(0.25)) == pytest.approx(1.5)
