"""Projection against a non-uniform FFT and RELION, back-projection as its adjoint, and accumulators."""

import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.compute import Workers
from posterion.physics.fourier import (
    disc,
    fourier_transform_2d,
    fourier_transform_3d,
    frequencies_2d,
    inverse_fourier_transform_2d,
    shell_mean,
)
from posterion.physics.phantom import phantom_map
from posterion.physics.projection import (
    Accumulator,
    FourierVolume,
    backproject,
    gridding_correction,
    map_of_transform,
)
from posterion.physics.rotations import matrices_from_euler
from posterion.physics.soft_masks import soft_sphere
from posterion.physics.symmetry import point_group_operators

REFERENCES = Path(__file__).parents[1] / "references"
nufft_slices = runpy.run_path(str(REFERENCES / "nufft_reference.py"))["nufft_slices"]
MATRICES = Rotation.random(6, random_state=0).as_matrix()


@cache
def phantom(box: int, pixel_angstrom: float) -> NDArray[np.float32]:
    return phantom_map(box, pixel_angstrom)


def noise_in_sphere(box: int, radius_px: float) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).normal(size=(box,) * 3).astype(np.float32)
    return noise * soft_sphere(box, radius_px, 2)


def whole_map(accumulator: Accumulator, spectrum: NDArray[np.complex64]) -> NDArray[np.float32]:
    return map_of_transform(accumulator.grid, lambda rows: spectrum[:, rows])


def complex_noise(*shape: int, seed: int = 0) -> NDArray[np.complex64]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


# Trilinear interpolation costs more the farther the particle reaches in its box: 145 A in 256, and in 168.
@pytest.mark.parametrize(
    ("box", "pixel", "all_shells", "each_shell"),
    [(64, 4.0, 0.01, 0.012), (65, 4.0, 0.01, 0.012), (48, 3.5, 0.025, 0.03), (49, 3.5, 0.025, 0.03)],
)
def test_slices_agree_with_a_non_uniform_fft(
    box: int, pixel: float, all_shells: float, each_shell: float
) -> None:
    """Up to 80 % of Nyquist, without DC: relative error of the spectra, and their grey scale to 0.4 %."""
    volume, pixels = phantom(box, pixel), disc(box, int(0.4 * box))
    expected = nufft_slices(volume, MATRICES, pixels.kx_p, pixels.ky_p)
    found = FourierVolume.from_map(volume).slices(MATRICES, pixels)
    error_s, power_s, cross_s = (
        pixels.shell_sum(values.sum(axis=0))[1:]
        for values in (
            np.abs(found - expected) ** 2,
            np.abs(expected) ** 2,
            (found * expected.conj()).real,
        )
    )
    assert np.sqrt(error_s.sum() / power_s.sum()) < all_shells
    assert np.sqrt(error_s / power_s).max() < each_shell
    np.testing.assert_allclose(cross_s / power_s, 1, atol=0.004)


@pytest.mark.parametrize("radius", [6, 12, 20])
def test_a_volume_cut_to_a_radius_gives_the_same_slices(radius: int) -> None:
    """The map is resampled to a smaller box first; its cut costs 2 % in the last shells."""
    volume, pixels = phantom(64, 4.0), disc(64, radius)
    whole = FourierVolume.from_map(volume)
    cut = FourierVolume.from_map(volume, radius)
    assert cut.values.nbytes < whole.values.nbytes
    a, b = cut.slices(MATRICES, pixels), whole.slices(MATRICES, pixels)
    assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)
    error_s, power_s = (pixels.shell_sum((np.abs(x) ** 2).sum(axis=0)) for x in (a - b, b))
    assert np.sqrt(error_s / power_s).max() < 0.025


@pytest.mark.parametrize("box", [24, 25])
def test_projection_along_z_is_the_sum_of_voxels(box: int) -> None:
    volume = noise_in_sphere(box, 3)
    (spectrum,) = FourierVolume.from_map(volume).project(np.eye(3)[None])
    expected = fourier_transform_2d(volume.sum(axis=0))
    kx, ky = frequencies_2d(box)
    inside = np.hypot(kx, ky) <= (box - 1) // 2
    error = np.linalg.norm((spectrum - expected)[inside]) / np.linalg.norm(expected[inside])
    assert error < 0.02
    np.testing.assert_array_equal(spectrum[~inside], 0)


def test_a_point_is_projected_where_its_rotated_position_is() -> None:
    """A voxel at (x, y, z) = (4, 0, 0) of the volume appears at R (4, 0, 0) of the image."""
    box, position = 33, np.array([4.0, 0.0, 0.0])
    volume = np.zeros((box,) * 3, np.float32)
    volume[16, 16, 20] = 1
    quarter_turn = matrices_from_euler(np.array([90.0]), np.array([0.0]), np.array([0.0]))
    turns = np.concatenate([np.eye(3)[None], quarter_turn, MATRICES])
    images = inverse_fourier_transform_2d(FourierVolume.from_map(volume).project(turns), box)
    for image, matrix in zip(images, turns, strict=True):
        y, x = np.unravel_index(image.argmax(), image.shape)
        assert np.hypot(*(np.array([x, y]) - 16 - (matrix @ position)[:2])) < 0.75


