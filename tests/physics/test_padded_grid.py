"""Transforms of padded maps, pruned and in blocks, against plain FFTs of the whole padded box."""

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.physics import padded_grid
from posterion.physics.padded_grid import PaddedGrid, blocks, padded_inverse, padded_transform


def noise(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(n).normal(size=(n, n, n)).astype(np.float32)


def plain_transform(volume: NDArray[np.float32], size: int) -> NDArray[np.complex128]:
    """Full complex transform of a map in the middle of a larger box, in FFT order."""
    n = len(volume)
    padded = np.zeros((size,) * 3)
    start = size // 2 - n // 2
    padded[(slice(start, start + n),) * 3] = volume
    return np.fft.fftn(np.fft.ifftshift(padded))


@pytest.fixture(params=[2**21, 1])
def block_voxels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in one block, and every plane in its own."""
    monkeypatch.setattr(padded_grid, "_BLOCK_VOXELS", request.param)


@pytest.mark.parametrize(
    ("n", "size", "centre"), [(8, 16, 5), (8, 16, 8), (9, 18, 9), (9, 27, 11), (7, 14, 8)]
)
@pytest.mark.usefixtures("block_voxels")
def test_transform(n: int, size: int, centre: int) -> None:
    volume = noise(n)
    q = np.arange(-centre, centre + 1)
    n_x = min(centre, size // 2) + 1
    expected = plain_transform(volume, size)[np.ix_(q % size, q % size, np.arange(n_x))]
    found = padded_transform(volume, size, centre)
    assert found.shape == (len(q), len(q), centre + 1)
    np.testing.assert_allclose(found[:, :, :n_x], expected, atol=2e-4)
    assert not found[:, :, n_x:].any()


@pytest.mark.parametrize(("n", "size", "centre"), [(8, 16, 5), (8, 16, 9), (9, 18, 6), (5, 20, 7)])
@pytest.mark.usefixtures("block_voxels")
def test_inverse(n: int, size: int, centre: int) -> None:
    """All coefficients within the grid and below Nyquist, none outside; the middle of the map."""
    rng = np.random.default_rng(1)
    transform = padded_transform(rng.normal(size=(n, n, n)).astype(np.float32), size, centre)
    keep = min(centre, size // 2 - 1)
    full = np.zeros((size, size, size), complex)
    for z in range(-keep, keep + 1):
        for y in range(-keep, keep + 1):
            for x in range(keep + 1):
                value = transform[z + centre, y + centre, x]
                full[z, y, x] = value
                full[-z, -y, -x] = value.conjugate()
    whole = np.fft.fftshift(np.fft.ifftn(full).real)
    start = size // 2 - n // 2
    expected = whole[(slice(start, start + n),) * 3]
    found = padded_inverse(lambda rows: transform[:, rows], size, centre, n)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_there_and_back(threads: int) -> None:
    """A padded grid up to Nyquist loses only the frequencies at and beyond it."""
    volume = noise(12)
    smooth = np.fft.fftn(volume)
    k = np.abs(np.fft.fftfreq(12, 1 / 12))
    smooth[np.maximum.reduce(np.meshgrid(k, k, k)) > 3] = 0
    volume = np.fft.ifftn(smooth).real.astype(np.float32)
    there = padded_transform(volume, 24, 11, threads)
    back = padded_inverse(lambda rows: there[:, rows], 24, 11, 12, threads)
    assert np.corrcoef(back.ravel(), volume.ravel())[0, 1] > 0.98
    np.testing.assert_array_equal(back, padded_inverse(lambda rows: there[:, rows], 24, 11, 12, 1))


def test_blocks_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padded_grid, "_BLOCK_VOXELS", 30)
    assert list(blocks(7, 10)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(blocks(2, 1000)) == [slice(0, 1), slice(1, 2)]


@pytest.mark.parametrize("grid", [PaddedGrid(16, 7), PaddedGrid(15, 4), PaddedGrid(12, 5, padding=3)])
def test_shells(grid: PaddedGrid) -> None:
    """Shell, its number of voxels and its sum, voxel by voxel."""
    values = np.random.default_rng(2).normal(size=grid.shape).astype(np.float32)
    count, total = np.zeros(grid.radius + 1), np.zeros(grid.radius + 1)
    for (z, y, x), value in np.ndenumerate(values):
        radius = np.sqrt((z - grid.centre) ** 2 + (y - grid.centre) ** 2 + x**2) / grid.padding
        shell = round(float(radius))
        assert grid.shells[z, y, x] == shell
        if shell <= grid.radius:
            count[shell] += 1
            total[shell] += value
    np.testing.assert_array_equal(grid.voxels_s, count)
    np.testing.assert_allclose(grid.shell_sum(values), total, rtol=1e-5)
