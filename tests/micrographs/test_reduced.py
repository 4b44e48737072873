import numpy as np
import pytest

from posterion.micrographs.reduced import (
    frequency_grid,
    grid_shape,
    hermitian_columns,
    mean_over_disc,
    reduce_micrograph,
)

NY, NX = 96, 120  # fast FFT sizes: nothing is padded, so that waves stay whole


def wave(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.cos(2 * np.pi * (3 * y / NY + 5 * x / NX)) + 0.5 * np.sin(2 * np.pi * (7 * y / NY - 2 * x / NX))


def test_waves_inside_the_band_keep_their_values_on_the_coarser_grid() -> None:
    y, x = np.mgrid[:NY, :NX].astype(np.float64)
    reduced = reduce_micrograph(wave(y, x).astype(np.float32), 1.5, 4.5)
    assert reduced.values_yx.shape == (32, 40)
    assert reduced.pixel_size_angstrom == pytest.approx(4.5)
    assert reduced.step_px == (3.0, 3.0)
    expected = wave(y[::3, ::3], x[::3, ::3])
    scale = (reduced.values_yx * expected).sum() / (expected**2).sum()  # one over the standard deviation
    assert scale == pytest.approx(1 / expected.std(), rel=0.05)
    np.testing.assert_allclose(reduced.values_yx, scale * expected, atol=0.05)  # the plane takes a little


def test_sizes_that_do_not_divide_and_positions() -> None:
    spot = np.zeros((131, 167), np.float32)
    y, x = np.mgrid[:131, :167]
    spot += np.exp(-((y - 40) ** 2 + (x - 90) ** 2) / (2 * 6.0**2)).astype(np.float32)
    reduced = reduce_micrograph(spot, 1.0, 3.3)
    values = np.maximum(reduced.values_yx - np.median(reduced.values_yx) - 0.5, 0)
    rows, columns = np.mgrid[: values.shape[0], : values.shape[1]]
    assert (rows * values).sum() / values.sum() * reduced.step_px[0] == pytest.approx(40, abs=0.2)
    assert (columns * values).sum() / values.sum() * reduced.step_px[1] == pytest.approx(90, abs=0.2)


def test_plane_scale_and_hot_pixels_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((NY, NX)).astype(np.float32)
    y, x = np.mgrid[:NY, :NX]
    tilted = (7 * noise + 0.3 * y - 0.2 * x + 900).astype(np.float32)
    plain, other = (reduce_micrograph(v, 1.0, 3.0).values_yx for v in (noise, tilted))
    np.testing.assert_allclose(plain, other, atol=0.02)
    tilted[50, 60] = 1e7
    assert np.abs(reduce_micrograph(tilted, 1.0, 3.0).values_yx).max() < 5


def test_a_finer_grid_is_refused_by_keeping_the_one_there_is() -> None:
    noise = np.random.default_rng(3).standard_normal((40, 50)).astype(np.float32)
    reduced = reduce_micrograph(noise, 5.0, 2.0)
    assert reduced.values_yx.shape == (40, 50)
    assert (reduced.pixel_size_angstrom, reduced.step_px) == (5.0, (1.0, 1.0))


@pytest.mark.parametrize("radius", [2.0, 4.4])
def test_mean_over_disc(radius: float) -> None:
    image = np.random.default_rng(4).standard_normal((2, 15, 18)).astype(np.float32)
    means = mean_over_disc(image, radius)
    y, x = np.mgrid[-30:31, -30:31]
    weight = np.clip(radius + 0.5 - np.hypot(y, x), 0, 1)
    padded = np.pad(image, ((0, 0), (30, 30), (30, 30)))
    for row, column in ((0, 0), (7, 9), (14, 3)):
        window = padded[:, row : row + 61, column : column + 61]
        np.testing.assert_allclose(
            means[:, row, column], (window * weight).sum((1, 2)) / weight.sum(), atol=1e-5
        )


def test_grids() -> None:
    ny, nx = grid_shape((97, 60), 11)
    assert ny >= 108
    assert nx >= 71
    assert ny % 2 == nx % 2 == 0
    fx, fy, f = frequency_grid((6, 8), 2.0)
    assert f.shape == (6, 5)
    assert (fx[0, 4], fy[3, 0], fy[5, 0]) == (0.25, -0.25, pytest.approx(-1 / 12))
    np.testing.assert_allclose(f**2, fx**2 + fy**2, atol=1e-7)
    assert hermitian_columns(8).tolist() == [1, 2, 2, 2, 1]
    assert hermitian_columns(7).tolist() == [1, 2, 2, 2]
