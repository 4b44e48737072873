"""The pixel loops against slow references, with their adjoints, and the same bits for any split."""

import runpy
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.kernels import gather_slices, scatter_slices, sum_rotated
from posterion.physics.fourier import Disc, disc
from posterion.physics.symmetry import point_group_operators

REFERENCE = runpy.run_path(str(Path(__file__).parents[1] / "references" / "slices_reference.py"))
PADDING = 2
IN_PLANE = Rotation.from_euler("Z", [[0], [90], [180], [270]], degrees=True).as_matrix()
EDGE_ON = Rotation.from_euler("XYZ", [[90, 0, 0], [0, 90, 0], [180, 0, 0], [0, 180, 90]], degrees=True)


def rows(pixels: Disc) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    return pixels.row_ky, pixels.row_first_kx, pixels.row_start


def axes(matrices: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(PADDING * matrices[:, :2], np.float32)


def volume_of_noise(radius: int, channels: int = 2, seed: int = 0) -> tuple[NDArray[np.float32], int]:
    """Half transform that is Hermitian on its plane x = 0, and its centre."""
    centre = PADDING * radius + 2
    shape = (2 * centre + 1, 2 * centre + 1, centre + 1, channels)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    sign = np.ones(channels, np.float32)
    sign[1] = -1
    values[:, :, 0] = 0.5 * (values[:, :, 0] + sign * values[::-1, ::-1, 0])
    return values, centre


def some_rotations(n: int) -> NDArray[np.float64]:
    """Random ones, and ones whose slices lie exactly on grid planes."""
    return np.concatenate([Rotation.random(n, random_state=1).as_matrix(), IN_PLANE, EDGE_ON.as_matrix()])


def complex_noise(*shape: int, seed: int = 0) -> NDArray[np.complex64]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def scattered(
    centre: int,
    matrices: NDArray[np.float64],
    pixels: Disc,
    values_rp: NDArray[np.complex64],
    weights_rp: NDArray[np.float32],
) -> NDArray[np.float32]:
    volume = np.zeros((2 * centre + 1, 2 * centre + 1, centre + 1, 4), np.float32)
    parts = values_rp.view(np.float32).reshape(*values_rp.shape, 2)
    scatter_slices(volume, centre, axes(matrices), rows(pixels), parts, weights_rp, (0, len(volume)))
    return volume


@pytest.mark.parametrize(("box", "radius"), [(16, 7), (17, 8), (32, 5)])
def test_gather_is_trilinear_interpolation(box: int, radius: int) -> None:
    pixels, matrices = disc(box, radius), some_rotations(6)
    volume, centre = volume_of_noise(radius)
    slices = np.empty((len(matrices), len(pixels), 2), np.float32)
    gather_slices(volume, centre, axes(matrices), rows(pixels), slices)
    grid = REFERENCE["whole_grid"](volume.view(np.complex64)[..., 0], centre)
    where = REFERENCE["positions"](matrices, pixels.kx_p, pixels.ky_p, PADDING)
    expected = REFERENCE["trilinear_slices"](grid, where, (centre, centre, centre))
    np.testing.assert_allclose(slices.view(np.complex64)[..., 0], expected, atol=3e-5)


@pytest.mark.parametrize(("box", "radius"), [(16, 7), (17, 8), (32, 5)])
def test_scatter_is_the_transpose_of_gather(box: int, radius: int) -> None:
    """``sum_p Re(conj(gather(V)_p) s_p) = sum_q Re(conj(V_q) scatter(s)_q)`` for any V and s."""
    pixels, matrices = disc(box, radius), some_rotations(20)
    volume, centre = volume_of_noise(radius)
    slices = np.empty((len(matrices), len(pixels), 2), np.float32)
    gather_slices(volume, centre, axes(matrices), rows(pixels), slices)
    values = complex_noise(len(matrices), len(pixels))
    weights = np.random.default_rng(2).uniform(0.5, 2, values.shape).astype(np.float32)
    spread = scattered(centre, matrices, pixels, values, weights).astype(float)
    left = np.sum(slices.astype(float) * values.view(np.float32).reshape(slices.shape))
    # 1e-6 of the sum of moduli: both sides are sums of 1e4 terms in single precision.
    scale = np.abs(spread).sum()
    assert np.sum(volume * spread[..., :2]) == pytest.approx(left, abs=1e-6 * scale)
    assert spread[..., 2].sum() == pytest.approx(weights.sum(dtype=float), rel=1e-6)


def test_weights_spread_as_values_do() -> None:
    pixels, matrices = disc(16, 7), some_rotations(5)
    weights = np.random.default_rng(3).uniform(0.5, 2, (len(matrices), len(pixels))).astype(np.float32)
    spread = scattered(16, matrices, pixels, weights.astype(np.complex64), weights)
    np.testing.assert_allclose(spread[..., 0], spread[..., 2], rtol=1e-5)
    assert np.abs(spread[..., 2]).max() > 1


def test_pixels_without_weight_are_left_out() -> None:
    pixels, matrices = disc(16, 7), some_rotations(2)
    values = complex_noise(len(matrices), len(pixels))
    weights = np.zeros(values.shape, np.float32)
    weights[:, ::3] = 1
    spread = scattered(16, matrices, pixels, values, weights)
    kept = np.where(weights > 0, values, 0)
    expected = scattered(16, matrices, pixels, kept, np.ones_like(weights))
    np.testing.assert_array_equal(spread[..., :2], expected[..., :2])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("slabs", [2, 7, 33])
def test_scatter_has_the_same_bits_in_any_slabs(slabs: int, threads: int) -> None:
    pixels, matrices = disc(16, 7), some_rotations(15)
    values = complex_noise(len(matrices), len(pixels))
    weights = np.abs(values) ** 2
    whole = scattered(16, matrices, pixels, values, weights)
    volume = np.zeros_like(whole)
    parts = values.view(np.float32).reshape(*values.shape, 2)
    edges = np.linspace(0, len(volume), slabs + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(
            pool.map(
                lambda planes: scatter_slices(
                    volume, 16, axes(matrices), rows(pixels), parts, weights, planes
                ),
                pairwise(edges),
            )
        )
    np.testing.assert_array_equal(volume, whole)


@pytest.mark.parametrize("point_group", ["C1", "C3", "D2", "O"])
def test_sum_rotated_is_the_sum_over_rotated_positions(point_group: str) -> None:
    operators = point_group_operators(point_group)
    volume, centre = volume_of_noise(5, channels=4)
    out = np.full_like(volume, np.nan)
    for planes in ((0, 9), (9, 10), (10, len(volume))):
        sum_rotated(volume, centre, operators.astype(np.float32), planes, out)
    index = np.stack(
        np.meshgrid(*[np.arange(-centre, centre + 1)] * 2, np.arange(centre + 1), indexing="ij")[::-1], -1
    )
    inside = np.linalg.norm(index, axis=-1) <= centre - 1
    q = np.einsum("gij,nj->gni", operators, index[inside].astype(float))
    for channel, values in ((0, volume[..., 0] + 1j * volume[..., 1]), (2, volume[..., 2] + 0j)):
        grid = REFERENCE["whole_grid"](values, centre)
        expected = REFERENCE["trilinear_slices"](np.pad(grid, 1), q + 1, (centre,) * 3).sum(axis=0)
        found = out[inside]
        np.testing.assert_allclose(found[:, channel], expected.real, atol=1e-4)
        if channel == 0:
            np.testing.assert_allclose(found[:, 1], expected.imag, atol=1e-4)
    assert np.isnan(out[~inside]).all(), "outside of the sphere nothing is written"
