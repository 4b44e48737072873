"""Priors: a normalised Gaussian in the offset, directions estimated from poses."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posterion.inference.priors import PosePrior, estimate_direction_prior, estimate_offset_sigma
from posterion.physics.sampling import shift_lattice
from posterion.physics.symmetry import point_group_operators

NO_SYMMETRY = np.eye(3)[None]


def directions(n: int, spread: float, seed: int = 0) -> np.ndarray:
    """Unit vectors about +z; uniform where the spread is infinite."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 3))
    if np.isfinite(spread):
        vectors = np.array([0, 0, 1.0]) + spread * vectors
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_uniform_prior_prefers_nothing() -> None:
    prior = PosePrior.uniform(2.0)
    np.testing.assert_array_equal(prior.of_rotations(Rotation.random(50, random_state=0).as_matrix()), 0)


@pytest.mark.parametrize("step", [0.25, 0.5])
@pytest.mark.parametrize("sigma", [0.7, 1.5])
def test_offset_prior_is_a_normalised_gaussian(sigma: float, step: float) -> None:
    shifts = shift_lattice(5 * sigma, step)
    mass = np.exp(PosePrior.uniform(sigma).of_shifts(shifts, step).astype(float))
    assert mass.sum() == pytest.approx(1, abs=2e-3)
    assert np.sum(mass * shifts[:, 0] ** 2) == pytest.approx(sigma**2, rel=0.01)


def test_estimated_directions_are_a_density() -> None:
    log_density = estimate_direction_prior(directions(2000, 0.3), NO_SYMMETRY, np.ones(2000, bool))
    assert log_density.shape == (192,)
    assert np.exp(log_density).mean() == pytest.approx(1, abs=0.02)
    assert np.exp(log_density).min() == pytest.approx(0.2, abs=1e-6), "a fifth stays uniform"


def test_estimated_directions_follow_the_poses() -> None:
    found = PosePrior(estimate_direction_prior(directions(2000, 0.3), NO_SYMMETRY, np.ones(2000, bool)), 1.0)
    poles = np.stack([np.eye(3), np.diag([1.0, -1.0, -1.0])])  # looking along +z and -z
    along, against = found.of_rotations(poles)
    assert along > 1
    assert against == pytest.approx(np.log(0.2), abs=1e-5)


def test_a_direction_is_shared_by_its_pixel_and_the_eight_around_it() -> None:
    """Half of one direction stays, each pixel that touches its own gets a sixteenth, and a fifth is uniform.

    About the equator, away from where three pixels meet, pixels of order 2 are diamonds in azimuth and
    cos(theta), 1/16 of a turn and 1/3 from corner to corner; on it centres are half a width from azimuth 0.
    """
    azimuth, height = 2 * np.pi / 16, 1 / 6

    def towards(across: float, up: float) -> np.ndarray:
        z = up * height
        x, y = (np.sqrt(1 - z**2) * f((0.5 + across) * azimuth) for f in (np.cos, np.sin))
        return np.array([x, y, z])

    own = towards(0, 0)
    found = estimate_direction_prior(np.stack([own, -own]), NO_SYMMETRY, np.array([True, False]))
    density = np.exp(found)
    assert np.sort(density)[-10:] == pytest.approx([0.2] + 8 * [0.2 + 0.8 * 12] + [0.2 + 0.8 * 96])
    around = [(0.5, 1), (0.5, -1), (-0.5, 1), (-0.5, -1), (1, 0), (-1, 0), (0, 2), (0, -2)]
    views = np.stack([towards(0, 0), *(towards(*step) for step in around)])
    matrices = np.stack([Rotation.align_vectors([[0, 0, 1.0]], [view])[0].as_matrix() for view in views])
    expected = np.log([0.2 + 0.8 * 96] + 8 * [0.2 + 0.8 * 12])
    assert PosePrior(found, 1.0).of_rotations(matrices) == pytest.approx(expected)


def test_uniform_poses_give_a_flat_prior() -> None:
    log_density = estimate_direction_prior(directions(200_000, np.inf), NO_SYMMETRY, np.ones(200_000, bool))
    assert np.abs(log_density).max() < 0.1


def test_no_poses_give_a_flat_prior() -> None:
    np.testing.assert_array_equal(
        estimate_direction_prior(np.ones((2, 3)), NO_SYMMETRY, np.zeros(2, bool)), np.zeros(192)
    )


def test_equivalent_directions_are_equally_likely() -> None:
    operators = point_group_operators("D2")
    log_density = estimate_direction_prior(directions(3000, 0.3), operators, np.ones(3000, bool))
    prior = PosePrior(log_density, 1.0)
    matrices = Rotation.random(300, random_state=1).as_matrix()
    values = np.stack([prior.of_rotations(matrices @ s) for s in operators])
    # HEALPix is mapped onto itself by these two-folds, so equivalent pixels get equal counts.
    assert np.abs(values - values[0]).max() < 0.2
    assert np.ptp(values[0]) > 1


def test_offset_sigma() -> None:
    shifts = np.random.default_rng(0).normal(0, 2.5, (20_000, 2))
    assert estimate_offset_sigma(shifts, np.ones(len(shifts), bool)) == pytest.approx(2.5, rel=0.02)
    assert estimate_offset_sigma(np.zeros((10, 2)), np.ones(10, bool)) == 0.5
    assert estimate_offset_sigma(np.array([[3.0, 0], [99, 99]]), np.array([True, False])) == pytest.approx(
        3 / np.sqrt(2)
    )
