import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.micrographs.templates import (
    TemplateBank,
    angular_order,
    blob_templates,
    class_templates,
    map_templates,
)
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import matrices_from_euler

PIXEL, DIAMETER, LOWPASS = 8.0, 150.0, 25.0
Real = NDArray[np.float32]


def images_of(bank: TemplateBank) -> Real:
    return np.tensordot(bank.weights_kr, bank.images_r, 1)


def projections(density: Real, angles_deg: NDArray[np.float64], box: int) -> Real:
    """Projections (n, box, box) on the templates' pixel: here the map's own, cut to the box."""
    spectra = FourierVolume.from_map(density).project(matrices_from_euler(*angles_deg.T))
    images = np.fft.fftshift(np.fft.irfft2(spectra, s=density.shape[1:]), axes=(-2, -1))
    start = len(density) // 2 - box // 2
    return images[:, start : start + box, start : start + box].astype(np.float32)


def projection(density: Real, rot: float, tilt: float, psi: float, box: int) -> Real:
    return projections(density, np.array([[rot, tilt, psi]]), box)[0]


def low_passed(image: Real, lowpass: float = LOWPASS) -> Real:
    f = np.hypot(np.fft.fftfreq(len(image), 4.0)[:, None], np.fft.rfftfreq(len(image), 4.0))
    return np.fft.irfft2(np.fft.rfft2(image) * (f < 1 / lowpass), s=image.shape)


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_any_view_is_near_a_template(density: Real) -> None:
    """30-degree steps at this size and low-pass; 15-degree ones would lose less."""
    bank = map_templates(density, 4.0, 4.0, DIAMETER, 60.0)
    assert len(bank) == 48 * 12
    assert set(bank.class_k) == set(range(1, 49))
    images = images_of(bank).reshape(len(bank), -1)
    images -= images.mean(1, keepdims=True)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    rng = np.random.default_rng(5)
    angles = rng.uniform(0, 360, (20, 3))
    angles[:, 1] = np.degrees(np.arccos(rng.uniform(-1, 1, 20)))
    best = []
    for view in projections(np.pad(density, 8), angles, bank.box_px):
        seen = low_passed(view, 60.0).ravel()
        seen -= seen.mean()
        best.append(float((images @ seen).max() / np.linalg.norm(seen)))
    assert np.mean(best) > 0.92
    assert min(best) > 0.85


def test_images_are_orthonormal_and_few(density: Real) -> None:
    bank = map_templates(density, 4.0, PIXEL, DIAMETER, LOWPASS)
    flat = bank.images_r.reshape(len(bank.images_r), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-4)
    assert len(flat) < np.pi**2 / 4 * (DIAMETER / LOWPASS) ** 2 * 1.2
    assert len(bank) == 192 * 24


def test_symmetry_leaves_one_asymmetric_unit(density: Real) -> None:
    everything = len(map_templates(density, 4.0, PIXEL, DIAMETER, 40.0))
    part = len(map_templates(density, 4.0, PIXEL, DIAMETER, 40.0, symmetry="D2"))
    assert everything / 4 <= part < everything / 2


def test_class_averages_turn_as_projections_do(density: Real) -> None:
    large = np.pad(density, 8)
    average = projection(large, 40.0, 70.0, 0.0, 64)
    bank = class_templates(np.stack([average, 0 * average]), 4.0, 4.0, DIAMETER, LOWPASS)
    assert set(bank.class_k) == {1}
    assert len(bank) == 24
    for k in (3, 14):
        turned = low_passed(projection(large, 40.0, 70.0, float(bank.psi_deg_k[k]), bank.box_px))
        mirrored = low_passed(projection(large, 40.0, 70.0, -float(bank.psi_deg_k[k]), bank.box_px))
        assert (
            correlation(images_of(bank)[k], turned) > 0.97 > correlation(images_of(bank)[k], mirrored) + 0.05
        )


def test_class_averages_on_another_pixel(density: Real) -> None:
    average = projection(np.pad(density, 8), 40.0, 70.0, 0.0, 64)
    same = images_of(class_templates(average[None], 4.0, 8.0, DIAMETER, 40.0))[0]
    half = np.fft.irfft2(np.fft.rfft2(average)[np.r_[:16, 48:64], :17], s=(32, 32))
    direct = half[1:31, 1:31] if same.shape[0] == 30 else half
    assert same.shape == direct.shape
    assert correlation(same, direct) > 0.95


def test_balls_have_their_size() -> None:
    bank = blob_templates(4.0, DIAMETER, LOWPASS)
    images = images_of(bank)
    middle = bank.box_px // 2
    assert not bank.has_shape
    assert bank.class_k.tolist() == [1, 2, 3]
    for image, scale in zip(images, (0.85, 1.0, 1.18), strict=True):
        np.testing.assert_allclose(image[1:, 1:], image[1:, 1:].T, atol=1e-4 * image.max())
        profile = image[middle, middle:] / image[middle, middle]
        half_height = int(np.argmax(profile < 0.5)) * 4.0  # sqrt(1 - r^2) = 1 / 2 at r = 0.87
        assert half_height == pytest.approx(0.87 * scale * DIAMETER / 2, abs=6.0)


def test_steps_follow_size_over_lowpass() -> None:
    assert [angular_order(d, lp) for d, lp in ((60, 60), (100, 40), (100, 30), (130, 22), (500, 20))] == [
        1,
        1,
        2,
        2,
        2,
    ]


def test_templates_with_nothing_in_them() -> None:
    with pytest.raises(PosterionError, match="empty inside the particle's diameter"):
        map_templates(np.zeros((32,) * 3, np.float32), 4.0, PIXEL, 100.0, LOWPASS)
    with pytest.raises(PosterionError, match="all class averages are constant"):
        class_templates(np.ones((3, 32, 32), np.float32), 4.0, PIXEL, 100.0, LOWPASS)
