from pathlib import Path

import numpy as np
import pytest

from posterion.errors import PosterionError
from posterion.micrographs.extraction import (
    ExtractOptions,
    cut_windows,
    nearest_pixel,
    normalise_background,
    rescale,
)

RELION = Path(__file__).parents[1] / "references" / "relion_extraction.npz"


def fourier_without_nyquist(images: np.ndarray) -> np.ndarray:
    spectra = np.fft.fft2(images)
    spectra[:, images.shape[1] // 2] = 0
    spectra[:, :, images.shape[2] // 2] = 0
    return spectra


def test_windows_rescaling_and_background_are_relions() -> None:
    """The frozen output of relion_preprocess; only the Nyquist rows differ, which we leave out."""
    frozen = np.load(RELION)
    x, y = frozen["positions_xy"].T.astype(np.float64)
    windows = cut_windows(frozen["micrograph"], x, y, 24)
    assert len(windows.kept) == len(x)
    assert windows.at_edge == windows.outside == 0
    np.testing.assert_array_equal(windows.images_i, frozen["window"])
    np.testing.assert_allclose(normalise_background(windows.images_i, 9), frozen["ramp_removed"], atol=2e-6)
    flat = normalise_background(windows.images_i, 9, remove_ramp=False)
    np.testing.assert_allclose(flat, frozen["mean_removed"], atol=2e-6)
    small = rescale(windows.images_i, 16)
    np.testing.assert_allclose(np.fft.fft2(small), fourier_without_nyquist(frozen["rescaled"]), atol=2e-3)
    whole = -normalise_background(small, 6)
    for ours, theirs in zip(whole, frozen["all"], strict=True):
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.97


def test_a_coordinate_is_a_column_and_a_row_from_zero() -> None:
    values = np.arange(40 * 50, dtype=np.float32).reshape(40, 50)
    windows = cut_windows(values, np.array([20.0]), np.array([10.0]), 8)
    assert windows.images_i[0, 4, 4] == values[10, 20]
    assert windows.images_i[0, 0, 0] == values[6, 16]


def test_rounding() -> None:
    assert nearest_pixel(np.array([2.49, 2.5, 3.5, -0.4, -0.5])).tolist() == [2, 3, 4, 0, -1]


def test_windows_at_the_edge_are_left_out_and_counted() -> None:
    values = np.zeros((40, 50), np.float32)
    x = np.array([4.0, 3.0, 46.0, 47.0, 25.0, 25.0, 60.0, -3.0])
    y = np.array([20.0, 20.0, 20.0, 20.0, 36.0, 37.0, 20.0, 20.0])
    windows = cut_windows(values, x, y, 8)
    assert windows.kept.tolist() == [0, 2, 4]
    assert (windows.at_edge, windows.outside) == (3, 2)
    with pytest.raises(PosterionError, match="a box of 42 pixels is larger than the micrograph of 50 x 40"):
        cut_windows(values, x, y, 42)


def test_rescaling_keeps_grey_values_and_the_origin() -> None:
    y, x = np.mgrid[:36, :36] - 18
    wave = (2 + np.cos(2 * np.pi * (2 * x + 3 * y) / 36)).astype(np.float32)[None]
    small = rescale(wave, 12)
    np.testing.assert_allclose(small[0], wave[0, ::3, ::3], atol=1e-5)
    assert rescale(wave, 36) is wave


def test_background_of_mean_zero_and_deviation_one() -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:32, :32] - 16
    images = (5 + 3 * rng.standard_normal((4, 32, 32)) + 0.4 * x - 0.2 * y).astype(np.float32)
    outside = np.hypot(x, y) > 12
    for remove_ramp in (True, False):
        done = normalise_background(images, 12, remove_ramp=remove_ramp)
        np.testing.assert_allclose(done[:, outside].mean(1), 0, atol=1e-5)
        np.testing.assert_allclose(done[:, outside].std(1), 1, atol=1e-5)
        slope = (done[:, outside] * x[outside]).sum(1) / (x[outside] ** 2).sum()
        assert (np.abs(slope) < 1e-5).all() == remove_ramp
    constant = normalise_background(np.ones((1, 32, 32), np.float32), 12)
    np.testing.assert_allclose(constant, 0, atol=1e-5)


def test_new_box_is_even_and_near() -> None:
    options = ExtractOptions(256, bin_to_angstrom=3.0)
    assert options.new_box_px(1.0) == 86
    assert options.new_box_px(3.0) == 256
    assert options.background_radius_px(1.0, 86) == pytest.approx(0.75 * 43)
    assert ExtractOptions(256, 3.0, 180.0).background_radius_px(1.0, 86) == pytest.approx(90 / (256 / 86))
    assert ExtractOptions(64).new_box_px(1.7) == 64


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"box_px": 7}, "--box 7: an even number"),
        ({"box_px": 33}, "--box 33: an even number"),
        ({"box_px": 64, "bin_to_angstrom": 0.0}, "--bin-to 0"),
        ({"box_px": 64, "bin_to_angstrom": 1.0}, "--bin-to 1 A is finer than the micrograph's pixel of 2 A"),
        ({"box_px": 64, "bin_to_angstrom": 40.0}, "leaves a box of 4 pixels"),
        ({"box_px": 64, "diameter_angstrom": 130.0}, "--diameter 130 A fills the box of 64 pixels of 2 A"),
    ],
)
def test_options_that_cannot_be(options: dict[str, float], sentence: str) -> None:
    def use() -> None:
        made = ExtractOptions(**options)  # type: ignore[arg-type]
        made.background_radius_px(2.0, made.new_box_px(2.0))

    with pytest.raises(PosterionError, match=sentence):
        use()
