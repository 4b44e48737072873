"""The scalar bodies, called as plain Python."""

import numpy as np
import pytest

from posterion.kernels.bodies import lerp, split_position


@pytest.mark.parametrize(("t", "expected"), [(0.0, 3.0), (1.0, 5.0), (0.25, 3.5)])
def test_lerp(t: float, expected: float) -> None:
    assert lerp.py_func(np.float32(3), np.float32(5), np.float32(t)) == expected
    assert lerp(np.float32(3), np.float32(5), np.float32(t)) == expected


@pytest.mark.parametrize("x", [0.0, 0.25, 2.0, 7.75])
def test_split_position(x: float) -> None:
    whole, fraction = split_position(np.float32(x))
    assert whole + fraction == x
    assert 0 <= fraction < 1
    assert (whole, fraction) == split_position.py_func(np.float32(x))
