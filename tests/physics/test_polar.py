"""Rings and angles against direct Fourier sums; turns, shifts and sums over the disc against closed forms."""

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.physics.fourier import disc, fourier_transform_2d
from posterion.physics.polar import PolarGrid
from posterion.physics.rotations import matrices_from_euler
from posterion.physics.shifts import shifted
from posterion.physics.soft_masks import soft_disc

BOX, RADIUS, EXTENT = 48, 14, 40.0
GRID = PolarGrid.of(BOX, RADIUS, EXTENT, EXTENT)


def noise_in_disc(box: int, n: int, seed: int = 0) -> NDArray[np.float32]:
    """White noise inside a soft disc of diameter 40 px at most: all that a mask lets through."""
    noise = np.random.default_rng(seed).normal(size=(n, box, box))
    return (noise * soft_disc(box, 15.0, 5.0)).astype(np.float32)


def blobs(positions_px: NDArray[np.float64], box: int = BOX, width_px: float = 1.5) -> NDArray[np.float32]:
    """Gaussians about positions (n, 2), (x, y) from the origin n // 2, falling in height."""
    y, x = np.mgrid[:box, :box] - box // 2
    away2 = (x - positions_px[:, 0, None, None]) ** 2 + (y - positions_px[:, 1, None, None]) ** 2
    height = 1 / (1.0 + np.arange(len(positions_px)))
    return np.tensordot(height, np.exp(-away2 / (2 * width_px**2)), 1).astype(np.float32)


POSITIONS = np.array([[9.0, -2.0], [-4.5, 7.0], [1.2, -8.3], [-10.1, -3.7], [6.0, 6.6]])


def direct_sums(images: NDArray[np.float32], grid: PolarGrid) -> NDArray[np.complex128]:
    """``sum_x f(x) exp(-2 pi i k.x / n)`` at the samples, (A J, n), ring by ring of each angle."""
    theta = np.pi * (np.arange(grid.angles) / grid.angles - 0.5)
    k = np.arange(0.25, grid.radius, 0.5)
    x = np.arange(grid.box) - grid.box // 2
    along = [
        np.exp(-2j * np.pi / grid.box * np.multiply.outer(np.outer(axis(theta), k).ravel(), x))
        for axis in (np.cos, np.sin)
    ]
    return np.einsum("iyx,py,px->pi", images.astype(float), along[1], along[0], optimize=True)


def harmonics_of(images: NDArray[np.float32], grid: PolarGrid = GRID) -> NDArray[np.complex128]:
    """Harmonics (H, J, n) of images, as complex numbers."""
    parts = grid.sample(fourier_transform_2d(images)).reshape(grid.angles, -1, len(images))
    found = grid.analyse(np.ascontiguousarray(parts.real), np.ascontiguousarray(parts.imag))
    return found[:, 0].astype(float) + 1j * found[:, 1]


def all_harmonics(samples: NDArray[np.complexfloating], grid: PolarGrid) -> NDArray[np.complex128]:
    """``< f(theta) exp(-i m theta) >`` over the whole circle, for each m on every ring: (H, J, n)."""
    half = samples.reshape(grid.angles, -1, samples.shape[1])
    whole = np.concatenate([half, half.conj()])  # f(theta + pi) = conj f(theta)
    from_zero = np.fft.fft(whole, axis=0)[grid.harmonics] / len(whole)
    return from_zero * np.exp(0.5j * np.pi * grid.harmonics)[:, None, None]  # angles begin at -pi/2


@pytest.mark.parametrize(
    ("box", "radius", "smooth", "white"),
    [
        (48, 14, 1e-3, 0.035),
        (49, 14, 1e-3, 0.03),
        (64, 5, 0.01, 0.03),
        (48, 23, 0.05, 0.1),
        (48, 1, 0.01, 0.05),
    ],
)
def test_samples_are_direct_fourier_sums(box: int, radius: int, smooth: float, white: float) -> None:
    """Ring by ring.

    Less than a per mille is lost of an image that ends below Nyquist. White noise inside a mask is cut there,
    or eight shells beyond the last ring, which a ring next to the cut feels.
    """
    grid = PolarGrid.of(box, radius, EXTENT, EXTENT)
    for images, tolerance in ((blobs(POSITIONS, box)[None], smooth), (noise_in_disc(box, 2), white)):
        expected = direct_sums(images, grid)
        error = grid.sample(fourier_transform_2d(images)) - expected
        error_j, power_j = (
            (np.abs(values) ** 2).reshape(grid.angles, 2 * radius, -1).sum(axis=(0, 2))
            for values in (error, expected)
        )
        assert np.sqrt(error_j / power_j).max() < tolerance
        assert np.sqrt(error_j.sum() / power_j.sum()) < tolerance


