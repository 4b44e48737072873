"""The dense pass against the likelihood in real space, image by image and pose by pose."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterion.inference.adaptive import children_of
from posterion.inference.exhaustive import (
    SharedGrid,
    complete_candidates,
    dense_candidates,
    dense_log_prob,
    dense_supports,
)
from posterion.inference.priors import PosePrior
from posterion.inference.search import Candidates, Level, within_margin
from posterion.physics.projection import FourierVolume
from posterion.physics.sampling import shift_lattice

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
RADIUS = 7


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return SMALL["make_problem"](tmp_path_factory.mktemp("dense"), 20, 9.0, n_particles=5, snr=0.5, seed=2)


@pytest.fixture(scope="module")
def volume(problem: Any) -> FourierVolume:
    return FourierVolume.from_map(problem.truth, RADIUS)


def test_scores_are_log_likelihoods_in_real_space(problem: Any, volume: FourierVolume) -> None:
    """Absolute values, not only differences: ``-sum (y - C S P V)^2 / 2`` plus the log prior of the shift."""
    shift0_px = np.array([[0, 0], [1, -2], [-1, 0], [3, 1], [0, 1]], float)
    noise = SMALL["white_noise"](problem, scale=0.8)
    batch = SMALL["unmasked_batch"](problem, RADIUS, shift0_px, noise)
    plan = SMALL["one_level_plan"](0, RADIUS, 1.0)
    shared = SharedGrid.of(volume, plan)
    log_prob_itr, shifts_px = dense_log_prob(batch, shared, plan)
    assert log_prob_itr.shape == (5, 5, 72)
    for i in range(5):
        for t, shift in enumerate(shifts_px):
            offsets = np.tile(shift0_px[i] + shift, (72, 1))
            expected = SMALL["log_likelihood"](problem, volume, i, shared.matrices, offsets, RADIUS, 0.8)
            found = log_prob_itr[i, t] - batch.power_i[i] - plan.prior.of_shifts(offsets, 1.0)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-3)
    assert np.ptp(log_prob_itr, axis=(1, 2)).min() > 5, "poses must differ for this to mean anything"


def test_coloured_noise_is_whitened(problem: Any, volume: FourierVolume) -> None:
    """Dividing sigma2 by four where nothing is compared changes nothing; where all is, scores by four."""
    plan = SMALL["one_level_plan"](0, RADIUS, 1.0)
    plain, beyond, inside = (SMALL["white_noise"](problem) for _ in range(3))
    beyond.sigma2_gs[0, RADIUS + 1 :] /= 4
    inside.sigma2_gs[0, : RADIUS + 1] /= 4
    prior = plan.prior.of_shifts(np.zeros((1, 2)), 1.0)
    scores = [
        dense_log_prob(SMALL["unmasked_batch"](problem, RADIUS, None, n), SharedGrid.of(volume, plan), plan)[
            0
        ][:, 2]
        - prior
        for n in (plain, beyond, inside)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_allclose(4 * scores[0], scores[2], rtol=1e-4, atol=1e-3)


def test_direction_prior_is_added(problem: Any, volume: FourierVolume) -> None:
    plan = SMALL["one_level_plan"](1, RADIUS, 0.5)
    favoured = replace(plan, prior=PosePrior(np.linspace(-2, 2, 192), plan.prior.offset_sigma_px))
    batch = SMALL["unmasked_batch"](problem, RADIUS)
    shared = SharedGrid.of(volume, favoured)
    difference = (
        dense_log_prob(batch, shared, favoured)[0]
        - dense_log_prob(batch, SharedGrid.of(volume, plan), plan)[0]
    )
    np.testing.assert_allclose(difference, np.broadcast_to(shared.log_prior_r, difference.shape), atol=1e-3)
    assert np.ptp(shared.log_prior_r) > 3


def test_symmetric_grid_is_the_asymmetric_unit(volume: FourierVolume) -> None:
    plan = replace(SMALL["one_level_plan"](1, RADIUS, 0.5), point_group="D2")
    shared = SharedGrid.of(volume, plan)
    np.testing.assert_array_equal(shared.cell, plan.grid(0).all_cells("D2"))
    assert len(shared.slices_rp) == len(shared.matrices) == len(shared.cell) < 400


def test_supports_hold_the_scores(problem: Any, volume: FourierVolume) -> None:
    plan = SMALL["one_level_plan"](0, RADIUS, 1.0)
    batch, shared = SMALL["unmasked_batch"](problem, RADIUS), SharedGrid.of(volume, plan)
    scores, shifts_px = dense_log_prob(batch, shared, plan)
    for support, score in zip(dense_supports(batch, shared, plan), scores, strict=True):
        np.testing.assert_array_equal(support.log_prob_rt, score.T)
        np.testing.assert_array_equal(support.shifts_px, shifts_px)
        assert support.step_deg == 60


def test_candidates_are_the_children_of_survivors(problem: Any, volume: FourierVolume) -> None:
    plan = replace(
        SMALL["one_level_plan"](0, 5, 2.0),
        levels=(Level(0, 5, 2.0), Level(1, RADIUS, 1.0)),
        margin_nats=3.0,
    )
    batch, shared = SMALL["unmasked_batch"](problem, RADIUS), SharedGrid.of(volume, plan)
    scores, shifts_px = dense_log_prob(batch, shared, plan)
    for candidates, score in zip(dense_candidates(batch, shared, plan), scores, strict=True):
        keep_r, keep_t = within_margin(score.T, plan, 0)
        assert candidates.level == 1
        np.testing.assert_array_equal(candidates.cell // 12 // 4, np.repeat(keep_r // 6, 8))
        assert len(candidates.shifts_px) == 4 * len(keep_t)
        assert np.abs(candidates.shifts_px.reshape(-1, 4, 2).mean(axis=1) - shifts_px[keep_t]).max() < 1e-9


def test_complete_candidates_are_what_dividing_everything_gives() -> None:
    plan = replace(
        SMALL["one_level_plan"](1, 5, 1.0), levels=(Level(1, 5, 1.0), Level(2, 7, 0.5), Level(3, 9, 0.5))
    )
    everything = Candidates(0, plan.grid(0).all_cells(), shift_lattice(1.0, 1.0))
    divided = children_of(children_of(everything, plan), plan)
    complete = complete_candidates(plan)
    assert complete.level == divided.level == 2
    np.testing.assert_array_equal(complete.cell, np.sort(divided.cell))
    np.testing.assert_array_equal(complete.shifts_px, divided.shifts_px)
    pose, shift_px = plan.grid(2).matrices(np.array([77]))[0], np.array([0.3, -0.2])
    near = complete_candidates(replace(plan, local_radius_deg=10.0), pose, shift_px)
    assert 77 in near.cell
    assert len(near.cell) < 100
    np.testing.assert_allclose(near.shifts_px, complete.shifts_px + shift_px)
