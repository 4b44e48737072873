"""Poses that climb: derivatives against real space, and where they arrive."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from posterion.data.particles import Poses
from posterion.inference import gauss_newton
from posterion.inference.adaptive import LevelImages
from posterion.inference.gauss_newton import Peaks, PoseList, climb
from posterion.inference.images import ImageBatch
from posterion.inference.priors import PosePrior
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.simulate import noise_free_images

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
BOX, RADIUS, PIXEL, IMAGES = 32, 12, 6.0, 12
BANDS = (4, 7, RADIUS)
PRIOR = PosePrior(np.random.default_rng(5).normal(0, 0.4, 192), 1.7)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = {"n_particles": IMAGES, "snr": 0.5, "shift_sd_angstrom": 6.0, "seed": 3}
    return SMALL["make_problem"](tmp_path_factory.mktemp("climb"), BOX, PIXEL, **options)


@pytest.fixture(scope="module")
def volume(problem: Any) -> FourierVolume:
    return FourierVolume.from_map(problem.truth, RADIUS)


@pytest.fixture(scope="module")
def noise_free(problem: Any, volume: FourierVolume) -> Any:
    images = noise_free_images([volume], np.zeros(IMAGES, int), problem.particles, problem.everyone)
    return problem._replace(images=images.astype(np.float32))


@pytest.fixture
def most_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda steps: monkeypatch.setattr(gauss_newton, "_MOST_STEPS", steps)


def truth(problem: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    poses = problem.particles.poses
    return poses.matrices(), np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], -1) / PIXEL


def displaced(problem: Any, angle_deg: float, distance_px: float, seed: int = 0) -> PoseList:
    """The true poses turned about random axes and moved in random directions."""
    rng = np.random.default_rng(seed)
    matrices, shifts_px = truth(problem)
    axes, moves = rng.normal(size=(IMAGES, 3)), rng.normal(size=(IMAGES, 2))
    axes *= np.radians(angle_deg) / np.linalg.norm(axes, axis=1, keepdims=True)
    moves *= distance_px / np.linalg.norm(moves, axis=1, keepdims=True)
    turned = Rotation.from_rotvec(axes).as_matrix() @ matrices
    return PoseList(np.arange(IMAGES, dtype=np.int32), turned, shifts_px + moves)


def batch_of(problem: Any, shift0_px: NDArray[np.float64] | None = None) -> ImageBatch:
    batch: ImageBatch = SMALL["unmasked_batch"](problem, RADIUS, shift0_px)
    return batch


def climb_bands(batch: ImageBatch, volume: FourierVolume, start: PoseList) -> Peaks:
    for radius in BANDS:
        peaks = climb(LevelImages.of(batch, radius), batch.shift0_px, volume, PRIOR, start, 0.01)
        start = peaks.poses
    return peaks


def models(
    problem: Any, volume: FourierVolume, image: int, matrices: NDArray[np.float64], total: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Band-passed model images C S P V in real space."""
    poses = Poses.from_matrices(matrices, total * PIXEL)
    repeated = replace(problem.particles[np.full(len(matrices), image)], poses=poses)
    made = noise_free_images([volume], np.zeros(len(matrices), int), repeated, np.arange(len(matrices)))
    passed: NDArray[np.float64] = SMALL["band_passed"](made.astype(float), RADIUS)
    return passed


