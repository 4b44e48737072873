"""The dense pass by harmonics against sums over rings one pose at a time, against pixels, and its M-step."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.compute import Workers
from posterion.data.particles import Poses
from posterion.inference import polar
from posterion.inference.adaptive import LevelImages
from posterion.inference.exhaustive import SharedGrid
from posterion.inference.expectation import BatchExpectation, expect_batch
from posterion.inference.images import MASK_EDGE_PX, ImageBatch, NoiseModel, mask_area, prepare_images
from posterion.inference.polar import PolarReference, PolarSums, expect_polar
from posterion.inference.posterior import Posterior
from posterion.inference.priors import PosePrior
from posterion.inference.search import SearchPlan
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.mapping.reconstruct import HalfSums
from posterion.physics.ctf import ctf_at
from posterion.physics.fourier import disc, fourier_transform_3d, shell_mean
from posterion.physics.polar import PolarGrid
from posterion.physics.projection import Accumulator, FourierVolume
from posterion.physics.rotations import angular_distance_deg, matrices_from_euler
from posterion.physics.sampling import shift_lattice
from posterion.physics.shifts import shifted
from posterion.physics.simulate import Microscope, noise_free_images
from posterion.physics.soft_masks import soft_disc, soft_sphere

REFERENCES = Path(__file__).parents[1] / "references"
SMALL = runpy.run_path(str(REFERENCES / "small_problem.py"))
nufft_slices = runpy.run_path(str(REFERENCES / "nufft_reference.py"))["nufft_slices"]

BOX, PIXEL, RADIUS, COLLECTED, DIAMETER, COUNT = 40, 6.0, 9, 14, 25.0, 12
TURN = matrices_from_euler(np.array([12.0]), np.array([7.0]), np.array([-4.0]))[0]
PLAN = replace(SMALL["one_level_plan"](2, RADIUS, 1.0), grid_offset=TURN)
SEEN = DIAMETER + 2 * MASK_EDGE_PX
COMPARED_GRID = PolarGrid.of(BOX, RADIUS, SEEN, SEEN)
WITHIN = soft_sphere(BOX, DIAMETER / 2, MASK_EDGE_PX)
COLLECTED_GRID = PolarGrid.of(BOX, COLLECTED, BOX, np.sqrt(2) * BOX)


def uneven_prior() -> PosePrior:
    """Directions as uneven as e to one."""
    return PosePrior(np.random.default_rng(5).uniform(-0.5, 0.5, 192), 1.5)


class Found(NamedTuple):
    """What `expect_polar` returned."""

    posteriors: list[Posterior]
    cross_is: NDArray[np.float64]
    square_is: NDArray[np.float64]
    sums: PolarSums


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Astigmatic images of two microscopes."""
    options = {
        "n_particles": COUNT,
        "snr": 0.02,
        "shift_sd_angstrom": 6.0,
        "seed": 1,
        "astigmatism_angstrom": 6000.0,
        "particles_per_micrograph": 3,
        "microscopes": (Microscope(), Microscope(200.0, 2.0, 0.07)),
    }
    made = SMALL["make_problem"](tmp_path_factory.mktemp("polar"), BOX, PIXEL, **options)
    return made._replace(truth=made.truth * WITHIN)


