"""Images that would spoil sums, and what is said of them."""

import re

import numpy as np
import pytest

from posterion.data.unusable import LARGEST_PIXEL, usable_images, why_unusable


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, "NaN"),
        (np.inf, "NaN or infinite"),
        (-np.inf, "NaN or infinite"),
        (2 * LARGEST_PIXEL, "beyond 1e\\+12"),
        (-3e38, "beyond"),
    ],
)
def test_one_bad_pixel_makes_an_image_unusable(value: float, said: str) -> None:
    images = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    images[1, 2, 3] = value
    assert usable_images(images).tolist() == [True, False, True]
    assert re.search(said, why_unusable(images[1]))


def test_constant_images_are_unusable_and_large_ones_are_not() -> None:
    images = np.full((2, 8, 8), 0.9 * LARGEST_PIXEL, np.float32)
    images[1, 0, 0] = 0
    assert usable_images(images).tolist() == [False, True]
    assert why_unusable(images[0]) == "is constant"


def test_the_power_of_what_is_usable_has_single_precision() -> None:
    """A white image as bright as may be, 1,000 pixels a side: its power is finite in every coefficient."""
    image = LARGEST_PIXEL * np.sign(np.random.default_rng(1).normal(size=(1000, 1000)))
    image[0, 0] = 0
    assert usable_images(image[None].astype(np.float32)).all()
    assert np.isfinite((np.abs(np.fft.rfft2(np.abs(image))) ** 2).astype(np.float32)).all()
