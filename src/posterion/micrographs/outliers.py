"""Where not to pick: ice, dirt and carbon, whose grey or texture is unlike particles and background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posterion.micrographs.reduced import mean_over_disc

__all__ = ["unlike_places"]

Real = NDArray[np.float32]

_MAD_TO_SD = 1.4826


def unlike_places(
    values_yx: Real,
    local_sd_yx: Real,
    candidates_yx: NDArray[np.intp],
    disc_radius_px: float,
    limit_sd: float,
) -> NDArray[np.bool_]:
    """Places whose grey, or whose texture, lies beyond the range of both the micrograph and the candidates.

    Grey is the mean over a particle's disc, texture the logarithm of the local standard deviation of the
    whitened micrograph; of texture only more is unlike. The range of each reaches from the lower to the
    higher of two medians, of all places and of the candidates, and ``limit_sd`` robust standard deviations
    (the larger of the two) beyond. Strong particles that are few are therefore no outliers, as long as they
    are the majority of the candidates.

    Parameters
    ----------
    values_yx : (ny, nx) float32
        Micrograph without its plane.
    local_sd_yx : (ny, nx) float32
        Local standard deviation of the whitened micrograph over a disc.
    candidates_yx : (n, 2) intp
        Rows and columns of the peaks above the threshold.
    disc_radius_px : float
        Of the particle, pixels.
    limit_sd : float
        0 flags nothing.
    """
    if limit_sd <= 0 or not len(candidates_yx):
        return np.zeros(values_yx.shape, np.bool_)
    inside = mean_over_disc(np.stack([values_yx, np.ones_like(values_yx)]), disc_radius_px)
    grey = np.asarray(inside[0] / np.maximum(inside[1], 0.2), np.float32)
    texture = np.log(local_sd_yx)
    grey_range = _usual_range(grey, candidates_yx, limit_sd)
    texture_range = _usual_range(texture, candidates_yx, limit_sd)
    beyond = (grey < grey_range[0]) | (grey > grey_range[1]) | (texture > texture_range[1])
    return np.asarray(beyond)


def _usual_range(values_yx: Real, candidates_yx: NDArray[np.intp], limit_sd: float) -> tuple[float, float]:
    populations = (values_yx.ravel(), values_yx[candidates_yx[:, 0], candidates_yx[:, 1]])
    medians = [float(np.median(population)) for population in populations]
    spreads = [
        _MAD_TO_SD * float(np.median(np.abs(population - median)))
        for population, median in zip(populations, medians, strict=True)
    ]
    reach = limit_sd * max(*spreads, 1e-6)
    return min(medians) - reach, max(medians) + reach