@pytest.fixture(scope="module")
def noise(problem: Any) -> NoiseModel:
    """Two optics groups of coloured noise, two micrographs of different intensity."""
    shell = np.arange(BOX // 2 + 1)
    sigma2_gs = BOX**2 * np.stack([1 + 2 * np.exp(-shell / 4), 1.4 + 0.03 * shell])
    return NoiseModel(
        sigma2_gs,
        problem.particles.optics_index_i,
        np.array([0.8, 1.2]),
        np.arange(COUNT, dtype=np.int32) % 2,
    )


def batch_of(problem: Any, noise: NoiseModel, index_i: NDArray[np.int64] | None = None) -> ImageBatch:
    """Images compared to `RADIUS` and collected to `COLLECTED`, moved by a few pixels beforehand."""
    index_i = problem.everyone if index_i is None else index_i
    shift0_px = np.stack([index_i % 3 - 1.0, index_i % 4 - 2.0], -1)
    grids = COMPARED_GRID, COLLECTED_GRID
    images = problem.images[index_i]
    return prepare_images(
        problem.particles, index_i, images, COLLECTED, DIAMETER, noise, shift0_px, polar=grids
    )


def reference_of(map_: NDArray[np.float32], plan: SearchPlan = PLAN) -> PolarReference:
    return PolarReference.of(map_, plan, COMPARED_GRID, COLLECTED_GRID)


@pytest.fixture(scope="module")
def batch(problem: Any, noise: NoiseModel) -> ImageBatch:
    return batch_of(problem, noise)


@pytest.fixture(scope="module")
def reference(problem: Any) -> PolarReference:
    return reference_of(problem.truth)


@pytest.fixture(scope="module")
def found(batch: ImageBatch, reference: PolarReference) -> Found:
    return Found(*expect_polar(batch, reference, PLAN, 1.0))


def whole(posterior: Posterior, rotations: int, shifts: int) -> NDArray[np.float64]:
    """Gamma (R, T) of all poses, zero where it was cut."""
    gamma = np.zeros((rotations, shifts))
    gamma[np.ix_(posterior.rotation_r, posterior.shift_t)] = posterior.weight_rt
    return gamma


class OneByOne:
    """``log p`` of every pose in double precision: sums over samples of slices by a non-uniform FFT.

    Images are masked and transformed by direct sums, and moved by phases; no harmonics, no interpolation.
    """

    def __init__(self, problem: Any, noise: NoiseModel, batch: ImageBatch, matrices: Any) -> None:
        kx, ky = COMPARED_GRID.positions()
        self.slices_rp = nufft_slices(problem.truth, matrices, kx, ky)
        self.power_rp = np.abs(self.slices_rp) ** 2
        mask = soft_disc(BOX, DIAMETER / 2, MASK_EDGE_PX).astype(float)
        rolled = np.stack(
            [
                np.roll(image.astype(float), (int(dy), int(dx)), (0, 1))
                for image, (dx, dy) in zip(problem.images, batch.shift0_px, strict=True)
            ]
        )
        outside = (rolled * (1 - mask)).sum((1, 2)) / (1 - mask).sum()
        masked = (rolled - outside[:, None, None]) * mask
        x = np.arange(BOX) - BOX // 2
        waves = [np.exp(-2j * np.pi / BOX * np.outer(k, x)) for k in (kx, ky)]
        y_ip = np.einsum("iyx,py,px->ip", masked, waves[1], waves[0], optimize=True)
        shell = np.rint(np.hypot(kx, ky)).astype(int)
        sigma2_ip = noise.sigma2_gs[noise.noise_group_i][:, shell]
        area_p = np.tile(np.pi * np.hypot(kx, ky)[: len(COMPARED_GRID.ring_k)], COMPARED_GRID.angles)
        area_p *= (shell > 0) / COMPARED_GRID.angles
        ctf_ip = ctf_at(kx, ky, BOX, problem.particles).astype(float)
        ctf_ip *= noise.scale_g[noise.scale_group_i][:, None]
        self.power_i = np.sum(np.abs(y_ip) ** 2 / sigma2_ip * area_p, axis=1) / 2
        self.y_ip = ctf_ip * y_ip / sigma2_ip * area_p
        self.ctf2_ip = ctf_ip**2 / sigma2_ip * area_p
        self.shifts_px = shift_lattice(1.0, 1.0)
        self.phases_tp = np.exp(-2j * np.pi / BOX * self.shifts_px @ np.stack([kx, ky]))
        self.offsets_itx = batch.shift0_px[:, None] + self.shifts_px

    def log_prob(self, image: int) -> NDArray[np.float64]:
        """(R, T) with the prior of offsets, a Gaussian of 1.5 px."""
        cross_rt = (self.slices_rp.conj() @ (self.y_ip[image] * self.phases_tp).T).real
        norm_r = self.power_rp @ self.ctf2_ip[image]
        prior_t = -np.sum(self.offsets_itx[image] ** 2, -1) / (2 * 1.5**2) - np.log(2 * np.pi * 1.5**2)
        return cross_rt - norm_r[:, None] / 2 + prior_t

    def agreement(self, image: int, gamma_rt: NDArray[np.float64]) -> tuple[Any, Any]:
        """``sum_rt Gamma Re(conj(S) y)`` and ``sum_r Gamma |S|^2 C^2`` by ring."""
        expected_tp = gamma_rt.T @ self.slices_rp
        cross_p = (expected_tp.conj() * self.y_ip[image] * self.phases_tp).real.sum(axis=0)
        square_p = gamma_rt.sum(axis=1) @ self.power_rp * self.ctf2_ip[image]
        return tuple(values.reshape(COMPARED_GRID.angles, -1).sum(axis=0) for values in (cross_p, square_p))


@pytest.fixture(scope="module")
def one_by_one(problem: Any, noise: NoiseModel, batch: ImageBatch, reference: PolarReference) -> OneByOne:
    return OneByOne(problem, noise, batch, reference.matrices)


def test_all_poses_are_scored_as_one_by_one(found: Found, one_by_one: OneByOne) -> None:
    """Evidence to 0.02 nats and posteriors to 2 % of their mass, where poses differ by tens of nats."""
    for i, posterior in enumerate(found.posteriors):
        log_prob = one_by_one.log_prob(i)
        assert np.ptp(log_prob) > 15
        expected = np.exp(log_prob - log_prob.max())
        assert posterior.log_evidence == pytest.approx(log_prob.max() + np.log(expected.sum()), abs=0.02)
        expected /= expected.sum()
        assert np.abs(whole(posterior, *expected.shape) - expected).sum() / 2 < 0.02
        assert posterior.pmax == pytest.approx(expected.max(), rel=0.05)
        assert 1 / expected.max() > 5, "posteriors cover many poses"


def test_agreement_is_that_of_the_expected_reference(found: Found, one_by_one: OneByOne) -> None:
    """By shell and image: to a hundredth of the strongest shell."""
    for i, posterior in enumerate(found.posteriors):
        gamma_rt = whole(posterior, len(one_by_one.slices_rp), len(one_by_one.shifts_px))
        rings = one_by_one.agreement(i, gamma_rt)
        for own, expected_j in zip((found.cross_is[i], found.square_is[i]), rings, strict=True):
            expected_s = COMPARED_GRID.shell_sum(expected_j[None])[0]
            np.testing.assert_allclose(own, expected_s, atol=0.01 * expected_s.max())
    assert found.cross_is.shape == found.square_is.shape == (COUNT, RADIUS + 1)


def test_likelihood_takes_the_power_of_images_on_the_same_rings(
    problem: Any, batch: ImageBatch, reference: PolarReference, one_by_one: OneByOne
) -> None:
    """Against direct sums over the rings: to 0.1 nats of 40."""
    volume = FourierVolume.from_map(problem.truth, RADIUS)
    found = expect_batch(batch, volume, PLAN, reference, None)
    for i in range(COUNT):
        evidence = np.logaddexp.reduce(one_by_one.log_prob(i), axis=None) + PLAN.log_rotation_cell
        assert found.log_likelihood_i[i] == pytest.approx(evidence - one_by_one.power_i[i], abs=0.1)
    power_ij = batch.on_rings.power_ij
    assert power_ij.shape == (COUNT, len(COMPARED_GRID.ring_k))
    np.testing.assert_allclose(power_ij.sum(axis=1), one_by_one.power_i, rtol=3e-3)
    assert one_by_one.power_i.min() > 20


@pytest.mark.parametrize("point_group", ["C1", "C4", "O"])
def test_rings_and_pixels_say_the_same(problem: Any, noise: NoiseModel, point_group: str) -> None:
    """Evidence to 0.25 nats, breadth to a tenth, agreement by shell to 9 % of the strongest.

    Which pixels a disc of nine shells happens to hold makes up what is left: 4 % of an image's power too.
    """
    plan = replace(PLAN, point_group=point_group, prior=uneven_prior())
    batch = batch_of(problem, noise)
    volume = FourierVolume.from_map(problem.truth, RADIUS)
    rings = expect_batch(batch, volume, plan, reference_of(problem.truth, plan), None)
    dots = expect_batch(batch, volume, plan, SharedGrid.of(volume, plan), None)
    for name in ("index_i", "scored_i", "masked_power_is", "counts"):
        np.testing.assert_array_equal(getattr(rings, name), getattr(dots, name))
    on_rings_i, on_pixels_i = batch.on_rings.power_ij.sum(axis=1), LevelImages.of(batch, RADIUS).power_i
    np.testing.assert_allclose(on_rings_i, on_pixels_i, rtol=0.045)
    evidence_i = dots.log_likelihood_i + on_pixels_i
    np.testing.assert_allclose(rings.log_likelihood_i + on_rings_i, evidence_i, atol=0.25)
    assert np.ptp(evidence_i) > 10
    breadth = np.log(rings.effective_orientations_i / dots.effective_orientations_i)
    assert np.sqrt(np.mean(breadth**2)) < 0.1
    for name in ("cross_is", "square_is"):
        a, b = (getattr(part, name).sum(axis=0) for part in (rings, dots))
        np.testing.assert_allclose(a, b, atol=0.09 * b.max())
        assert a.sum() == pytest.approx(b.sum(), rel=0.03)
    np.testing.assert_allclose(rings.correlation_i, dots.correlation_i, atol=0.02)
    close = angular_distance_deg(rings.matrices_i, dots.matrices_i) < 5
    assert close.sum() >= COUNT - 2, "two poses may be almost equally good"
    np.testing.assert_allclose(rings.shifts_px_i[close], dots.shifts_px_i[close], atol=0.1)


def one_hot(found: Found) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the only rotation and shift of each posterior."""
    assert all(posterior.weight_rt.shape == (1, 1) for posterior in found.posteriors)
    kept = [(posterior.rotation_r[0], posterior.shift_t[0]) for posterior in found.posteriors]
    return tuple(np.array(kept).T)


def joined(accumulator: Accumulator, point_group: str = "C1") -> HalfSums:
    with Workers(1) as workers:
        return HalfSums.from_accumulator(accumulator, point_group, workers)


def inserted(sums: PolarSums) -> Accumulator:
    """By one thread, in linear algebra too: on some processors its bits depend on how many there are."""
    accumulator = Accumulator(BOX, COLLECTED)
    with Workers(1):
        sums.insert(accumulator)
    return accumulator


class Posed(NamedTuple):
    """Images in little noise at poses of the grid, the numbers of their cells, and both made ready."""

    problem: Any
    cell: NDArray[np.int64]
    batch: ImageBatch


@pytest.fixture(scope="module")
def posed(problem: Any) -> Posed:
    n, rng = 200, np.random.default_rng(1)
    cell = rng.integers(192 * 24, size=n)
    offsets_px = shift_lattice(1.0, 1.0)[rng.integers(5, size=n)]
    poses = Poses.from_matrices(PLAN.grid(0).matrices(cell), offsets_px * PIXEL)
    particles = replace(problem.particles[np.arange(n) % COUNT], poses=poses)
    volume = FourierVolume.from_map(problem.truth)
    signal = noise_free_images([volume], np.zeros(n, int), particles, np.arange(n))
    images = (signal + rng.normal(0, 2 * signal.std(), signal.shape)).astype(np.float32)
    known = problem._replace(particles=particles, images=images)
    noise = SMALL["white_noise"](known, 4 * signal.var())
    grids = COMPARED_GRID, COLLECTED_GRID
    none = np.zeros((n, 2))
    batch = prepare_images(particles, known.everyone, images, COLLECTED, DIAMETER, noise, none, polar=grids)
    return Posed(known, cell, batch)


def likeness(map_: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """``< Re conj(F) G >`` of two maps, by shell; without the first two and those about the last."""
    a, b = fourier_transform_3d(map_), fourier_transform_3d(other)
    return shell_mean((a.conj() * b).real, BOX)[2 : COLLECTED - 1]


@pytest.mark.parametrize("point_group", ["C1", "C4"])
def test_maximisation_by_rays_gives_the_map_of_slices(posed: Posed, point_group: str) -> None:
    """The same images at the same poses, in slices and along rays.

    Weights per shell to 5 %. Where the particle is, maps to an FSC of 0.985, and of 0.97 next to the last
    shells, which both fill by half; rays are at least as near to the truth in every shell.
    """
    batch, truth = posed.batch, posed.problem.truth
    plan = replace(PLAN, point_group=point_group)
    reference = reference_of(truth, plan)
    found = Found(*expect_polar(batch, reference, plan, 0.0))
    rotation, shift = one_hot(found)
    apart = angular_distance_deg(reference.matrices[rotation], PLAN.grid(0).matrices(posed.cell))
    assert point_group != "C1" or (apart < 1).mean() > 0.95, "best poses of clear images are the true ones"
    moved = [
        shifted(y, batch.pixels, shift_px[None])[0]
        for y, shift_px in zip(batch.data_ip, reference.shifts_px[shift], strict=True)
    ]
    slices = Accumulator(BOX, COLLECTED)
    ctf2 = batch.inserted_ctf2(list(range(len(batch))))
    slices.insert(reference.matrices[rotation], batch.pixels, np.stack(moved), ctf2)
    rays, dots = (joined(accumulator, point_group) for accumulator in (inserted(found.sums), slices))
    np.testing.assert_allclose(rays.shell_weight()[2:], dots.shell_weight()[2:], rtol=0.05)
    assert rays.shell_weight().sum() == pytest.approx(dots.shell_weight().sum(), rel=0.005)
    by_rays, by_slices = (own.solve(0.1 * dots.shell_weight()) * WITHIN for own in (rays, dots))
    fsc_s = fourier_shell_correlation(by_rays, by_slices)
    assert fsc_s[1 : COLLECTED - 3].min() > 0.985
    assert fsc_s[1 : COLLECTED - 1].min() > 0.97
    if point_group == "C1":
        a, b = (fourier_shell_correlation(map_, truth)[1:COLLECTED] for map_ in (by_rays, by_slices))
        assert b[:8].min() > 0.95
        assert (a > b - 0.005).all()
        np.testing.assert_allclose(likeness(by_rays, truth) / likeness(by_slices, truth), 1, atol=0.04)


def test_broad_posteriors_are_collected_pose_by_pose(
    found: Found, batch: ImageBatch, reference: PolarReference
) -> None:
    """``sum_irt Gamma C y / sigma2`` over all turns at once, against a slice for every rotation."""
    rotations, shifts = len(reference.matrices), len(reference.shifts_px)
    numerator = np.zeros((rotations, len(batch.pixels)), np.complex64)
    weight = np.zeros((rotations, len(batch.pixels)), np.float32)
    for i, posterior in enumerate(found.posteriors):
        gamma_rt = whole(posterior, rotations, shifts).astype(np.float32)
        numerator += gamma_rt @ shifted(batch.data_ip[i], batch.pixels, reference.shifts_px)
        weight += np.outer(gamma_rt.sum(axis=1), batch.inserted_ctf2(i))
    slices = Accumulator(BOX, COLLECTED)
    slices.insert(reference.matrices, batch.pixels, numerator, weight)
    rays, dots = (joined(accumulator) for accumulator in (inserted(found.sums), slices))
    np.testing.assert_allclose(rays.shell_weight()[2:], dots.shell_weight()[2:], rtol=0.06)
    by_rays, by_slices = (own.solve(0.1 * dots.shell_weight()) * WITHIN for own in (rays, dots))
    assert fourier_shell_correlation(by_rays, by_slices)[1 : COLLECTED - 1].min() > 0.95
    np.testing.assert_allclose(likeness(by_rays, by_slices) / likeness(by_slices, by_slices), 1, atol=0.05)


class Clear(NamedTuple):
    """Images with a hundred times more signal than noise, and the variance of theirs."""

    batch: ImageBatch
    sigma2: float


@pytest.fixture(scope="module")
def clear(posed: Posed) -> Clear:
    problem, rng = posed.problem, np.random.default_rng(2)
    signal_variance = problem.images.var() / 5
    everyone = np.arange(60)
    volume = FourierVolume.from_map(problem.truth)
    images = noise_free_images([volume], np.zeros(60, int), problem.particles, everyone)
    drawn = rng.normal(0, 0.5 * np.sqrt(signal_variance), images.shape)
    quiet = problem._replace(images=(images + drawn).astype(np.float32))
    sigma2 = 0.25 * signal_variance
    batch = prepare_images(
        quiet.particles,
        everyone,
        quiet.images,
        COLLECTED,
        DIAMETER,
        SMALL["white_noise"](quiet, sigma2),
        np.zeros((60, 2)),
        polar=(COMPARED_GRID, COLLECTED_GRID),
    )
    return Clear(batch, sigma2)


def test_residuals_are_the_noise_however_strong_the_signal(clear: Clear, reference: PolarReference) -> None:
    """``|y|^2 - 2 y.R + |R|^2`` by shell."""
    batch, sigma2 = clear
    found = Found(*expect_polar(batch, reference, PLAN, 0.999))
    pixels = disc(BOX, RADIUS)
    count_s = pixels.shell_sum(pixels.multiplicity_p) * mask_area(BOX, DIAMETER)
    power_s = batch.masked_power_is.mean(axis=0)[: RADIUS + 1] / (sigma2 * BOX**2)
    explained_s = (2 * found.cross_is - found.square_is).mean(axis=0) / count_s
    assert (power_s[1:7] > 20).all()
    np.testing.assert_allclose((power_s - explained_s)[2:], 1, atol=0.08)


def test_likelihoods_and_correlations_hold_however_strong_the_signal(
    problem: Any, clear: Clear, reference: PolarReference
) -> None:
    """As over pixels: to a few nats of thousands that the images have, and to 0.002.

    Power over pixels, beside agreement on rings, was 9 nats off on average and gave correlations above one.
    """
    volume = FourierVolume.from_map(problem.truth, RADIUS)
    rings = expect_batch(clear.batch, volume, PLAN, reference, None)
    dots = expect_batch(clear.batch, volume, PLAN, SharedGrid.of(volume, PLAN), None)
    assert LevelImages.of(clear.batch, RADIUS).power_i.mean() > 2000
    np.testing.assert_allclose(rings.log_likelihood_i, dots.log_likelihood_i, atol=5)
    assert rings.log_likelihood_i.mean() == pytest.approx(dots.log_likelihood_i.mean(), abs=1.5)
    np.testing.assert_allclose(rings.correlation_i, dots.correlation_i, atol=0.002)
    assert 0.98 < rings.correlation_i.max() < 1


@pytest.mark.parametrize("mass", [0.999, 0.0])
def test_bad_images_add_nothing(
    problem: Any, noise: NoiseModel, reference: PolarReference, mass: float
) -> None:
    images, good = problem.images.copy(), np.setdiff1d(np.arange(COUNT), [3, 8])
    images[3, 2, 2], images[8] = np.nan, 1.0
    damaged = batch_of(problem._replace(images=images), noise)
    volume = FourierVolume.from_map(problem.truth, RADIUS)
    part = expect_batch(damaged, volume, PLAN, reference, None, hard=mass == 0)
    alone = expect_batch(batch_of(problem, noise, good), volume, PLAN, reference, None, hard=mass == 0)
    np.testing.assert_array_equal(part.index_i, good)
    assert part.counts == alone.counts
    for name in VALUES:
        np.testing.assert_allclose(getattr(part, name), getattr(alone, name), rtol=1e-4, atol=1e-4)
    require_close(part.turned, alone.turned)
    with np.errstate(all="raise"):
        nothing = expect_batch(
            batch_of(problem._replace(images=0 * images), noise), volume, PLAN, reference, None
        )
    assert len(nothing.index_i) == len(nothing.log_likelihood_i) == len(nothing.cross_is) == 0
    assert nothing.turned is not None
    assert not nothing.turned.numerator.any()
    assert not nothing.turned.weight.any()
    assert not inserted(nothing.turned).values.any()


VALUES = "matrices_i", "shifts_px_i", "log_likelihood_i", "correlation_i", "pmax_i", "cross_is", "square_is"


def require_close(a: PolarSums | None, b: PolarSums | None) -> None:
    """Equal but for rounding."""
    assert a is not None
    assert b is not None
    np.testing.assert_allclose(a.numerator, b.numerator, atol=3e-5 * np.abs(b.numerator).max())
    np.testing.assert_allclose(a.weight, b.weight, atol=3e-5 * np.abs(b.weight).max())


def test_a_batch_can_be_split_and_repeated(
    problem: Any, noise: NoiseModel, reference: PolarReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into batches, or chunks of one image: sums change by rounding. The same call gives the same bits."""
    volume = FourierVolume.from_map(problem.truth, RADIUS)

    def expect(index_i: NDArray[np.int64]) -> BatchExpectation:
        return expect_batch(batch_of(problem, noise, index_i), volume, PLAN, reference, None)

    once, again = expect(np.arange(COUNT)), expect(np.arange(COUNT))
    for name in VALUES:
        np.testing.assert_array_equal(getattr(again, name), getattr(once, name))
    assert once.turned is not None
    np.testing.assert_array_equal(again.turned.numerator, once.turned.numerator)
    np.testing.assert_array_equal(again.turned.weight, once.turned.weight)
    np.testing.assert_array_equal(inserted(again.turned).values, inserted(once.turned).values)
    parts = [expect(index_i) for index_i in (np.arange(5), np.arange(5, COUNT))]
    for name in VALUES:
        joint = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(joint, getattr(once, name), rtol=1e-4, atol=1e-4)
    second, first = parts[1].turned, parts[0].turned
    assert first.added_to(None) is first
    before = first.numerator.copy()
    total = second.added_to(first)
    assert total is first, "in place, the first of a half"
    np.testing.assert_array_equal(total.numerator, before + second.numerator)
    require_close(total, once.turned)
    monkeypatch.setattr(polar, "_CHUNK_BYTES", 1)
    one_at_a_time = expect(np.arange(COUNT))
    for name in VALUES:
        np.testing.assert_allclose(getattr(one_at_a_time, name), getattr(once, name), rtol=1e-4, atol=1e-4)
    require_close(one_at_a_time.turned, once.turned)


def test_rays_are_inserted_in_parts_and_by_threads_to_the_same_bits(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = inserted(found.sums).values
    assert alone[..., 2].min() >= 0
    threaded = Accumulator(BOX, COLLECTED)
    with Workers(3) as workers:
        found.sums.insert(threaded, workers)
    np.testing.assert_array_equal(threaded.values, alone)
    monkeypatch.setattr(polar, "_DIRECTIONS_TOGETHER", 7)
    np.testing.assert_allclose(inserted(found.sums).values, alone, atol=1e-5 * np.abs(alone).max())


def test_weights_that_harmonics_leave_below_zero_are_not_inserted(reference: PolarReference) -> None:
    """Cut harmonics ripple; a weight below zero would spoil the solve. ``2 cos 2 theta`` stands for them."""
    sums = PolarSums.zero(reference.frames[:5], COLLECTED_GRID)
    sums.weight[1, 0] = 1
    assert COLLECTED_GRID.harmonics[1] == 2
    weight = inserted(sums).values[..., 2]
    assert weight.min() >= 0
    # Half of each ring is above zero, on average by 4 / pi; half a plane of each of the five is inserted.
    area = 5 * np.pi * COLLECTED**2 / 2
    assert weight.sum() == pytest.approx(area * 2 / np.pi, rel=0.001)


def test_images_not_sampled_on_rings_are_refused(
    problem: Any, noise: NoiseModel, reference: PolarReference
) -> None:
    with pytest.raises(ValueError, match="polar"):
        expect_polar(replace(batch_of(problem, noise), polar=None), reference, PLAN, 1.0)


def test_references_are_the_same_for_any_number_of_threads(problem: Any, reference: PolarReference) -> None:
    other = PolarReference.of(problem.truth, PLAN, COMPARED_GRID, COLLECTED_GRID, 3)
    for mine, theirs in zip(reference.slices.parts, other.slices.parts, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert reference.image_bytes == 12 * sum(
        len(grid.positions()[0]) for grid in (COMPARED_GRID, COLLECTED_GRID)
    )