@pytest.mark.parametrize("even", [True, False])
def test_analysis_is_the_mean_over_the_circle_and_synthesis_undoes_it(even: bool) -> None:
    samples = GRID.sample(fourier_transform_2d(noise_in_disc(BOX, 3)))
    if even:
        samples = (np.abs(samples) ** 2).astype(np.complex64)
    parts = samples.reshape(GRID.angles, -1, 3)
    re, im = np.ascontiguousarray(parts.real), np.ascontiguousarray(parts.imag)
    found = GRID.analyse(re, None if even else im)
    expected = all_harmonics(samples, GRID)[: len(found)]
    assert len(found) == (GRID.even_count if even else GRID.count)
    inside = np.zeros((len(found), len(GRID.ring_k)), bool)
    for m, rings in GRID.bands(even):
        assert not inside[m, rings].any(), "bands share nothing"
        inside[m, rings] = True
    given = found[:, 0] + 1j * found[:, 1]
    np.testing.assert_allclose(given[inside], expected[inside], atol=1e-6 * np.abs(expected).max())
    assert (given[~inside] == 0).all()
    assert np.linalg.norm(GRID.synthesise(found) - parts) < (0.02 if even else 0.002) * np.linalg.norm(parts)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("radius", [1, 2, 3, 14])
def test_all_harmonics_are_on_the_last_ring(radius: int, even: bool) -> None:
    """However few rings there are."""
    grid = PolarGrid.of(BOX, radius, EXTENT, EXTENT)
    bands = grid.bands(even)
    assert all(len(range(*rings.indices(len(grid.ring_k)))) > 0 for _, rings in bands)
    there = np.concatenate([grid.harmonics[m] for m, _ in bands])
    assert there.tolist() == grid.harmonics[: grid.even_count if even else None].tolist()


def test_there_is_nearly_nothing_outside_of_the_bands() -> None:
    """On every ring, of what the mask lets through; and there is something just inside."""
    wider = PolarGrid.of(BOX, RADIUS, 1.6 * EXTENT, EXTENT)
    power = np.abs(all_harmonics(wider.sample(fourier_transform_2d(noise_in_disc(BOX, 4))), wider)) ** 2
    power_mj = power.sum(axis=2) * wider.mates_m[:, None]
    limit_j = np.full(len(GRID.ring_k), -1)
    for m, rings in GRID.bands():
        limit_j[rings] = np.maximum(limit_j[rings], GRID.harmonics[m].max())
    beyond = wider.harmonics[:, None] > limit_j
    assert (limit_j < GRID.count - 1).any(), "inner rings have fewer"
    assert ((power_mj * beyond).sum(axis=0) < 3e-4 * power_mj.sum(axis=0)).all()
    half = wider.harmonics[:, None] > np.pi * wider.ring_k * EXTENT / BOX / 2
    assert ((power_mj * half).sum(axis=0)[10:] > 0.02 * power_mj.sum(axis=0)[10:]).all()


