"""What follows an iteration: each line of the two tables in docs/theory.md, section 4."""

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from posterion.refine.decisions import decide, first_search
from posterion.refine.schedule import SearchState
from posterion.refine.state import IterationInfo, ParticleEstimates, RefineConfig, RefinementState

PEAKS = {"gaussian_share": 0.9, "effective_orientations": 1.1}
GRIDS = {"gaussian_share": 0.1, "effective_orientations": 60.0}
RISEN, UNCHANGED = {"best_shell": 21}, {}


def context(particles: int = 100, subset: str = "auto") -> Any:
    half_i = np.tile(np.array([1, 2], np.int8), particles // 2)
    return SimpleNamespace(half_i=half_i, config=RefineConfig(150.0, subset=subset))


def state(**search: Any) -> RefinementState:
    nothing = np.zeros(0)
    return RefinementState(
        iteration=4,
        half_maps=np.zeros((2, 2, 2, 2), np.float32),
        sigma2_gs=nothing,
        scale_g=nothing,
        tau2_s=nothing,
        particles=ParticleEstimates.empty(0),
        resolution_shell=20,
        best_shell=20,
        stalled=0,
        search=SearchState(**search),
        log_direction_d=nothing,
        offset_sigma_px=1.0,
        converged=False,
    )


def told(**numbers: Any) -> IterationInfo:
    usual = dict.fromkeys((f.name for f in fields(IterationInfo)), 0.0)
    return IterationInfo(**(usual | {"angle_change_deg": 5.0, "map_change": 0.0} | numbers))


def after(
    old: RefinementState, info: IterationInfo, particles: int = 100, **measured: Any
) -> RefinementState:
    return decide(context(particles), replace(old, iteration=5, **measured), old, info)


def test_peaks_that_improve_become_local_once_poses_have_settled() -> None:
    for change, local in ((5.0, False), (0.5, True), (None, False)):
        found = after(state(), told(**PEAKS, angle_change_deg=change), **RISEN)
        assert (found.search.local, found.converged) == (local, False)
    assert after(state(local=True), told(**PEAKS, map_change=0.1, angle_change_deg=0.2)).search.local


def test_peaks_that_stall_are_searched_everywhere_once_more_before_the_end() -> None:
    found = after(state(local=True), told(**PEAKS), **UNCHANGED)
    assert (found.search.local, found.converged) == (False, False)
    assert after(state(local=False), told(**PEAKS), **UNCHANGED).converged


def test_grids_fit_the_width_of_posteriors() -> None:
    sharp, broad = told(gaussian_share=0.1, effective_orientations=2), told(effective_orientations=500)
    assert after(state(fineness=2.0), sharp).search.fineness == 4.0
    assert after(state(fineness=16.0), sharp).search.fineness == 16.0
    assert after(state(fineness=1.0), broad).search.fineness == 0.5
    assert after(state(fineness=0.5), broad).search.fineness == 0.5


def test_grids_that_stall_become_local_then_finer_then_end() -> None:
    first = after(state(), told(**GRIDS))
    assert first.search.local
    finer = after(state(local=True), told(gaussian_share=0.1, effective_orientations=8))
    assert (finer.search.fineness, finer.converged) == (2.0, False)
    once = after(state(local=True), told(**GRIDS))
    assert (once.stalled, once.converged) == (1, False)
    assert after(replace(state(local=True), stalled=1), told(**GRIDS)).converged


def test_best_poses_come_first_where_hardly_anything_is_known() -> None:
    assert first_search(context(), 0.4).best_only
    assert not first_search(context(), 0.1).best_only
    old = state(best_only=True)
    assert decide(context(), replace(old, iteration=2), old, told()).search.best_only
    assert not decide(context(), replace(old, iteration=3), old, told()).search.best_only


@pytest.mark.parametrize(
    ("particles", "share", "option", "subset"),
    [(100, 0.0, "auto", 0), (8000, 0.0, "auto", 1000), (8000, 0.0, "all", 0), (8000, 0.4, "auto", 0)],
)
def test_large_sets_start_with_a_part(particles: int, share: float, option: str, subset: int) -> None:
    """But for sets of whose poses hardly anything is known: they need every image."""
    assert first_search(context(particles, option), share).subset == subset


@pytest.mark.parametrize("kind", [PEAKS, GRIDS])
def test_a_part_is_searched_again_while_better_poses_raise_the_resolution(kind: dict[str, float]) -> None:
    old = state(subset=1000)
    again = after(old, told(**kind), 100_000, **RISEN)
    assert (again.search.subset, again.search.newcomers) == (1000, False)
    grown = after(old, told(**kind), 100_000, **UNCHANGED)
    assert (grown.search.subset, grown.search.newcomers) == (4000, True)
    settled = after(old, told(**kind, angle_change_deg=0.5), 100_000, **RISEN)
    assert settled.search.subset == 4000


def test_a_part_too_small_for_its_reference_leaves_it_as_it_is() -> None:
    """Halves that agree less far than the reference was known: the larger part starts from the same."""
    old, worse = state(subset=1000), np.ones((2, 2, 2, 2), np.float32)
    info = told(**GRIDS)
    found = after(old, info, 100_000, half_maps=worse, resolution_shell=19, sigma2_gs=np.ones(3))
    assert found.half_maps is old.half_maps
    assert (found.resolution_shell, found.search.subset) == (20, 4000)
    np.testing.assert_array_equal(found.sigma2_gs, np.ones(3))
    assert after(old, info, 100_000, half_maps=worse).half_maps is worse
    everyone = after(state(), info, 100_000, half_maps=worse, resolution_shell=19)
    assert everyone.half_maps is worse


@pytest.mark.parametrize("kind", [PEAKS, GRIDS])
def test_a_part_grows_to_the_full_set_and_never_ends_a_run(kind: dict[str, float]) -> None:
    """Newcomers have no pose: all orientations, until everything has been searched once."""
    found = after(state(subset=4000), told(**kind), 100_000)
    assert found.search == SearchState(subset=0, newcomers=True)
    assert not found.converged
    assert not after(found, told(**kind), 100_000).search.newcomers


def test_large_sets_take_a_look_at_a_part_before_everything_is_searched_once_more() -> None:
    found = after(state(local=True), told(**PEAKS), 8000, **UNCHANGED)
    assert found.search == SearchState(subset=1000, look=True)
    everything = replace(context(8000).config, subset="all")
    chosen = SimpleNamespace(half_i=context(8000).half_i, config=everything)
    asked = decide(chosen, replace(state(local=True), iteration=5), state(local=True), told(**PEAKS))
    assert asked.search == SearchState()


@pytest.mark.parametrize(("moved", "converged"), [(0.0, True), (0.004, True), (0.006, False), (None, False)])
def test_a_look_changes_nothing_but_what_comes_next(moved: float | None, converged: bool) -> None:
    old = state(subset=1000, look=True)
    other_map = np.ones((2, 2, 2, 2), np.float32)
    found = after(old, told(**PEAKS, moved_share=moved), 8000, half_maps=other_map, best_shell=25)
    assert found.converged is converged
    assert found.search == SearchState(local=converged)
    assert (found.iteration, found.best_shell) == (5, 20)
    assert found.half_maps is old.half_maps
    assert found.particles is old.particles
