"""Which cells poses start from, and which peaks stay."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.inference import multi_start
from posterion.inference.adaptive import LevelImages
from posterion.inference.exhaustive import SharedGrid, dense_log_prob
from posterion.inference.gauss_newton import Peaks, PoseList
from posterion.inference.images import ImageBatch
from posterion.inference.laplace import gaussian_posteriors
from posterion.inference.multi_start import apart, peaks_of_batch
from posterion.inference.priors import PosePrior
from posterion.inference.search import Level, SearchPlan
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.simulate import noise_free_images

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
BOX, PIXEL, IMAGES = 32, 6.0, 10
LEVELS = Level(1, 5, 1.0, 0.35), Level(2, 9, 0.5, 0.35), Level(3, 12, 0.5, 0.2)
TURN = Rotation.from_rotvec([0.05, -0.03, 0.04]).as_matrix()
PLAN = SearchPlan(LEVELS, 3.0, 15.0, 200, "C1", TURN, PosePrior.uniform(1.5), climb=True)
ABOUT_Z = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = {"n_particles": IMAGES, "snr": 1.0, "shift_sd_angstrom": 4.0, "seed": 4}
    return SMALL["make_problem"](tmp_path_factory.mktemp("starts"), BOX, PIXEL, **options)


@pytest.fixture(scope="module")
def two_fold(problem: Any) -> Any:
    """The same poses of a map with a two-fold axis on z."""
    turned = np.roll(problem.truth[:, ::-1, ::-1], 1, axis=(1, 2))
    volume = (problem.truth + turned) / np.sqrt(2)
    clean = noise_free_images(
        [FourierVolume.from_map(volume)], np.zeros(IMAGES, int), problem.particles, problem.everyone
    )
    noise = np.random.default_rng(2).normal(size=clean.shape)
    return problem._replace(images=(clean + noise).astype(np.float32), truth=volume)


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


def test_starts_in_one_valley_end_in_one_peak(problem: Any) -> None:
    found = climbed(problem, PLAN)
    assert (np.diff(found.poses.image_k) >= 0).all()
    assert np.unique(found.poses.image_k).tolist() == list(range(IMAGES))
    first = np.searchsorted(found.poses.image_k, np.arange(IMAGES))
    distance = angular_distance_deg(found.poses.matrices[first], true_matrices(problem))
    assert np.median(distance) < 2.5
    for i in range(IMAGES):
        rows = np.flatnonzero(found.poses.image_k == i)
        assert (np.diff(found.log_prob_k[rows]) <= 0).all(), "best first"
        assert found.log_prob_k[rows[-1]] >= found.log_prob_k[rows[0]] - PLAN.margin_nats
        for a in range(len(rows)):
            for b in range(a):
                assert away(found, rows[a], rows[b]) > 1
    assert len(found.poses) < 2 * IMAGES, "six starts each"
    assert (found.evaluations_i > 12).all()


def away(peaks: Peaks, row: np.intp, other: np.intp) -> float:
    """Distance of two peaks in standard deviations of the second."""
    matrices = peaks.poses.matrices
    turn = Rotation.from_matrix(matrices[row] @ matrices[other].T).as_rotvec()
    step = np.concatenate([turn, peaks.poses.shifts_px[row] - peaks.poses.shifts_px[other]])
    return float(np.sqrt(step @ peaks.normal_kab[other] @ step))


def test_the_best_peak_does_not_depend_on_the_order_of_starts(problem: Any) -> None:
    batch: ImageBatch = SMALL["unmasked_batch"](problem, PLAN.radius)
    start = best_cells(batch, FourierVolume.from_map(problem.truth, PLAN.radius), PLAN)
    mixed = start[np.random.default_rng(1).permutation(len(start))]
    found, other = (climbed(problem, PLAN, poses) for poses in (start, mixed))
    np.testing.assert_array_equal(found.log_prob_k, other.log_prob_k)
    np.testing.assert_array_equal(found.poses.matrices, other.poses.matrices)
    np.testing.assert_array_equal(found.evaluations_i, other.evaluations_i)


def test_only_peaks_within_the_margin_stay(two_fold: Any) -> None:
    """The wider the margin the more; the best is always there."""
    plans = [replace(PLAN, margin_nats=margin) for margin in (1e-6, 15.0, 1e9)]
    few, some, all_of_them = (climbed(two_fold, plan) for plan in plans)
    assert len(few.poses) == IMAGES
    assert len(few.poses) < len(some.poses) < len(all_of_them.poses)
    first = np.searchsorted(all_of_them.poses.image_k, np.arange(IMAGES))
    best = np.maximum.reduceat(all_of_them.log_prob_k, first)
    assert (all_of_them.log_prob_k < best[all_of_them.poses.image_k] - 15).any()
    assert (some.log_prob_k >= best[some.poses.image_k] - 15 - 0.05).all()


def test_a_two_fold_map_has_two_peaks_without_its_symmetry_and_one_with_it(two_fold: Any) -> None:
    """As C1 both equivalent poses weigh a half; as C2 they are one, and the evidence is the same.

    Twice the peaks over twice the volume of rotations.
    """
    matrices = true_matrices(two_fold)
    shifts_px = np.zeros((IMAGES, 2))
    rows = np.arange(IMAGES, dtype=np.int32)
    both = PoseList.joined([PoseList(rows, m, shifts_px) for m in (matrices, matrices @ ABOUT_Z)])
    as_c2 = replace(PLAN, point_group="C2")
    split, joined = (climbed(two_fold, plan, both) for plan in (PLAN, as_c2))
    assert np.bincount(joined.poses.image_k).tolist() == [1] * IMAGES
    assert np.bincount(split.poses.image_k).tolist() == [2] * IMAGES
    apart_posteriors = gaussian_posteriors(split, PLAN, PLAN.radius)
    joint_posteriors = gaussian_posteriors(joined, as_c2, PLAN.radius)
    shares = []
    for i in range(IMAGES):
        pair = split[split.poses.image_k == i]
        turned = pair.poses.matrices[1] @ ABOUT_Z
        assert angular_distance_deg(pair.poses.matrices[0], turned) < 0.7
        shares.append(apart_posteriors[i].weight_m @ (apart_posteriors[i].peak_m == 0))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.12)
    evidence = [[p.log_evidence for p in ps] for ps in (apart_posteriors, joint_posteriors)]
    assert np.mean(np.diff(evidence, axis=0)) == pytest.approx(0, abs=0.15)


def test_distance_is_measured_in_the_frame_of_the_image(problem: Any) -> None:
    """A peak that is a hundred times as wide about the image's x: turned about it a pose is the same peak."""
    peaks = climbed(problem, PLAN)[np.array([0, 0, 0])]
    best = Rotation.from_rotvec([0.7, -0.4, 1.1]).as_matrix()
    turns = Rotation.from_rotvec(np.array([[0, 0, 0], [0.05, 0, 0], [0, 0.05, 0]])).as_matrix()
    poses = replace(peaks.poses, matrices=turns @ best, shifts_px=np.zeros((3, 2)))
    normal = np.diag([1e2, 1e6, 1e6, 1.0, 1.0])
    peaks = replace(
        peaks, poses=poses, normal_kab=np.tile(normal, (3, 1, 1)), log_prob_k=np.array([3.0, 2.0, 1.0])
    )
    assert multi_start._different(peaks, 15.0, np.eye(3)[None]).tolist() == [0, 2]
