"""Central slices of a map by a non-uniform FFT (finufft, type 2): no grid, no interpolation, no gridding."""

import finufft
import numpy as np
from numpy.typing import NDArray


def nufft_slices(
    volume: NDArray[np.floating],
    matrices: NDArray[np.float64],
    kx_p: NDArray[np.integer],
    ky_p: NDArray[np.integer],
) -> NDArray[np.complex128]:
    """Sum over voxels of ``v(x) exp(-2 pi i k.x / n)`` at k = R^T (kx, ky, 0), x from n // 2; (n, P)."""
    k = np.stack([kx_p, ky_p, np.zeros_like(kx_p)], -1).astype(float)
    x, y, z = (2 * np.pi / len(volume) * np.einsum("rji,pj->irp", matrices, k)).reshape(3, -1)
    at = (z.copy(), y.copy(), x.copy())
    slices = finufft.nufft3d2(*at, volume.astype(complex), eps=1e-9, isign=-1, nthreads=1)
    return slices.reshape(len(matrices), len(kx_p))