def log_prob(
    problem: Any, volume: FourierVolume, image: int, matrices: NDArray[np.float64], total: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``sum_x (y^2 - (y - m)^2) / 2`` plus the log density of the prior, without the direction's."""
    y = SMALL["band_passed"](problem.images[image].astype(float), RADIUS)
    residual = y - models(problem, volume, image, matrices, total)
    prior = -np.sum(total**2, axis=1) / (2 * 1.7**2) - np.log(2 * np.pi * 1.7**2)
    found: NDArray[np.float64] = 0.5 * np.sum(y**2) - 0.5 * np.sum(residual**2, axis=(1, 2)) + prior
    return found


def neighbours(
    matrix: NDArray[np.float64], total: NDArray[np.float64], step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Poses a step up and then down along each parameter: (10, 3, 3) and (10, 2)."""
    steps = np.concatenate([step * np.eye(5), -step * np.eye(5)])
    return Rotation.from_rotvec(steps[:, :3]).as_matrix() @ matrix, total + steps[:, 3:]


def test_value_gradient_and_normal_matrix_are_those_in_real_space(
    problem: Any, volume: FourierVolume, most_steps: Callable[[int], None]
) -> None:
    """Finite differences of the log-probability and of model images, the shift's prior included."""
    most_steps(0)
    shift0_px = np.random.default_rng(1).integers(-2, 3, (IMAGES, 2)).astype(float)
    poses = displaced(problem, 4.0, 0.8)
    poses = replace(poses, shifts_px=poses.shifts_px - shift0_px)
    level = LevelImages.of(batch_of(problem, shift0_px), RADIUS)
    found = climb(level, shift0_px, volume, PRIOR, poses)
    assert not found.converged_k.any()
    for i in range(0, IMAGES, 2):
        matrix, total = poses.matrices[i], poses.shifts_px[i] + shift0_px[i]
        value = log_prob(problem, volume, i, matrix[None], total[None])[0]
        direction = PRIOR.of_rotations(matrix[None])[0]
        assert found.log_prob_k[i] == pytest.approx(value + direction, abs=0.02)
        prior = value - found.nats_k[i]
        assert prior == pytest.approx(-np.sum(total**2) / 5.78 - np.log(2 * np.pi * 2.89), abs=0.02)
        step = 2e-3
        around = neighbours(matrix, total, step)
        up, down = np.split(log_prob(problem, volume, i, *around), 2)
        images = models(problem, volume, i, *around)
        derivative = ((images[:5] - images[5:]) / (2 * step)).reshape(5, -1)
        normal = derivative @ derivative.T + np.diag([0, 0, 0, 1 / 2.89, 1 / 2.89])
        scale = np.sqrt(np.diag(normal))
        expected = (up - down) / (2 * step) / scale
        assert np.abs(expected).max() > 2
        np.testing.assert_allclose(found.gradient_ka[i] / scale, expected, atol=0.15)
        np.testing.assert_allclose(
            found.normal_kab[i] / np.outer(scale, scale), normal / np.outer(scale, scale), atol=0.02
        )


def test_without_noise_the_truth_is_reached_from_7_5_degrees_and_2_pixels(
    noise_free: Any, volume: FourierVolume
) -> None:
    peaks = climb_bands(batch_of(noise_free), volume, displaced(noise_free, 7.5, 2.0))
    matrices, shifts_px = truth(noise_free)
    assert peaks.converged_k.all()
    assert angular_distance_deg(peaks.poses.matrices, matrices).max() < 0.25
    assert np.hypot(*(peaks.poses.shifts_px - shifts_px).T).max() < 0.05


def test_with_noise_the_peak_is_the_one_that_a_simplex_finds(problem: Any, volume: FourierVolume) -> None:
    """From 7.5 degrees and 2 pixels, as high as Nelder and Mead come from the truth."""
    flat = replace(PRIOR, log_direction_d=np.zeros(192))
    batch, start = batch_of(problem), displaced(problem, 7.5, 2.0, seed=1)
    for radius in BANDS:
        peaks = climb(LevelImages.of(batch, radius), batch.shift0_px, volume, flat, start, 0.01)
        start = peaks.poses
    assert peaks.converged_k.all()
    matrices, shifts_px = truth(problem)
    for i in (2, 9):

        def loss(step: NDArray[np.float64], i: int = i) -> float:
            turned = Rotation.from_rotvec(step[:3] / RADIUS).as_matrix() @ matrices[i]
            return -float(log_prob(problem, volume, i, turned[None], shifts_px[i] + step[None, 3:])[0])

        corners = np.concatenate([np.zeros((1, 5)), 0.2 * np.eye(5)])
        best = minimize(
            loss, np.zeros(5), method="Nelder-Mead", options={"initial_simplex": corners, "maxfev": 350}
        )
        assert peaks.log_prob_k[i] > -best.fun - 0.1
        turned = Rotation.from_rotvec(best.x[:3] / RADIUS).as_matrix() @ matrices[i]
        assert angular_distance_deg(peaks.poses.matrices[i], turned) < 0.5


def test_no_step_loses_and_converged_poses_have_nothing_to_gain(
    problem: Any, volume: FourierVolume, most_steps: Callable[[int], None]
) -> None:
    """What is reached with one more step allowed is never lower; stopped too early nothing is converged."""
    batch, start = batch_of(problem), displaced(problem, 7.5, 2.0, seed=2)
    level = LevelImages.of(batch, RADIUS)
    heights, converged = [], []
    for steps in (*range(8), 12, 100):
        most_steps(steps)
        peaks = climb(level, batch.shift0_px, volume, PRIOR, start, 0.01)
        heights.append(peaks.log_prob_k)
        converged.append(int(peaks.converged_k.sum()))
    assert (np.diff(heights, axis=0) >= 0).all()
    assert converged[0] == converged[1] == 0
    assert converged[-1] == IMAGES
    assert (heights[-1] > heights[0] + 10).all()
    most_steps(100)
    again = climb(level, batch.shift0_px, volume, PRIOR, peaks.poses, 0.01)
    assert (again.log_prob_k - peaks.log_prob_k).max() < 0.3


def test_a_step_that_failed_settles_a_pose_only_where_it_promised_little(
    problem: Any, volume: FourierVolume
) -> None:
    """From 30 degrees away, where parabolas deceive; few pixels, so that creases of the map matter."""
    batch = batch_of(problem)
    starts = PoseList.joined([displaced(problem, 30.0, 2.0, seed) for seed in range(20)])
    peaks = climb(LevelImages.of(batch, 4), batch.shift0_px, volume, PRIOR, starts, 0.01)
    newton_ka = np.linalg.solve(peaks.normal_kab, peaks.gradient_ka[:, :, None])[:, :, 0]
    promise_k = 0.5 * np.einsum("ka,ka->k", peaks.gradient_ka, newton_ka)
    assert peaks.converged_k.mean() > 0.95
    assert promise_k[peaks.converged_k].max() < 2


def test_the_result_is_that_of_each_image_alone_in_any_order(problem: Any, volume: FourierVolume) -> None:
    """The same bits; two starts for each image, in mixed order; the starts are left as they are."""
    batch = batch_of(problem)
    level = LevelImages.of(batch, 8)
    both = PoseList.joined([displaced(problem, 5.0, 1.0, seed) for seed in (3, 4)])
    before = both.matrices.copy(), both.shifts_px.copy()
    together = climb(level, batch.shift0_px, volume, PRIOR, both)
    np.testing.assert_array_equal(both.matrices, before[0])
    np.testing.assert_array_equal(both.shifts_px, before[1])
    assert np.abs(together.poses.matrices - before[0]).max() > 0.01
    order = np.random.default_rng(0).permutation(len(both))
    mixed = climb(level, batch.shift0_px, volume, PRIOR, both[order])
    names = "log_prob_k", "nats_k", "gradient_ka", "normal_kab", "converged_k"
    for name in names:
        np.testing.assert_array_equal(getattr(mixed, name), getattr(together, name)[order])
    for i in range(0, IMAGES, 5):
        own = both[both.image_k == i]
        own = replace(own, image_k=np.zeros(len(own), np.int32))
        one = problem._replace(particles=problem.particles[[i]], images=problem.images[[i]])
        alone_batch = batch_of(one)
        alone = climb(LevelImages.of(alone_batch, 8), alone_batch.shift0_px, volume, PRIOR, own)
        rows = together.poses.image_k == i
        for name in names:
            np.testing.assert_array_equal(getattr(alone, name), getattr(together, name)[rows])
        np.testing.assert_array_equal(alone.poses.matrices, together.poses.matrices[rows])
        assert alone.evaluations_i[0] == together.evaluations_i[i]
    assert (together.evaluations_i > 2).all()


def test_without_signal_only_the_prior_moves_a_pose(problem: Any, volume: FourierVolume) -> None:
    """No image or no map: nothing to climb but the prior, no warning, no NaN, and no nats."""
    start = displaced(problem, 5.0, 1.0)
    empty = FourierVolume.from_map(np.zeros_like(problem.truth), RADIUS)
    blank = replace(batch_of(problem), whitened_ip=np.zeros_like(batch_of(problem).whitened_ip))
    batch = batch_of(problem)
    peaks = climb(LevelImages.of(batch, RADIUS), batch.shift0_px, empty, PRIOR, start)
    assert peaks.converged_k.all()
    assert (peaks.nats_k == 0).all()
    np.testing.assert_allclose(peaks.normal_kab[0], np.diag([0, 0, 0, 1 / 2.89, 1 / 2.89]))
    np.testing.assert_array_equal(peaks.poses.matrices, start.matrices)
    assert np.abs(peaks.poses.shifts_px).max() < 0.5
    assert np.isfinite(peaks.log_prob_k).all()
    dark = climb(LevelImages.of(blank, RADIUS), blank.shift0_px, volume, PRIOR, start)
    assert (dark.nats_k < 0).all()
    assert np.isfinite(dark.log_prob_k).all()


def test_an_image_with_nan_stays_where_it_is_and_harms_no_other(problem: Any, volume: FourierVolume) -> None:
    batch = batch_of(problem)
    spoiled = batch.whitened_ip.copy()
    spoiled[3] = np.nan
    start = displaced(problem, 3.0, 0.5)
    clean, damaged = (
        climb(LevelImages.of(replace(batch, whitened_ip=data), 8), batch.shift0_px, volume, PRIOR, start)
        for data in (batch.whitened_ip, spoiled)
    )
    others = np.arange(IMAGES) != 3
    assert not damaged.converged_k[3]
    np.testing.assert_array_equal(damaged.poses.matrices[3], start.matrices[3])
    np.testing.assert_array_equal(damaged.log_prob_k[others], clean.log_prob_k[others])
    np.testing.assert_array_equal(damaged.poses.matrices[others], clean.poses.matrices[others])
