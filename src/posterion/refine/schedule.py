"""How finely to search: bands and steps from the resolution, the particle's size and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from posterion.inference.search import Level, band_of_order, loss_of_cell

__all__ = [
    "COMPARE_MARGIN_SHELLS",
    "MAP_MARGIN_SHELLS",
    "ChosenLevels",
    "SearchGeometry",
    "SearchState",
    "fits_harmonics",
    "local_radius_deg",
    "search_levels",
]

COMPARE_MARGIN_SHELLS, MAP_MARGIN_SHELLS = 4, 20
"""Shells beyond the resolution to which images are compared, and which the maximisation step collects."""

_DENSE_CELLS = 6000
_DENSE_BYTES = 2**28
_DENSE_SHARE = 0.01
_FINE_ORDER, _CELLS_BY_HARMONICS = 3, 40_000
_LOCAL_ORDER = 4
_FINEST_ORDER = 8
_SHIFT_FACTOR = 3.0
_LOCAL_STEPS = 2.0
_WHERE_BREADTH_COUNTS, _MOST_COVERED = 3, 300.0


@dataclass(frozen=True)
class SearchState:
    """What the schedule has decided and measured so far.

    Attributes
    ----------
    fineness : the last level's grid of rotations resolves ``fineness`` times the band that is compared
    local : search around the previous poses
    support_share : mean effective number of rotations of a posterior over the number of cells of its grid
    best_only : take each image's best pose, as projection matching does, instead of its posterior
    subset : particles of each half that the next iteration searches; 0 for all
    newcomers : whether some of them have not been searched before
    look : whether the next iteration only looks, at all orientations of a part of the particles, if they are
        on their highest peaks; it then changes nothing
    """

    fineness: float = 1.0
    local: bool = False
    support_share: float = 0.0
    best_only: bool = False
    subset: int = 0
    newcomers: bool = False
    look: bool = False


def local_radius_deg(levels: tuple[Level, ...]) -> float:
    """Radius of a local search: two steps of its first level, degrees."""
    return float(_LOCAL_STEPS * 60.0 / 2 ** levels[0].order)


@dataclass(frozen=True)
class SearchGeometry:
    """What is searched, whatever has been measured.

    Attributes
    ----------
    radius : highest shell of the last level, Fourier pixels
    collected : highest shell that the M-step collects
    box, diameter_px : pixels
    shift_range_px : radius of the shift search; no level has a step of more than half of it
    group_order : number of operators of the point group
    """

    radius: int
    collected: int
    box: int
    diameter_px: float
    shift_range_px: float
    group_order: int


class ChosenLevels(NamedTuple):
    """Levels from coarse to fine, and whether the only one is compared by harmonics."""

    levels: tuple[Level, ...]
    by_harmonics: bool


def search_levels(
    geometry: SearchGeometry, search: SearchState, *, small_cells: bool = False, harmonics: bool = False
) -> ChosenLevels:
    """Levels from a coarse grid at low resolution to one that oversamples the band by ``search.fineness``.

    Where posteriors are so broad that most of the finest grid would be scored anyway, that grid is the only
    level and is shared by all images: matrix products instead of ragged lists.

    Parameters
    ----------
    geometry : what is searched
    search : fineness, local or global, and how broad posteriors were
    small_cells : levels compare half the band that their grid resolves, and the shared grid may be larger:
        scores then change little inside a cell, which is what branch and bound lives on
    harmonics : whether a grid that is the only level may be compared by harmonics, which allows a larger one
    """
    radius, box, group_order = geometry.radius, geometry.box, geometry.group_order
    last = 1
    while last < _FINEST_ORDER and _resolved(last, geometry) < search.fineness * radius:
        last += 1
    # A posterior that covers hundreds of cells gains nothing from smaller ones.
    covered = search.support_share * _cells_of_order(last, group_order)
    while last > _WHERE_BREADTH_COUNTS and covered > _MOST_COVERED:
        last, covered = last - 1, covered / 8
    harmonics = harmonics and search.support_share > _DENSE_SHARE
    while harmonics and last > _FINE_ORDER and not fits_harmonics(last, geometry):
        last -= 1
    by_harmonics = harmonics and fits_harmonics(last, geometry)
    cells = (8 if small_cells else 1) * _DENSE_CELLS
    shared = last if by_harmonics else _shared_order(last, geometry, search, cells)
    first = min(last, max(_LOCAL_ORDER, last - 2) if search.local else shared)
    levels: list[Level] = []
    step = float(2.0 ** np.floor(np.log2(max(geometry.shift_range_px / 2, 0.125))))
    for order in range(first, last + 1):
        resolved = _resolved(order, geometry)
        share = 0.5 if small_cells else 1.0
        band = radius if order == last else min(radius, int(share * resolved))
        wanted = box / (_SHIFT_FACTOR * band * (search.fineness if order == last else 2.0))
        # The first level may start at any step; after it a level halves the step at most, as children are
        # made.
        while wanted < 0.75 * step and (not levels or step > 0.75 * levels[-1].shift_step_px):
            step /= 2
        levels.append(Level(order, max(band, 3), step, loss_of_cell(band, resolved)))
    return ChosenLevels(tuple(levels), by_harmonics)


def _resolved(order: int, geometry: SearchGeometry) -> float:
    return band_of_order(order, geometry.box, geometry.diameter_px)


def _cells_of_order(order: int, group_order: int) -> float:
    """Count the different rotations of a grid."""
    return float(72 * 8**order / group_order)


def fits_harmonics(order: int, geometry: SearchGeometry) -> bool:
    """Whether a grid has in-plane angles enough for harmonics, and not too many directions.

    Sums of a batch of images may take a MiB for each pixel of the box.

    Parameters
    ----------
    order : HEALPix order of the grid
    geometry : what is searched
    """
    directions = 12 * 4**order / geometry.group_order
    sums_bytes = 12 * 2 * geometry.collected * np.pi * geometry.collected * directions
    few_enough = _cells_of_order(order, geometry.group_order) <= _CELLS_BY_HARMONICS
    return bool(order >= _FINE_ORDER and few_enough and sums_bytes <= geometry.box * 2**20)


def _shared_order(last: int, geometry: SearchGeometry, search: SearchState, cells: int) -> int:
    """Order of the dense pass: the last level's where posteriors are broad, else the largest cheap one.

    Every rotation has a slice that is compared, and one that every batch makes up to the last shell that is
    collected: where these are many, lists of what survives coarser levels cost less time and memory.
    """
    pixels = np.pi / 2 * max(geometry.radius, geometry.collected) ** 2
    bytes_of_last = _cells_of_order(last, geometry.group_order) * pixels * 12
    if search.support_share > _DENSE_SHARE and bytes_of_last < _DENSE_BYTES:
        return last
    return int(np.log2(cells * geometry.group_order / 72) / 3)
