"""Poses that climb: derivatives against real space, where they start and arrive, and which peaks stay."""

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
from posterion.inference import climbing
from posterion.inference.adaptive import LevelImages
from posterion.inference.climbing import Peaks, PoseList, apart, climb, peaks_of_batch
from posterion.inference.exhaustive import SharedGrid, dense_log_prob
from posterion.inference.images import ImageBatch
from posterion.inference.laplace import gaussian_posteriors
from posterion.inference.priors import PosePrior
from posterion.inference.search import Level, SearchPlan
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.simulate import noise_free_images

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
BOX, RADIUS, PIXEL, IMAGES, CLEAR = 32, 12, 6.0, 12, 10
BANDS = (4, 7, RADIUS)
PRIOR = PosePrior(np.random.default_rng(5).normal(0, 0.4, 192), 1.7)
LEVELS = Level(1, 5, 1.0, 0.35), Level(2, 9, 0.5, 0.35), Level(3, RADIUS, 0.5, 0.2)
TURN = Rotation.from_rotvec([0.05, -0.03, 0.04]).as_matrix()
PLAN = SearchPlan(LEVELS, 3.0, 15.0, 200, "C1", TURN, PosePrior.uniform(1.5), climb=True)
ABOUT_Z = np.diag([-1.0, -1.0, 1.0])


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
    return lambda steps: monkeypatch.setattr(climbing, "_MOST_STEPS", steps)


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
    """Finite differences of the log-probability and of model images; the shift's prior, of which they see
    little, against none.
    """
    most_steps(0)
    shift0_px = np.random.default_rng(1).integers(-2, 3, (IMAGES, 2)).astype(float)
    poses = displaced(problem, 4.0, 0.8)
    poses = replace(poses, shifts_px=poses.shifts_px - shift0_px)
    level = LevelImages.of(batch_of(problem, shift0_px), RADIUS)
    found = climb(level, shift0_px, volume, PRIOR, poses)
    assert not found.converged_k.any()
    flat = climb(level, shift0_px, volume, replace(PRIOR, offset_sigma_px=1e6), poses)
    pulled = np.hstack([np.zeros((IMAGES, 3)), -(poses.shifts_px + shift0_px) / 2.89])
    np.testing.assert_allclose(found.gradient_ka - flat.gradient_ka, pulled, atol=1e-6)
    stiffer = np.broadcast_to(np.diag([0, 0, 0, 1 / 2.89, 1 / 2.89]), (IMAGES, 5, 5))
    np.testing.assert_allclose(found.normal_kab - flat.normal_kab, stiffer, atol=1e-6)
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
        assert alone.samples_i[0] == together.samples_i[i] == together.evaluations_i[i] * len(level.pixels)
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


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = {"n_particles": CLEAR, "snr": 1.0, "shift_sd_angstrom": 4.0, "seed": 4}
    return SMALL["make_problem"](tmp_path_factory.mktemp("starts"), BOX, PIXEL, **options)


@pytest.fixture(scope="module")
def two_fold(clear: Any) -> Any:
    """The same poses of a map with a two-fold axis on z."""
    turned = np.roll(clear.truth[:, ::-1, ::-1], 1, axis=(1, 2))
    volume = (clear.truth + turned) / np.sqrt(2)
    clean = noise_free_images(
        [FourierVolume.from_map(volume)], np.zeros(CLEAR, int), clear.particles, clear.everyone
    )
    noise = np.random.default_rng(2).normal(size=clean.shape)
    return clear._replace(images=(clean + noise).astype(np.float32), truth=volume)


def climbed(problem: Any, plan: SearchPlan, start: PoseList | None = None) -> Peaks:
    batch: ImageBatch = SMALL["unmasked_batch"](problem, plan.radius)
    volume = FourierVolume.from_map(problem.truth, plan.radius)
    levels = [LevelImages.of(batch, level.radius) for level in plan.levels]
    return peaks_of_batch(batch, levels, volume, plan, start or best_cells(batch, volume, plan))


