import runpy
from pathlib import Path

import numpy as np
import pytest

from posterion.data.particles import OpticsGroup
from posterion.errors import PosterionError
from posterion.micrographs.periodogram import averaged_periodogram
from posterion.micrographs.simulation import CARBON, Support, simulate_micrograph

REFERENCES = Path(__file__).parents[1] / "references"
ctf_reference = runpy.run_path(str(REFERENCES / "ctf_reference.py"))["ctf_reference"]

OPTICS = OpticsGroup("", 300.0, 2.7, 0.1, 2.0, 0)


def test_power_is_noise_times_one_plus_rings() -> None:
    """Against the lecture's CTF, in wide bins where the periodogram's error is a few percent."""
    values = simulate_micrograph((1536, 1280), OPTICS, (9000.0, 8000.0, 25.0), CARBON, seed=3)
    power = averaged_periodogram(values, 256)
    fy, fx = np.broadcast_arrays(np.fft.fftfreq(256, 2.0)[:, None], np.arange(129)[None, :] / 512)
    ctf = ctf_reference(fx, fy, np.array([9000, 8000, 25, 0, 0, 1.0]), np.array([300, 2.7, 0.1]))
    squared = fx**2 + fy**2
    expected = (0.3 + 1 / (1 + 900 * squared)) * (1 + 2 * np.exp(-30 * squared) * ctf**2)
    ratio = (power / expected)[4:-4, 4:-4]
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    blocks = ratio[:240, :120].reshape(20, 12, 10, 12).mean(axis=(1, 3))
    assert np.abs(blocks - 1).max() < 0.1


def test_density_is_seen_through_the_ctf_and_dark() -> None:
    y, x = np.mgrid[:256, :256] - 128
    ball = np.exp(-(x**2 + y**2) / (2 * 10.0**2))
    nothing = Support(0.0, 0.0)
    with_ball, without = (
        simulate_micrograph((256, 256), OPTICS, (20000.0, 20000.0, 0.0), nothing, density=density, seed=1)
        for density in (1000 * ball, None)
    )
    image = (with_ball - without) / 1000
    assert image[128, 128] == pytest.approx(image.min())
    assert image.min() < -0.1
    difference = simulate_micrograph(
        (256, 256),
        OPTICS,
        (20000.0, 20000.0, 0.0),
        nothing,
        density=1000 * ball,
        phase_shift_deg=90.0,
        seed=1,
    )
    assert difference.min() < with_ball.min()  # a phase plate raises the contrast


def test_same_seed_same_values_and_shapes() -> None:
    first, again, other = (
        simulate_micrograph((96, 130), OPTICS, (1e4, 1e4, 0.0), seed=seed) for seed in (1, 1, 2)
    )
    assert first.shape == (96, 130)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(PosterionError, match="does not go with"):
        simulate_micrograph((96, 130), OPTICS, (1e4, 1e4, 0.0), density=np.zeros((130, 96)))
