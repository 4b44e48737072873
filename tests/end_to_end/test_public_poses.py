"""Ten real images with poses that others determined give the map that comes with them."""

from pathlib import Path

import numpy as np
import pytest

from posterion.data.mrc import read_map
from posterion.data.particles import Particles, Supplement
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.mapping.reconstruct import reconstruct
from posterion.physics.soft_masks import soft_sphere


def test_trpv1_reconstructs_to_its_map(shared_data: Path) -> None:
    """Simulated images of the map with the same poses and noise give 0.48 (docs/log.md); mirrored, less."""
    folder = shared_data / "small_stacks" / "cryojax_trpv1"
    if not folder.is_dir():
        pytest.skip("TRPV1 images not present")
    stack = Supplement(stack=folder / "trpv1_small_stack.mrcs")
    particles = Particles.read(folder / "trpv1_small_stack.star", stack)
    truth = read_map(folder / "trpv1_volume.mrc.gz")[0]
    made = reconstruct(particles, "C4", threads=1, seed=1)
    sphere = soft_sphere(48, 22, 3)
    mirrored = np.roll(truth[:, :, ::-1], 1, axis=2)
    mean_fsc = [
        fourier_shell_correlation(made.map_unfiltered * sphere, volume * sphere)[2:13].mean()
        for volume in (truth, mirrored, mirrored[::-1, :, ::-1], truth.transpose(2, 1, 0))
    ]
    assert mean_fsc[0] > 0.42
    assert mean_fsc[0] > max(mean_fsc[1:]) + 0.08
