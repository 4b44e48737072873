"""The search from coarse to fine finds what scoring everything finds."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

from posterion.inference import adaptive
from posterion.inference.adaptive import LevelImages, children_of, refine
from posterion.inference.exhaustive import SharedGrid, dense_candidates, dense_log_prob
from posterion.inference.posterior import posterior_of
from posterion.inference.search import (
    LOG_INVERSE_EPSILON,
    Candidates,
    Level,
    LevelCount,
    SearchPlan,
    above_floor,
)
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.sampling import shift_lattice
from posterion.refine.schedule import SearchGeometry, SearchState, search_levels

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
BOX, RADIUS, DIAMETER_PX = 32, 9, 25.0


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("adaptive")
    return SMALL["make_problem"](folder, BOX, 6.0, n_particles=16, snr=0.3, shift_sd_angstrom=6.0, seed=4)


@pytest.fixture(scope="module")
def volume(problem: Any) -> FourierVolume:
    return FourierVolume.from_map(problem.truth, RADIUS)


@pytest.fixture(scope="module")
def plan() -> SearchPlan:
    """The levels that the schedule makes for this problem, coarse to fine."""
    levels = search_levels(
        SearchGeometry(RADIUS, RADIUS, BOX, DIAMETER_PX, 2.0, 1), SearchState(fineness=2.0)
    ).levels
    assert [level.order for level in levels] == [2, 3]
    everything = SMALL["one_level_plan"](0, RADIUS, 2.0)
    return replace(everything, levels=levels, margin_nats=15.0, max_rotations=200)


def test_search_finds_what_scoring_everything_finds(
    problem: Any, volume: FourierVolume, plan: SearchPlan
) -> None:
    """Same best pose and, to 1 %, the same evidence as all 36,864 rotations at all shifts."""
    batch = SMALL["unmasked_batch"](problem, RADIUS)
    starts = dense_candidates(batch, SharedGrid.of(volume, plan), plan)
    levels = [LevelImages.of(batch, level.radius) for level in plan.levels]
    coarse_shifts_px = shift_lattice(plan.shift_range_px, plan.levels[0].shift_step_px)
    finest = replace(plan, levels=plan.levels[-1:])
    everything = Candidates(
        level=0,
        cell=finest.grid(0).all_cells(),
        shifts_px=children_of(Candidates(0, np.zeros(1, np.int64), coarse_shifts_px), plan).shifts_px,
    )
    for row in range(0, 16, 4):
        found = refine(batch, row, levels, volume, plan, starts[row])
        exhaustive = refine(batch, row, levels[-1:], volume, finest, everything)
        assert found.log_prob_rt.max() == pytest.approx(exhaustive.log_prob_rt.max(), abs=1e-2)
        assert logsumexp(found.log_prob_rt) == pytest.approx(logsumexp(exhaustive.log_prob_rt), abs=0.01)
        a, b = posterior_of(found), posterior_of(exhaustive)
        assert angular_distance_deg(a.matrix, b.matrix) < 0.1 * found.step_deg
        assert a.pmax == pytest.approx(b.pmax, abs=0.01)
        assert found.log_prob_rt.size < 0.05 * exhaustive.log_prob_rt.size


def test_poses_found_are_the_true_ones(problem: Any, volume: FourierVolume, plan: SearchPlan) -> None:
    batch = SMALL["unmasked_batch"](problem, RADIUS)
    starts = dense_candidates(batch, SharedGrid.of(volume, plan), plan)
    levels = [LevelImages.of(batch, level.radius) for level in plan.levels]
    poses = problem.particles.poses
    truth = poses.matrices()
    errors, shift_errors = [], []
    for row in range(16):
        posterior = posterior_of(refine(batch, row, levels, volume, plan, starts[row]))
        errors.append(float(angular_distance_deg(posterior.matrix, truth[row])))
        true_shift = np.array([poses.shift_x_angstrom_i[row], poses.shift_y_angstrom_i[row]]) / 6.0
        shift_errors.append(np.hypot(*(posterior.shift_px - true_shift)))
    assert np.median(errors) < 5
    assert np.median(shift_errors) < 0.35


def test_one_level_scores_as_the_dense_pass_does(problem: Any, volume: FourierVolume) -> None:
    plan = SMALL["one_level_plan"](1, RADIUS, 1.0)
    shift0_px = np.tile([[1.0, -1.0]], (16, 1))
    batch = SMALL["unmasked_batch"](problem, RADIUS, shift0_px)
    shared = SharedGrid.of(volume, plan)
    dense, shifts_px = dense_log_prob(batch, shared, plan)
    levels = [LevelImages.of(batch, RADIUS)]
    for row in (0, 7):
        support = refine(batch, row, levels, volume, plan, Candidates(0, shared.cell, shifts_px))
        np.testing.assert_allclose(support.log_prob_rt, dense[row].T, rtol=1e-5, atol=1e-3)
        np.testing.assert_array_equal(support.slices_rp, shared.slices_rp)


def test_a_level_compares_only_its_band(problem: Any, volume: FourierVolume) -> None:
    """Noise beyond the band of a level changes nothing in its scores."""
    low = SMALL["one_level_plan"](0, 4, 1.0)
    batch = SMALL["unmasked_batch"](problem, RADIUS)
    noisy = problem._replace(images=problem.images + 100 * high_frequencies(problem.images.shape, 6))
    cells = Candidates(0, np.arange(72), np.zeros((1, 2)))
    scores = [
        refine(b, 3, [LevelImages.of(b, 4)], volume, low, cells).log_prob_rt
        for b in (batch, SMALL["unmasked_batch"](noisy, RADIUS))
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-2)


def high_frequencies(shape: tuple[int, ...], beyond: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return (
        noise
        - SMALL["band_passed"](noise, beyond).astype(np.float32)
        - noise.mean(axis=(1, 2), keepdims=True)
    )


def test_children_halve_the_shift_step_only_where_the_plan_does() -> None:
    plan = replace(
        SMALL["one_level_plan"](1, 5, 2.0),
        levels=(Level(1, 5, 1.0), Level(2, 7, 0.5), Level(3, 9, 0.5)),
    )
    start = Candidates(0, np.array([3, 100]), np.array([[0.0, 0.0], [1.0, 0.0]]))
    finer = children_of(start, plan)
    assert (finer.level, len(finer.cell), len(finer.shifts_px)) == (1, 16, 8)
    finest = children_of(finer, plan)
    assert (finest.level, len(finest.cell), len(finest.shifts_px)) == (2, 128, 8)
    np.testing.assert_array_equal(finest.cell, plan.grid(1).children(finer.cell))


def test_what_does_not_fit_is_scored_in_blocks(
    problem: Any, volume: FourierVolume, plan: SearchPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty rotations at a time: the same scores, of the poses within log(1/epsilon) of the best."""
    batch = SMALL["unmasked_batch"](problem, RADIUS)
    levels = [LevelImages.of(batch, level.radius) for level in plan.levels]
    start = dense_candidates(batch, SharedGrid.of(volume, plan), plan)[2]
    whole = refine(batch, 2, levels, volume, plan, start)
    monkeypatch.setattr(adaptive, "_BLOCK_BYTES", 20 * 8 * len(levels[-1].pixels))
    parts = refine(batch, 2, levels, volume, plan, start)
    floor = whole.log_prob_rt.max() - LOG_INVERSE_EPSILON
    keep_r, keep_t = above_floor(whole.log_prob_rt, floor)
    assert len(keep_r) < len(whole.matrices)
    np.testing.assert_array_equal(parts.cell, whole.cell[keep_r])
    np.testing.assert_allclose(parts.log_prob_rt, whole.log_prob_rt[np.ix_(keep_r, keep_t)], rtol=1e-5)
    assert parts.counts[-1] == LevelCount(whole.log_prob_rt.size, parts.log_prob_rt.size)