def test_what_lies_outside_does_not_fold_back() -> None:
    """A blob beyond the extent has high harmonics only: they do not come back as low ones."""
    grid = PolarGrid.of(BOX, RADIUS, 24.0, 66.0)
    positions = np.array([[3.0, 4.0], [19.0, -18.0]])
    both = grid.sample(fourier_transform_2d(blobs(positions)[None]))
    finer = PolarGrid(BOX, RADIUS, 3 * grid.angles, grid.count, grid.extent_px)
    expected = all_harmonics(finer.sample(fourier_transform_2d(blobs(positions)[None])), finer)
    np.testing.assert_allclose(all_harmonics(both, grid), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("psi_deg", [30.0, -77.0])
def test_a_turn_is_a_phase_of_the_harmonics(psi_deg: float) -> None:
    """``exp(-i m psi)`` from x to y; a volume seen at psi is turned the other way."""
    angle = np.radians(psi_deg)
    active = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    seen = matrices_from_euler(np.zeros(1), np.zeros(1), np.array([psi_deg]))[0, :2, :2]
    still, turned, slices = (
        harmonics_of(blobs(POSITIONS @ matrix.T)[None]) for matrix in (np.eye(2), active, seen)
    )
    wave = np.exp(-1j * GRID.harmonics * angle)[:, None, None]
    tolerance = 1e-3 * np.abs(still).max()
    np.testing.assert_allclose(turned, wave * still, atol=tolerance)
    np.testing.assert_allclose(slices, wave.conj() * still, atol=tolerance)
    assert np.abs(still[GRID.harmonics > 6]).max() > 20 * tolerance, "high harmonics say which way"


def test_sums_over_rings_are_those_over_pixels() -> None:
    """``sum_j area_j sum_m mates Re(conj a_m b_m)`` is ``sum_p w_p Re(conj A_p B_p)``, to half a percent."""
    first, second = blobs(POSITIONS), blobs(POSITIONS + np.array([[0.5, 1.0]])) + blobs(POSITIONS[:2])
    a, b = (harmonics_of(image[None])[..., 0] for image in (first, second))
    terms_mj = (a.conj() * b).real * GRID.mates_m[:, None]
    found = np.sum(terms_mj * GRID.ring_area)
    pixels = disc(BOX, RADIUS)
    x, y = (pixels.take(fourier_transform_2d(image)) for image in (first, second))
    expected = np.sum(pixels.multiplicity_p * (x.conj() * y).real)
    assert found == pytest.approx(expected, rel=0.005)
    by_shell = GRID.shell_sum((terms_mj.sum(axis=0) * GRID.ring_area)[None])[0]
    expected_s = pixels.shell_sum(pixels.multiplicity_p * (x.conj() * y).real)
    np.testing.assert_allclose(by_shell, expected_s, atol=0.03 * expected)
    assert by_shell[-1] == pytest.approx(expected_s[-1], rel=0.03), (
        "of the last shell both have the inner half"
    )


@pytest.mark.parametrize(("box", "radius"), [(48, 14), (49, 24), (64, 3), (48, 1)])
def test_rings_stand_for_the_pixels_of_their_shells(box: int, radius: int) -> None:
    """They fill the disc that pixels fill, to its edge; the last shell has one ring alone."""
    grid, pixels = PolarGrid.of(box, radius, 30.0, 30.0), disc(box, radius)
    count_s = pixels.shell_sum(pixels.multiplicity_p)
    areas = np.stack([grid.ring_area, 3 * grid.ring_area])
    np.testing.assert_allclose(grid.shell_sum(areas), np.outer([1, 3], count_s), rtol=1e-6)
    assert grid.ring_area.sum() == pytest.approx(np.pi * radius**2, rel=1e-6)
    assert grid.ring_area.sum() == pytest.approx(count_s.sum(), rel=0.04 if radius > 1 else 0.4)
    assert grid.ring_shell.tolist() == [0, *np.repeat(np.arange(1, radius), 2), radius]
    assert grid.ring_k.max() == radius - 0.25


def test_mean_of_a_shell_weighs_rings_by_their_area() -> None:
    """Of ``k^2 (1 + cos 2 theta)``: ``(k_1^2 + k_2^2) / 2`` from k_1 to k_2, as near as two rings come.

    Or one, in the last shell, which ends at the disc's edge.
    """
    kx, ky = GRID.positions()
    values = np.stack([kx**2 + ky**2 + kx**2 - ky**2, np.ones(len(kx))], 1).astype(np.float32)
    found = GRID.shell_mean(values)
    shell = np.arange(1, RADIUS + 1)
    rings = np.stack([shell - 0.25, shell + 0.25])
    expected = np.sum(rings**3, axis=0) / np.sum(rings, axis=0)
    expected[-1] = (RADIUS - 0.25) ** 2
    np.testing.assert_allclose(found[0, 1:], expected, rtol=1e-5)
    outer = np.minimum(shell + 0.5, RADIUS)
    np.testing.assert_allclose(found[0, 1:], ((shell - 0.5) ** 2 + outer**2) / 2, rtol=0.07)
    np.testing.assert_allclose(found[0, 5:], ((shell - 0.5) ** 2 + outer**2)[4:] / 2, rtol=0.003)
    np.testing.assert_allclose(found[1], 1, rtol=1e-6)


def test_phases_move_images() -> None:
    """As moving the pixels of the spectrum before sampling does; and to where the blobs are put."""
    shifts_px = np.array([[0.0, 0.0], [1.5, 0.0], [-0.7, 2.2]])
    pixels = disc(BOX, (BOX - 1) // 2)
    spectrum = pixels.take(fourier_transform_2d(blobs(POSITIONS)))
    expected = GRID.sample(pixels.put(shifted(spectrum, pixels, shifts_px)))
    moved = GRID.sample(pixels.put(spectrum[None])) * GRID.shift_phases(shifts_px)
    np.testing.assert_allclose(moved, expected, atol=1e-3 * np.abs(expected).max())
    there = GRID.sample(fourier_transform_2d(np.stack([blobs(POSITIONS + shift) for shift in shifts_px])))
    np.testing.assert_allclose(moved, there, atol=1e-3 * np.abs(expected).max())


def test_rays_lead_to_where_the_samples_of_a_slice_lie() -> None:
    """``R^T (kx, ky, 0)``, half a step, one and a half, ... from the origin."""
    matrices = matrices_from_euler(np.array([0.0, 20.0]), np.array([0.0, 70.0]), np.array([0.0, 50.0]))
    kx, ky = GRID.positions()
    expected = np.einsum("rji,pj->rpi", matrices, np.stack([kx, ky, 0 * kx], -1))
    steps = np.arange(len(GRID.ring_k)) + 0.5
    found = GRID.ray_steps(matrices)[:, :, None] * steps[:, None]  # angle, matrix, ring, axis
    np.testing.assert_allclose(found.swapaxes(0, 1).reshape(expected.shape), expected, atol=1e-12)
