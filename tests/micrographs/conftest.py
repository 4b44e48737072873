"""A small micrograph with particles at known places, seen through a known CTF."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.physics.ctf import contrast_transfer
from posterion.physics.phantom import phantom_map
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import matrices_from_euler

PIXEL_ANGSTROM, DIAMETER_ANGSTROM = 4.0, 150.0
SHAPE = (300, 360)
DEFOCUS = (16000.0, 15000.0, 30.0)


class Planted(NamedTuple):
    """Dark particles in white noise of variance 1; what they are and where, column and row in pixels."""

    values: NDArray[np.float32]
    truth_xy: NDArray[np.float64]
    psi_deg: NDArray[np.float64]


def optics_ctf(fx: NDArray[np.float32], fy: NDArray[np.float32]) -> NDArray[np.float32]:
    ctf = contrast_transfer(
        fx.ravel(),
        fy.ravel(),
        *DEFOCUS,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    return ctf.reshape(fx.shape)


@pytest.fixture(scope="session")
def density() -> NDArray[np.float32]:
    """Phantom on the micrograph's pixel size."""
    return phantom_map(48, PIXEL_ANGSTROM)


@pytest.fixture(scope="session")
def plant(density: NDArray[np.float32]) -> Callable[..., Planted]:
    """Make a planted micrograph of a seed."""
    volume = FourierVolume.from_map(density)

    def make(seed: int, contrast: float = 1.2) -> Planted:
        rng = np.random.default_rng(seed)
        truth = np.array([(x, y) for y in range(40, 280, 55) for x in range(40, 340, 55)], np.float64)
        truth += np.rint(rng.uniform(-6, 6, truth.shape))
        angles = rng.uniform(0, 360, (3, len(truth)))
        spectra = volume.project(matrices_from_euler(angles[0], angles[1] / 2, angles[2]))
        images = np.fft.fftshift(np.fft.irfft2(spectra, s=(48, 48)), axes=(-2, -1))
        clean = np.zeros(SHAPE)
        for image, (x, y) in zip(images, truth.astype(int), strict=True):
            clean[y - 24 : y + 24, x - 24 : x + 24] += image
        fx = np.broadcast_to(np.fft.rfftfreq(SHAPE[1], PIXEL_ANGSTROM), (SHAPE[0], SHAPE[1] // 2 + 1))
        fy = np.broadcast_to(np.fft.fftfreq(SHAPE[0], PIXEL_ANGSTROM)[:, None], fx.shape)
        seen = np.fft.irfft2(np.fft.rfft2(clean) * optics_ctf(fx, fy), s=SHAPE)
        seen *= contrast / seen[np.abs(clean) > 0.1 * clean.max()].std()
        noise = rng.standard_normal(SHAPE)
        return Planted((noise - seen).astype(np.float32), truth, angles[2])

    return make


@pytest.fixture
def ctf() -> Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]:
    """CTF of the planted micrographs."""
    return optics_ctf
