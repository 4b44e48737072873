"""The embedded assembly: protein-like, without symmetry, the same on every grid."""

import numpy as np
import pytest

from posterion.physics.fourier import fourier_crop, fourier_transform_3d, shell_mean
from posterion.physics.phantom import phantom_atoms, phantom_map
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import matrices_from_euler


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_size_and_centre() -> None:
    atoms = phantom_atoms()
    assert 100 < atoms.diameter_angstrom() < 160
    np.testing.assert_allclose(atoms.positions_angstrom.mean(axis=0), 0, atol=1e-9)


def test_seed_decides() -> None:
    np.testing.assert_array_equal(phantom_atoms(3).positions_angstrom, phantom_atoms(3).positions_angstrom)
    assert len(phantom_atoms(3).weights) != len(phantom_atoms(4).weights)


def test_density_is_positive_and_stays_inside() -> None:
    density = phantom_map(64, 3.0)
    z, y, x = np.mgrid[:64, :64, :64] - 32
    outside = np.sqrt(x**2 + y**2 + z**2) * 3.0 > 80
    assert density.max() > 5 * -density.min()
    assert np.abs(density[outside]).max() < 0.03 * density.max()


@pytest.mark.parametrize("box", [40, 41])
def test_same_transform_on_every_grid(box: int) -> None:
    fine = phantom_map(2 * box, 2.25).astype(np.float64)
    coarse = phantom_map(box, 4.5)
    spectra = fourier_crop(fourier_transform_3d(fine), box, 3) / 8, fourier_transform_3d(coarse)
    keep = box // 2 - 2
    k = np.r_[0 : keep + 1, box - keep : box]
    low = np.ix_(k, k, np.arange(keep + 1))
    error = np.abs(spectra[0][low] - spectra[1][low])
    assert error.max() < 0.005 * np.abs(spectra[1][low]).max()
    assert np.sqrt((error**2).mean() / (np.abs(spectra[1][low]) ** 2).mean()) < 0.005


def test_secondary_structure_peaks() -> None:
    density = phantom_map(96, 1.8)
    power = shell_mean(np.abs(fourier_transform_3d(density)) ** 2, 96)
    s = np.arange(49) / (96 * 1.8)
    sharpened = power * np.exp(90 * s**2 / 2)
    at = lambda angstrom: sharpened[np.abs(s - 1 / angstrom).argmin()]  # noqa: E731
    assert at(10) > 1.5 * at(14)  # layers and helices 10 A apart
    assert at(4.9) > 1.5 * at(7)  # strands 4.8 A apart, helix pitch 5.4 A
    assert power[2] > 1e3 * power[40]


def test_no_symmetry_and_a_hand() -> None:
    density = phantom_map(32, 5.5)
    axes = [(0, 90, 0), (0, 0, 90), (0, 180, 0), (180, 0, 0), (90, 180, 0), (120, 0, 0)]
    views = FourierVolume.from_map(density).project(matrices_from_euler(*np.array([(0, 0, 0), *axes]).T))
    for view in views[1:]:
        agreement = np.vdot(view[1:], views[0][1:]).real
        assert agreement < 0.9 * np.linalg.norm(view[1:]) * np.linalg.norm(views[0][1:])
    mirrored = density[:, :, ::-1]
    assert correlation(density, np.roll(mirrored, 1, axis=2)) < 0.9
