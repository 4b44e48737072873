import numpy as np
import pytest

from posterion.errors import PosterionError
from posterion.micrographs.periodogram import averaged_periodogram, tile_size, without_outliers


def test_white_noise_has_its_variance_everywhere() -> None:
    noise = np.random.default_rng(0).normal(5.0, 3.0, (700, 1000)).astype(np.float32)
    power = averaged_periodogram(noise, 128)
    assert power.shape == (128, 65)
    inner = power[
        2:-2, 2:-2
    ]  # the mean is taken away from each tile, the taper spreads that to its neighbours
    assert inner.mean() == pytest.approx(9.0, rel=0.02)
    assert abs(inner[:, :30].mean() / inner[:, 30:].mean() - 1) < 0.03


def test_a_wave_has_its_power_at_its_frequency() -> None:
    y, x = np.mgrid[:300, :420]
    wave = np.cos(2 * np.pi * (5 * x - 9 * y) / 64).astype(np.float32)
    power = averaged_periodogram(wave, 64)
    assert np.unravel_index(power.argmax(), power.shape) == (64 - 9, 5)
    assert power[-9, 5] == pytest.approx(
        64**2 / 4 * (0.5**2 / 0.375) ** 2, rel=1e-4
    )  # Hann: mean 1/2, mean square 3/8


def test_every_pixel_is_in_a_tile() -> None:
    """A spot at the far corner, which only the last tile holds, is seen."""
    for shape in ((64, 64), (65, 127), (100, 161)):
        spot = np.zeros(shape, np.float32)
        spot[shape[0] - 12, shape[1] - 12] = 1
        assert averaged_periodogram(spot, 64).max() > 0


def test_tile_size() -> None:
    assert tile_size((4096, 4096), 1.0, 1000.0) == 1000
    assert tile_size((600, 4096), 1.0, 1000.0) == 600
    assert tile_size((613, 4096), 1.0, 1000.0) == 600  # 613 is a prime
    with pytest.raises(PosterionError, match=r"field of 410 x 205 A, at 0.1 A per pixel, is too small"):
        tile_size((2048, 4096), 0.1, 1000.0)


def test_outliers_are_clipped_and_nothing_else() -> None:
    values = np.random.default_rng(0).normal(100, 5, (400, 400)).astype(np.float32)
    np.testing.assert_array_equal(without_outliers(values), values)
    hot = values.copy()
    hot[7, 9], hot[200, 30] = 1e6, -1e5
    clipped = without_outliers(hot)
    assert clipped[7, 9] == pytest.approx(150, abs=1)
    assert clipped[200, 30] == pytest.approx(50, abs=1)
    assert np.count_nonzero(clipped != values) == 2
    sparse = np.random.default_rng(0).poisson(0.1, (400, 400)).astype(np.float32)
    np.testing.assert_array_equal(without_outliers(sparse), sparse)
