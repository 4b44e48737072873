"""Images that would spoil sums, and what is said of them."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import posterion
from posterion.data.particles import Particles
from posterion.data.unusable import LARGEST_PIXEL, is_hot, usable_images, why_unusable
from posterion.physics.sources import read_source

BOX = 48


def noise(seed: int = 0, box: int = BOX) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(box, box)).astype(np.float32)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, "NaN"),
        (np.inf, "NaN or infinite"),
        (-np.inf, "NaN or infinite"),
        (2 * LARGEST_PIXEL, "beyond 1e\\+12"),
        (-3e38, "beyond"),
        (1e3, "hot pixel, 1000 in row 3, column 4"),
        (-1e6, "hot pixel, -1e\\+06 in row 3, column 4"),
        (1e11, "hot pixel, 1e\\+11"),
    ],
)
def test_one_bad_pixel_makes_an_image_unusable(value: float, said: str) -> None:
    images = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    images[1, 2, 3] = value
    assert usable_images(images).tolist() == [True, False, True]
    assert re.search(said, why_unusable(images[1]))


def test_constant_images_are_unusable_and_large_ones_are_not() -> None:
    images = np.full((2, 8, 8), 0.9 * LARGEST_PIXEL, np.float32)
    images[1, :4] = 0
    assert usable_images(images).tolist() == [False, True]
    assert why_unusable(images[0]) == "is constant"


def test_the_power_of_what_is_usable_has_single_precision() -> None:
    """A white image as bright as may be, 1,000 pixels a side: its power is finite in every coefficient."""
    image = LARGEST_PIXEL * np.sign(np.random.default_rng(1).normal(size=(1000, 1000)))
    image[0, 0] = 0
    assert usable_images(image[None].astype(np.float32)).all()
    assert np.isfinite((np.abs(np.fft.rfft2(np.abs(image))) ** 2).astype(np.float32)).all()


@pytest.mark.parametrize("pixels", [1, 4, 9, 12])
@pytest.mark.parametrize("offset", [0.0, 3e4])
def test_power_in_fewer_than_ten_pixels_is_hot(pixels: int, offset: float) -> None:
    """k equal pixels far above the noise count as k: the definition, in closed form, from 45 px on."""
    image = noise() + np.float32(offset)
    image.ravel()[100 : 100 + pixels] += 1e6
    assert is_hot(image) == (pixels < 10)


@given(st.floats(0, 3), st.floats(-8, 8), st.integers(0, 99))
def test_where_a_pixel_makes_noise_hot(amplitude: float, power_of_ten: float, seed: int) -> None:
    """A pixel of a^2 beside N sigma^2: hot where (a^2 + N)^2 < 10 (a^4 + 3 N), whatever the grey scale.

    The noise's own fourth moment differs from 3 N by chance: a tenth either side of the border is left out.
    """
    image, count = noise(seed), BOX * BOX
    image[7, 9] = amplitude * BOX
    hot = (amplitude**2 + 1) ** 2 * count**2 < 10 * (amplitude**4 * count**2 + 3 * count)
    border = np.sqrt(1 / (np.sqrt(10) - 1))
    if abs(amplitude / border - 1) > 0.1:
        assert is_hot(np.float32(10**power_of_ten) * image) == hot


@pytest.mark.parametrize(("box", "fewest"), [(16, 1), (24, 2), (32, 5), (44, 9), (45, 10), (64, 10)])
def test_fewer_pixels_are_hot_in_small_boxes(box: int, fewest: int) -> None:
    """Of N pixels, the smaller of ten and N / 200: 1.28, 2.88, 5.12, 9.68, 10."""
    for pixels in (fewest - 1, fewest, fewest + 1):
        image = noise(box=box)
        image[1 : 1 + pixels, 5] += 1e6
        # k equal pixels count for a little more than k: the mean is not 0.
        assert is_hot(image) == (0 < pixels < min(10, box * box / 200)), pixels


def test_a_pixel_of_a_million_is_hot_in_every_box() -> None:
    for box in (*range(16, 64), 100, 256):
        image = noise(box=box)
        image[box // 3, box // 2] = 1e6
        assert is_hot(image), box


@pytest.mark.parametrize("box", [16, 24])
def test_small_particles_without_noise_are_not_hot(box: int, tmp_path: Path) -> None:
    """A particle seven pixels wide: half of its images count for fewer than ten pixels."""
    density, pixel_size = read_source(None, box, 20.0)
    posterion.simulate([density], pixel_size, tmp_path, posterion.SimulationOptions(40, snr=np.inf))
    images = Particles.read(tmp_path / "particles.star").images()
    deviation = images - images.mean(axis=(1, 2), keepdims=True, dtype=float)
    pixels = (deviation**2).sum(axis=(1, 2)) ** 2 / (deviation**4).sum(axis=(1, 2))
    assert np.count_nonzero(pixels < 10) > 10
    assert usable_images(images).all()


def test_a_hot_pixel_that_was_resampled_is_hot() -> None:
    """Fourier cropping by two puts a pixel between four of the new ones: nine count."""
    image = 1e-3 * noise(box=2 * BOX)
    image[21, 21] = 1e4
    spectrum = np.fft.fftshift(np.fft.fft2(image))[BOX // 2 : -BOX // 2, BOX // 2 : -BOX // 2]
    cropped = np.fft.ifft2(np.fft.ifftshift(spectrum)).real.astype(np.float32)
    assert (cropped**2).max() < 0.2 * (cropped**2).sum()
    assert is_hot(cropped)


def test_what_real_images_hold_is_not_hot() -> None:
    """Noise of the smallest boxes, few electrons, an edge of carbon, a gold bead, a lone atom."""
    y, x = np.mgrid[:64, :64] - 32
    bead = noise(box=64) - 30 * (np.hypot(x - 20, y) < 5)
    images = {
        "electrons": np.random.default_rng(1).poisson(0.05, (64, 64)),
        "edge": noise(box=64) + 100 * (x > 25),
        "bead": bead,
        "atom": np.exp(-(x**2 + y**2) / (2 * 1.5**2)),
        "last bit": np.where(x > 0, np.float32(1e8), np.nextafter(np.float32(1e8), np.float32(2e8))),
    }
    for name, image in images.items():
        assert usable_images(image[None].astype(np.float32)).all(), name
    assert usable_images(np.stack([noise(seed, 8) for seed in range(200)])).mean() > 0.99
    assert usable_images(np.stack([noise(seed, 16) for seed in range(200)])).all()
