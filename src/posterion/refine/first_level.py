"""What all images of a half set share: slices of their reference on the grid that is scored first."""

from __future__ import annotations

import numpy as np

from posterion.inference.exhaustive import SharedGrid
from posterion.inference.images import MASK_EDGE_PX
from posterion.inference.polar import PolarReference
from posterion.inference.search import SearchPlan
from posterion.physics.polar import PolarGrid
from posterion.physics.projection import FourierVolume
from posterion.refine.context import RefineContext
from posterion.refine.state import RefinementState

__all__ = ["first_level", "polar_grids"]


def first_level(
    context: RefineContext,
    state: RefinementState,
    plan: SearchPlan,
    half: int,
    volume: FourierVolume,
    radius: int,
) -> SharedGrid | PolarReference | None:
    """Slice a half set's reference on the first grid of a plan, once per expectation step.

    Parameters
    ----------
    context, state : the run and where it stands
    plan : how to search
    half : 0 or 1
    volume : transform of that half's reference
    radius : highest shell that the maximisation step collects

    Returns
    -------
    Pixels, or harmonics where the plan goes by them; None where each image has a grid of its own.
    """
    if plan.by_harmonics:
        grids = _polar_grids(context, plan, radius)
        return PolarReference.of(state.half_maps[half], plan, *grids, context.workers.threads)
    complete = plan.search == "exhaustive" and len(plan.levels) > 1
    return None if state.search.local or complete else SharedGrid.of(volume, plan)


def polar_grids(shared: SharedGrid | PolarReference | None) -> tuple[PolarGrid, PolarGrid] | None:
    """Rings on which images are to be sampled for a first level; None where it needs none."""
    return (shared.grid, shared.collected) if isinstance(shared, PolarReference) else None


def _polar_grids(context: RefineContext, plan: SearchPlan, radius: int) -> tuple[PolarGrid, PolarGrid]:
    """Rings on which images and references, both inside the mask, are compared, and those collected."""
    box, seen_px = context.box, context.diameter_px + 2 * MASK_EDGE_PX
    compared = PolarGrid.of(box, plan.radius, seen_px, seen_px + 2 * plan.shift_range_px)
    return compared, PolarGrid.of(box, radius, box, np.sqrt(2) * box)
