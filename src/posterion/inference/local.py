"""Local search: candidates around each particle's previous pose."""

import numpy as np
from numpy.typing import NDArray

from posterion.inference.search import Candidates, SearchPlan
from posterion.physics.sampling import shift_lattice

__all__ = ["local_candidates"]


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
