"""Branch and bound: what is pruned cannot matter."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posterion.inference.adaptive import LevelImages, score, survivors_divided
from posterion.inference.bounds import ExpectedRise, LargestRise, cell_radius_deg
from posterion.inference.branch_and_bound import BranchAndBound
from posterion.inference.exhaustive import SharedGrid
from posterion.inference.expectation import expect_batch
from posterion.inference.likelihood import profile_log_prob
from posterion.inference.priors import PosePrior
from posterion.inference.search import LOG_INVERSE_EPSILON, Candidates, Level, SearchPlan
from posterion.physics.projection import FourierVolume
from posterion.physics.sampling import shift_lattice
from posterion.refine.schedule import SearchGeometry, SearchState, search_levels

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
RANDOM = runpy.run_path(str(Path(__file__).parents[1] / "references" / "random_problem.py"))


def plan_of(levels: tuple[Level, ...]) -> SearchPlan:
    return SearchPlan(
        levels=levels,
        shift_range_px=0.5,
        margin_nats=15.0,
        max_rotations=200,
        point_group="C1",
        grid_offset=np.eye(3),
        prior=PosePrior.uniform(1.0),
    )


def poses_inside(
    rng: np.random.Generator, plan: SearchPlan, level: int, cell: Any, shifts_px: Any
) -> tuple[Any, Any]:
    """One random pose within each of m cells."""
    grid = plan.grid(level)
    for _ in range(5):
        cell = grid.children(cell).reshape(-1, 8)[np.arange(len(cell)), rng.integers(0, 8, len(cell))]
        grid = grid.finer()
    moved = rng.uniform(-0.5, 0.5, shifts_px.shape) * plan.levels[level].shift_step_px
    return grid.matrices(cell), shifts_px + moved


def check(seed: int, nats: float, width_px: float, levels: tuple[Level, ...]) -> float:
    """Search, and score poses in what was pruned; the mean share of a level that was pruned."""
    rng = np.random.default_rng(seed)
    plan = RANDOM["random_plan"](rng, plan_of(levels))
    volume = RANDOM["random_volume"](rng, plan.radius, width_px)
    batch, truth, _ = RANDOM["random_batch"](rng, volume, nats, plan.prior)
    images = [LevelImages.of(batch, level.radius) for level in levels]
    (rule,) = BranchAndBound.of(volume, plan, "rigorous").rules(batch, images)
    grid = plan.grid(0)
    anywhere = rng.integers(0, grid.n_directions * grid.n_psi, 500)
    cell = np.union1d(anywhere, grid.near(truth[0], 2 * grid.step_deg))
    shifts_px = shift_lattice(plan.shift_range_px, levels[0].shift_step_px)
    candidates = Candidates(0, cell, shifts_px)
    pruned, share = [], []
    while True:
        scores = score(batch, 0, images[candidates.level], volume, plan, candidates).log_prob_rt
        if candidates.level == len(levels) - 1:
            break
        keep_r, keep_t = rule(candidates, scores)
        out = np.ones(scores.shape, bool)
        out[np.ix_(keep_r, keep_t)] = False
        share.append(out.mean())
        r, t = np.nonzero(out)
        near = np.argsort(-scores[r, t])[:200]  # the best of them: those that might be wrong
        some = np.concatenate([np.repeat(near, 4), rng.integers(0, max(len(r), 1), min(len(r), 200))])
        cell, shifts = candidates.cell[r[some]], candidates.shifts_px[t[some]]
        pruned.append(poses_inside(rng, plan, candidates.level, cell, shifts))
        candidates = survivors_divided(candidates, scores, plan, rule)
    matrices, shifts_px = (np.concatenate(parts) for parts in zip(*pruned, strict=True))
    if len(matrices):
        reached = RANDOM["slow_scores"](batch, volume, plan, matrices, shifts_px)
        assert reached.max() <= scores.max() - LOG_INVERSE_EPSILON
    return float(np.mean(share))


FINE = {
    "two bands": (Level(5, 4, 0.125), Level(6, 5, 0.125)),
    "three levels": (Level(4, 5, 0.25), Level(5, 5, 0.125), Level(6, 5, 0.125)),
    "small cells": (Level(6, 5, 0.0625), Level(7, 5, 0.0625)),
}


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    log_nats=st.floats(1.0, 5.0),
    width_px=st.floats(0.7, 2.5),
    levels=st.sampled_from(sorted(FINE)),
)
def test_nothing_that_the_rigorous_bound_prunes_comes_near_the_best(
    seed: int, log_nats: float, width_px: float, levels: str
) -> None:
    """Random volumes, CTFs, noise, priors: the best poses inside of pruned cells stay below the bound."""
    check(seed, 10**log_nats, width_px, FINE[levels])


def test_the_rigorous_bound_prunes_where_signal_is_strong_or_cells_are_small() -> None:
    shares = [np.mean([check(s, 1e3, 1.5, FINE[name]) for s in range(4)]) for name in FINE]
    assert min(shares) > 0.2
    assert shares[-1] > 0.8


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    noisy=st.booleans(),
    width_px=st.floats(0.7, 2.5),
    order=st.integers(2, 6),
    band=st.integers(2, 5),
)
def test_no_pose_reaches_more_than_its_cell_may(
    seed: int, noisy: bool, width_px: float, order: int, band: int
) -> None:
    """The true pose's log-likelihood in all bands, and those of centres around it in one.

    Without noise the pixels beyond the band add exactly what the bound allows.
    """
    rng = np.random.default_rng(seed)
    plan = RANDOM["random_plan"](rng, plan_of((Level(order, band, 0.25), Level(order + 1, 5, 0.125))))
    volume = RANDOM["random_volume"](rng, plan.radius, width_px)
    batch, truth, shift_px = RANDOM["random_batch"](rng, volume, 300.0, plan.prior, noisy)
    target = RANDOM["slow_log_likelihood"](batch, volume, truth, shift_px, plan.radius)[0]
    limits = LargestRise.of(volume).limits(batch, plan, 0)
    beyond = target - RANDOM["slow_log_likelihood"](batch, volume, truth, shift_px, band)[0]
    assert beyond <= limits.beyond_i[0] + 1e-3
    assert noisy or beyond == pytest.approx(limits.beyond_i[0], rel=1e-4, abs=1e-3)
    grid = plan.grid(0)
    near = grid.near(truth[0], cell_radius_deg(order))
    pixel = shift_px + rng.uniform(-0.125, 0.125, (len(near), 2))
    centres = RANDOM["slow_log_likelihood"](batch, volume, grid.matrices(near), pixel, band)
    assert limits.floor(0, target) <= centres.min()


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bound")
    return SMALL["make_problem"](folder, 32, 6.0, n_particles=6, snr=0.3, shift_sd_angstrom=4.0, seed=4)


def test_all_searches_find_the_same_posterior(problem: Any) -> None:
    """Evidence to 0.002 nats and sums of the M-step to 1e-3: what is beyond log(1/epsilon), and float32."""
    volume = FourierVolume.from_map(problem.truth, 9)
    batch = SMALL["unmasked_batch"](problem, 9)
    levels = search_levels(SearchGeometry(9, 9, 32, 25.0, 2.0, 1), SearchState(fineness=2.0)).levels
    adaptive = replace(plan_of(levels), shift_range_px=2.0)
    found = {}
    for search in ("exhaustive", "adaptive", "branch-and-bound"):
        plan = replace(adaptive, search=search)
        shared = None if search == "exhaustive" else SharedGrid.of(volume, plan)
        bounds = BranchAndBound.of(volume, plan) if search == "branch-and-bound" else None
        found[search] = expect_batch(batch, volume, plan, shared, None, bounds=bounds)
    complete = found.pop("exhaustive")
    assert [len(complete.counts), len(found["adaptive"].counts)] == [1, 2]
    for part in found.values():
        np.testing.assert_allclose(part.log_likelihood_i, complete.log_likelihood_i, atol=2e-3)
        np.testing.assert_allclose(part.matrices_i, complete.matrices_i, atol=1e-3)
        np.testing.assert_allclose(part.pmax_i, complete.pmax_i, atol=1e-3)
        weights = [SMALL["slices_of"](own.sums)[2].sum(axis=0) for own in (part, complete)]
        np.testing.assert_allclose(*weights, rtol=1e-3)
        assert part.counts[-1].scored < 0.05 * complete.counts[-1].scored


def test_bounds_are_of_the_gaussian_log_probability(problem: Any) -> None:
    plan = replace(plan_of((Level(1, 9, 1.0),)), score=profile_log_prob)
    with pytest.raises(ValueError, match="Gaussian"):
        BranchAndBound.of(FourierVolume.from_map(problem.truth, 9), plan)


@pytest.mark.parametrize("bound", ["posterior", "full-band"])
def test_a_rise_is_exceeded_as_often_as_is_said(problem: Any, bound: str) -> None:
    """Images of the reference: score of the true pose in all bands less that of its cell's centre in one.

    1,500 draws at a probability of 0.05: three standard deviations are 0.017; the sampled cells add as much.
    """
    volume = FourierVolume.from_map(problem.truth, 9)
    plan = replace(plan_of((Level(2, 6, 1.0), Level(3, 9, 0.5))), shift_range_px=2.0)
    batch = SMALL["unmasked_batch"](problem, 9)
    rise_i = ExpectedRise.of(volume, plan).rise_i(batch, plan, 0, 0.05, bound == "full-band")
    rng = np.random.default_rng(0)
    pixels = batch.pixels
    in_band = np.isin(np.arange(len(pixels)), pixels.within(6))
    exceeded = []
    for _ in range(250):
        centre = rng.integers(0, plan.grid(0).n_directions * plan.grid(0).n_psi, 1)
        shift = np.zeros((1, 2))
        pose, moved = poses_inside(rng, plan, 0, centre, shift)
        true = volume.slices(pose, pixels)[0]
        phase = np.exp(2j * np.pi / 32 * (pixels.kx_p * moved[0, 0] + pixels.ky_p * moved[0, 1]))
        true, start = true * phase, volume.slices(plan.grid(0).matrices(centre), pixels)[0]
        compared = in_band if bound == "posterior" else np.ones(len(pixels), bool)
        for row in range(6):
            weight = batch.ctf2_ip[row]
            white = rng.normal(size=(2, len(pixels))) * np.sqrt(weight)
            change = np.where(in_band, true - start, true) * compared
            # Images are the true slice and noise; both scores are completed squares around it.
            rise = 0.5 * np.sum(weight * np.abs(change) ** 2) + np.sum(white * [change.real, change.imag])
            exceeded.append(rise > rise_i[row])
    assert np.mean(exceeded) == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("bound", ["posterior", "full-band"])
def test_a_floor_counts_the_shifts_that_a_cell_holds(problem: Any, bound: Any) -> None:
    """The good pose has the prior of one of the last shifts, a cell that of the 16 or 4 that it holds.

    Scores are made up: a tenth above and below the floor, and below and above the good pose's.
    """
    volume, batch = FourierVolume.from_map(problem.truth, 9), SMALL["unmasked_batch"](problem, 9)
    levels = (Level(2, 5, 1.0), Level(3, 7, 0.5), Level(4, 9, 0.25))
    plan = replace(plan_of(levels), shift_range_px=2.0)
    rise = ExpectedRise.of(volume, plan)
    rule = BranchAndBound(volume, plan, bound, rise, 0.02).rules(
        batch, [LevelImages.of(batch, level.radius) for level in levels]
    )[3]
    rule.good_l = good_l = np.array([60.0, 80.0, 100.0])  # type: ignore[attr-defined]
    for level, held in ((0, 16), (1, 4)):
        target = good_l[level if bound == "posterior" else 2] + np.log(held)
        rise_i = rise.rise_i(batch, plan, level, 0.01, bound == "full-band")
        floor = target - rise_i[3] - LOG_INVERSE_EPSILON
        candidates = Candidates(level, np.arange(3), np.zeros((1, 2)))
        scores = np.array([[floor - 0.1], [floor + 0.1], [target - 0.1]], np.float32)
        assert rule(candidates, scores)[0].tolist() == [1, 2]
        scores[2] = target + 0.3
        assert rule(candidates, scores)[0].tolist() == ([2] if bound == "posterior" else [1, 2])
