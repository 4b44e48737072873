"""Slow central slices, written from the equations on a whole complex grid: no half spectrum, no slabs."""

from itertools import product

import numpy as np
from numpy.typing import NDArray


def whole_grid(half: NDArray[np.complexfloating], centre: int) -> NDArray[np.complex128]:
    """Hermitian grid (D, D, 2W-1) with its origin in the middle of each axis, from the half ``x >= 0``.

    The half's plane x = 0 is taken as it is, not made Hermitian.
    """
    mates = half[::-1, ::-1, :0:-1].conj()
    return np.concatenate([mates, half], axis=2).astype(np.complex128)


def positions(
    matrices: NDArray[np.float64], kx_p: NDArray[np.integer], ky_p: NDArray[np.integer], padding: int
) -> NDArray[np.float64]:
    """Where each pixel lies, ``padding R^T (kx, ky, 0)``, (n, P, 3) ordered (x, y, z)."""
    k = np.stack([kx_p, ky_p, 0 * kx_p], -1).astype(float)
    return padding * np.einsum("nji,pj->npi", matrices, k)


def trilinear_slices(
    grid: NDArray[np.complex128], where: NDArray[np.float64], origin: tuple[int, int, int]
) -> NDArray[np.complex128]:
    """Sum the eight neighbours of each position (..., 3), each times ``product_d (1 - |x_d - i_d|)``."""
    position = where + np.array(origin)[::-1]
    low = np.floor(position).astype(int)
    value = np.zeros(where.shape[:-1], complex)
    for corner in product((0, 1), repeat=3):
        index = low + np.array(corner)
        share = np.prod(1 - np.abs(position - index), axis=-1)
        value += share * grid[index[..., 2], index[..., 1], index[..., 0]]
    return value
