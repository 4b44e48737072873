"""Sums of Gaussians against the posterior itself, integrated on a fine grid of five parameters."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.special import logsumexp

from posterion.inference import laplace
from posterion.inference.adaptive import LevelImages
from posterion.inference.climbing import Peaks, PoseList, climb
from posterion.inference.laplace import GaussianPosterior, damping, gaussian_posteriors, well_determined
from posterion.inference.priors import PosePrior
from posterion.inference.search import Level, SearchPlan
from posterion.physics.fourier import disc
from posterion.physics.projection import FourierVolume
from posterion.physics.simulate import noise_free_images

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
BOX, RADIUS, PIXEL, IMAGES = 32, 12, 6.0, 6
SIGMA = 1.4
PLAN = SearchPlan(
    (Level(1, 5, 1.0), Level(3, RADIUS, 0.5)), 3.0, 15.0, 200, "C1", np.eye(3), PosePrior.uniform(SIGMA)
)


class Grid(NamedTuple):
    """Posterior of one image on a regular grid of poses about its peak."""

    log_evidence: float
    mean_a: NDArray[np.float64]
    covariance_ab: NDArray[np.float64]


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A map off its centre, so that angles and shifts hang together."""
    options = {"n_particles": IMAGES, "snr": 2.0, "shift_sd_angstrom": 5.0, "seed": 6}
    made = SMALL["make_problem"](tmp_path_factory.mktemp("laplace"), BOX, PIXEL, **options)
    moved = np.roll(made.truth, (2, -2, 3), axis=(0, 1, 2))
    which = np.zeros(IMAGES, int)
    clean = noise_free_images([FourierVolume.from_map(moved)], which, made.particles, made.everyone)
    noise = np.random.default_rng(0).normal(size=clean.shape)
    return made._replace(truth=moved, images=(clean + noise).astype(np.float32))


@pytest.fixture(scope="module")
def volume(problem: Any) -> FourierVolume:
    """Padded sixfold, so that creases of trilinear interpolation do not matter here."""
    return FourierVolume.from_map(problem.truth, RADIUS, padding=6)


@pytest.fixture(scope="module")
def peaks(problem: Any, volume: FourierVolume) -> Peaks:
    poses = problem.particles.poses
    shifts_px = np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], -1) / PIXEL
    start = PoseList(np.arange(IMAGES, dtype=np.int32), poses.matrices(), shifts_px)
    batch = SMALL["unmasked_batch"](problem, RADIUS)
    return climb(LevelImages.of(batch, RADIUS), batch.shift0_px, volume, PLAN.prior, start, 1e-3)


def integrated(problem: Any, volume: FourierVolume, peaks: Peaks, i: int, points: int = 11) -> Grid:
    """Log-probability on ``points^5`` poses that span four deviations, summed with Haar's measure.

    Written from the definition: whitened images, one shift at a time, in double precision.
    """
    batch = SMALL["unmasked_batch"](problem, RADIUS)
    covariance = np.linalg.inv(peaks.normal_kab[i])
    axis = np.linspace(-4, 4, points)
    rotation_root = np.linalg.cholesky(covariance[:3, :3])
    shift_root = np.linalg.cholesky(covariance[3:, 3:])
    turns = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3) @ rotation_root.T
    moves = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2) @ shift_root.T
    matrices = Rotation.from_rotvec(turns).as_matrix() @ peaks.poses.matrices[i]
    slices = volume.slices(matrices, batch.pixels).astype(complex)
    norm = np.abs(slices) ** 2 @ batch.ctf2_ip[i].astype(float)
    k = np.stack([batch.pixels.kx_p, batch.pixels.ky_p])
    log_prob = np.empty((len(turns), len(moves)))
    for t, move in enumerate(moves):
        total = peaks.poses.shifts_px[i] + move
        data = batch.whitened_ip[i] * np.exp(-2j * np.pi / BOX * (total @ k))
        prior = -(total @ total) / (2 * SIGMA**2) - np.log(2 * np.pi * SIGMA**2)
        log_prob[:, t] = (slices.conj() @ data).real - 0.5 * norm + prior
    angle = np.linalg.norm(turns, axis=1)
    log_haar = np.log(np.sinc(angle / (2 * np.pi)) ** 2 / (8 * np.pi**2))
    cell = (axis[1] - axis[0]) ** 5 * np.linalg.det(rotation_root) * np.linalg.det(shift_root)
    log_mass = log_prob + log_haar[:, None] + np.log(cell)
    evidence = float(logsumexp(log_mass))
    gamma = np.exp(log_mass - evidence)
    delta = np.concatenate([np.repeat(turns, len(moves), axis=0), np.tile(moves, (len(turns), 1))], axis=1)
    mean = gamma.ravel() @ delta
    return Grid(evidence, mean, (gamma.ravel()[:, None] * (delta - mean)).T @ (delta - mean))


