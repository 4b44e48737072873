"""Cross and norm terms against sums written out; the correlation score against the coefficient itself."""

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.inference.likelihood import cross_and_norm, gaussian_log_prob, profile_log_prob


def complex_noise(*shape: int, seed: int = 0) -> NDArray[np.complex64]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def test_cross_and_norm_are_the_sums_they_say() -> None:
    slices, images = complex_noise(5, 40), complex_noise(3, 40, seed=1)
    weight = np.random.default_rng(2).uniform(size=40).astype(np.float32)
    cross, norm = cross_and_norm(slices, images, weight)
    for t in range(3):
        for r in range(5):
            assert cross[t, r] == pytest.approx(np.sum((slices[r].conj() * images[t]).real), abs=1e-4)
    np.testing.assert_allclose(norm, np.sum(weight * np.abs(slices) ** 2, axis=1), rtol=1e-5)
    several = cross_and_norm(slices, images, np.stack([weight, 2 * weight]))[1]
    np.testing.assert_allclose(several, [norm, 2 * norm], rtol=1e-5)


def test_gaussian_is_the_squared_difference_without_the_images_own_power() -> None:
    """``X.R - |R|^2/2 = -|X - R|^2/2 + |X|^2/2``."""
    reference, image = complex_noise(4, 30), complex_noise(1, 30, seed=1)
    cross, norm = cross_and_norm(reference, image, np.ones(30, np.float32))
    difference = np.sum(np.abs(image - reference) ** 2, axis=1)
    expected = -0.5 * difference + 0.5 * np.sum(np.abs(image) ** 2)
    np.testing.assert_allclose(gaussian_log_prob(cross, norm)[0], expected, atol=1e-4)


def test_profile_orders_poses_as_the_correlation_coefficient_does() -> None:
    references, image = complex_noise(200, 12), complex_noise(1, 12, seed=1)
    references *= np.random.default_rng(3).uniform(0.1, 10, (200, 1)).astype(np.float32)
    cross, norm = cross_and_norm(references, image, np.ones(12, np.float32))
    correlation = np.array(
        [np.vdot(r, image).real / np.linalg.norm(r) / np.linalg.norm(image) for r in references]
    )
    np.testing.assert_array_equal(np.argsort(profile_log_prob(cross, norm)[0]), np.argsort(correlation))
    gaussian = np.argsort(gaussian_log_prob(cross, norm)[0])
    assert (gaussian != np.argsort(correlation)).any(), "intensities differ, so the two orders must"


def test_profile_is_the_gaussian_at_the_best_intensity() -> None:
    scales = np.linspace(0, 4, 4001, dtype=np.float32)
    for cross, norm in ((3.0, 2.0), (0.5, 7.0)):
        best = gaussian_log_prob(scales * np.float32(cross), scales**2 * np.float32(norm)).max()
        assert profile_log_prob(np.float32(cross), np.float32(norm)) == pytest.approx(best, rel=1e-4)


def test_profile_of_an_inverted_image_is_negative() -> None:
    assert profile_log_prob(np.float32(-3), np.float32(2)) == -profile_log_prob(np.float32(3), np.float32(2))
    assert profile_log_prob(np.float32(0), np.float32(0)) == 0
