"""How finely to search: bands, angular and shift steps from the resolution and the particle's size."""

from __future__ import annotations

import numpy as np

from posterion.inference.search import Level

__all__ = ["band_of_order", "search_levels"]

_COARSEST_ORDER = 2
_LOCAL_ORDER = 4
_FINEST_ORDER = 8
_BAND_FACTOR = 1.2
_SHIFT_FACTOR = 3.0


def band_of_order(order: int, box: int, diameter_px: float) -> float:
    """Highest shell that a grid of rotations resolves: one step moves the particle's edge by 1.2 periods.

    ``r = 1.2 n / (step D / 2)``, the rule by which RELION limits its coarse pass.

    Parameters
    ----------
    order : HEALPix order; the step is 60 degrees / 2**order
    box : pixels
    diameter_px : diameter of the particle, pixels
    """
    step_rad = np.radians(60.0 / 2**order)
    return float(_BAND_FACTOR * box / (step_rad * diameter_px / 2))


def search_levels(
    radius: int, box: int, diameter_px: float, fineness: float, shift_range_px: float, local: bool
) -> tuple[Level, ...]:
    """Levels from a coarse grid at low resolution to one that oversamples ``radius`` by ``fineness``.

    Parameters
    ----------
    radius : highest shell of the last level, Fourier pixels
    box, diameter_px : pixels
    fineness : the last level's grid resolves ``fineness * radius``
    shift_range_px : radius of the shift search; no level has a step of more than half of it
    local : start around the previous pose, at a finer grid
    """
    last = _COARSEST_ORDER
    while last < _FINEST_ORDER and band_of_order(last, box, diameter_px) < fineness * radius:
        last += 1
    first = min(max(_LOCAL_ORDER, last - 2), last) if local else min(_COARSEST_ORDER, last)
    levels: list[Level] = []
    step = 2.0**np.floor(np.log2(max(shift_range_px / 2, 0.125)))
    for order in range(first, last + 1):
        band = radius if order == last else min(radius, int(band_of_order(order, box, diameter_px)))
        # The first level may start finer; after it a level halves the step at most, as children are made.
        wanted = box / (_SHIFT_FACTOR * band * (fineness if order == last else 2))
        while wanted < 0.75 * step and (not levels or step > 0.75 * levels[-1].shift_step_px):
            step /= 2
        levels.append(Level(order, max(band, 3), step))
    return tuple(levels)
