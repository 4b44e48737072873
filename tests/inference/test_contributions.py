"""What one image adds: a sum of Gaussians against the same Gaussian on a very fine grid."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.inference.adaptive import LevelImages
from posterion.inference.climbing import Peaks, PoseList, climb
from posterion.inference.contributions import gaussian_slices, gaussian_terms, grid_slices, grid_terms
from posterion.inference.images import ImageBatch
from posterion.inference.laplace import GaussianPosterior, gaussian_posteriors
from posterion.inference.posterior import Support
from posterion.inference.priors import PosePrior
from posterion.inference.search import Level, SearchPlan
from posterion.inference.slice_sums import SliceSums, insert_slices
from posterion.physics.projection import Accumulator, FourierVolume

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
BOX, RADIUS, COLLECTED, PIXEL, IMAGES = 32, 8, 12, 6.0, 4
PRIOR = PosePrior.uniform(1.5)
PLAN = SearchPlan((Level(1, 5, 1.0), Level(3, RADIUS, 0.5)), 3.0, 15.0, 200, "C1", np.eye(3), PRIOR)
EVERY_AXIS, NO_AXIS = 10_000, 0


class Scene(NamedTuple):
    batch: ImageBatch
    level: LevelImages
    volume: FourierVolume
    peaks: Peaks


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Peaks whose Gaussians are made broad enough for averaging over them to matter."""
    options = {"n_particles": IMAGES, "snr": 1.0, "shift_sd_angstrom": 5.0, "seed": 8}
    problem: Any = SMALL["make_problem"](tmp_path_factory.mktemp("terms"), BOX, PIXEL, **options)
    batch: ImageBatch = SMALL["unmasked_batch"](problem, COLLECTED)
    level, volume = LevelImages.of(batch, RADIUS), FourierVolume.from_map(problem.truth, COLLECTED, padding=4)
    poses = problem.particles.poses
    shifts_px = np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], -1) / PIXEL
    start = PoseList(np.arange(IMAGES, dtype=np.int32), poses.matrices(), shifts_px)
    peaks = climb(level, batch.shift0_px, volume, PRIOR, start)
    return Scene(batch, level, volume, replace(peaks, normal_kab=peaks.normal_kab / 16))


def posterior_of(scene: Scene, i: int, radius: int = EVERY_AXIS) -> GaussianPosterior:
    return gaussian_posteriors(scene.peaks[np.array([i])], PLAN, radius)[0]


def on_a_grid(scene: Scene, i: int, points: int = 13) -> Support:
    """The Gaussian itself on ``points^5`` poses over four deviations."""
    normal, axis = scene.peaks.normal_kab[i], np.linspace(-4, 4, points)
    covariance = np.linalg.inv(normal)
    turns = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    moves = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    turns = turns @ np.linalg.cholesky(covariance[:3, :3]).T
    moves = moves @ np.linalg.cholesky(covariance[3:, 3:]).T
    quadratic = np.einsum("ra,ab,rb->r", turns, normal[:3, :3], turns)[:, None]
    quadratic = quadratic + np.einsum("ta,ab,tb->t", moves, normal[3:, 3:], moves)
    quadratic += 2 * turns @ normal[:3, 3:] @ moves.T
    matrices = Rotation.from_rotvec(turns).as_matrix() @ scene.peaks.poses.matrices[i]
    slices_rp = scene.volume.slices(matrices, scene.level.pixels)
    log_prob = (-0.5 * quadratic).astype(np.float32)
    return Support(matrices, scene.peaks.poses.shifts_px[i] + moves, log_prob, slices_rp, 1.0)


def inserted(scene: Scene, sums: SliceSums) -> NDArray[np.float64]:
    """Numerator (real, imaginary) and weight on the volume's grid."""
    accumulator = Accumulator(BOX, COLLECTED)
    insert_slices([sums], accumulator, scene.batch.pixels)
    return accumulator.values[..., :3].astype(float)


