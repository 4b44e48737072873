"""The scalar bodies, as plain Python and compiled."""

import numpy as np
import pytest
from numba import njit

from posterion.kernels import bodies


@njit
def compiled_lerp(a, b, t):  # type: ignore[no-untyped-def]
    return bodies.lerp(a, b, t)


@njit
def compiled_split(x):  # type: ignore[no-untyped-def]
    return bodies.split_position(x)


@pytest.mark.parametrize(("t", "expected"), [(0.0, 3.0), (1.0, 5.0), (0.25, 3.5)])
def test_lerp(t: float, expected: float) -> None:
    assert bodies.lerp(np.float32(3), np.float32(5), np.float32(t)) == expected
    assert compiled_lerp(np.float32(3), np.float32(5), np.float32(t)) == expected


@pytest.mark.parametrize("x", [0.0, 0.25, 2.0, 7.75])
def test_split_position(x: float) -> None:
    whole, fraction = bodies.split_position(np.float32(x))
    assert whole + fraction == x
    assert 0 <= fraction < 1
    assert (whole, fraction) == compiled_split(np.float32(x))


def test_product_is_that_of_complex_numbers() -> None:
    assert complex(*bodies.product((2, 3), (5, -7))) == (2 + 3j) * (5 - 7j)


def test_bilinear_and_its_slopes() -> None:
    """A plane ``1 + 2 y + 3 z`` and its twist ``5 y z`` are interpolated exactly."""
    y, z = 0.25, 0.75
    corners = 1.0, 3.0, 4.0, 11.0
    value = 1 + 2 * y + 3 * z + 5 * y * z
    assert bodies.bilinear(*corners, y, z) == value
    assert bodies.bilinear_slopes(*corners, y, z) == (value, 2 + 5 * z, 3 + 5 * y)
