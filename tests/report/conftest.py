"""A small particle set with known poses, made once and written for each test as it needs it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.data.mrc import write_stack
from posterion.physics.ctf import contrast_transfer
from posterion.physics.fourier import frequencies_2d, inverse_fourier_transform_2d, phase_shift
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import euler_from_matrices, matrices_from_rotation_vectors

BOX, PIXEL = 32, 4.0
OPTICS_COLUMNS = ("OpticsGroupName", "OpticsGroup", "Voltage", "SphericalAberration", "AmplitudeContrast")
OPTICS_COLUMNS += ("ImagePixelSize", "ImageSize", "ImageDimensionality")


@dataclass
class ParticleSet:
    """Images and columns that a test may change before it writes them."""

    images: NDArray[np.float32]
    columns: dict[str, list[Any]]
    optics: dict[str, Any]

    def write(self, folder: Path) -> Path:
        """Write particles.mrcs and particles.star, return the latter."""
        write_stack(folder / "particles.mrcs", self.images, PIXEL)
        return self.write_star(folder)

    def write_star(self, folder: Path) -> Path:
        optics = [f"_rln{name} #{i}" for i, name in enumerate(self.optics, 1)]
        names = [f"_rln{name} #{i}" for i, name in enumerate(self.columns, 1)]
        rows = [" ".join(str(value) for value in row) for row in zip(*self.columns.values(), strict=True)]
        lines = ["data_optics", "", "loop_", *optics, " ".join(str(value) for value in self.optics.values())]
        lines += ["", "", "data_particles", "", "loop_", *names, *rows, ""]
        path = folder / "particles.star"
        path.write_text("\n".join(lines))
        return path


def _volume() -> NDArray[np.float32]:
    """A handful of blobs without symmetry, bright, in a box of 32."""
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*[np.arange(BOX) - BOX // 2] * 3, indexing="ij"), -1)
    centres = rng.uniform(-7, 7, (12, 3))
    blobs = [np.exp(-np.sum((grid - centre) ** 2, -1) / (2 * 1.3**2)) for centre in centres]
    return np.sum(blobs, 0).astype(np.float32)


@pytest.fixture(scope="session")
def _truth() -> tuple[NDArray[np.float32], dict[str, list[Any]]]:
    rng = np.random.default_rng(1)
    n = 240
    vectors = rng.standard_normal((n, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    angle = 2 * np.arccos(np.clip(vectors[:, :1], -1, 1))
    axis = vectors[:, 1:] / np.linalg.norm(vectors[:, 1:], axis=1, keepdims=True)
    matrices = matrices_from_rotation_vectors(angle * axis)
    shifts_px = rng.normal(0, 2.0, (n, 2))
    defocus = rng.uniform(10_000, 20_000, n)
    kx, ky = np.broadcast_arrays(*frequencies_2d(BOX))
    edge = BOX * PIXEL
    optics = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
    ctf = contrast_transfer(kx.ravel() / edge, ky.ravel() / edge, defocus, defocus, np.zeros(n), **optics)
    projections = FourierVolume.from_map(_volume()).project(matrices)
    spectra = phase_shift(projections, -shifts_px) * ctf.reshape(projections.shape)
    images = inverse_fourier_transform_2d(spectra, BOX)
    images = images / images.std() * np.sqrt(0.3) + rng.standard_normal(images.shape)
    rot, tilt, psi = euler_from_matrices(matrices)
    columns = {
        "ImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(n)],
        "MicrographName": [f"micrograph{i % 4}.mrc" for i in range(n)],
        "CoordinateX": [float(v) for v in 100 + 3 * np.arange(n)],
        "CoordinateY": [50.0] * n,
        "DefocusU": defocus.tolist(),
        "DefocusV": defocus.tolist(),
        "DefocusAngle": [0.0] * n,
        "AngleRot": rot.tolist(),
        "AngleTilt": tilt.tolist(),
        "AnglePsi": psi.tolist(),
        "OriginXAngst": (PIXEL * shifts_px[:, 0]).tolist(),
        "OriginYAngst": (PIXEL * shifts_px[:, 1]).tolist(),
        "OpticsGroup": [1] * n,
        "RandomSubset": [1 + i % 2 for i in range(n)],
    }
    return images.astype(np.float32), columns


@pytest.fixture
def particle_set(_truth: tuple[NDArray[np.float32], dict[str, list[Any]]]) -> ParticleSet:
    """A sound set of 240 images, box 32, 4 A/px, that the test may spoil."""
    images, columns = _truth
    values = ("og1", 1, 300.0, 2.7, 0.1, PIXEL, BOX, 2)
    optics = dict(zip(OPTICS_COLUMNS, values, strict=True))
    return ParticleSet(images.copy(), {name: list(column) for name, column in columns.items()}, optics)
