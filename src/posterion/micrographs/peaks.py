"""Peaks of a score map, thinned so that no two are nearer than an exclusion distance."""

from __future__ import annotations

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["find_peaks"]

Real = NDArray[np.float32]


def find_peaks(
    score_yx: Real, threshold: float, exclusion_px: float
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Local maxima above a threshold, highest first, each the highest within its exclusion distance.

    Parameters
    ----------
    score_yx : (ny, nx) float32
        -inf where nothing may be picked.
    threshold : float
        Lowest score of a peak.
    exclusion_px : float
        A peak nearer than this to a higher one that was kept is left out (greedy non-maximum suppression).

    Returns
    -------
    position_xy : (n, 2) float64
        Column and row, by the parabola through the neighbours, within half a pixel of the maximum.
    index_yx : (n, 2) intp
        Row and column of the pixel.
    """
    highest = scipy.ndimage.maximum_filter(score_yx, 3, mode="nearest")
    rows, columns = np.nonzero((score_yx == highest) & (score_yx >= threshold) & np.isfinite(score_yx))
    order = np.lexsort((columns, rows, -score_yx[rows, columns]))
    index = np.stack([rows[order], columns[order]], 1)
    position = index[:, ::-1] + _parabola_offsets(score_yx, index)
    kept = _thinned(position, exclusion_px)
    return position[kept], index[kept]


def _thinned(position_xy: NDArray[np.float64], exclusion_px: float) -> NDArray[np.intp]:
    """Choose the points that no earlier chosen point lies near to."""
    if not len(position_xy):
        return np.zeros(0, np.intp)
    near = cKDTree(position_xy).query_ball_point(position_xy, exclusion_px * (1 - 1e-9))
    hidden = np.zeros(len(position_xy), np.bool_)
    kept = []
    for i, neighbours in enumerate(near):
        if not hidden[i]:
            kept.append(i)
            hidden[neighbours] = True
    return np.array(kept, np.intp)


def _parabola_offsets(score_yx: Real, index_yx: NDArray[np.intp]) -> NDArray[np.float64]:
    """Offset (n, 2) along (x, y) of the vertex of the parabola through three neighbours on each axis."""
    offsets = np.zeros((len(index_yx), 2))
    for axis, size in enumerate(score_yx.shape):
        step = np.eye(2, dtype=np.intp)[axis]
        inner = (index_yx[:, axis] > 0) & (index_yx[:, axis] < size - 1)
        before, here, after = (
            score_yx[tuple((index_yx[inner] + k * step).T)].astype(np.float64) for k in (-1, 0, 1)
        )
        usable = np.isfinite(before) & np.isfinite(after)  # a neighbour may be forbidden
        before, after = np.where(usable, before, here), np.where(usable, after, here)
        curvature = before - 2 * here + after
        shift = 0.5 * (before - after) / np.where(curvature < 0, curvature, -np.inf)
        offsets[inner, 1 - axis] = np.clip(shift, -0.5, 0.5)
    return offsets
