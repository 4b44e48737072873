"""Shifts of spectra against the wave they multiply by."""

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.kernels import shift_samples, shift_spectrum, sum_unshifted
from posterion.physics.fourier import Disc, disc


def rows(pixels: Disc) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    return pixels.row_ky, pixels.row_first_kx, pixels.row_start


def complex_noise(*shape: int) -> NDArray[np.complex64]:
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@pytest.mark.parametrize(("box", "radius"), [(16, 7), (17, 8), (64, 10)])
def test_shift_spectrum_is_multiplication_by_the_wave(box: int, radius: int) -> None:
    pixels = disc(box, radius)
    spectrum = complex_noise(len(pixels))
    shifts_px = np.array([[0, 0], [1.25, 0], [0, -3.5], [-2.3, 7.1], [box, 0.5]])
    moved = np.empty((len(shifts_px), len(pixels)), np.complex64)
    shift_spectrum(spectrum, box, rows(pixels), shifts_px, moved)
    wave = np.exp(
        -2j * np.pi / box * (np.outer(shifts_px[:, 0], pixels.kx_p) + np.outer(shifts_px[:, 1], pixels.ky_p))
    )
    np.testing.assert_allclose(moved, spectrum * wave, atol=3e-6)


def test_sum_unshifted_undoes_each_shift() -> None:
    pixels = disc(17, 8)
    spectra = complex_noise(4, len(pixels))
    shifts_px = np.random.default_rng(0).normal(0, 3, (4, 2))
    total = np.full(len(pixels), np.nan, np.complex64)
    sum_unshifted(spectra, 17, rows(pixels), shifts_px, total)
    wave = np.exp(
        2j * np.pi / 17 * (np.outer(shifts_px[:, 0], pixels.kx_p) + np.outer(shifts_px[:, 1], pixels.ky_p))
    )
    np.testing.assert_allclose(total, (spectra * wave).sum(axis=0), atol=3e-6)


@pytest.mark.parametrize(("box", "radius"), [(8, 1), (16, 7), (17, 8), (64, 10), (130, 64)])
def test_nothing_is_written_beyond_the_last_pixel(box: int, radius: int) -> None:
    """Rows are done in whole steps of lanes; the last must not run over."""
    pixels = disc(box, radius)
    moved = np.full((3, len(pixels)), np.nan, np.complex64)
    shift_spectrum(complex_noise(len(pixels)), box, rows(pixels), np.ones((2, 2)), moved[:2])
    assert np.isfinite(moved[:2]).all()
    assert np.isnan(moved[2]).all()


@pytest.mark.parametrize("pairs", [1, 7, 40])
def test_shift_samples_is_multiplication_by_the_chosen_phase(pairs: int) -> None:
    """Some pairs of an image and a shift, in any order, some of them twice."""
    rng = np.random.default_rng(1)
    samples, phases = complex_noise(13, 5), complex_noise(13, 4)[:, ::-1].copy()
    image, shift = rng.integers(5, size=pairs), rng.integers(4, size=pairs)
    moved = np.full((2, 13, pairs), np.nan, np.float32)
    shift_samples(samples, phases, image, shift, moved)
    expected = samples[:, image].astype(complex) * phases[:, shift]
    np.testing.assert_allclose(moved[0], expected.real, atol=2e-6)
    np.testing.assert_allclose(moved[1], expected.imag, atol=2e-6)
