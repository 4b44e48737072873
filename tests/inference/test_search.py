"""What survives a level of the search."""

from dataclasses import replace

import numpy as np
import pytest

from posterion.inference.priors import PosePrior
from posterion.inference.search import (
    Level,
    LevelCount,
    SearchPlan,
    above_floor,
    floor_of_starts,
    loss_of_cell,
    total_counts,
    within_margin,
)

PLAN = SearchPlan(
    levels=(Level(1, 5, 1.0), Level(2, 9, 0.5)),
    shift_range_px=2.0,
    margin_nats=4.0,
    max_rotations=1000,
    point_group="C1",
    grid_offset=np.eye(3),
    prior=PosePrior.uniform(1.0),
)


def scores(seed: int = 0, best: float = 0.0) -> np.ndarray:
    log_prob = np.random.default_rng(seed).normal(0, 4, (60, 7)).astype(np.float32)
    return log_prob - log_prob.max() + np.float32(best)


@pytest.mark.parametrize("best", [-500.0, 0.0, 700.0])
def test_poses_within_the_margin_survive(best: float) -> None:
    log_prob = scores(best=best)
    keep_r, keep_t = within_margin(log_prob, PLAN, 0)
    good = log_prob >= log_prob.max() - 4
    np.testing.assert_array_equal(keep_r, np.flatnonzero(good.any(axis=1)))
    np.testing.assert_array_equal(keep_t, np.flatnonzero(good.any(axis=0)))
    assert 0 < len(keep_r) < 60


def test_a_coarse_cell_gets_a_wider_margin() -> None:
    """The best pose inside a cell may score a share better than its centre."""
    lossy = replace(PLAN, levels=(Level(1, 5, 1.0, cell_loss=0.1), PLAN.levels[1]))
    log_prob = scores(best=100)
    keep_r, _ = within_margin(log_prob, lossy, 0)
    np.testing.assert_array_equal(keep_r, np.flatnonzero((log_prob >= 90).any(axis=1)))
    np.testing.assert_array_equal(within_margin(log_prob, lossy, 1)[0], within_margin(log_prob, PLAN, 1)[0])


def test_climbing_starts_from_fewer_cells_than_are_divided() -> None:
    """0.7 of what the best pose of a cell may lose, but never less than the margin."""
    lossy = replace(PLAN, levels=(Level(1, 5, 1.0, cell_loss=0.1), PLAN.levels[1]))
    assert floor_of_starts(100.0, lossy) == pytest.approx(93)
    assert floor_of_starts(20.0, lossy) == pytest.approx(20 - PLAN.margin_nats)
    assert floor_of_starts(-50.0, lossy) == pytest.approx(-50 - PLAN.margin_nats)


def test_at_most_so_many_rotations_survive_and_the_best_do() -> None:
    log_prob = scores()
    keep_r, keep_t = within_margin(log_prob, replace(PLAN, margin_nats=1e3, max_rotations=5), 0)
    np.testing.assert_array_equal(keep_r, np.sort(np.argsort(-log_prob.max(axis=1))[:5]))
    assert len(keep_t) == 7
    narrow = replace(PLAN, margin_nats=6, max_rotations=2)
    keep_r, keep_t = within_margin(log_prob, narrow, 0)
    expected = np.flatnonzero(log_prob[keep_r].max(axis=0) >= -6)
    np.testing.assert_array_equal(keep_t, expected)


def test_plan_counts_the_cells_of_its_last_level() -> None:
    assert PLAN.radius == 9
    assert PLAN.cell_count == 4608
    assert PLAN.log_rotation_cell == pytest.approx(-np.log(4608))
    assert replace(PLAN, point_group="D2").cell_count == 4608 / 4


def test_the_best_pose_survives_any_floor() -> None:
    log_prob = scores()
    keep_r, keep_t = above_floor(log_prob, np.inf)
    assert log_prob[keep_r, keep_t] == log_prob.max()


def test_counts_add_up_from_the_last_level() -> None:
    """Images that started at a later level count there."""
    both = total_counts([(LevelCount(10, 2), LevelCount(16, 4)), (LevelCount(3, 3),)])
    assert both == (LevelCount(10, 2), LevelCount(19, 7))
    assert total_counts([]) == ()


def test_cells_lose_less_the_finer_their_grid_is_than_the_band() -> None:
    assert loss_of_cell(10, 5) == loss_of_cell(10, 10) == 4 * loss_of_cell(10, 20) > 0
