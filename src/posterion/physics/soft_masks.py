"""Soft discs and spheres about the origin of an image or map."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["raised_cosine", "soft_disc", "soft_sphere"]

Real = NDArray[np.float32]


def raised_cosine(distance: NDArray[np.floating], edge: float) -> Real:
    """1 for distances up to 0, 0 from ``edge`` on, a raised cosine between; a step where the edge is 0."""
    if edge <= 0:
        return (distance <= 0).astype(np.float32)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(distance / edge, 0, 1)), np.float32)


def _soft_ball(box: int, radius_px: float, edge_px: float, dimensions: int) -> Real:
    squared = (np.arange(box) - box // 2).astype(np.float32) ** 2
    total = squared
    for _ in range(dimensions - 1):
        total = total[..., None] + squared
    return raised_cosine(np.sqrt(total) - np.float32(radius_px), edge_px)


def soft_sphere(box: int, radius_px: float, edge_px: float) -> Real:
    """Compute a sphere about the origin ``n//2``: 1 up to the radius, a raised cosine over the edge beyond.

    Parameters
    ----------
    box : pixels
    radius_px, edge_px : pixels

    Returns
    -------
    (n, n, n) float32 in [0, 1]
    """
    return _soft_ball(box, radius_px, edge_px, 3)


def soft_disc(box: int, radius_px: float, edge_px: float) -> Real:
    """Compute the two-dimensional `soft_sphere`, (n, n) float32 in [0, 1]."""
    return _soft_ball(box, radius_px, edge_px, 2)
