"""A small refinement problem whose answer is known, and its likelihood image by image in real space."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posterion.data.mrc import read_map
from posterion.data.particles import Particles, Poses
from posterion.inference.images import ImageBatch, NoiseModel, prepare_images
from posterion.inference.priors import PosePrior
from posterion.inference.search import Level, SearchPlan
from posterion.inference.slice_sums import SliceSums
from posterion.physics.phantom import phantom_map
from posterion.physics.projection import FourierVolume
from posterion.physics.simulate import SimulationOptions, noise_free_images, simulate


class Problem(NamedTuple):
    """Particles with their true poses, their images, and the true map on the images' grey scale."""

    particles: Particles
    images: NDArray[np.float32]
    truth: NDArray[np.float32]

    @property
    def box(self) -> int:
        return self.images.shape[-1]

    @property
    def everyone(self) -> NDArray[np.int64]:
        return np.arange(len(self.particles))


def make_problem(folder: Path, box: int, pixel: float, **options: object) -> Problem:
    """Simulate images of the phantom with white noise of variance 1."""
    made = simulate([phantom_map(box, pixel)], pixel, folder, SimulationOptions(dtype="float32", **options))  # type: ignore[arg-type]
    particles = Particles.read(made.truth_path)
    return Problem(particles, particles.images(np.arange(len(particles))), read_map(made.map_paths[0])[0])


def white_noise(problem: Problem, sigma2: float = 1.0, scale: float = 1.0) -> NoiseModel:
    """Noise of variance ``sigma2`` per pixel, one group; its Fourier coefficients have ``n^2`` times that."""
    none = np.zeros(len(problem.particles), np.int32)
    spectrum = np.full((1, problem.box // 2 + 1), sigma2 * problem.box**2)
    return NoiseModel(spectrum, none, np.array([scale]), none)


def unmasked_batch(
    problem: Problem,
    radius: int,
    shift0_px: NDArray[np.float64] | None = None,
    noise: NoiseModel | None = None,
) -> ImageBatch:
    """All images prepared with a mask larger than the box."""
    shift0_px = np.zeros((len(problem.particles), 2)) if shift0_px is None else shift0_px
    noise = noise or white_noise(problem)
    return prepare_images(
        problem.particles, problem.everyone, problem.images, radius, 3.0 * problem.box, noise, shift0_px
    )


def one_level_plan(order: int, radius: int, shift_range_px: float, shift_step_px: float = 1.0) -> SearchPlan:
    """Score every cell of one grid, and keep all."""
    return SearchPlan(
        levels=(Level(order, radius, shift_step_px),),
        shift_range_px=shift_range_px,
        margin_nats=1e9,
        max_rotations=10**9,
        point_group="C1",
        grid_offset=np.eye(3),
        prior=PosePrior.uniform(1.5),
    )


def slices_of(parts: Iterable[SliceSums]) -> list[NDArray[np.generic]]:
    """Rotations (m, 3, 3), numerators (m, P) and weights (m, P) of all slices that would be inserted."""
    made: list[tuple[NDArray[np.generic], ...]] = []
    for own in parts:
        shape = len(own.matrices), own.moved_xp.shape[1]
        made.append((own.matrices, np.empty(shape, np.complex64), np.empty(shape, np.float32)))
        own.make(slice(None), slice(None), *made[-1][1:])  # type: ignore[arg-type]
    return [np.concatenate(arrays) for arrays in zip(*made, strict=True)]


def band_passed(images: NDArray[np.floating], radius: int) -> NDArray[np.float64]:
    """Images without their mean and without frequencies beyond a radius, by full complex FFTs."""
    n = images.shape[-1]
    k = np.fft.fftfreq(n, 1 / n)
    squared = k[:, None] ** 2 + k**2
    keep = (squared <= radius**2) & (squared > 0)
    return np.fft.ifft2(np.fft.fft2(images) * keep).real


def log_likelihood(
    problem: Problem,
    volume: FourierVolume,
    image: int,
    matrices: NDArray[np.float64],
    offsets_px: NDArray[np.float64],
    radius: int,
    scale: float = 1.0,
) -> NDArray[np.float64]:
    """``-sum_x (y - C S P V)^2 / 2`` of an image at m poses with offsets (m, 2), in real space; (m,)."""
    m = len(matrices)
    pixel = problem.particles.pixel_size_angstrom
    repeated = replace(
        problem.particles[np.full(m, image)], poses=Poses.from_matrices(matrices, offsets_px * pixel)
    )
    model = noise_free_images([volume], np.zeros(m, int), repeated, np.arange(m))
    difference = band_passed(problem.images[image] - scale * model, radius)
    return -0.5 * np.sum(difference**2, axis=(1, 2))