@pytest.mark.parametrize("i", range(2))
def test_sigma_points_add_what_a_very_fine_grid_adds(scene: Scene, i: int) -> None:
    """Cross and square per shell, and numerator and weight in the volume.

    Measured in what averaging changes: the difference between the grid and the single best pose.
    """
    support, single = on_a_grid(scene, i), posterior_of(scene, i, NO_AXIS)
    expected, kept = grid_terms(scene.level, i, support, 1.0, 0.0)
    found = gaussian_terms(scene.level, i, scene.volume, posterior_of(scene, i), 7)
    alone = gaussian_terms(scene.level, i, scene.volume, replace(single, spread_kab=0 * single.spread_kab), 7)
    assert found.scored == 7
    for name in ("cross_s", "square_s"):
        truth, ours, best = (getattr(terms, name) for terms in (expected, found, alone))
        change = np.linalg.norm(truth - best)
        assert change > 0.005 * np.linalg.norm(truth), name
        assert np.linalg.norm(truth - ours) < 0.2 * change, name
    a = inserted(scene, grid_slices(scene.batch, i, kept, support))
    b = inserted(scene, gaussian_slices(scene.batch, i, posterior_of(scene, i)))
    assert b[..., 2].sum() == pytest.approx(a[..., 2].sum(), rel=1e-3)
    # Any smooth map, projected onto what was inserted: the sums are linear in the numerator and the weight.
    rng = np.random.default_rng(i)
    probe = scene.volume.slices(Rotation.random(1, random_state=i).as_matrix(), scene.batch.pixels)
    assert probe.any()
    smooth = smooth_functions(a.shape[:3], rng)
    for column, tolerance in ((0, 0.06), (1, 0.06), (2, 0.04)):
        ours, truth = (np.einsum("zyx,fzyx->f", sums[..., column], smooth) for sums in (b, a))
        np.testing.assert_allclose(ours, truth, atol=tolerance * np.abs(truth).max())


def smooth_functions(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """A few broad waves on the grid of an accumulator."""
    z, y, x = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    waves = rng.normal(0, 2.0, (6, 3))
    return np.stack([np.cos(2 * np.pi * (a * z + b * y + c * x) + a) for a, b, c in waves])


def close(ours: NDArray[Any], theirs: NDArray[Any]) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_one_sigma_point_is_the_image_inserted_at_one_pose(scene: Scene) -> None:
    """Without width: the very slice that a grid of one pose inserts, and its agreement with the reference."""
    narrow = scene._replace(peaks=replace(scene.peaks, normal_kab=scene.peaks.normal_kab * 1e8))
    for i in range(IMAGES):
        posterior = posterior_of(narrow, i)
        assert len(posterior.matrices) in {1, 2, 4, 6}
        posterior = posterior_of(narrow, i, NO_AXIS)
        matrix, shift_px = posterior.matrices, posterior.shifts_px
        support = Support(
            matrix,
            shift_px,
            np.zeros((1, 1), np.float32),
            scene.volume.slices(matrix, scene.level.pixels),
            1.0,
        )
        expected, kept = grid_terms(scene.level, i, support, 1.0, 0.0)
        found = gaussian_terms(scene.level, i, scene.volume, posterior, 1)
        np.testing.assert_allclose(found.cross_s, expected.cross_s, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found.square_s, expected.square_s, rtol=1e-5)
        both = gaussian_slices(scene.batch, i, posterior), grid_slices(scene.batch, i, kept, support)
        for ours, theirs in zip(*(SMALL["slices_of"]([sums]) for sums in both), strict=True):
            close(ours, theirs)


def test_what_is_inserted_is_the_transpose_of_what_is_compared(scene: Scene) -> None:
    """``sum_p w Re(conj(slice) numerator)`` is cross, ``sum_p w weight |slice|^2`` is square."""
    pixels = scene.batch.pixels
    used = pixels.multiplicity_p * (pixels.shell_p > 0)
    level = LevelImages.of(scene.batch, COLLECTED)
    for i in range(IMAGES):
        posterior = posterior_of(scene, i)
        terms = gaussian_terms(level, i, scene.volume, posterior, 1)
        matrices, numerator_mp, weight_mp = SMALL["slices_of"]([gaussian_slices(scene.batch, i, posterior)])
        slices_mp = scene.volume.slices(matrices, pixels).astype(complex)
        cross = np.sum(used * (slices_mp.conj() * numerator_mp).real)
        square = np.sum(used * weight_mp * np.abs(slices_mp) ** 2)
        assert terms.cross_s.sum() == pytest.approx(cross, rel=1e-3)
        assert terms.square_s.sum() == pytest.approx(square, rel=1e-3)


def test_score_weights_of_the_images_go_into_numerator_and_weight(scene: Scene) -> None:
    factor = np.linspace(0.5, 1.5, len(scene.batch.pixels), dtype=np.float32)
    weighted = scene.batch.weighted(np.tile(factor, (IMAGES, 1)))
    sums = [gaussian_slices(batch, 0, posterior_of(scene, 0)) for batch in (scene.batch, weighted)]
    plain, heavy = (SMALL["slices_of"]([own]) for own in sums)
    np.testing.assert_allclose(heavy[1], plain[1] * factor, rtol=1e-4, atol=1e-6 * np.abs(plain[1]).max())
    np.testing.assert_allclose(heavy[2], plain[2] * factor, rtol=1e-4)