def best_cells(batch: ImageBatch, volume: FourierVolume, plan: SearchPlan, most: int = 6) -> PoseList:
    """The best cells of the first level, neighbours and all."""
    shared = SharedGrid.of(volume, plan)
    scores, shifts_px = dense_log_prob(batch, shared, plan)
    parts = []
    for i, score_tr in enumerate(scores):
        cells = np.argsort(-score_tr.max(axis=0))[:most]
        best_t = score_tr[:, cells].argmax(axis=0)
        parts.append(PoseList(np.full(most, i, np.int32), shared.matrices[cells], shifts_px[best_t]))
    return PoseList.joined(parts)


def true_matrices(problem: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] = problem.particles.poses.matrices()
    return found


def test_starts_are_the_best_and_far_from_each_other() -> None:
    """Against the rule applied word by word."""
    step_deg = 30.0
    matrices = Rotation.random(500, random_state=0).as_matrix()
    value_r = np.random.default_rng(0).normal(0, 5, len(matrices)).astype(np.float32)
    for floor in (float(value_r.max()) - 4, -np.inf, np.inf):
        chosen: list[int] = []
        for r in np.argsort(-value_r):
            free = all(angular_distance_deg(matrices[r], matrices[c]) > 1.5 * step_deg for c in chosen)
            if len(chosen) < 8 and free and (value_r[r] >= floor or not chosen):
                chosen.append(int(r))
        assert apart(matrices, value_r, floor, step_deg).tolist() == chosen
    assert len(apart(matrices, value_r, -np.inf, step_deg)) == 8
    assert len(apart(matrices, value_r, np.inf, step_deg)) == 1


def test_starts_in_one_valley_end_in_one_peak(clear: Any) -> None:
    found = climbed(clear, PLAN)
    assert (np.diff(found.poses.image_k) >= 0).all()
    assert np.unique(found.poses.image_k).tolist() == list(range(CLEAR))
    first = np.searchsorted(found.poses.image_k, np.arange(CLEAR))
    distance = angular_distance_deg(found.poses.matrices[first], true_matrices(clear))
    assert np.median(distance) < 2.5
    for i in range(CLEAR):
        rows = np.flatnonzero(found.poses.image_k == i)
        assert (np.diff(found.log_prob_k[rows]) <= 0).all(), "best first"
        assert found.log_prob_k[rows[-1]] >= found.log_prob_k[rows[0]] - PLAN.margin_nats
        for a in range(len(rows)):
            for b in range(a):
                assert away(found, rows[a], rows[b]) > 1
    assert len(found.poses) < 2 * CLEAR, "six starts each"
    assert (found.evaluations_i > 12).all()


def away(peaks: Peaks, row: np.intp, other: np.intp) -> float:
    """Distance of two peaks in standard deviations of the second."""
    matrices = peaks.poses.matrices
    turn = Rotation.from_matrix(matrices[row] @ matrices[other].T).as_rotvec()
    step = np.concatenate([turn, peaks.poses.shifts_px[row] - peaks.poses.shifts_px[other]])
    return float(np.sqrt(step @ peaks.normal_kab[other] @ step))


def test_the_best_peak_does_not_depend_on_the_order_of_starts(clear: Any) -> None:
    batch: ImageBatch = SMALL["unmasked_batch"](clear, PLAN.radius)
    start = best_cells(batch, FourierVolume.from_map(clear.truth, PLAN.radius), PLAN)
    mixed = start[np.random.default_rng(1).permutation(len(start))]
    found, other = (climbed(clear, PLAN, poses) for poses in (start, mixed))
    np.testing.assert_array_equal(found.log_prob_k, other.log_prob_k)
    np.testing.assert_array_equal(found.poses.matrices, other.poses.matrices)
    np.testing.assert_array_equal(found.evaluations_i, other.evaluations_i)


def test_only_peaks_within_the_margin_stay(two_fold: Any) -> None:
    """The wider the margin the more; the best is always there."""
    plans = [replace(PLAN, margin_nats=margin) for margin in (1e-6, 15.0, 1e9)]
    few, some, all_of_them = (climbed(two_fold, plan) for plan in plans)
    assert len(few.poses) == CLEAR
    assert len(few.poses) < len(some.poses) < len(all_of_them.poses)
    first = np.searchsorted(all_of_them.poses.image_k, np.arange(CLEAR))
    best = np.maximum.reduceat(all_of_them.log_prob_k, first)
    assert (all_of_them.log_prob_k < best[all_of_them.poses.image_k] - 15).any()
    assert (some.log_prob_k >= best[some.poses.image_k] - 15 - 0.05).all()


