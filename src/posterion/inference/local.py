"""Local search: candidates around each particle's previous pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.inference.search import Candidates, SearchPlan
from posterion.physics.sampling import shift_lattice

__all__ = ["LastPoses", "local_candidates"]


@dataclass(frozen=True)
class LastPoses:
    """Where the last search of each image of a batch ended.

    Attributes
    ----------
    matrices : (n, 3, 3) float64, rotations
    shifts_px : (n, 2) float64, total origin offsets
    known_i : (n,) bool, False where an image has not been searched yet
    """

    matrices: NDArray[np.float64]
    shifts_px: NDArray[np.float64]
    known_i: NDArray[np.bool_]


def local_candidates(
    matrix: NDArray[np.float64], shift_px: NDArray[np.float64], plan: SearchPlan
) -> Candidates:
    """List the first level's rotations near a pose, and the shifts around it.

    Parameters
    ----------
    matrix : (3, 3) previous rotation
    shift_px : (2,) previous origin offset less the whole pixels already applied
    plan : search plan with ``local_radius_deg``
    """
    if plan.local_radius_deg is None:
        raise ValueError("the plan is not a local one")
    cell = plan.grid(0).near(matrix, plan.local_radius_deg)
    return Candidates(0, cell, shift_px + shift_lattice(plan.shift_range_px, plan.levels[0].shift_step_px))
