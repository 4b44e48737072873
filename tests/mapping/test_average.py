"""Averages of aligned images against the projection they come from, and the SNR against the true one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from posterion.data.particles import OpticsGroup, Particles, Poses
from posterion.data.table import Table
from posterion.errors import PosterionError
from posterion.mapping.average import average, class_numbers, rotated
from posterion.mapping.fsc import fourier_ring_correlation
from posterion.physics.ctf import ctf_half_spectrum
from posterion.physics.fourier import (
    fourier_transform_2d,
    inverse_fourier_transform_2d,
    shell_index_2d,
    shell_mean,
)
from posterion.physics.projection import FourierVolume
from posterion.physics.simulate import noise_free_images

BOX, PIXEL = 40, 4.0


def blobs(centres: NDArray[np.floating], widths: NDArray[np.floating], n: int) -> NDArray[np.float32]:
    """Sum of Gaussians at centres (x, y) from the origin n//2: known at any position."""
    y, x = np.indices((n, n)) - n // 2
    r2 = (x[..., None] - centres[:, 0]) ** 2 + (y[..., None] - centres[:, 1]) ** 2
    return np.asarray(np.exp(-r2 / (2 * widths**2)).sum(-1), np.float32)


@pytest.mark.parametrize("n", [32, 33])
def test_rotation_samples_the_image_at_turned_positions(n: int) -> None:
    """Against the closed form: f(M x) of blobs has its blobs at M^-1 centre."""
    centres, widths = np.array([[6.0, 0], [0, -4], [3, 7]]), np.array([1.5, 2.0, 1.8])
    spectra = fourier_transform_2d(np.stack([blobs(centres, widths, n)] * 3))
    angles = np.deg2rad([0.0, 37.0, 200.0])
    matrices = np.array([[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angles])
    turned = rotated(spectra, matrices, n)
    for image, matrix in zip(turned, matrices, strict=True):
        np.testing.assert_allclose(image, blobs(centres @ matrix, widths, n), atol=3e-3)


def planar_set(count: int, seed: int, defocus: tuple[float, float] = (1e4, 2.5e4)) -> Particles:
    """One view of a volume at random in-plane angles and shifts, astigmatic CTFs."""
    rng = np.random.default_rng(seed)
    u, none = rng.uniform(*defocus, count), np.zeros(count)
    shifts = rng.normal(0, 6.0, (2, count))
    return Particles(
        optics=(OpticsGroup("one", 300.0, 2.7, 0.1, PIXEL, BOX),),
        optics_index_i=np.zeros(count, np.int32),
        stack_paths=(Path("x.mrcs"),),
        stack_names=("x.mrcs",),
        stack_index_i=np.zeros(count, np.int32),
        image_index_i=np.arange(count),
        defocus_u_angstrom_i=u,
        defocus_v_angstrom_i=u - 3000,
        defocus_angle_deg_i=rng.uniform(0, 180, count),
        phase_shift_deg_i=none,
        ctf_bfactor_i=none,
        ctf_scale_i=none + 1,
        micrograph_names=(),
        micrograph_index_i=np.full(count, -1, np.int32),
        half_i=np.zeros(count, np.int8),
        poses=Poses(np.full(count, 40.0), np.full(count, 65.0), rng.uniform(0, 360, count), *shifts),
    )


class InMemory(Particles):
    """A set whose images are arrays."""

    def images(self, indices: ArrayLike | None = None) -> NDArray[np.float32]:
        """Copies of the arrays asked for."""
        rows = np.arange(len(self)) if indices is None else np.asarray(indices)
        return IMAGES[id(self)][rows]


IMAGES: dict[int, NDArray[np.float32]] = {}


def in_memory(particles: Particles, images: NDArray[np.float32]) -> Particles:
    held = InMemory(**{name: getattr(particles, name) for name in particles.__dataclass_fields__})
    IMAGES[id(held)] = images
    return held


@pytest.fixture(scope="module")
def volume() -> FourierVolume:
    rng = np.random.default_rng(3)
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    density = np.zeros((BOX,) * 3, np.float32)
    for cx, cy, cz in rng.uniform(-9, 9, (30, 3)):
        density += np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / 1.6).astype(np.float32)
    return FourierVolume.from_map(density)


def view(volume: FourierVolume) -> NDArray[np.float32]:
    """The projection that the set shows, at psi 0."""
    poses = Poses(np.array([40.0]), np.array([65.0]), *np.zeros((3, 1)))
    return inverse_fourier_transform_2d(volume.project(poses.matrices()), BOX)[0]


@pytest.fixture(scope="module")
def clean(volume: FourierVolume) -> tuple[Particles, NDArray[np.float32]]:
    particles = planar_set(60, seed=1)
    index = np.arange(60)
    return particles, noise_free_images([volume], np.zeros(60, int), particles, index)


