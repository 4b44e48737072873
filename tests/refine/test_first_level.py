"""One function decides what all images of a half set share."""

from dataclasses import replace

import numpy as np
import pytest

from posterion.inference.exhaustive import SharedGrid
from posterion.inference.polar import PolarReference
from posterion.inference.search import SearchPlan
from posterion.physics.projection import FourierVolume
from posterion.refine.context import RefineContext
from posterion.refine.first_level import first_level, polar_grids
from posterion.refine.plan import make_plan
from posterion.refine.schedule import SearchState
from posterion.refine.state import RefinementState

RADIUS, COLLECTED = 8, 11


@pytest.fixture
def context(tiny_context: RefineContext) -> RefineContext:
    return tiny_context


@pytest.fixture
def state(tiny_start: RefinementState) -> RefinementState:
    """Half maps of which the second is twice the first."""
    different = np.stack([tiny_start.half_maps[0], 2 * tiny_start.half_maps[1]])
    return replace(tiny_start, iteration=3, half_maps=different)


def shared_of(
    context: RefineContext, state: RefinementState, search: SearchState, half: int = 0
) -> tuple[SharedGrid | PolarReference | None, SearchPlan]:
    """What the images of a half share in a state of the search."""
    state = replace(state, search=search)
    plan = make_plan(context, state, RADIUS, COLLECTED)
    volume = FourierVolume.from_map(state.half_maps[half], plan.radius)
    return first_level(context, state, plan, half, volume, COLLECTED), plan


def test_narrow_posteriors_start_on_pixels(context: RefineContext, state: RefinementState) -> None:
    shared, plan = shared_of(context, state, SearchState())
    assert isinstance(shared, SharedGrid)
    assert shared.pixels.radius == plan.levels[0].radius
    assert polar_grids(shared) is None


def test_a_local_or_complete_search_shares_nothing(context: RefineContext, state: RefinementState) -> None:
    assert shared_of(context, state, SearchState(local=True))[0] is None
    complete = replace(context, config=replace(context.config, search="exhaustive"))
    assert shared_of(complete, state, SearchState(fineness=2.0))[0] is None
    one_level = shared_of(complete, state, SearchState())[0]
    assert isinstance(one_level, SharedGrid), "a single grid is complete already"


def test_broad_posteriors_go_by_harmonics_of_their_half(
    context: RefineContext, state: RefinementState
) -> None:
    """The second reference is twice the first, so its slices are; rings reach what is compared, collected."""
    broad = SearchState(fineness=2.0, support_share=0.1)
    first, second = (shared_of(context, state, broad, half)[0] for half in (0, 1))
    assert isinstance(first, PolarReference)
    assert isinstance(second, PolarReference)
    grids = polar_grids(first)
    assert grids is not None
    assert [grid.radius for grid in grids] == [RADIUS, COLLECTED]
    ratio = [
        np.linalg.norm(b) / np.linalg.norm(a)
        for a, b in zip(first.slices.parts, second.slices.parts, strict=True)
        if a.any()
    ]
    maps = np.linalg.norm(state.half_maps[1]) / np.linalg.norm(state.half_maps[0])
    np.testing.assert_allclose(ratio, maps, rtol=1e-3)