@pytest.mark.parametrize(("box", "correlation", "grey"), [(32, 0.998, 0.004), (33, 0.9999, 0.001)])
def test_projections_are_relions(box: int, correlation: float, grey: float) -> None:
    """RELION keeps the Nyquist shell of even boxes, we do not: hence the looser tolerance."""
    with np.load(REFERENCES / "relion_projections.npz") as frozen:
        volume, expected, poses = (frozen[f"{name}_{box}"] for name in ("map", "projections", "poses"))
        pixel = float(frozen["pixel_size"])
    spectra = FourierVolume.from_map(volume).project(matrices_from_euler(*poses[:, :3].T))
    kx, ky = frequencies_2d(box)
    offset = poses[:, 3:, None, None] / pixel
    spectra = spectra * np.exp(2j * np.pi / box * (kx * offset[:, 0] + ky * offset[:, 1]))
    images = inverse_fourier_transform_2d(spectra.astype(np.complex64), box)
    for ours, theirs in zip(images, expected, strict=True):
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > correlation
        assert np.sum(ours * theirs) / np.sum(theirs**2) == pytest.approx(1, abs=grey)


@pytest.mark.parametrize("box", [16, 17, 24])
def test_back_projection_is_the_adjoint_of_projection(box: int) -> None:
    volume, pixels = noise_in_sphere(box, 0.3 * box), disc(box, (box - 1) // 2)
    images = np.random.default_rng(1).normal(size=(len(MATRICES), box, box)).astype(np.float32)
    spectra = fourier_transform_2d(images)
    projected = FourierVolume.from_map(volume).project(MATRICES)
    products = (pixels.take(projected).conj() * pixels.take(spectra)).real
    left = np.sum(pixels.multiplicity_p * products, dtype=float)
    right = np.sum(volume * backproject(spectra, MATRICES), dtype=float)
    # Single precision: 1e-6 of the norms' product, of which either side is a few per cent.
    scale = float(np.linalg.norm(pixels.take(projected)) * np.linalg.norm(pixels.take(spectra)))
    assert abs(left) > 1e-3 * scale
    assert left == pytest.approx(right, abs=2e-6 * scale)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_insertion_has_the_same_bits_for_any_number_of_threads(threads: int) -> None:
    pixels, matrices = disc(24, 11), Rotation.random(40, random_state=3).as_matrix()
    values = complex_noise(40, len(pixels))
    weights = np.abs(values)
    alone, shared = Accumulator(24, 11), Accumulator(24, 11)
    alone.insert(matrices, pixels, values, weights)
    operators = point_group_operators("D2")
    with Workers(threads) as workers:
        shared.insert(matrices, pixels, values, weights, workers)
        np.testing.assert_array_equal(shared.values, alone.values)
        for found, expected in zip(shared.joined(operators, workers), alone.joined(operators), strict=True):
            np.testing.assert_array_equal(found, expected)


def scattered_on_a_whole_grid(
    points: NDArray[np.float64], values: NDArray[np.complex64], weights: NDArray[np.float32], centre: int
) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Numerator and weight (D, D, W) of samples (n,) at (n, 3) and of their mates, corner by corner."""
    size = 2 * centre + 1
    numerator, weight = np.zeros((size,) * 3, complex), np.zeros((size,) * 3)
    for sign in (1, -1):
        x = sign * points + centre
        low = np.floor(x).astype(int)
        for corner in np.ndindex(2, 2, 2):
            at = low + corner
            share = np.prod(1 - np.abs(x - at), axis=1)
            place = tuple(at.T[::-1])
            np.add.at(numerator, place, share * (values.real + sign * 1j * values.imag))
            np.add.at(weight, place, share * weights)
    return numerator[:, :, centre:], weight[:, :, centre:]


@pytest.mark.parametrize("padding", [1, 2])
def test_rays_are_inserted_sample_by_sample(padding: int) -> None:
    """At ``(j + 1/2) step`` with eight trilinear shares; steps along axes and beyond x = 0 among them."""
    box, radius, samples = 20, 8, 17
    directions = np.concatenate([np.eye(3), -np.eye(3), MATRICES.reshape(-1, 3)])
    steps = 0.5 * directions * np.linspace(0.6, 1, len(directions))[:, None]
    values = complex_noise(len(steps), samples)
    weights = np.abs(complex_noise(len(steps), samples, seed=1))
    weights[2, 5] = 0
    values[2, 5] = 0  # what has no weight has no value either
    accumulator = Accumulator(box, radius, padding)
    accumulator.insert_rays(steps, values, weights)
    points = padding * (steps[:, None] * (np.arange(samples) + 0.5)[:, None]).reshape(-1, 3)
    flat = values.ravel(), weights.ravel()
    expected = scattered_on_a_whole_grid(points, *flat, accumulator.grid.centre)
    for found, wanted in zip(accumulator.joined(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_rays_have_the_same_bits_for_any_number_of_threads(threads: int) -> None:
    steps = 0.5 * Rotation.random(60, random_state=8).as_matrix().reshape(-1, 3)
    values = complex_noise(len(steps), 23)
    alone, shared = Accumulator(24, 11), Accumulator(24, 11)
    alone.insert_rays(steps, values, np.abs(values))
    with Workers(threads) as workers:
        shared.insert_rays(steps, values, np.abs(values), workers)
    np.testing.assert_array_equal(shared.values, alone.values)


def test_accumulators_add() -> None:
    pixels, matrices = disc(16, 7), Rotation.random(8, random_state=4).as_matrix()
    values = complex_noise(8, len(pixels))
    weights = np.abs(values)
    whole, first, second = (Accumulator(16, 7) for _ in range(3))
    whole.insert(matrices, pixels, values, weights)
    first.insert(matrices[:5], pixels, values[:5], weights[:5])
    second.insert(matrices[5:], pixels, values[5:], weights[5:])
    first.add(second)
    np.testing.assert_allclose(first.values, whole.values, atol=1e-5)


def test_joined_sums_are_hermitian_and_keep_all_weight() -> None:
    pixels, matrices = disc(16, 7), Rotation.random(8, random_state=4).as_matrix()
    values = complex_noise(8, len(pixels))
    accumulator = Accumulator(16, 7)
    accumulator.insert(matrices, pixels, values, np.ones(values.shape, np.float32))
    numerator, weight = accumulator.joined()
    np.testing.assert_allclose(numerator[::-1, ::-1, 0].conj(), numerator[:, :, 0], atol=1e-5)
    np.testing.assert_allclose(weight[::-1, ::-1, 0], weight[:, :, 0], atol=1e-5)
    # Each half-spectrum pixel and its mate: the plane x = 0 holds both already.
    total = 2 * weight[:, :, 1:].sum(dtype=float) + weight[:, :, 0].sum(dtype=float)
    assert total == pytest.approx(2 * values.size, rel=1e-5)


@pytest.mark.parametrize("point_group", ["C3", "C4", "D2", "T", "O"])
def test_summing_rotated_sums_is_inserting_every_equivalent(point_group: str) -> None:
    """Shell by shell. Operators that do not lay the grid on itself cost one more interpolation, 2 to 6 %."""
    box, operators = 48, point_group_operators(point_group)
    pixels, matrices = disc(box, 23), Rotation.random(100, random_state=5).as_matrix()
    slices = FourierVolume.from_map(phantom(box, 3.5)).slices(matrices, pixels)
    ones = np.ones(slices.shape, np.float32)
    once, each = Accumulator(box, 23), Accumulator(box, 23)
    once.insert(matrices, pixels, slices, ones)
    for operator in operators:
        each.insert(matrices @ operator, pixels, slices, ones)
    pairs = once.joined(operators), each.joined()
    a, b = (fourier_transform_3d(whole_map(each, n / (w + 0.1 * w.mean()))) for n, w in pairs)
    cross_s, power_a_s, power_b_s = (
        shell_mean(x, box)[2:23] for x in ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)
    )
    tolerance = 0.08 if point_group in ("C3", "T") else 1e-3
    np.testing.assert_allclose(cross_s / power_b_s, 1, atol=tolerance)
    assert (cross_s / np.sqrt(power_a_s * power_b_s)).min() > 1 - tolerance / 10


@pytest.mark.parametrize("box", [32, 33, 64])
def test_slices_put_back_with_their_weights_give_the_map(box: int) -> None:
    """``numerator / weight`` of many slices is the map, shell by shell: origin, hand and grey scale.

    The first shells are left out: nothing is measured between the padded grid's shells 0 and 2.
    """
    volume, pixels = phantom(box, 256.0 / box), disc(box, (box - 1) // 2)
    matrices = Rotation.random(400, random_state=6).as_matrix()
    accumulator = Accumulator(box, pixels.radius)
    slices = FourierVolume.from_map(volume).slices(matrices, pixels)
    accumulator.insert(matrices, pixels, slices, np.ones(slices.shape, np.float32))
    numerator, weight = accumulator.joined()
    found = fourier_transform_3d(whole_map(accumulator, numerator / np.maximum(weight, 1e-3)))
    expected = fourier_transform_3d(volume)
    power_s = shell_mean(np.abs(expected) ** 2, box)[2 : pixels.radius]
    cross_s = shell_mean((found * expected.conj()).real, box)[2 : pixels.radius]
    error_s = shell_mean(np.abs(found - expected) ** 2, box)[2 : pixels.radius]
    np.testing.assert_allclose(cross_s / power_s, 1, atol=0.03)
    assert np.sqrt(error_s / power_s).max() < 0.15


def test_gridding_correction_is_one_at_the_origin() -> None:
    for box in (16, 17):
        correction = gridding_correction(box, 2)
        assert correction.argmax() == box // 2
        assert correction[box // 2] == 1
        assert correction[0] == pytest.approx(np.sinc(box // 2 / (2 * box)) ** 2)
