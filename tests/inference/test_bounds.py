"""Radii of cells, maxima of an interpolated transform, and quantiles of rises."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from posterion.inference.bounds import ShellMaxima, cell_radius_deg, most_probable_rise
from posterion.physics.fourier import disc
from posterion.physics.rotations import angular_distance_deg, matrices_from_rotation_vectors
from posterion.physics.sampling import RotationGrid

RANDOM = runpy.run_path(str(Path(__file__).parents[1] / "references" / "random_problem.py"))


def largest_step_deg(order: int, rng: np.random.Generator) -> float:
    """Largest angle from a centre to a child's, over 3,000 cells."""
    grid = RotationGrid(order, np.eye(3))
    cell = rng.integers(0, grid.n_directions * grid.n_psi, 3000)
    children = grid.finer().matrices(grid.children(cell)).reshape(-1, 8, 3, 3)
    return float(np.max(angular_distance_deg(grid.matrices(cell)[:, None], children)))


@pytest.mark.parametrize("order", [0, 1, 2, 4, 6])
def test_a_cell_lies_within_its_radius_and_nearly_reaches_it(order: int) -> None:
    """Chains of children six orders deep; the bound may be a quarter too large, never too small."""
    rng = np.random.default_rng(order)
    grid = finer = RotationGrid(order, np.eye(3))
    centre = inside = rng.integers(0, grid.n_directions * grid.n_psi, 20_000)
    for _ in range(6):
        children = finer.children(inside).reshape(-1, 8)
        inside, finer = children[np.arange(len(inside)), rng.integers(0, 8, len(inside))], finer.finer()
    farthest = np.max(angular_distance_deg(grid.matrices(centre), finer.matrices(inside)))
    assert 0.75 * cell_radius_deg(order) < farthest <= cell_radius_deg(order)


def test_steps_to_children_halve() -> None:
    """What `cell_radius_deg` takes for granted beyond order 5."""
    rng = np.random.default_rng(0)
    steps = [largest_step_deg(order, rng) for order in range(4, 8)]
    assert max(np.divide(steps[1:], steps[:-1])) < 0.51


def test_no_sample_is_above_the_maxima_of_its_distance() -> None:
    """Values of slices, and their differences along chords, of a random volume."""
    rng = np.random.default_rng(3)
    volume = RANDOM["random_volume"](rng, 6, 1.0)
    pixels, maxima = disc(volume.box, 6), ShellMaxima.of(volume)
    k_p = np.hypot(pixels.kx_p, pixels.ky_p)
    value_p, _ = maxima.within(k_p, k_p)
    matrices = matrices_from_rotation_vectors(rng.normal(0, 2, (400, 3)))
    slices = RANDOM["slow_slices"](volume, matrices)
    assert np.all(np.abs(slices) <= value_p * (1 + 1e-6))
    assert np.abs(slices).max() > 0.7 * value_p.max()
    turn = rng.normal(size=(400, 3))
    turn *= np.radians(1.0) / np.linalg.norm(turn, axis=1, keepdims=True)
    moved = RANDOM["slow_slices"](volume, matrices @ matrices_from_rotation_vectors(turn))
    _, gradient_p = maxima.within(k_p * np.cos(np.radians(0.5)), k_p)
    most_p = 2 * np.sin(np.radians(0.5)) * k_p * gradient_p
    assert np.all(np.abs(moved - slices) <= most_p + 1e-6 * value_p)
    assert (np.abs(moved - slices)[:, k_p > 0] / most_p[k_p > 0]).max() > 0.4


@pytest.mark.parametrize("failure", [0.3, 0.01, 1e-4])
def test_a_rise_is_a_quantile(failure: float) -> None:
    """Of one normal in closed form; of a mixture, that its tail is what was asked for."""
    q = np.array([[1e-3], [4.0], [900.0]])
    expected = q[:, 0] / 2 + norm.isf(failure) * np.sqrt(q[:, 0])
    np.testing.assert_allclose(most_probable_rise(q, failure), expected, rtol=1e-6, atol=1e-9)
    mixture = np.array([[1.0, 10.0, 50.0, 2.0]])
    rise = most_probable_rise(mixture, failure)[0]
    assert norm.sf(rise, mixture / 2, np.sqrt(mixture)).mean() == pytest.approx(failure, rel=1e-6)
