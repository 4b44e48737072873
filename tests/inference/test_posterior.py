"""Gamma of one particle: normalised, cut to its mass, and what is read off it."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.inference.posterior import Support, posterior_of
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.sampling import RotationGrid

SHIFTS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def support_of(log_prob_rt: NDArray[np.floating], matrices: NDArray[np.float64] | None = None) -> Support:
    r = len(log_prob_rt)
    matrices = Rotation.random(r, random_state=0).as_matrix() if matrices is None else matrices
    return Support(matrices, SHIFTS, log_prob_rt.astype(np.float32), np.zeros((r, 1), np.complex64), 5.0)


@pytest.mark.parametrize("mass", [0.0, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("level", [-3e4, 0.0, 5e3])
def test_posterior_sums_to_one(mass: float, level: float) -> None:
    log_prob = np.random.default_rng(0).normal(0, 3, (50, 3)) + level
    posterior = posterior_of(support_of(log_prob), mass)
    assert posterior.weight_rt.sum(dtype=float) == pytest.approx(1, abs=1e-5)
    assert (posterior.weight_rt >= 0).all()


def test_all_of_the_posterior_is_bayes_rule() -> None:
    log_prob = np.random.default_rng(1).normal(0, 2, (20, 3)).astype(np.float32)
    posterior = posterior_of(support_of(log_prob), 1.0)
    weight = np.exp(log_prob.astype(float))
    np.testing.assert_allclose(posterior.weight_rt, weight / weight.sum(), rtol=1e-5)
    assert posterior.log_evidence == pytest.approx(np.log(weight.sum()))
    assert posterior.pmax == pytest.approx(weight.max() / weight.sum())
    marginal = (weight / weight.sum()).sum(axis=1)
    assert posterior.effective_orientations == pytest.approx(np.exp(-np.sum(marginal * np.log(marginal))))


def test_only_the_least_probable_poses_are_dropped() -> None:
    log_prob = np.random.default_rng(2).normal(0, 4, (80, 3))
    weight = np.exp(log_prob)
    weight /= weight.sum()
    posterior = posterior_of(support_of(log_prob), 0.99)
    full = np.zeros((80, 3))
    full[np.ix_(posterior.rotation_r, posterior.shift_t)] = posterior.weight_rt
    kept = full > 0
    assert 0.99 <= weight[kept].sum() < 1
    assert weight[kept].sum() - weight[kept].min() < 0.99, "one less would not have been enough"
    assert weight[kept].min() >= weight[~kept].max()
    np.testing.assert_allclose(full[kept], weight[kept] / weight[kept].sum(), rtol=1e-4)


def test_mass_of_nothing_is_the_best_pose() -> None:
    log_prob = np.zeros((4, 3))
    log_prob[2, 1] = 0.1
    posterior = posterior_of(support_of(log_prob), 0.0)
    assert posterior.rotation_r.tolist() == [2]
    assert posterior.shift_t.tolist() == [1]
    np.testing.assert_array_equal(posterior.weight_rt, [[1]])


def test_summary_does_not_depend_on_what_is_kept() -> None:
    log_prob = np.random.default_rng(3).normal(0, 2, (30, 3))
    whole, cut = (posterior_of(support_of(log_prob), mass) for mass in (1.0, 0.3))
    assert (whole.pmax, whole.log_evidence) == (cut.pmax, cut.log_evidence)
    np.testing.assert_array_equal(whole.matrix, cut.matrix)
    np.testing.assert_array_equal(whole.shift_px, cut.shift_px)


def test_pose_lies_between_grid_points() -> None:
    """A Gaussian about a rotation off the grid: its mean is nearer to the centre than any cell is."""
    grid = RotationGrid(3, np.eye(3))
    matrices = grid.matrices(grid.all_cells())
    centre = Rotation.random(random_state=4).as_matrix()
    distance = angular_distance_deg(matrices, centre)
    log_prob = np.repeat(-0.5 * (distance / 6.0)[:, None] ** 2, 3, axis=1)
    log_prob[:, 1] -= 1e3
    log_prob[:, 2] += np.log(3)
    support = Support(
        matrices, SHIFTS, log_prob.astype(np.float32), np.zeros((len(matrices), 1), np.complex64), 7.5
    )
    posterior = posterior_of(support)
    assert angular_distance_deg(posterior.matrix, centre) < min(1.0, distance.min())
    np.testing.assert_allclose(posterior.matrix @ posterior.matrix.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(posterior.shift_px, [0, 0.75], atol=1e-6)


def test_other_peaks_do_not_pull_the_mean() -> None:
    matrices = np.stack([np.eye(3), np.diag([-1.0, -1.0, 1.0])])
    posterior = posterior_of(support_of(np.array([[0.1] * 3, [0.0] * 3]), matrices))
    np.testing.assert_allclose(posterior.matrix, np.eye(3), atol=1e-12)


def test_a_mean_is_taken_within_two_steps() -> None:
    """A rotation at 1.9 steps of 5 degrees pulls, one at three steps does not."""
    for away, expected in ((9.5, 9.5 * 0.4), (15.0, 0.0)):
        matrices = np.stack([np.eye(3), Rotation.from_rotvec([0, 0, np.radians(away)]).as_matrix()])
        posterior = posterior_of(support_of(np.log([[0.2] * 3, [0.4 / 3] * 3]), matrices))
        assert angular_distance_deg(posterior.matrix, np.eye(3)) == pytest.approx(expected, abs=0.1)


def test_cells_on_a_border_count_in_part() -> None:
    """As if each pose had been scored so many times: a share of a half and one of a half are one whole."""
    log_prob = np.random.default_rng(6).normal(0, 2, (20, 3)).astype(np.float32)
    whole = support_of(log_prob)
    twice = np.concatenate([np.arange(20), np.arange(5)])
    share_r = np.where((np.arange(25) < 5) | (np.arange(25) >= 20), 0.5, 1.0).astype(np.float32)
    halved = replace(whole, matrices=whole.matrices[twice], log_prob_rt=log_prob[twice], share_r=share_r)
    once, again = posterior_of(whole, 1.0), posterior_of(halved, 1.0)
    sharp = replace(whole, log_prob_rt=log_prob * 100, share_r=np.full(20, 0.1, np.float32))
    assert posterior_of(sharp).effective_orientations == 1.0, "no less than one, wherever it is"
    assert again.log_evidence == pytest.approx(once.log_evidence, abs=1e-6)
    assert again.effective_orientations == pytest.approx(once.effective_orientations, rel=1e-6)
    np.testing.assert_allclose(again.shift_px, once.shift_px, atol=1e-6)
    np.testing.assert_allclose(again.weight_rt[:5] + again.weight_rt[20:], once.weight_rt[:5], rtol=1e-5)
    np.testing.assert_allclose(again.weight_rt[5:20], once.weight_rt[5:], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_have_to_be_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        posterior_of(support_of(np.full((4, 3), bad)))
