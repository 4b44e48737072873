"""What is believed before an image is seen: viewing directions and origin offsets."""

from __future__ import annotations

from dataclasses import dataclass

import hpgeom
import numpy as np
from numpy.typing import NDArray

__all__ = ["PosePrior", "estimate_direction_prior", "estimate_offset_sigma"]

_PRIOR_ORDER = 2
_UNIFORM_SHARE = 0.2
_SMALLEST_SIGMA_PX = 0.5
_BLOCK = 2**14


@dataclass(frozen=True)
class PosePrior:
    """Prior over poses: a histogram of viewing directions times a Gaussian in the origin offset.

    Attributes
    ----------
    log_direction_d : (192,) float64, log of the density relative to uniform per HEALPix pixel of order 2
    offset_sigma_px : standard deviation of the origin offset per axis, pixels
    """

    log_direction_d: NDArray[np.float64]
    offset_sigma_px: float

    @classmethod
    def uniform(cls, offset_sigma_px: float) -> PosePrior:
        """No preferred direction."""
        return cls(np.zeros(12 * 4**_PRIOR_ORDER), offset_sigma_px)

    def of_rotations(self, matrices: NDArray[np.float64]) -> NDArray[np.float32]:
        """Log prior of rotations relative to uniform: (n, 3, 3) -> (n,) float32."""
        return self.log_direction_d[_direction_pixel(matrices[:, 2])].astype(np.float32)

    def of_shifts(self, shifts_px: NDArray[np.float64], step_px: float) -> NDArray[np.float32]:
        """Log prior mass of shift cells of side ``step_px``: (n, 2) offsets in pixels -> (n,) float32."""
        variance = self.offset_sigma_px**2
        squared = np.sum(shifts_px**2, axis=-1)
        log_mass = -0.5 * squared / variance + np.log(step_px**2 / (2 * np.pi * variance))
        return np.asarray(log_mass, np.float32)

    def log_density(
        self, matrices: NDArray[np.float64], shifts_px: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Log prior density per pixel^2, relative to uniform in rotation: (n, 3, 3), (n, 2) -> (n,)."""
        direction = self.log_direction_d[_direction_pixel(matrices[:, 2])]
        return direction + self.of_shifts(shifts_px, 1.0)


def _direction_pixel(vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    return hpgeom.vector_to_pixel(2**_PRIOR_ORDER, *vectors.T, nest=True)  # type: ignore[no-any-return]


def estimate_direction_prior(
    directions: NDArray[np.floating], operators: NDArray[np.float64], usable: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Estimate the log density of viewing directions from the best poses; a fifth of it is uniform.

    Parameters
    ----------
    directions : (N, 3) unit vectors, ``R^T e_z`` of each particle
    operators : (g, 3, 3) point group; every equivalent direction is counted
    usable : (N,) bool, which to count; with none the density is uniform

    Returns
    -------
    (192,) float64, see `PosePrior`
    """
    pixel_count = 12 * 4**_PRIOR_ORDER
    density = np.zeros(pixel_count)
    for start in range(0, len(directions), _BLOCK):
        block = directions[start : start + _BLOCK][usable[start : start + _BLOCK]].astype(np.float64)
        equivalent = np.einsum("gji,nj->gni", operators, block).reshape(-1, 3)
        density += np.bincount(_direction_pixel(equivalent), minlength=pixel_count)
    if not density.any():
        return np.zeros(pixel_count)
    density *= pixel_count / density.sum()
    neighbours = hpgeom.neighbors(2**_PRIOR_ORDER, np.arange(pixel_count), nest=True)
    around = np.where(neighbours >= 0, density[neighbours], density[:, None]).mean(axis=1)
    smooth = 0.5 * density + 0.5 * around
    return np.log(_UNIFORM_SHARE + (1 - _UNIFORM_SHARE) * smooth)  # type: ignore[no-any-return]


def estimate_offset_sigma(shifts_px: NDArray[np.floating], usable: NDArray[np.bool_]) -> float:
    """Estimate the standard deviation per axis of the usable origin offsets (N, 2), at least half a pixel."""
    count = max(int(np.count_nonzero(usable)), 1)
    total = 0.0
    for start in range(0, len(usable), _BLOCK):
        block = slice(start, start + _BLOCK)
        total += float(np.sum(shifts_px[block][usable[block]].astype(np.float64) ** 2))
    return max(float(np.sqrt(total / (2 * count))), _SMALLEST_SIGMA_PX)
