"""The dense pass against the likelihood in real space, image by image and pose by pose."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.inference import exhaustive
from posterion.inference.adaptive import children_of
from posterion.inference.exhaustive import (
    SharedGrid,
    complete_candidates,
    dense_candidates,
    dense_log_prob,
    dense_supports,
    few_shifts,
)
from posterion.inference.expectation import expect_batch
from posterion.inference.images import ImageBatch
from posterion.inference.likelihood import gaussian_log_prob, profile_log_prob
from posterion.inference.posterior import posterior_of
from posterion.inference.priors import PosePrior
from posterion.inference.search import Candidates, Level, SearchPlan, within_margin
from posterion.physics.projection import FourierVolume
from posterion.physics.sampling import shift_lattice
from posterion.physics.shift_interpolation import interpolation

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


WIDE_PX, FINE_PX = 2.0, 0.25


def wide_plan() -> SearchPlan:
    """Shifts much finer than the band's wavelength: all follow from few."""
    plan: SearchPlan = SMALL["one_level_plan"](0, RADIUS, WIDE_PX, FINE_PX)
    return plan


def cross_one_by_one(
    batch: ImageBatch, shared: SharedGrid, shifts_px: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``Re sum_p conj(slice) y exp(-2 pi i k.s / n)`` in double precision, a shift at a time: (n, T, R)."""
    pixels = shared.pixels
    inside = batch.pixels.within(pixels.radius)
    slices_pr, whitened_ip = shared.slices_rp.conj().T.astype(complex), batch.whitened_ip[:, inside]
    parts = []
    for x, y in shifts_px:
        phase_p = np.exp(-2j * np.pi * (pixels.kx_p * x + pixels.ky_p * y) / pixels.box)
        parts.append(((whitened_ip * phase_p) @ slices_pr).real)
    return np.stack(parts, 1)


@pytest.mark.parametrize("score", [gaussian_log_prob, profile_log_prob])
def test_scores_at_many_shifts_follow_from_few(
    problem: Any, volume: FourierVolume, score: Callable[..., Any]
) -> None:
    """Against every shift by itself, and the likelihood in real space; to hundredths of a nat."""
    shift0_px = np.array([[0, 0], [1, -2], [-1, 0], [3, 1], [0, 1]], float)
    plan = replace(wide_plan(), score=score)
    batch = SMALL["unmasked_batch"](problem, RADIUS + 2, shift0_px)
    shared = SharedGrid.of(volume, plan)
    found, shifts_px = dense_log_prob(batch, shared, plan)
    few = interpolation(shifts_px, shared.pixels)
    assert few is not None
    assert len(few.kept_s) < len(shifts_px) / 3
    ctf2_ip = batch.ctf2_ip[:, batch.pixels.within(RADIUS)].astype(float)
    norm_ir = ctf2_ip @ np.abs(shared.slices_rp.T.astype(complex)) ** 2
    expected = score(cross_one_by_one(batch, shared, shifts_px), norm_ir[:, None])
    prior_it = plan.prior.of_shifts(shift0_px[:, None] + shifts_px, FINE_PX)
    expected += prior_it[:, :, None] + shared.log_prior_r
    assert np.ptp(expected, axis=(1, 2)).min() > 15
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.005


def test_interpolated_scores_are_log_likelihoods_in_real_space(problem: Any, volume: FourierVolume) -> None:
    plan, rng = wide_plan(), np.random.default_rng(5)
    batch = SMALL["unmasked_batch"](problem, RADIUS)
    shared = SharedGrid.of(volume, plan)
    found, shifts_px = dense_log_prob(batch, shared, plan)
    for i in range(5):
        t, r = rng.integers(0, len(shifts_px), 40), rng.integers(0, 72, 40)
        expected = SMALL["log_likelihood"](problem, volume, i, shared.matrices[r], shifts_px[t], RADIUS)
        own = found[i, t, r] - batch.power_i[i] - plan.prior.of_shifts(shifts_px[t], FINE_PX)
        np.testing.assert_allclose(own, expected, atol=0.03)


@pytest.mark.parametrize("sharpness", [0.02, 1.0])
def test_what_posteriors_over_many_shifts_add_to_the_map(
    problem: Any, volume: FourierVolume, sharpness: float
) -> None:
    """``sum_irt Gamma C y / sigma2`` with all shifts, one by one, of broad posteriors and of sharp ones.

    Broad ones keep most shifts, which come from few; sharp ones keep fewer than these, and are moved by them.
    """
    batch = SMALL["unmasked_batch"](problem, RADIUS + 1, None, SMALL["white_noise"](problem, 1 / sharpness))
    plan = wide_plan()
    shared, pixels = SharedGrid.of(volume, plan), batch.pixels
    supports = dense_supports(batch, shared, plan)
    found = expect_batch(batch, volume, plan, shared, None)
    few = interpolation(supports[0].shifts_px, pixels)
    assert few is not None
    numerator, kept = np.zeros((72, len(pixels)), complex), []
    for i, support in enumerate(supports):
        posterior = posterior_of(support)
        kept.append(few.saves(len(posterior.shift_t)))
        for t, shift in enumerate(support.shifts_px[posterior.shift_t]):
            phase_p = np.exp(-2j * np.pi * (pixels.kx_p * shift[0] + pixels.ky_p * shift[1]) / pixels.box)
            moved = batch.data_ip[i] * phase_p
            numerator[posterior.rotation_r] += np.outer(posterior.weight_rt[:, t], moved)
    assert kept == [sharpness < 1] * 5
    matrices, found_numerator, _ = SMALL["slices_of"](found.sums)
    rows = [int(np.flatnonzero((shared.matrices == m).all(axis=(1, 2)))[0]) for m in matrices]
    assert np.abs(np.delete(numerator, rows, axis=0)).max(initial=0) == 0
    np.testing.assert_allclose(found_numerator, numerator[rows], atol=3e-4 * np.abs(numerator).max())


@pytest.mark.parametrize("search", ["exhaustive", "branch-and-bound"])
def test_what_is_complete_or_bounded_is_not_interpolated(
    problem: Any, volume: FourierVolume, search: str
) -> None:
    """Its scores at all shifts are those that no interpolation gives."""
    batch = SMALL["unmasked_batch"](problem, RADIUS)
    plan = replace(wide_plan(), search=search)
    shifts_px = shift_lattice(plan.shift_range_px, plan.levels[0].shift_step_px)
    assert few_shifts(wide_plan(), shifts_px, batch.pixels) is not None
    assert few_shifts(plan, shifts_px, batch.pixels) is None
    found, _ = dense_log_prob(batch, SharedGrid.of(volume, plan), plan)
    with patch.object(exhaustive, "interpolation", lambda *_: None):
        direct, _ = dense_log_prob(batch, SharedGrid.of(volume, plan), wide_plan())
    np.testing.assert_array_equal(found, direct)
