"""Scalar inner bodies in plain Python, compiled into every loop that needs them."""

import numpy as np
from numba import njit

__all__ = ["lerp", "split_position"]


@njit(inline="always")
def lerp(a: float, b: float, t: float) -> float:
    """Interpolate ``a + t (b - a)``."""
    return a + t * (b - a)


@njit(inline="always")
def split_position(x: float) -> tuple[int, float]:
    """Split a non-negative position into its integer part and fraction."""
    i = np.int32(x)
    return i, x - np.float32(i)