@pytest.fixture(scope="module")
def grids(problem: Any, volume: FourierVolume, peaks: Peaks) -> list[Grid]:
    return [integrated(problem, volume, peaks, i) for i in range(IMAGES)]


def one(peaks: Peaks, i: int, radius: int = RADIUS) -> GaussianPosterior:
    return gaussian_posteriors(peaks[np.array([i])], PLAN, radius)[0]


def correlations(covariance_kab: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = np.sqrt(np.einsum("kaa->ka", covariance_kab))
    return np.asarray(covariance_kab / (deviation[:, :, None] * deviation[:, None]))


def test_evidence_and_widths_are_those_of_the_posterior(peaks: Peaks, grids: list[Grid]) -> None:
    """Evidence to 0.15 nats, all widths to 10 %, correlations of angles and shifts to 0.12."""
    found = gaussian_posteriors(peaks, PLAN, RADIUS)
    errors = [p.log_evidence - grid.log_evidence for p, grid in zip(found, grids, strict=True)]
    assert np.abs(errors).max() < 0.15
    covariance_kab = np.linalg.inv(peaks.normal_kab)
    deviation = np.sqrt(np.einsum("kaa->ka", covariance_kab))
    expected = np.stack([grid.covariance_ab for grid in grids])
    np.testing.assert_allclose(deviation / np.sqrt(np.einsum("kaa->ka", expected)), 1, atol=0.1)
    correlation, true = (correlations(c) for c in (np.asarray(covariance_kab), expected))
    assert np.abs(true[:, :3, 3:]).max() > 0.3, "angles and shifts must hang together somewhere"
    np.testing.assert_allclose(correlation, true, atol=0.12)
    for i, grid in enumerate(grids):
        assert (np.abs(grid.mean_a) < 0.2 * deviation[i]).all(), "the mean is the peak"


def test_sigma_points_have_the_mean_and_covariance_of_angles_and_shifts(peaks: Peaks) -> None:
    """Exactly: of the angles, of shifts with angles; and with the spread of the shift, of the shifts."""
    covariance_kab = np.linalg.inv(peaks.normal_kab)
    for i in range(IMAGES):
        found = one(peaks, i, 10_000)
        turns = Rotation.from_matrix(found.matrices @ peaks.poses.matrices[i].T).as_rotvec()
        moves = found.shifts_px - peaks.poses.shifts_px[i]
        assert len(turns) == 6
        delta, weight = np.hstack([turns, moves]), found.weight_m
        np.testing.assert_allclose(weight, 1 / 6)
        np.testing.assert_allclose(weight @ delta, 0, atol=1e-12)
        second = (weight[:, None] * delta).T @ delta
        second[3:, 3:] += found.spread_kab[0]
        scale = np.sqrt(np.diag(covariance_kab[i]))
        np.testing.assert_allclose(
            second / np.outer(scale, scale), covariance_kab[i] / np.outer(scale, scale), atol=1e-9
        )
        np.testing.assert_array_equal(found.matrix, peaks.poses.matrices[i])
        np.testing.assert_array_equal(found.shift_px, peaks.poses.shifts_px[i])


def test_axes_along_which_nothing_moves_have_no_points(peaks: Peaks) -> None:
    """From none to three axes as the radius that they have to serve grows; the covariance of those used."""
    counts = [
        len(gaussian_posteriors(peaks[np.array([0])], PLAN, r)[0].matrices) for r in (1, 12, 40, 10_000)
    ]
    assert counts[0] == 1
    assert counts[-1] == 6
    assert (np.diff(counts) >= 0).all()
    covariance = np.linalg.inv(peaks.normal_kab[0])[:3, :3]
    deviation = np.sqrt(np.linalg.eigvalsh(covariance))
    between = laplace._NOTICEABLE_PX / np.sqrt(3) / np.sqrt(deviation[1] * deviation[2])
    radius = int(np.ceil(between))
    found = gaussian_posteriors(peaks[np.array([0])], PLAN, radius)[0]
    turns = Rotation.from_matrix(found.matrices @ peaks.poses.matrices[0].T).as_rotvec()
    used = len(turns) // 2
    assert used in {1, 2}
    second = np.linalg.eigvalsh(turns.T @ turns / len(turns))
    np.testing.assert_allclose(second[-used:], deviation[-used:] ** 2, rtol=1e-6)
    single = gaussian_posteriors(peaks[np.array([0])], PLAN, 1)[0]
    np.testing.assert_array_equal(single.matrices[0], peaks.poses.matrices[0])


def test_the_expected_slice_is_that_of_random_draws(
    problem: Any, volume: FourierVolume, peaks: Peaks
) -> None:
    """Mean of slices over the Gaussian of the angles: six sigma points against 20,000 draws.

    Measured in the bend that averaging gives to the slice of the peak.
    """
    pixels = disc(BOX, RADIUS)
    rng = np.random.default_rng(0)
    wide = replace(peaks, normal_kab=peaks.normal_kab / 60)  # a bend far above the draws' noise
    for i in range(0, IMAGES, 2):
        found = one(wide, i, 10_000)
        draws = rng.multivariate_normal(np.zeros(3), np.linalg.inv(wide.normal_kab[i])[:3, :3], 10_000)
        draws = np.concatenate([draws, -draws])
        turned = Rotation.from_rotvec(draws).as_matrix() @ peaks.poses.matrices[i]
        expected = volume.slices(turned, pixels).astype(complex).mean(axis=0)
        centre = volume.slices(peaks.poses.matrices[i][None], pixels)[0]
        mean = found.weight_m @ volume.slices(found.matrices, pixels)
        bend = np.linalg.norm(expected - centre)
        assert bend > 0.03 * np.linalg.norm(centre)
        assert np.linalg.norm(mean - expected) < 0.25 * bend


def test_damping_is_the_mean_over_random_shifts() -> None:
    pixels = disc(20, 8)
    spread = np.array([[0.5, 0.2], [0.2, 0.3]])
    shifts = np.random.default_rng(1).multivariate_normal([0, 0], spread, 100_000)
    phase = shifts[:, :1] * pixels.kx_p + shifts[:, 1:] * pixels.ky_p
    expected = np.cos(2 * np.pi / 20 * phase).mean(axis=0)
    found = damping(spread, pixels)
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=0.015)
    assert expected.min() < 0.2
    assert damping(1e-5 * spread, pixels) is None
    barely = damping(0.003 * spread, pixels)
    assert barely is None or barely.min() < 1


