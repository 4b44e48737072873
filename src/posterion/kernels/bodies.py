"""Scalar inner bodies in plain Python, compiled into every loop that needs them."""

import numpy as np
from numba import njit

__all__ = ["lerp", "split_position"]


@njit(inline="always")
def lerp(a: np.float32, b: np.float32, t: np.float32) -> np.float32:
    """Interpolate ``a + t (b - a)``."""
    return a + t * (b - a)


@njit(inline="always")
def split_position(x: np.float32) -> tuple[np.int32, np.float32]:
    """Split a non-negative position into its integer part and fraction."""
    i = np.int32(x)
    return i, x - np.float32(i)
