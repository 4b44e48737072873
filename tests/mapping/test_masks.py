"""Masks against closed forms and on shapes whose mask is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.mapping.masks import (
    MaskOptions,
    automatic_mask,
    check_mask,
    edge_width_px,
    low_pass,
    soft_disc,
    soft_sphere,
)

Real = NDArray[np.float32]
BOX, PIXEL_SIZE = 48, 3.0


def ball(radius_px: float = 10.0) -> Real:
    return soft_sphere(BOX, radius_px, 2)


def noisy(volume: Real, level: float) -> Real:
    return volume + level * np.random.default_rng(0).standard_normal(volume.shape, np.float32)


@pytest.mark.parametrize("box", [15, 16])
def test_soft_sphere_by_its_definition(box: int) -> None:
    sphere, disc = soft_sphere(box, 4, 3), soft_disc(box, 4, 3)
    profile = sphere[box // 2, box // 2, box // 2 :]
    distance = np.arange(len(profile))
    expected = np.where(distance <= 4, 1, 0.5 + 0.5 * np.cos(np.pi * np.clip((distance - 4) / 3, 0, 1)))
    np.testing.assert_allclose(profile, expected, atol=1e-6)
    np.testing.assert_allclose(sphere[box // 2], disc, atol=1e-6)
    assert sphere.dtype == disc.dtype == np.float32


def test_hard_sphere_is_binary() -> None:
    assert set(np.unique(soft_sphere(16, 5, 0))) == {0.0, 1.0}


def test_low_pass_halves_the_wave_at_its_resolution() -> None:
    z = np.arange(BOX)
    for shell, factor in ((6, 1.0), (8, 0.5), (10, 0.0)):
        wave = np.broadcast_to(np.cos(2 * np.pi * shell * z / BOX), (BOX,) * 3).astype(np.float32)
        np.testing.assert_allclose(low_pass(wave, BOX * PIXEL_SIZE / 8, PIXEL_SIZE), factor * wave, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0, 1.5])
def test_automatic_mask_covers_the_particle_and_little_more(level: float) -> None:
    made = automatic_mask(noisy(ball(), level), PIXEL_SIZE)
    covered = float((made * ball()).sum() / ball().sum())
    grown = soft_sphere(BOX, 11 + 6 / PIXEL_SIZE + 2, 15 / PIXEL_SIZE)
    assert covered > 0.98
    assert made.sum() < 1.15 * grown.sum()
    assert check_mask(made, BOX) == ()


def test_only_the_largest_part_is_kept() -> None:
    volume = ball()
    volume[4:9, 4:9, 4:9] = 1
    made = automatic_mask(volume, PIXEL_SIZE, MaskOptions(dilate_angstrom=0, soft_edge_angstrom=3))
    assert made[6, 6, 6] == 0
    assert made[BOX // 2, BOX // 2, BOX // 2] == 1


def test_a_single_voxel_grows_into_a_soft_sphere() -> None:
    point = np.zeros((BOX,) * 3, np.float32)
    point[BOX // 2, BOX // 2, BOX // 2] = 1
    peak = float(low_pass(point, 15, PIXEL_SIZE).max())
    options = MaskOptions(15, 0.99 * peak, dilate_angstrom=5 * PIXEL_SIZE, soft_edge_angstrom=4 * PIXEL_SIZE)
    np.testing.assert_allclose(automatic_mask(point, PIXEL_SIZE, options), soft_sphere(BOX, 5, 4), atol=1e-5)


def test_a_mask_at_the_side_of_the_box_is_cut_there() -> None:
    volume = np.roll(ball(), BOX // 2, axis=2)
    assert automatic_mask(volume, PIXEL_SIZE).shape == volume.shape


@pytest.mark.parametrize(
    ("volume", "threshold", "said"),
    [
        (np.zeros((16,) * 3, np.float32), None, "no density"),
        (np.full((16,) * 3, np.nan, np.float32), None, "NaN"),
        (soft_sphere(16, 4, 2), 9.0, "lower --threshold"),
    ],
)
def test_maps_without_a_mask_are_refused(volume: Real, threshold: float | None, said: str) -> None:
    with pytest.raises(PosterionError, match=said):
        automatic_mask(volume, PIXEL_SIZE, MaskOptions(threshold=threshold))


@pytest.mark.parametrize("edge", [4.0, 8.0])
def test_edge_width_is_measured(edge: float) -> None:
    assert edge_width_px(soft_sphere(64, 12, edge)) == pytest.approx(edge, rel=0.15)
    assert edge_width_px(soft_sphere(64, 12, 0)) == 0
    assert edge_width_px(np.zeros((8,) * 3, np.float32)) == 0


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (soft_sphere(16, 4, 4), "16x16x16 voxels but the map has 48x48x48"),
        (2 * soft_sphere(BOX, 10, 4), "values between 0 and 1"),
        (soft_sphere(BOX, 10, 4) - 0.5, "values between 0 and 1"),
        (np.zeros((BOX,) * 3, np.float32), "empty"),
        (np.full((BOX,) * 3, np.nan, np.float32), "NaN"),
    ],
)
def test_unusable_masks_are_refused_by_name(mask: Real, said: str) -> None:
    with pytest.raises(PosterionError, match=rf"its\.mrc: .*{said}"):
        check_mask(mask, BOX, "its.mrc")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (soft_sphere(BOX, 14, 0), "hard edge"),
        (soft_sphere(BOX, 23, 5), "side of the box"),
        (soft_sphere(BOX, 7, 5), "too tight"),
        (np.roll(soft_sphere(BOX, 12, 5), 6, axis=0), "shifted"),
    ],
)
def test_suspicious_masks_are_said_to_be_so(mask: Real, said: str) -> None:
    assert any(said in warning for warning in check_mask(mask, BOX, "m", ball(), PIXEL_SIZE))


def test_a_good_mask_needs_no_words() -> None:
    assert check_mask(soft_sphere(BOX, 14, 6), BOX, "m", ball(), PIXEL_SIZE) == ()