def test_peaks_weigh_by_height_and_width(peaks: Peaks) -> None:
    """Mass is height times ``(2 pi)^(5/2) |N|^(-1/2)``, over the volume of rotations; mites are dropped."""
    three = peaks[np.array([0, 0, 0])]
    normal_kab = three.normal_kab * np.array([1.0, 1e4, 1.0])[:, None, None]
    matrices = three.poses.matrices.copy()
    matrices[1] = matrices[1] @ Rotation.from_rotvec([0, 0, 1.0]).as_matrix()
    apart = replace(three.poses, matrices=matrices)
    three = replace(
        three,
        poses=apart,
        normal_kab=normal_kab,
        log_prob_k=three.log_prob_k + np.array([0, 2.5 * np.log(1e4) - np.log(2), -9]),
    )
    found = gaussian_posteriors(three, PLAN, 200)[0]
    assert np.bincount(found.peak_m).tolist() == [6, 1], "a narrow peak needs one point"
    # A normal matrix 1e4 times as large has 1e-10 of the volume, here made up for: half the first's mass.
    share = np.array([1, 0.5, np.exp(-9)]) / (1.5 + np.exp(-9))
    masses = np.bincount(found.peak_m, found.weight_m, minlength=3)
    np.testing.assert_allclose(masses, [2 / 3, 1 / 3, 0], rtol=1e-6)
    assert found.weight_m.sum() == pytest.approx(1)
    single = one(peaks, 0)
    assert found.log_evidence - single.log_evidence == pytest.approx(-np.log(share[0]), abs=1e-9)
    np.testing.assert_array_equal(found.matrix, matrices[0])
    dihedral = gaussian_posteriors(peaks[np.array([0])], replace(PLAN, point_group="D2"), RADIUS)[0]
    assert dihedral.log_evidence - single.log_evidence == pytest.approx(np.log(4))
    together = gaussian_posteriors(peaks, PLAN, RADIUS)
    assert [p.log_evidence for p in together] == [one(peaks, i).log_evidence for i in range(IMAGES)]


