"""Plans follow seed, method and schedule."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from posterion.refine.context import RefineContext
from posterion.refine.plan import make_plan, method_now, radii
from posterion.refine.schedule import SearchState
from posterion.refine.state import RefinementState


@pytest.fixture
def context(tiny_context: RefineContext) -> RefineContext:
    return tiny_context


@pytest.fixture
def state(tiny_start: RefinementState) -> RefinementState:
    return tiny_start


def test_plans_turn_the_grid_by_the_seed(context: RefineContext, state: RefinementState) -> None:
    again, other = (
        make_plan(replace(context, config=replace(context.config, seed=seed)), state, 5) for seed in (1, 2)
    )
    np.testing.assert_array_equal(make_plan(context, state, 5).grid_offset, again.grid_offset)
    later = make_plan(context, replace(state, iteration=1), 5)
    assert not np.allclose(again.grid_offset, other.grid_offset)
    assert not np.allclose(again.grid_offset, later.grid_offset)
    np.testing.assert_allclose(other.grid_offset @ other.grid_offset.T, np.eye(3), atol=1e-12)


def test_correlations_have_no_bound(context: RefineContext, state: RefinementState) -> None:
    """The grey scale is fitted by projection matching before branch and bound can start."""
    chosen = replace(context.config, search="branch-and-bound", method="projection-matching")
    assert make_plan(replace(context, config=chosen), state, 5).search == "adaptive"
    bounded = make_plan(replace(context, config=replace(chosen, method="em")), state, 5)
    assert (bounded.search, bounded.climb) == ("branch-and-bound", False)


def test_best_poses_where_the_schedule_asks_for_them(context: RefineContext, state: RefinementState) -> None:
    usual = replace(state, search=SearchState())
    assert method_now(context, usual) == "em"
    assert make_plan(context, usual, 5).climb
    best = replace(state, search=SearchState(best_only=True))
    assert method_now(context, best) == "projection-matching"
    assert not make_plan(context, best, 5).climb


def test_shells_beyond_the_resolution_are_compared_and_collected(
    context: RefineContext, state: RefinementState
) -> None:
    """Four and twenty, ten where posteriors were broad, never beyond Nyquist, to which the last collects."""
    large = replace(context, particles=cast(Any, SimpleNamespace(box_px=128)))

    def shells(shell: int, share: float, final: bool = False) -> tuple[int, int]:
        search = SearchState(support_share=share)
        return radii(large, replace(state, resolution_shell=shell, search=search), final)

    assert shells(30, 0.0) == shells(30, 0.0099) == (34, 50)
    assert shells(30, 0.01) == (34, 40)
    assert shells(55, 0.0) == (59, 63)
    assert shells(62, 0.01) == (63, 63)
    assert shells(30, 0.0, final=True) == shells(30, 0.01, final=True) == (34, 63)


def test_newcomers_are_looked_for_where_the_first_images_were(
    context: RefineContext, state: RefinementState
) -> None:
    """Within the range that was asked for, which is 8 A here, not about a last offset."""
    later = replace(state, iteration=3)
    ranges = [
        make_plan(context, replace(later, search=search), 8).shift_range_px
        for search in (SearchState(), SearchState(newcomers=True))
    ]
    assert ranges == pytest.approx([2.5, 8 / 7.5])


BROAD = SearchState(fineness=2.0, support_share=0.1)


def test_turns_go_by_harmonics_where_all_of_a_fine_grid_is_scored(
    context: RefineContext, state: RefinementState
) -> None:
    """Broad posteriors, expectation-maximisation and the automatic search, not around the last poses."""
    later = replace(state, iteration=3, search=BROAD)
    plan = make_plan(context, later, 8)
    assert plan.by_harmonics
    assert [level.order for level in plan.levels] == [3]
    assert (plan.levels[0].radius, plan.local_radius_deg) == (8, None)
    for other in ({"search": "exhaustive"}, {"search": "adaptive"}, {"method": "projection-matching"}):
        chosen = replace(context, config=replace(context.config, **other))
        assert not make_plan(chosen, later, 8).by_harmonics
    coarse = make_plan(context, later, 5)
    assert [level.order for level in coarse.levels] == [2], "too few turns to gain from harmonics"
    local = make_plan(context, replace(later, search=replace(BROAD, local=True)), 8)
    assert len(local.levels) == 1
    narrow = make_plan(context, replace(later, search=replace(BROAD, support_share=0.0)), 8)
    assert len(narrow.levels) > 1
    best = make_plan(context, replace(later, search=replace(BROAD, best_only=True)), 8)
    assert not any(other.by_harmonics for other in (coarse, local, narrow, best))


def test_few_slices_stand_for_many_but_in_a_complete_search(
    context: RefineContext, state: RefinementState
) -> None:
    """The noise of a map grows by a hundredth at most."""
    for search, added in (
        ("auto", 0.01),
        ("adaptive", 0.01),
        ("branch-and-bound", 0.01),
        ("exhaustive", 0.0),
    ):
        chosen = replace(context, config=replace(context.config, search=search))
        assert make_plan(chosen, replace(state, iteration=2), 8).added_noise == added
