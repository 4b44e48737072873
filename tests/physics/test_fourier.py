"""The half-spectrum layout: transforms against sums written out, shells, cropping and the disc of pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from posterion.physics.fourier import (
    disc,
    disc_below_nyquist,
    fourier_crop,
    fourier_transform_2d,
    fourier_transform_3d,
    frequencies_2d,
    hermitian_weights,
    inverse_fourier_transform_2d,
    inverse_fourier_transform_3d,
    phase_shift,
    resample,
    shell_index_2d,
    shell_index_3d,
    shell_mean,
)

some = settings(max_examples=25)
boxes = st.integers(4, 25)
seeds = st.integers(0, 2**31)


def noise(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def band_limited(n: int, keep: int, seed: int = 0, dimensions: int = 2) -> NDArray[np.float64]:
    """Random real function on n points a side with frequencies below ``keep`` only, by a full complex FFT."""
    spectrum = np.fft.fftn(np.random.default_rng(seed).normal(size=(n,) * dimensions))
    k = np.abs(np.fft.fftfreq(n, 1 / n)) < keep
    for axis in range(dimensions):
        spectrum *= k.reshape([-1 if a == axis else 1 for a in range(dimensions)])
    return np.fft.ifftn(spectrum).real


@pytest.mark.parametrize("n", [4, 5, 8, 9])
def test_transform_2d_is_the_sum_it_says(n: int) -> None:
    image = noise((n, n))
    coordinate = np.arange(n) - n // 2
    kx, ky = frequencies_2d(n)
    wave_y = np.exp(-2j * np.pi / n * ky * coordinate[None])
    wave_x = np.exp(-2j * np.pi / n * kx.T * coordinate[None])
    np.testing.assert_allclose(fourier_transform_2d(image), wave_y @ image @ wave_x.T, atol=1e-5)


@pytest.mark.parametrize("n", [4, 5, 6])
def test_transform_3d_is_the_sum_it_says(n: int) -> None:
    volume = noise((n, n, n))
    coordinate = np.arange(n) - n // 2
    k = np.fft.fftfreq(n, 1 / n)
    wave = np.exp(-2j * np.pi / n * k[:, None] * coordinate)
    half = np.exp(-2j * np.pi / n * np.arange(n // 2 + 1)[:, None] * coordinate)
    expected = np.einsum("az,by,cx,zyx->abc", wave, wave, half, volume)
    np.testing.assert_allclose(fourier_transform_3d(volume), expected, atol=1e-4)


@some
@given(boxes, seeds)
def test_round_trips(n: int, seed: int) -> None:
    images, volume = noise((2, n, n), seed), noise((n, n, n), seed)
    np.testing.assert_allclose(
        inverse_fourier_transform_2d(fourier_transform_2d(images), n), images, atol=2e-6
    )
    np.testing.assert_allclose(
        inverse_fourier_transform_3d(fourier_transform_3d(volume), n), volume, atol=2e-6
    )


@some
@given(boxes, seeds)
def test_parseval_with_hermitian_weights(n: int, seed: int) -> None:
    image, volume = noise((n, n), seed), noise((n, n, n), seed)
    for spectrum, real, size in (
        (fourier_transform_2d(image), image, n**2),
        (fourier_transform_3d(volume), volume, n**3),
    ):
        total = np.sum(hermitian_weights(n) * np.abs(spectrum.astype(complex)) ** 2)
        assert total / size == pytest.approx(np.sum(real.astype(float) ** 2), rel=1e-5)


@pytest.mark.parametrize("n", [4, 5, 16, 17])
def test_hermitian_weights_count_the_full_spectrum(n: int) -> None:
    kx = np.fft.fftfreq(n, 1 / n)
    expected = [np.sum(np.abs(kx) == column) for column in range(n // 2 + 1)]
    np.testing.assert_array_equal(hermitian_weights(n), expected)


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("shift", [(2, 0), (0, -3), (-1, 2)])
def test_phase_shift_moves_content_to_higher_indices(n: int, shift: tuple[int, int]) -> None:
    image = noise((n, n))
    moved = inverse_fourier_transform_2d(phase_shift(fourier_transform_2d(image), np.array(shift)), n)
    np.testing.assert_allclose(moved, np.roll(image, shift[::-1], axis=(0, 1)), atol=1e-5)


@some
@given(boxes, seeds)
def test_phase_shifts_add_and_undo(n: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).uniform(-3, 3, (2, 2))
    spectra = fourier_transform_2d(noise((3, n, n), seed))
    np.testing.assert_allclose(
        phase_shift(phase_shift(spectra, a), b), phase_shift(spectra, a + b), atol=2e-5 * n
    )
    per_image = phase_shift(spectra, np.stack([a, b, a]))
    np.testing.assert_array_equal(per_image[1], phase_shift(spectra[1], b))


@pytest.mark.parametrize("n", [6, 7])
def test_shells_are_rounded_radii(n: int) -> None:
    k = np.fft.fftfreq(n, 1 / n)
    half = np.arange(n // 2 + 1)
    for z in range(n):
        for y in range(n):
            radius = np.sqrt(k[z] ** 2 + k[y] ** 2 + half**2)
            assert np.abs(shell_index_3d(n)[z, y] - radius).max() <= 0.5
    np.testing.assert_array_equal(shell_index_2d(n), shell_index_3d(n)[0])


@pytest.mark.parametrize("n", [12, 13])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_shell_mean_is_the_mean_over_the_full_spectrum(n: int, dimensions: int) -> None:
    real = noise((n,) * dimensions)
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.rint(np.sqrt(sum(np.ix_(*[k**2] * dimensions)))).astype(int)
    full = np.abs(np.fft.fftn(real)) ** 2
    expected = [full[radius == s].mean() for s in range(n // 2 + 1)]
    half = np.abs((fourier_transform_2d if dimensions == 2 else fourier_transform_3d)(real)) ** 2
    np.testing.assert_allclose(shell_mean(half, n), expected, rtol=1e-4)


@pytest.mark.parametrize(("n", "n_new"), [(16, 12), (16, 13), (17, 12), (12, 16), (13, 18), (16, 16)])
@pytest.mark.parametrize("batch", [(), (3,), (16,), (2, 17)])
def test_crop_keeps_every_frequency_below_both_nyquists(n: int, n_new: int, batch: tuple[int, ...]) -> None:
    """A batch as long as the box is no reason to take images for a map."""
    spectra = fourier_transform_2d(noise((*batch, n, n)))
    cropped = fourier_crop(spectra, n_new, 2)
    assert cropped.shape == (*batch, n_new, n_new // 2 + 1)
    keep = (min(n, n_new) - 1) // 2
    kx, ky = (k.ravel() for k in frequencies_2d(n_new))
    for row in range(n_new):
        for column in range(n_new // 2 + 1):
            inside = abs(ky[row]) <= keep and kx[column] <= keep
            expected = spectra[..., ky[row], kx[column]] if inside else 0
            assert (cropped[..., row, column] == expected).all()


def test_crop_of_a_batch_of_maps_is_the_crop_of_each() -> None:
    spectra = np.stack([fourier_transform_3d(noise((12, 12, 12), seed)) for seed in range(2)])
    cropped = fourier_crop(spectra, 9, 3)
    assert cropped.shape == (2, 9, 9, 5)
    np.testing.assert_array_equal(cropped[1], fourier_crop(spectra[1], 9, 3))


@pytest.mark.parametrize(("n", "n_new"), [(12, 18), (12, 19), (13, 18), (13, 21)])
def test_resampling_keeps_origin_and_voxel_values(n: int, n_new: int) -> None:
    volume = band_limited(n, 5, dimensions=3).astype(np.float32)
    finer = resample(volume, n_new)
    assert finer[(n_new // 2,) * 3] == pytest.approx(volume[(n // 2,) * 3], abs=1e-5)
    np.testing.assert_allclose(resample(finer, n), volume, atol=1e-5)
    assert finer.mean() == pytest.approx(volume.mean(), abs=1e-6)
    if n_new * 2 == n * 3:  # every third fine voxel lies on every second coarse one
        np.testing.assert_allclose(
            finer[n_new // 2 :: 3, n_new // 2, n_new // 2],
            volume[n // 2 :: 2, n // 2, n // 2],
            atol=1e-5,
        )


discs = st.integers(5, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, (n - 1) // 2)))


@some
@given(discs)
def test_disc_holds_each_pair_of_pixels_once(box_radius: tuple[int, int]) -> None:
    box, radius = box_radius
    pixels = disc(box, radius)
    members = set(zip(pixels.kx_p.tolist(), pixels.ky_p.tolist(), strict=True))
    grid = range(-radius, radius + 1)
    inside = {(x, y) for x in grid for y in grid if x * x + y * y <= radius * radius}
    assert len(members) == len(pixels)
    assert members | {(-x, -y) for x, y in members} == inside
    assert members & {(-x, -y) for x, y in members} == {(0, 0)}
    assert pixels.multiplicity_p.sum() == len(inside)
    counted = pixels.shell_sum(pixels.multiplicity_p)
    expected = np.bincount([round(float(np.hypot(x, y))) for x, y in inside], minlength=radius + 1)
    np.testing.assert_array_equal(counted, expected)


@some
@given(discs)
def test_disc_rows_say_where_each_pixel_is(box_radius: tuple[int, int]) -> None:
    pixels = disc(*box_radius)
    lengths = np.diff(pixels.row_start)
    assert (lengths > 0).all()
    assert pixels.row_start[-1] == len(pixels)
    np.testing.assert_array_equal(np.repeat(pixels.row_ky, lengths), pixels.ky_p)
    position = np.arange(len(pixels)) - np.repeat(pixels.row_start[:-1], lengths)
    np.testing.assert_array_equal(np.repeat(pixels.row_first_kx, lengths) + position, pixels.kx_p)
    np.testing.assert_array_equal(pixels.shell_p, np.rint(np.hypot(pixels.kx_p, pixels.ky_p)))


@some
@given(discs, seeds)
def test_disc_within_orders_like_the_smaller_disc(box_radius: tuple[int, int], seed: int) -> None:
    box, radius = box_radius
    pixels = disc(box, radius)
    smaller = int(np.random.default_rng(seed).integers(1, radius + 1))
    inside = pixels.within(smaller)
    np.testing.assert_array_equal(pixels.kx_p[inside], disc(box, smaller).kx_p)
    np.testing.assert_array_equal(pixels.ky_p[inside], disc(box, smaller).ky_p)


@pytest.mark.parametrize("box", [12, 13])
def test_disc_put_undoes_take(box: int) -> None:
    pixels = disc(box, (box - 1) // 2)
    spectra = fourier_transform_2d(noise((2, box, box)))
    laid_out = pixels.put(pixels.take(spectra))
    kx, ky = frequencies_2d(box)
    inside = np.hypot(kx, ky) <= pixels.radius
    np.testing.assert_allclose(laid_out, np.where(inside, spectra, 0), atol=1e-5)
    assert np.isrealobj(inverse_fourier_transform_2d(laid_out, box))


def test_multiplicities_give_the_inner_product_of_images() -> None:
    """``sum_p w_p Re(conj(A) B)`` over the disc is the real-space sum of band-limited images."""
    box, keep = 16, 5
    a, b = (band_limited(box, keep, seed).astype(np.float32) for seed in range(2))
    pixels = disc(box, 7)
    products = (pixels.take(fourier_transform_2d(a)).conj() * pixels.take(fourier_transform_2d(b))).real
    assert np.sum(pixels.multiplicity_p * products) / box**2 == pytest.approx(np.sum(a * b), rel=1e-4)


@pytest.mark.parametrize(("box", "radius"), [(8, 4), (9, 5), (8, 0)])
def test_disc_refuses_the_nyquist_row(box: int, radius: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        disc(box, radius)


@pytest.mark.parametrize("box", [12, 17, 32])
def test_disc_below_nyquist_holds_every_pixel_below_it(box: int) -> None:
    pixels = disc_below_nyquist(box)
    k = np.rint(np.fft.fftfreq(box, 1 / box)).astype(int)
    everywhere = {(x, y) for x in k for y in k if 4 * (x**2 + y**2) < box**2}
    found = set(zip(pixels.kx_p.tolist(), pixels.ky_p.tolist(), strict=True))
    mates = {(-x, -y) for x, y in found}
    assert found | mates == everywhere
    assert found & mates == {(0, 0)}
    assert pixels.shell_p.max() == (box - 1) // 2