def test_pmax_and_effective_orientations_are_those_of_a_grid(peaks: Peaks) -> None:
    """exp(entropy) of the rotations and the largest weight of a cell, counted on cubic cells of equal volume.

    The Gaussian is made broad enough for its mass to spread over many cells.
    """
    i, level = 0, PLAN.levels[-1]
    cell = 8 * np.pi**2 / PLAN.cell_count
    wide = replace(peaks, normal_kab=peaks.normal_kab / 700)
    found = one(wide, i)
    covariance = np.linalg.inv(wide.normal_kab[i])
    root = np.linalg.cholesky(covariance[:3, :3])
    edge = (cell / np.linalg.det(root)) ** (1 / 3)  # in the whitened frame; the number of cells is the same
    assert edge < 1
    axis = np.arange(-6, 6 + edge, edge)
    axis -= axis[np.argmin(np.abs(axis))]
    density = np.exp(-0.5 * axis**2)
    density /= density.sum()
    entropy = -3 * np.sum(density * np.log(np.maximum(density, 1e-300)))
    assert found.effective_orientations == pytest.approx(np.exp(entropy), rel=0.05)
    assert found.effective_orientations > 10
    rotation_top = density.max() ** 3
    spread = np.linalg.inv(wide.normal_kab[i, 3:, 3:])
    shift_top = level.shift_step_px**2 / (2 * np.pi * np.sqrt(np.linalg.det(spread)))
    assert found.pmax == pytest.approx(rotation_top * shift_top, rel=0.05)
    narrow = one(replace(peaks, normal_kab=peaks.normal_kab * 1e4), i)
    assert narrow.pmax == 1
    assert narrow.effective_orientations == 1
    pair = replace(wide[np.array([i, i])], poses=wide[np.array([i, i])].poses)
    both = gaussian_posteriors(pair, PLAN, RADIUS)[0]
    assert both.effective_orientations == pytest.approx(2 * found.effective_orientations)
    assert both.pmax == pytest.approx(0.5 * found.pmax)


def test_gaussians_describe_converged_narrow_peaks_of_thirty_nats(peaks: Peaks) -> None:
    """Narrow: one deviation of the widest angle moves the slice's edge by less than 0.7 Fourier pixels."""
    rows = np.zeros(5, int)
    widest = np.sqrt(np.linalg.eigvalsh(np.linalg.inv(peaks.normal_kab[0])[:3, :3])[-1])
    factor = (widest * RADIUS / 0.7) ** 2 * np.array([1.02, 1.02, 1.02, 1.02, 0.98])
    five = replace(
        peaks[rows],
        nats_k=np.array([30.0, 29.9, 400.0, 400.0, 400.0]),
        converged_k=np.array([True, True, True, False, True]),
        normal_kab=peaks.normal_kab[rows] * factor[:, None, None],
    )
    assert well_determined(five, RADIUS).tolist() == [True, False, True, False, False]


def test_an_image_without_signal_is_not_determined(peaks: Peaks) -> None:
    """Its normal matrix has no inverse; nothing is said and nothing fails."""
    nothing = replace(peaks, normal_kab=0 * peaks.normal_kab, nats_k=0 * peaks.nats_k)
    assert not well_determined(nothing, RADIUS).any()


def test_a_ball_determines_no_pose(problem: Any) -> None:
    """It explains an image of itself by hundreds of nats in any orientation."""
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    ball = (np.exp(-(x**2 + y**2 + z**2) / (2 * 4.0**2)) * 2.0).astype(np.float32)
    volume, which = FourierVolume.from_map(ball, RADIUS), np.zeros(IMAGES, int)
    clean = noise_free_images([volume], which, problem.particles, problem.everyone)
    batch = SMALL["unmasked_batch"](problem._replace(images=clean.astype(np.float32)), RADIUS)
    matrices = problem.particles.poses.matrices()
    start = PoseList(np.arange(IMAGES, dtype=np.int32), matrices, np.zeros((IMAGES, 2)))
    found = climb(LevelImages.of(batch, RADIUS), batch.shift0_px, volume, PLAN.prior, start)
    assert (found.nats_k > 100).all()
    assert not well_determined(found, RADIUS).any()
