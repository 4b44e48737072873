"""Levels of the search: coarse to fine, each at most halving the steps, the last as fine as is asked."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posterion.inference.search import Level, band_of_order
from posterion.physics.sampling import RotationGrid
from posterion.refine.schedule import (
    SearchGeometry,
    SearchState,
    fits_harmonics,
    local_radius_deg,
    search_levels,
)

many = settings(max_examples=150)
problems = st.fixed_dictionaries(
    {
        "radius": st.integers(3, 120),
        "box": st.just(256),
        "diameter_px": st.floats(40, 250),
        "search": st.builds(
            SearchState,
            fineness=st.sampled_from([0.5, 1.0, 2.0, 4.0, 16.0]),
            local=st.booleans(),
            support_share=st.sampled_from([0.0, 1e-4, 0.05, 0.5]),
        ),
        "shift_range_px": st.floats(0.5, 20),
        "group_order": st.sampled_from([1, 2, 24, 60]),
        "small_cells": st.booleans(),
    }
)


def levels_of(
    radius: int,
    box: int,
    diameter_px: float,
    search: SearchState,
    shift_range_px: float,
    group_order: int,
    *,
    collected: int = 0,
    **choices: bool,
) -> tuple[Level, ...]:
    """Levels where no more is collected than compared, or to a shell and with harmonics allowed."""
    geometry = SearchGeometry(radius, collected or radius, box, diameter_px, shift_range_px, group_order)
    return search_levels(geometry, search, harmonics=collected > 0, **choices).levels


def collecting(collected: int, group_order: int = 1) -> SearchGeometry:
    """A box of 128."""
    return SearchGeometry(28, collected, 128, 107.0, 2.5, group_order)


def test_a_step_moves_the_edge_of_the_particle_by_a_period_of_the_band() -> None:
    for order in (1, 3, 5):
        step_px = np.radians(RotationGrid(order, np.eye(3)).step_deg) * 80 / 2
        period_px = 128 / band_of_order(order, 128, 80)
        assert step_px == pytest.approx(1.2 * period_px)


@many
@given(problems)
def test_levels_go_from_coarse_to_fine(problem: dict) -> None:
    levels = levels_of(**problem)
    orders = [level.order for level in levels]
    assert orders == list(range(orders[0], orders[-1] + 1))
    radii, steps = [level.radius for level in levels], [level.shift_step_px for level in levels]
    assert radii == sorted(radii)
    assert radii[-1] == problem["radius"]
    for coarse, fine in pairwise(steps):
        assert fine in (coarse, coarse / 2), "children of a shift are made by halving"
    assert all(step == 2 ** round(np.log2(step)) for step in steps)
    assert steps[0] <= max(problem["shift_range_px"] / 2, 0.125)
    assert all(0 <= level.cell_loss < 1 for level in levels)


@many
@given(problems)
def test_the_last_grid_is_as_fine_as_is_asked_and_no_finer(problem: dict) -> None:
    geometry = problem["box"], problem["diameter_px"]
    wanted = problem["search"].fineness * problem["radius"]
    last = levels_of(**problem)[-1].order
    covered = problem["search"].support_share * 72 * 8 ** (last + 1) / problem["group_order"]
    too_broad = last >= 3 and covered > 300
    assert last == 8 or band_of_order(last, *geometry) >= wanted or too_broad
    assert last == 1 or band_of_order(last - 1, *geometry) < wanted


@many
@given(problems)
def test_each_level_compares_what_its_grid_resolves(problem: dict) -> None:
    for level in levels_of(**problem)[:-1]:
        assert level.radius <= max(band_of_order(level.order, problem["box"], problem["diameter_px"]), 3)


def test_shift_steps_follow_the_band() -> None:
    """At the last level a third of a period of the band, over the fineness."""
    (*_, last) = levels_of(40, 128, 90.0, SearchState(fineness=2.0), 10.0, 1)
    assert 0.5 * 128 / (3 * 40 * 2) < last.shift_step_px <= 128 / (3 * 40 * 2) / 0.75


def test_a_local_search_starts_fine() -> None:
    levels = levels_of(50, 128, 90.0, SearchState(fineness=4.0, local=True), 2.5, 1)
    assert levels[0].order >= 4
    assert local_radius_deg(levels) == 2 * 60 / 2 ** levels[0].order
    assert levels_of(50, 128, 90.0, SearchState(fineness=4.0), 2.5, 1)[0].order < levels[0].order


def test_broad_posteriors_are_summed_on_one_shared_grid() -> None:
    narrow, broad = (
        levels_of(8, 64, 40.0, SearchState(fineness=2.0, support_share=share), 5.0, 1) for share in (0.0, 0.2)
    )
    assert len(broad) == 1
    assert broad[-1].order == narrow[-1].order
    assert len(levels_of(60, 128, 100.0, SearchState(4.0, support_share=0.2), 5.0, 1)) > 1, "too much memory"


def test_high_symmetry_affords_a_finer_shared_grid() -> None:
    plain, octahedral = (
        levels_of(60, 200, 150.0, SearchState(fineness=2.0), 5.0, order)[0].order for order in (1, 24)
    )
    assert octahedral > plain


def test_small_cells_compare_half_the_band_from_a_finer_grid() -> None:
    usual, small = (
        levels_of(40, 128, 107.0, SearchState(fineness=2.0), 3.0, 1, small_cells=choice)
        for choice in (False, True)
    )
    assert [level.order for level in usual] == [2, 3, 4, 5]
    assert [level.order for level in small] == [3, 4, 5]
    bands = {level.order: level.radius for level in usual}
    assert [level.radius for level in small] == [bands[3] // 2, 21, 40]


def test_broad_posteriors_get_no_finer_cells_than_they_cover() -> None:
    """A tenth of all orientations: 7.5 degrees are fine enough, whatever the band asks for."""
    geometry = {"radius": 60, "box": 128, "diameter_px": 100, "shift_range_px": 3.0, "group_order": 1}
    assert levels_of(search=SearchState(support_share=0.1), **geometry)[-1].order == 3
    assert levels_of(search=SearchState(support_share=1e-6), **geometry)[-1].order == 5


def test_harmonics_afford_a_shared_grid_of_more_orientations() -> None:
    """Where posteriors are broad it is the finest that harmonics afford; else they change nothing."""
    geometry = {"radius": 28, "box": 128, "diameter_px": 107, "shift_range_px": 2.5, "group_order": 1}
    broad = SearchState(support_share=0.02)
    (only,) = levels_of(search=broad, **geometry, collected=38)
    assert only.order == 3
    assert len(levels_of(search=broad, **geometry)) > 1, "too much memory for slices on pixels"
    (octahedral,) = levels_of(search=broad, **geometry | {"group_order": 24}, collected=38)
    assert octahedral.order == 4
    narrow = replace(broad, support_share=0.001)
    with_them, without = (levels_of(search=narrow, **geometry, collected=shell) for shell in (38, 0))
    assert with_them == without


def test_harmonics_are_left_where_their_sums_would_take_too_much_memory() -> None:
    """A MiB for each pixel of the box: 768 directions up to Nyquist are too many, 128 are not."""
    assert fits_harmonics(3, collecting(38))
    assert not fits_harmonics(3, collecting(63))
    assert fits_harmonics(4, collecting(63, 24))
    assert not fits_harmonics(2, collecting(38)), "too few angles"


def test_a_grid_is_shared_only_if_its_slices_to_the_last_shell_are_few() -> None:
    """A batch of broad posteriors makes a slice of every rotation, to the last shell collected."""
    broad, small = SearchState(fineness=2.0, support_share=0.05), SearchGeometry(8, 12, 64, 45.0, 2.5, 1)
    assert len(search_levels(small, broad).levels) == 1
    levels, by_harmonics = search_levels(replace(small, collected=31), broad)
    assert len(levels) > 1
    assert not by_harmonics


def test_harmonics_are_for_broad_posteriors_alone() -> None:
    """With the symmetry of a cube one level can be fine enough for narrow ones too."""
    cube = SearchGeometry(18, 28, 128, 107.0, 2.5, 24)
    for share, expected in ((0.05, True), (0.001, False)):
        levels, by_harmonics = search_levels(cube, SearchState(support_share=share), harmonics=True)
        assert len(levels) == 1
        assert by_harmonics == expected
