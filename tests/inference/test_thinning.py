"""Few rotations for many: what stays exact, what is right on average, and what noise it adds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from posterion.inference.posterior import Posterior
from posterion.inference.thinning import thinned


def posterior_with(weight_rt: NDArray[np.floating]) -> Posterior:
    """On rotations 3, 5, 7, ... of some support, scaled to one."""
    weight_rt = (weight_rt / weight_rt.sum()).astype(np.float32)
    rotations, shifts = (np.arange(n, dtype=np.intp) for n in weight_rt.shape)
    return Posterior(3 + 2 * rotations, shifts, weight_rt, 0.0, 1.0, 1.0, np.eye(3), np.zeros(2))


def broad(rotations: int, spread_nats: float, seed: int) -> Posterior:
    rng = np.random.default_rng(seed)
    weight_r = np.exp(rng.uniform(-spread_nats, 0, rotations))
    return posterior_with(weight_r[:, None] * rng.random((rotations, 3)))


def weight_of_all(found: Posterior, rotations: int) -> NDArray[np.float64]:
    """(rotations, T) weights, zero where a rotation is left out."""
    full = np.zeros((rotations, found.weight_rt.shape[1]))
    full[(found.rotation_r - 3) // 2] = found.weight_rt
    return full


sets = given(st.integers(1, 300), st.floats(0.1, 20), st.integers(0, 2**16), st.floats(1e-4, 0.3))


@sets
def test_weight_stays_and_noise_hardly_grows(rotations: int, spread: float, seed: int, added: float) -> None:
    posterior = broad(rotations, spread, seed)
    found = thinned(posterior, seed, added)
    before, after = (weight.sum(axis=1, dtype=float) for weight in (posterior.weight_rt, found.weight_rt))
    assert after.sum() == pytest.approx(1, abs=1e-5)
    assert len(after) <= len(before)
    assert np.isin(found.rotation_r, posterior.rotation_r).all()
    # On average over where the comb starts; a single draw may add up to twice as much.
    several = [thinned(posterior, index, added).weight_rt.sum(axis=1, dtype=float) for index in range(64)]
    grown = np.mean([np.sum(weight**2) for weight in several]) / np.sum(before**2) - 1
    assert grown <= 1.05 * added + 1e-6


@sets
def test_probable_rotations_are_as_they_were(rotations: int, spread: float, seed: int, added: float) -> None:
    """What changed is lighter than what did not; each that is drawn weighs the same, or twice that."""
    posterior = broad(rotations, spread, seed)
    before = posterior.weight_rt
    after = weight_of_all(thinned(posterior, seed, added), rotations)
    changed = ~np.isclose(after, before, rtol=1e-5, atol=0).all(axis=1)
    if not changed.any():
        return
    gamma, drawn = before.sum(axis=1), after.sum(axis=1)
    tooth = drawn[changed & (drawn > 0)].min()
    # One that is drawn may weigh by chance what it did.
    exact = ~changed & ~np.isclose(drawn, tooth, rtol=1e-4)
    assert gamma[changed].max() <= gamma[exact].min(initial=1)
    teeth = drawn[changed] / tooth
    np.testing.assert_allclose(teeth, np.rint(teeth), atol=1e-3)
    assert teeth.max() < 2.5


def test_right_on_average_over_particles() -> None:
    """Starts by the golden ratio fill the comb: over n particles the mean is off by some n-ths of a tooth."""
    posterior, particles = broad(200, 8.0, 1), 4000
    mean = sum(weight_of_all(thinned(posterior, i, 0.05), 200) for i in range(particles)) / particles
    assert len(thinned(posterior, 0, 0.05).rotation_r) < 100
    tooth = thinned(posterior, 0, 0.05).weight_rt.sum(axis=1).min()
    np.testing.assert_allclose(mean, posterior.weight_rt, atol=0.01 * tooth)
    gamma_r = posterior.weight_rt.sum(axis=1, dtype=float)
    light = gamma_r < np.quantile(gamma_r, 0.6)
    assert mean[light].sum() == pytest.approx(gamma_r[light].sum(), rel=0.01), (
        "the light ones have their turns"
    )


def test_shifts_of_a_rotation_keep_their_shares() -> None:
    posterior = broad(200, 8.0, 2)
    after = weight_of_all(thinned(posterior, 5, 0.02), 200)
    kept = after.sum(axis=1) > 0
    assert 20 < kept.sum() < 150
    ours, before = after[kept], posterior.weight_rt[kept].astype(float)
    np.testing.assert_allclose(
        ours / ours.sum(axis=1, keepdims=True), before / before.sum(axis=1, keepdims=True), rtol=1e-5
    )


def test_what_is_drawn_lies_where_the_weight_lay() -> None:
    """Along the grid: the cumulated weight of thousands of cells never differs by more than a tooth."""
    posterior = broad(3000, 10.0, 3)
    found = thinned(posterior, 11, 0.01)
    assert len(found.rotation_r) < 1500
    ours = np.cumsum(weight_of_all(found, 3000).sum(axis=1))
    truth = np.cumsum(posterior.weight_rt.sum(axis=1, dtype=float))
    tooth = found.weight_rt.sum(axis=1).min()
    assert np.abs(ours - truth).max() <= 1.001 * tooth


def test_of_a_light_tail_few_are_drawn() -> None:
    """``W = 0.1`` beside 0.6 and 0.3: ``K`` is ``0.1^2 / (0.01 (0.45 + 200 (0.1 / 200)^2))``, three."""
    weights = np.append([0.6, 0.3], np.full(200, 0.1 / 200))
    found = thinned(posterior_with(weights[:, None]), 0, 0.01)
    np.testing.assert_allclose(found.weight_rt[:, 0], [0.6, 0.3, *[0.1 / 3] * 3], rtol=1e-5)
    assert found.rotation_r[:2].tolist() == [3, 5]
    np.testing.assert_allclose(np.diff(found.rotation_r[2:]), 2 * 200 / 3, atol=2)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.5], [0.25] * 4])
def test_equal_weights_all_stay(weights: list[float]) -> None:
    posterior = posterior_with(np.array(weights)[:, None])
    assert thinned(posterior, 3, 0.01) is posterior


def test_without_noise_nothing_changes() -> None:
    posterior = broad(50, 9.0, 4)
    assert thinned(posterior, 0, 0.0) is posterior


def test_rotations_without_weight_are_never_drawn() -> None:
    weights = np.exp(np.random.default_rng(5).uniform(-9, 0, 300))
    weights[::3] = 0
    found = thinned(posterior_with(weights[:, None]), 1, 0.01)
    assert 10 < len(found.rotation_r) < 150
    assert found.weight_rt.min() > 0
    assert found.weight_rt.sum(dtype=float) == pytest.approx(1, abs=1e-5)
    assert thinned(posterior_with(weights[:, None]), 1, 0.0).weight_rt.shape == (300, 1)
