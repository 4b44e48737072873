"""Shifts on the disc of pixels against shifts of whole spectra, and the adjoint."""

import numpy as np
import pytest

from posterion.physics.fourier import disc, fourier_transform_2d, phase_shift
from posterion.physics.shifts import shift_phases, shifted, unshifted_sum


@pytest.mark.parametrize("box", [16, 17])
def test_shifted_is_phase_shift(box: int) -> None:
    rng = np.random.default_rng(0)
    pixels = disc(box, (box - 1) // 2)
    spectrum = fourier_transform_2d(rng.normal(size=(box, box)).astype(np.float32))
    shifts_px = rng.uniform(-5, 5, (4, 2))
    ours = shifted(pixels.take(spectrum), pixels, shifts_px)
    np.testing.assert_allclose(ours, pixels.take(phase_shift(np.stack([spectrum] * 4), shifts_px)), atol=1e-4)
    np.testing.assert_allclose(
        shift_phases(pixels, shifts_px) * pixels.take(spectrum), ours, rtol=1e-5, atol=1e-5
    )


def test_unshifted_sum_is_the_adjoint_of_shifted() -> None:
    rng = np.random.default_rng(1)
    pixels = disc(12, 5)
    shifts_px = rng.normal(0, 2, (3, 2))
    x = (rng.normal(size=len(pixels)) + 1j * rng.normal(size=len(pixels))).astype(np.complex64)
    y = (rng.normal(size=(3, len(pixels))) + 1j * rng.normal(size=(3, len(pixels)))).astype(np.complex64)
    left = np.vdot(shifted(x, pixels, shifts_px), y)
    assert left == pytest.approx(np.vdot(x, unshifted_sum(y, pixels, shifts_px)), rel=1e-5)


def test_unshifted_sum_of_no_spectra_is_zero() -> None:
    pixels = disc(12, 5)
    total = unshifted_sum(np.empty((0, len(pixels)), np.complex64), pixels, np.empty((0, 2)))
    np.testing.assert_array_equal(total, 0)


def test_strided_spectra_are_shifted_like_others() -> None:
    """Rows of a batch that was cut to a band lie strided in memory."""
    pixels = disc(16, 4)
    rng = np.random.default_rng(2)
    batch = np.asfortranarray(rng.standard_normal((3, len(pixels))).astype(np.complex64))
    shifts_px = np.array([[0.5, -1.0], [2.0, 0.25], [0.0, 0.0]])
    plain = np.ascontiguousarray(batch)
    np.testing.assert_array_equal(shifted(batch[1], pixels, shifts_px), shifted(plain[1], pixels, shifts_px))
    np.testing.assert_array_equal(
        unshifted_sum(batch, pixels, shifts_px), unshifted_sum(plain, pixels, shifts_px)
    )
