"""How an iteration searches: shells, levels, ranges, prior, and a random turn of the grid."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from posterion.inference.likelihood import gaussian_log_prob, profile_log_prob
from posterion.inference.priors import PosePrior
from posterion.inference.search import SearchPlan
from posterion.physics.symmetry import point_group_operators
from posterion.refine.context import RefineContext
from posterion.refine.schedule import (
    COMPARE_MARGIN_SHELLS,
    MAP_MARGIN_SHELLS,
    SearchGeometry,
    local_radius_deg,
    search_levels,
)
from posterion.refine.state import RefinementState

__all__ = ["make_plan", "method_now", "radii"]

_GRID_TURN_DEG = 5.0
_LATER_SHIFT_RANGE_PX = 2.5
_CAUTIOUS_MARGIN_SHELLS, _KNOWN_SHARE = 10, 0.01
_ADDED_NOISE = 0.01


def radii(context: RefineContext, state: RefinementState, final: bool = False) -> tuple[int, int]:
    """Choose the highest shells that an iteration compares and collects, Fourier pixels.

    Parameters
    ----------
    context, state : the run and where it stands
    final : whether the iteration is the last, which collects all frequencies up to Nyquist
    """
    nyquist = (context.box - 1) // 2
    # Where poses are hardly known halves agree on their average over orientations: no reason to hurry.
    known = state.search.support_share < _KNOWN_SHARE
    margin = MAP_MARGIN_SHELLS if known else _CAUTIOUS_MARGIN_SHELLS
    collected = nyquist if final else min(state.resolution_shell + margin, nyquist)
    return min(state.resolution_shell + COMPARE_MARGIN_SHELLS, collected), collected


def make_plan(
    context: RefineContext, state: RefinementState, compare_radius: int, collect_radius: int | None = None
) -> SearchPlan:
    """Decide how an iteration searches: levels, ranges, prior, and a random turn of the grid.

    Parameters
    ----------
    context, state : the run and where it stands
    compare_radius, collect_radius : highest shells compared and, where not the same, collected by the M-step
    """
    config = context.config
    method = method_now(context, state)
    search = _search_of(config.search, method)
    anywhere = state.iteration == 0 or state.search.newcomers
    range_px = config.shift_range_angstrom / context.pixel_size if anywhere else _LATER_SHIFT_RANGE_PX
    geometry = SearchGeometry(
        radius=compare_radius,
        collected=collect_radius or compare_radius,
        box=context.box,
        diameter_px=context.diameter_px,
        shift_range_px=range_px,
        group_order=len(point_group_operators(config.point_group)),
    )
    automatic = method == "em" and config.search == "auto"
    levels, by_harmonics = search_levels(
        geometry,
        state.search,
        small_cells=search == "branch-and-bound",
        harmonics=automatic and not state.search.local,
    )
    rng = np.random.default_rng((config.seed, state.iteration))
    turn = Rotation.from_rotvec(np.radians(rng.uniform(-_GRID_TURN_DEG, _GRID_TURN_DEG, 3)))
    return SearchPlan(
        levels=levels,
        shift_range_px=range_px,
        margin_nats=config.margin_nats,
        max_rotations=config.max_rotations,
        point_group=config.point_group,
        grid_offset=turn.as_matrix(),
        prior=PosePrior(state.log_direction_d, state.offset_sigma_px),
        score=gaussian_log_prob if method == "em" else profile_log_prob,
        climb=automatic,
        local_radius_deg=local_radius_deg(levels) if state.search.local else None,
        search=search,
        by_harmonics=by_harmonics,
        added_noise=0.0 if search == "exhaustive" else _ADDED_NOISE,
    )


def method_now(context: RefineContext, state: RefinementState) -> str:
    """Tell the method of this iteration: best poses where the schedule asks for them, else the option."""
    return "projection-matching" if state.search.best_only else context.config.method


def _search_of(search: str, method: str) -> str:
    """Which rule prunes; correlations, by which the grey scale is fitted, have no bound."""
    no_bound = search == "branch-and-bound" and method != "em"
    return "adaptive" if no_bound or search == "auto" else search
