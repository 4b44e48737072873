"""The posterior of one particle: normalised, sharp, and at the true pose."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterion.errors import PosterionError
from posterion.inference.single import PosePosterior, posterior
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.sampling import RotationGrid

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
BOX, PIXEL, ORDER = 32, 6.0, 2


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("single")
    return SMALL["make_problem"](folder, BOX, PIXEL, n_particles=8, snr=1.0, shift_sd_angstrom=6.0, seed=6)


@pytest.fixture(scope="module")
def volume(problem: Any) -> FourierVolume:
    return FourierVolume.from_map(problem.truth)


@pytest.fixture(scope="module")
def found(problem: Any, volume: FourierVolume) -> list[PosePosterior]:
    without = replace(problem.particles, poses=None)
    return [posterior(without[i], volume, order=ORDER, shift_range_px=3.0) for i in range(8)]


def test_posterior_and_marginals_sum_to_one(found: list[PosePosterior]) -> None:
    for gamma in found:
        for weights in (
            gamma.weight_dqt,
            gamma.direction_weights,
            gamma.in_plane_weights,
            gamma.shift_weights,
        ):
            assert weights.sum(dtype=float) == pytest.approx(1, abs=1e-4)
        assert gamma.weight_dqt.shape == (192, 24, len(gamma.shifts_px))


def test_posterior_is_at_the_true_pose(problem: Any, found: list[PosePosterior]) -> None:
    poses = problem.particles.poses
    true_shift = np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], -1) / PIXEL
    step = RotationGrid(ORDER, np.eye(3)).step_deg
    best = [gamma.best for gamma in found]
    error = angular_distance_deg(np.stack([matrix for matrix, _ in best]), poses.matrices())
    assert np.median(error) < 0.7 * step
    assert np.median(np.hypot(*(np.stack([shift for _, shift in best]) - true_shift).T)) < 0.6
    assert np.median([gamma.effective_orientations for gamma in found]) < 20, "of 4,608"


def test_a_noisier_image_has_a_broader_posterior(problem: Any, volume: FourierVolume) -> None:
    particle = problem.particles[0]
    spread = [
        posterior(particle, volume, order=1, sigma2_s=np.full(17, s * BOX**2)).effective_orientations
        for s in (1.0, 10.0, 1e6)
    ]
    assert spread[0] < spread[1] < spread[2]
    assert spread[2] == pytest.approx(576, rel=0.01)


def test_shifts_are_around_the_particles_own_offset(problem: Any, volume: FourierVolume) -> None:
    poses = problem.particles.poses
    gamma = posterior(problem.particles[3], volume, order=1, shift_range_px=1.0)
    own = np.array([poses.shift_x_angstrom_i[3], poses.shift_y_angstrom_i[3]]) / PIXEL
    np.testing.assert_allclose(gamma.shifts_px.mean(axis=0), np.rint(own), atol=1e-9)


def test_one_particle_and_its_box(problem: Any, volume: FourierVolume) -> None:
    with pytest.raises(PosterionError, match="one particle"):
        posterior(problem.particles, volume)
    with pytest.raises(PosterionError, match="box"):
        posterior(problem.particles[0], FourierVolume.from_map(np.ones((24, 24, 24), np.float32)))


@pytest.mark.parametrize("search", ["adaptive", "branch-and-bound", "auto"])
def test_every_search_finds_the_same_posterior(problem: Any, volume: FourierVolume, search: str) -> None:
    """Total variation and evidence: 1e-3 covers what lies beyond log(1/epsilon) and float32 sums."""
    options = {"order": 3, "shift_range_px": 2.0}
    for i in (0, 3, 5):
        complete = posterior(problem.particles[i], volume, **options)
        found = posterior(problem.particles[i], volume, search=search, **options)
        assert found.log_evidence == pytest.approx(complete.log_evidence, abs=1e-3)
        distance = 0.5 * np.abs(found.weight_dqt - complete.weight_dqt).sum(dtype=float)
        assert distance < 1e-3
        np.testing.assert_array_equal(found.shifts_px, complete.shifts_px)
        assert np.count_nonzero(found.weight_dqt) < 0.05 * found.weight_dqt.size


def test_an_unknown_search_is_refused(problem: Any, volume: FourierVolume) -> None:
    with pytest.raises(PosterionError, match="search 'fast' is unknown; choose one of auto, exhaustive"):
        posterior(problem.particles[0], volume, search="fast")


@pytest.mark.parametrize("search", ["exhaustive", "adaptive", "branch-and-bound"])
def test_the_coarsest_grid_needs_no_levels(problem: Any, volume: FourierVolume, search: str) -> None:
    found = posterior(problem.particles[[0]], volume, order=0, search=search)
    assert found.weight_dqt.shape[:2] == (12, 6)
    assert found.weight_dqt.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (1e30, "beyond")])
def test_an_image_that_cannot_be_used_is_refused(
    problem: Any, volume: FourierVolume, monkeypatch: pytest.MonkeyPatch, value: float, said: str
) -> None:
    images = problem.images[:1].copy()
    images[0, 2, 2] = value
    monkeypatch.setattr(type(problem.particles), "images", lambda *_: images)
    with pytest.raises(PosterionError, match=f"the image .*{said}.*take another particle"):
        posterior(problem.particles[[0]], volume)
