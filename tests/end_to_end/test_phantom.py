"""From simulated images and a 40 A map to a structure, by the public names only."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import affine_transform

import posterion
from posterion.mapping.fsc import fourier_shell_correlation, resolution_at
from posterion.mapping.masks import low_pass
from posterion.physics.rotations import angular_distance_deg

BOX, PIXEL, DIAMETER = 48, 3.5, 150.0


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, posterion.RefineResult]:
    folder = tmp_path_factory.mktemp("phantom")
    density = posterion.phantom_map(BOX, PIXEL)
    options = posterion.SimulationOptions(120, snr=0.8, shift_sd_angstrom=4.0, seed=5)
    posterion.simulate([density], PIXEL, folder, options)
    start = 10 * low_pass(density, 40.0, PIXEL)
    chosen = posterion.RefineOptions(threads=2, max_iterations=4)
    return folder, posterion.refine(folder / "particles.star", start, folder / "out", DIAMETER, chosen)


def test_the_structure_is_found(result: tuple[Path, posterion.RefineResult]) -> None:
    """0.5 against the truth, inside the mask, at 9 A or better: from 40 A, with 60 images a half."""
    folder, found = result
    truth, final, mask = (
        posterion.read_map(path)[0]
        for path in (folder / "truth.mrc", found.folder / "map.mrc", found.folder / "mask.mrc")
    )
    fsc_s = fourier_shell_correlation(final * mask, truth * mask)
    assert resolution_at(fsc_s, 0.5, PIXEL, BOX) < 9.0
    assert fsc_s[1:].mean() > 0.75


def test_half_maps_do_not_claim_more_than_the_truth(result: tuple[Path, posterion.RefineResult]) -> None:
    """FSC of the half maps at 0.143 is where the map correlates 0.5 with the truth, within 3 shells."""
    folder, found = result
    truth, final, mask = (
        posterion.read_map(path)[0]
        for path in (folder / "truth.mrc", found.folder / "map_unfiltered.mrc", found.folder / "mask.mrc")
    )
    halves = found.curves.resolution()
    against_truth = resolution_at(fourier_shell_correlation(final * mask, truth * mask), 0.5, PIXEL, BOX)
    edge = BOX * PIXEL
    assert abs(edge / halves - edge / against_truth) < 3.5


def test_poses_are_found(result: tuple[Path, posterion.RefineResult]) -> None:
    folder, found = result
    truth = posterion.Particles.read(folder / "truth.star").require_poses()
    poses = posterion.Particles.read(found.folder / "particles.star").require_poses()
    error = angular_distance_deg(poses.matrices(), truth.matrices())
    assert np.median(error) < 3
    shift = np.hypot(
        poses.shift_x_angstrom_i - truth.shift_x_angstrom_i,
        poses.shift_y_angstrom_i - truth.shift_y_angstrom_i,
    )
    assert np.median(shift) < 1.2


def test_a_reconstruction_from_the_poses_is_the_map(result: tuple[Path, posterion.RefineResult]) -> None:
    """The written poses and half sets mean what they say: back-projected, they give the same map."""
    _, found = result
    particles = posterion.Particles.read(found.folder / "particles.star")
    again = posterion.reconstruct(particles, diameter_angstrom=DIAMETER, threads=2)
    final = posterion.read_map(found.folder / "map.mrc")[0]
    assert fourier_shell_correlation(again.map, final)[1:15].min() > 0.9
    mirrored = affine_transform(final, np.diag([-1.0, 1, 1]), [BOX // 2 * 2, 0, 0], order=1)
    assert fourier_shell_correlation(again.map, mirrored.astype(np.float32))[5:12].max() < 0.7