def test_a_two_fold_map_has_two_peaks_without_its_symmetry_and_one_with_it(two_fold: Any) -> None:
    """As C1 both equivalent poses weigh a half; as C2 they are one, and the evidence is the same.

    Twice the peaks over twice the volume of rotations.
    """
    matrices = true_matrices(two_fold)
    shifts_px = np.zeros((CLEAR, 2))
    rows = np.arange(CLEAR, dtype=np.int32)
    both = PoseList.joined([PoseList(rows, m, shifts_px) for m in (matrices, matrices @ ABOUT_Z)])
    as_c2 = replace(PLAN, point_group="C2")
    split, joined = (climbed(two_fold, plan, both) for plan in (PLAN, as_c2))
    assert np.bincount(joined.poses.image_k).tolist() == [1] * CLEAR
    assert np.bincount(split.poses.image_k).tolist() == [2] * CLEAR
    apart_posteriors = gaussian_posteriors(split, PLAN, PLAN.radius)
    joint_posteriors = gaussian_posteriors(joined, as_c2, PLAN.radius)
    shares = []
    for i in range(CLEAR):
        pair = split[split.poses.image_k == i]
        turned = pair.poses.matrices[1] @ ABOUT_Z
        assert angular_distance_deg(pair.poses.matrices[0], turned) < 0.7
        shares.append(apart_posteriors[i].weight_m @ (apart_posteriors[i].peak_m == 0))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.12)
    evidence = [[p.log_evidence for p in ps] for ps in (apart_posteriors, joint_posteriors)]
    assert np.mean(np.diff(evidence, axis=0)) == pytest.approx(0, abs=0.15)


def test_poses_on_their_peaks_are_not_searched_again(clear: Any) -> None:
    """In a local search they are looked at once; the others go through all bands, to the same peaks."""
    local = replace(PLAN, local_radius_deg=15.0)
    everywhere = climbed(clear, PLAN)
    first = np.searchsorted(everywhere.poses.image_k, np.arange(CLEAR))
    peaks = everywhere.poses[first]
    again = climbed(clear, local, peaks)
    assert again.evaluations_i.max() <= 2
    assert again.samples_i.tolist() == (again.evaluations_i * again.samples_i.min()).tolist(), "one band"
    np.testing.assert_allclose(again.log_prob_k, everywhere.log_prob_k[first], atol=0.02)
    twice = PoseList.joined([peaks, peaks])
    assert climbed(clear, local, twice).poses.image_k.tolist() == list(range(CLEAR)), "one peak each"
    away = np.arange(CLEAR) % 3 == 1
    turn = Rotation.from_rotvec([0.0, np.radians(6.0), np.radians(5.0)]).as_matrix()
    moved = replace(peaks, matrices=np.where(away[:, None, None], turn @ peaks.matrices, peaks.matrices))
    found = climbed(clear, local, moved)
    assert found.poses.image_k.tolist() == list(range(CLEAR))
    np.testing.assert_array_equal(found.evaluations_i[~away], again.evaluations_i[~away])
    assert found.evaluations_i[away].min() > 3
    distance = angular_distance_deg(found.poses.matrices, peaks.matrices)
    assert np.median(distance[away]) < 0.5
    assert distance[~away].max() < 0.5


def test_distance_is_measured_in_the_frame_of_the_image(clear: Any) -> None:
    """A peak that is a hundred times as wide about the image's x: turned about it a pose is the same peak."""
    peaks = climbed(clear, PLAN)[np.array([0, 0, 0])]
    best = Rotation.from_rotvec([0.7, -0.4, 1.1]).as_matrix()
    turns = Rotation.from_rotvec(np.array([[0, 0, 0], [0.05, 0, 0], [0, 0.05, 0]])).as_matrix()
    poses = replace(peaks.poses, matrices=turns @ best, shifts_px=np.zeros((3, 2)))
    normal = np.diag([1e2, 1e6, 1e6, 1.0, 1.0])
    peaks = replace(
        peaks, poses=poses, normal_kab=np.tile(normal, (3, 1, 1)), log_prob_k=np.array([3.0, 2.0, 1.0])
    )
    assert climbing._different(peaks, 15.0, np.eye(3)[None]).tolist() == [0, 2]