def test_average_is_the_projection(
    clean: tuple[Particles, NDArray[np.float32]], volume: FourierVolume
) -> None:
    """60 images without noise: angles, shifts, astigmatism and CTF all undone."""
    made = average(in_memory(*clean), threads=1)
    assert len(made) == 1
    assert made[0].n_images == 60
    truth = view(volume)
    found = fourier_ring_correlation(made[0].image, truth)
    assert found[: BOX // 2 - 2].min() > 0.99
    spectra = [fourier_transform_2d(image) for image in (made[0].image, truth)]
    gain = shell_mean((spectra[0] * spectra[1].conj()).real, BOX) / shell_mean(np.abs(spectra[1]) ** 2, BOX)
    np.testing.assert_allclose(gain[1:15], 1, atol=0.05)
    assert fourier_ring_correlation(made[0].plain, truth)[5:15].min() < 0.9
    beyond = shell_index_2d(BOX) > BOX // 2
    assert np.abs(spectra[0][beyond]).max() < 1e-5 * np.abs(spectra[0]).max()


def test_astigmatism_turns_with_the_image(
    clean: tuple[Particles, NDArray[np.float32]], volume: FourierVolume
) -> None:
    """The tolerance above has teeth: with the azimuth turned the other way the average is worse."""
    particles, images = clean
    delta = 2 * particles.require_poses().psi_deg_i
    wrong = replace(particles, defocus_angle_deg_i=particles.defocus_angle_deg_i - delta)
    good, bad = (average(in_memory(p, images), threads=1)[0].image for p in (particles, wrong))
    truth = view(volume)
    loss = [1 - fourier_ring_correlation(image, truth)[4:18].mean() for image in (good, bad)]
    assert loss[1] > 3 * loss[0]


def test_ssnr_is_signal_over_noise_of_the_average(
    clean: tuple[Particles, NDArray[np.float32]], volume: FourierVolume
) -> None:
    """With noise of known power: SSNR(s) = mean sum C^2 |A|^2 / |N|^2, and k_w = |N|^2 / |A|^2."""
    particles = planar_set(600, seed=5)
    index = np.arange(600)
    images = noise_free_images([volume], np.zeros(600, int), particles, index)
    sigma = 2.0 * float(images.std())
    noise = np.random.default_rng(6).normal(0, sigma, images.shape)
    made = average(in_memory(particles, (images + noise).astype(np.float32)), threads=1)[0]
    signal_s = shell_mean(np.abs(fourier_transform_2d(view(volume))) ** 2, BOX)
    noise_s = sigma**2 * BOX**2
    ctf2_s = shell_mean((ctf_half_spectrum(BOX, particles) ** 2).sum(0), BOX)
    np.testing.assert_allclose(made.ctf2_s[:19], ctf2_s[:19], rtol=0.02)
    rings = np.flatnonzero((ctf2_s * signal_s / noise_s > 1)[:14])[2:]
    assert len(rings) > 4
    ratio = made.ssnr_s[rings] / (ctf2_s * signal_s / noise_s)[rings]
    assert 0.7 < np.exp(np.log(ratio).mean()) < 1.4
    np.testing.assert_allclose(made.k_s, made.ctf2_s / made.ssnr_s)
    best = fourier_ring_correlation(made.image, view(volume))[rings].mean()
    assert best > fourier_ring_correlation(made.half1, view(volume))[rings].mean()


def with_classes(particles: Particles, numbers: list[int]) -> Particles:
    table = Table.of("particles", {"rlnClassNumber": [str(number) for number in numbers]})
    return replace(particles, table=table)


def test_classes_are_averaged_apart(clean: tuple[Particles, NDArray[np.float32]]) -> None:
    particles, images = clean[0][:13], clean[1][:13].copy()
    images[6:12] *= -1
    particles = with_classes(particles, [2] * 6 + [5] * 6 + [7])
    np.testing.assert_array_equal(class_numbers(particles), [2] * 6 + [5] * 6 + [7])
    made = average(in_memory(particles, images), threads=1)
    assert [(a.number, a.n_images) for a in made] == [(2, 6), (5, 6), (7, 1)]
    assert np.corrcoef(made[0].image.ravel(), made[1].image.ravel())[0, 1] < -0.8
    assert np.isfinite(made[2].image).all()
    np.testing.assert_array_equal(made[2].ssnr_s, 1)


def test_bad_images_are_left_out(clean: tuple[Particles, NDArray[np.float32]]) -> None:
    particles, images = clean[0][:20], clean[1][:20].copy()
    images[3, 0, 0], images[4], images[5, 2, 2], images[6] = np.nan, 1.0, 1e6, 1e3 * images[6]
    made = average(in_memory(particles, images), threads=1)[0]
    assert made.n_images == 16
    assert np.isfinite(made.image).all()
    with pytest.raises(PosterionError, match="no image of class 1 can be used"):
        average(in_memory(particles, np.ones_like(images)), threads=1)


def test_threads_do_not_matter(clean: tuple[Particles, NDArray[np.float32]]) -> None:
    one, three = (average(in_memory(*clean), threads=threads)[0].image for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_poses_are_needed(clean: tuple[Particles, NDArray[np.float32]]) -> None:
    with pytest.raises(PosterionError, match="has no poses"):
        average(in_memory(replace(clean[0], poses=None), clean[1]))


def test_a_diameter_beyond_the_box(clean: tuple[Particles, NDArray[np.float32]]) -> None:
    with pytest.raises(PosterionError, match=r"200 A, does not fit the box of 160\.0 A"):
        average(in_memory(*clean), diameter_angstrom=200.0)
