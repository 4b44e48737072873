"""Images made ready: against the equations, masks, offsets, groups, and images that cannot be used."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterion.inference.images import (
    ImageBatch,
    NoiseModel,
    PolarImages,
    background_power,
    mask_area,
    prepare_images,
)
from posterion.physics.ctf import ctf_half_spectrum
from posterion.physics.fourier import disc
from posterion.physics.polar import PolarGrid
from posterion.physics.soft_masks import soft_disc

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
RADIUS, DIAMETER_PX = 9, 14.0


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return SMALL["make_problem"](tmp_path_factory.mktemp("images"), 24, 8.0, n_particles=6, snr=1.0, seed=1)


@pytest.fixture
def prepare(problem: Any) -> Callable[..., ImageBatch]:
    def prepared(images: Any = None, shift0_px: Any = None, noise: NoiseModel | None = None) -> ImageBatch:
        return prepare_images(
            problem.particles,
            problem.everyone,
            problem.images if images is None else images,
            RADIUS,
            DIAMETER_PX,
            noise or SMALL["white_noise"](problem),
            np.zeros((6, 2)) if shift0_px is None else shift0_px,
        )

    return prepared


def test_entries_are_what_they_say(problem: Any, prepare: Callable[..., ImageBatch]) -> None:
    noise = SMALL["white_noise"](problem, sigma2=0.5, scale=1.3)
    noise.sigma2_gs[0] *= np.linspace(1, 3, 13)
    batch, pixels = prepare(noise=noise), disc(24, RADIUS)
    mask = soft_disc(24, DIAMETER_PX / 2, 5)
    ctf = 1.3 * pixels.take(ctf_half_spectrum(24, problem.particles))
    sigma2 = noise.sigma2_gs[0][pixels.shell_p]
    multiplicity = np.where(pixels.shell_p == 0, 0, pixels.multiplicity_p)
    for i, image in enumerate(problem.images.astype(float)):
        centred = image - np.sum(image * (1 - mask)) / np.sum(1 - mask)
        y, masked = (pixels.take(np.fft.rfft2(np.fft.ifftshift(x))) for x in (centred, centred * mask))
        np.testing.assert_allclose(batch.whitened_ip[i], multiplicity * ctf[i] * masked / sigma2, atol=1e-4)
        np.testing.assert_allclose(batch.ctf2_ip[i], multiplicity * ctf[i] ** 2 / sigma2, atol=1e-6)
        np.testing.assert_allclose(batch.data_ip[i], ctf[i] * y / sigma2, atol=1e-4)
        power = 0.5 * np.sum(multiplicity * np.abs(masked) ** 2 / sigma2)
        assert batch.power_i[i] == pytest.approx(power, rel=1e-5)
    assert batch.finite_i.all()


def test_whole_pixel_offsets_move_the_image(problem: Any, prepare: Callable[..., ImageBatch]) -> None:
    shift = np.array([[2, -1]] * 6, float)
    by_hand = np.roll(problem.images, (-1, 2), axis=(1, 2))
    moved, expected = prepare(shift0_px=shift), prepare(images=by_hand)
    np.testing.assert_array_equal(moved.whitened_ip, expected.whitened_ip)
    np.testing.assert_array_equal(moved.data_ip, expected.data_ip)
    np.testing.assert_array_equal(moved.shift0_px, shift)


def test_background_level_is_taken_off(problem: Any, prepare: Callable[..., ImageBatch]) -> None:
    levels = np.array([0, 5, -3, 100, 0.5, 7], np.float32)[:, None, None]
    a, b = prepare(), prepare(images=problem.images + levels)
    np.testing.assert_allclose(a.whitened_ip, b.whitened_ip, atol=2e-3)


def test_groups_have_their_noise_and_intensity(problem: Any, prepare: Callable[..., ImageBatch]) -> None:
    group = np.array([0, 1, 0, 1, 1, 0], np.int32)
    spectra = np.stack([np.full(13, 100.0), np.full(13, 400.0)])
    both = prepare(noise=NoiseModel(spectra, group, np.array([1.0, 0.5]), 1 - group))
    for g in (0, 1):
        one = NoiseModel(spectra[g : g + 1], 0 * group, np.array([[1.0, 0.5][1 - g]]), 0 * group)
        alone = prepare(noise=one)
        np.testing.assert_allclose(both.whitened_ip[group == g], alone.whitened_ip[group == g], rtol=1e-6)
        np.testing.assert_allclose(both.ctf2_ip[group == g], alone.ctf2_ip[group == g], rtol=1e-6)


def test_unusable_images_are_marked_and_weigh_nothing(
    problem: Any, prepare: Callable[..., ImageBatch]
) -> None:
    images = problem.images.copy()
    images[0, 3, 5], images[2, 0, 0], images[4] = np.nan, np.inf, 3.25
    images[5, 1, 1] = 1e25
    batch = prepare(images=images)
    np.testing.assert_array_equal(batch.finite_i, [False, True, False, True, False, False])
    for entries in (batch.whitened_ip, batch.ctf2_ip, batch.data_ip, batch.power_i):
        assert np.isfinite(entries).all()
        np.testing.assert_array_equal(entries[~batch.finite_i], 0)
    assert np.isfinite(batch.masked_power_is[batch.finite_i]).all()
    np.testing.assert_array_equal(batch.whitened_ip[1], prepare().whitened_ip[1])


def noise_set(problem: Any, n: int, sigma2_s: np.ndarray) -> np.ndarray:
    """Pure noise whose Fourier coefficients have the variance ``sigma2_s`` per shell."""
    k = np.fft.fftfreq(24, 1 / 24)
    shell = np.minimum(np.rint(np.hypot(k[:, None], k)).astype(int), 12)
    white = np.random.default_rng(0).normal(size=(n, 24, 24))
    return np.fft.ifft2(np.fft.fft2(white) * np.sqrt(sigma2_s[shell] / 24**2)).real.astype(np.float32)


def test_masked_power_of_noise_is_its_spectrum(problem: Any) -> None:
    """Divided by the area of the mask, as if the image had not been masked."""
    sigma2_s = np.linspace(900, 300, 13)
    images = noise_set(problem, 600, sigma2_s)
    particles = problem.particles[np.zeros(600, int)]
    many = problem._replace(particles=particles, images=images)
    batch = prepare_images(
        particles, np.arange(600), images, RADIUS, DIAMETER_PX, SMALL["white_noise"](many), np.zeros((600, 2))
    )
    np.testing.assert_allclose(batch.masked_power_is.mean(axis=0)[2:12], sigma2_s[2:12], rtol=0.06)
    outside = background_power(images, DIAMETER_PX).mean(axis=0)
    np.testing.assert_allclose(outside[2:12], sigma2_s[2:12], rtol=0.06)


def test_masked_power_is_that_of_the_compared_pixels(prepare: Callable[..., ImageBatch]) -> None:
    """Shell by shell the mean over the whole plane: an image that explains itself leaves no residual."""
    batch, pixels = prepare(), disc(24, RADIUS)
    compared_is = pixels.shell_sum(2 * batch.power_ip * 24**2) / pixels.shell_sum(pixels.multiplicity_p)
    masked_is = batch.masked_power_is * mask_area(24, DIAMETER_PX)
    np.testing.assert_allclose(masked_is[:, 1:RADIUS], compared_is[:, 1:RADIUS], rtol=1e-4)


def test_masked_power_is_that_of_the_compared_rings(problem: Any) -> None:
    """Where images are compared on rings: an image that explains itself leaves no residual there either."""
    grids = tuple(PolarGrid.of(24, radius, DIAMETER_PX + 5, 24.0) for radius in (RADIUS, 11))
    arguments = problem.particles, problem.everyone, problem.images, 11, DIAMETER_PX
    noise = SMALL["white_noise"](problem)
    batch = prepare_images(*arguments, noise, np.zeros((6, 2)), polar=(grids[0], grids[1]))
    assert batch.polar is not None
    # |C y / sigma2|^2 over C^2 / sigma2, both with the pixels of a ring, is |y|^2 / sigma2 with them.
    explained_pi = np.abs(batch.polar.whitened_pi) ** 2 / np.maximum(batch.polar.ctf2_pi, 1e-20) * 24**2
    explained_ij = explained_pi.reshape(grids[0].angles, -1, 6).mean(axis=0).T
    pixels = disc(24, RADIUS)
    compared_is = grids[0].shell_sum(explained_ij) / pixels.shell_sum(pixels.multiplicity_p)
    masked_is = batch.masked_power_is * mask_area(24, DIAMETER_PX)
    np.testing.assert_allclose(masked_is[:, 1 : RADIUS + 1], compared_is[:, 1:], rtol=1e-3)
    on_pixels = prepare_images(*arguments, noise, np.zeros((6, 2))).masked_power_is
    np.testing.assert_array_equal(batch.masked_power_is[:, RADIUS + 1 :], on_pixels[:, RADIUS + 1 :])


def test_background_power_does_not_see_the_particle(problem: Any) -> None:
    images = noise_set(problem, 50, np.full(13, 576.0))
    bright = images + 50 * soft_disc(24, 3, 2)
    np.testing.assert_allclose(background_power(bright, 20.0), background_power(images, 20.0), rtol=1e-3)


def test_mask_area_is_the_share_of_noise_that_is_left() -> None:
    assert mask_area(32, 200) == pytest.approx(1)
    assert mask_area(64, 40) == pytest.approx(np.mean(soft_disc(64, 20, 5) ** 2))
    assert np.pi * 20**2 < 64**2 * mask_area(64, 40) < np.pi * 25**2


def test_noise_model_is_not_changed(problem: Any, prepare: Callable[..., ImageBatch]) -> None:
    noise = SMALL["white_noise"](problem)
    before = replace(noise, sigma2_gs=noise.sigma2_gs.copy())
    prepare(noise=noise)
    np.testing.assert_array_equal(noise.sigma2_gs, before.sigma2_gs)


def test_weights_of_the_reconstruction_leave_the_comparison_alone(prepare: Callable[..., ImageBatch]) -> None:
    batch = prepare()
    weight_ip = np.random.default_rng(0).uniform(0.2, 2, batch.data_ip.shape).astype(np.float32)
    weighted = batch.weighted(weight_ip)
    np.testing.assert_array_equal(weighted.whitened_ip, batch.whitened_ip)
    np.testing.assert_array_equal(weighted.ctf2_ip, batch.ctf2_ip)
    np.testing.assert_allclose(weighted.data_ip, weight_ip * batch.data_ip, rtol=1e-6)
    np.testing.assert_allclose(
        weighted.inserted_ctf2([0, 3]),
        (weight_ip * batch.inserted_ctf2([0, 1, 2, 3, 4, 5]))[[0, 3]],
        rtol=1e-6,
    )
    nothing = np.zeros((0, 6), np.complex64)
    on_rings = replace(
        batch, polar=PolarImages(nothing, nothing.real, nothing, nothing.real, np.zeros((6, 0)))
    )
    with pytest.raises(ValueError, match="polar"):
        on_rings.weighted(weight_ip)
