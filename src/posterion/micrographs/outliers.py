"""Where not to pick: ice and dirt much darker or brighter than the rest, carbon and other unlike texture."""

from __future__ import annotations

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

__all__ = ["contaminated_pixels", "robust_z", "unlike_places"]

Real = NDArray[np.float32]

_MAD_TO_SD = 1.4826
_SPOT_OVER_DIAMETER = 1 / 8  # smoothing that leaves ice and dirt but not the noise
_COVERED_SHARE = 0.3


def robust_z(values: Real, within: NDArray[np.bool_] | None = None) -> Real:
    """Distance from the median in robust standard deviations, 1.4826 times the median absolute deviation.

    Parameters
    ----------
    values : (...) float32
    within : (...) bool, optional
        Values that median and deviation are taken over.
    """
    chosen = values if within is None or not within.any() else values[within]
    centre = np.median(chosen)
    spread = _MAD_TO_SD * np.median(np.abs(chosen - centre))
    return np.asarray((values - centre) / max(float(spread), 1e-12), np.float32)


def contaminated_pixels(values_yx: Real, diameter_px: float, limit_sd: float) -> NDArray[np.bool_]:
    """Pixels of spots whose grey lies beyond the limit on either side: ice, dirt, the edge of a thick film.

    Grey is compared after smoothing by an eighth of the diameter; spots grow by as much.

    Parameters
    ----------
    values_yx : (ny, nx) float32
        Micrograph without its plane.
    diameter_px : float
        Of the particle, pixels.
    limit_sd : float
        In robust standard deviations of the smoothed micrograph; 0 flags nothing.
    """
    if limit_sd <= 0:
        return np.zeros(values_yx.shape, np.bool_)
    reach = diameter_px * _SPOT_OVER_DIAMETER
    spots = np.abs(robust_z(scipy.ndimage.gaussian_filter(values_yx, reach))) > limit_sd
    return np.asarray(scipy.ndimage.distance_transform_edt(~spots) <= reach if spots.any() else spots)


def unlike_places(
    local_sd_yx: Real, covered_share_yx: Real, valid_yx: NDArray[np.bool_], limit_sd: float
) -> NDArray[np.bool_]:
    """Places whose texture is unlike the rest, or that contamination covers by more than 30 %.

    Texture is the logarithm of the local standard deviation of the whitened micrograph: carbon has more,
    empty holes in the support and smooth dirt have less.

    Parameters
    ----------
    local_sd_yx : (ny, nx) float32
        Local standard deviation over a particle's disc.
    covered_share_yx : (ny, nx) float32
        Share of the disc that is contaminated.
    valid_yx : (ny, nx) bool
        Pixels that are not contaminated.
    limit_sd : float
        In robust standard deviations; 0 flags nothing.
    """
    if limit_sd <= 0:
        return np.zeros(local_sd_yx.shape, np.bool_)
    texture = np.abs(robust_z(np.log(local_sd_yx), valid_yx))
    return np.asarray((texture > limit_sd) | (covered_share_yx > _COVERED_SHARE) | ~valid_yx)
