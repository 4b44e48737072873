"""Random volumes, CTFs and noise on a small disc, and scores of poses written out pixel by pixel."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.inference.images import ImageBatch
from posterion.inference.priors import PosePrior
from posterion.inference.search import SearchPlan
from posterion.physics.fourier import disc
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import matrices_from_rotation_vectors

SLICES = runpy.run_path(str(Path(__file__).with_name("slices_reference.py")))
BOX = 16


def random_volume(rng: np.random.Generator, radius: int, width_px: float) -> FourierVolume:
    """Random blobs within half a box."""
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    density = np.zeros((BOX,) * 3)
    for _ in range(8):
        centre = rng.uniform(-4, 4, 3)
        squared = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
        density += rng.normal() * np.exp(-squared / (2 * width_px**2))
    return FourierVolume.from_map(density.astype(np.float32), radius)


def random_batch(
    rng: np.random.Generator, volume: FourierVolume, nats: float, prior: PosePrior, noisy: bool = True
) -> tuple[ImageBatch, NDArray[np.float64], NDArray[np.float64]]:
    """One image with random pose, CTF and noise spectrum, about ``nats`` at its pose; and that pose."""
    images = 1
    pixels = disc(BOX, volume.radius)
    matrices = matrices_from_rotation_vectors(rng.normal(0, 2, (images, 3)))
    model = slow_slices(volume, matrices)
    defocus = rng.uniform(0.02, 0.3, (images, 1))
    ctf = np.sin(0.3 + defocus * (pixels.kx_p**2 + pixels.ky_p**2)) * rng.uniform(0.5, 1.5, (images, 1))
    shifts = rng.normal(0, prior.offset_sigma_px / 2, (images, 2))
    phase = np.exp(2j * np.pi / BOX * (shifts[:, :1] * pixels.kx_p + shifts[:, 1:] * pixels.ky_p))
    signal = ctf * model * phase
    shell_noise = rng.uniform(0.5, 2, (images, pixels.radius + 1))[:, pixels.shell_p]
    weight = np.where(pixels.shell_p == 0, 0, pixels.multiplicity_p)
    now = 0.5 * np.sum(weight * np.abs(signal) ** 2 / shell_noise, axis=1).mean()
    sigma2 = shell_noise * now / nats
    noise = (rng.normal(size=signal.shape) + 1j * rng.normal(size=signal.shape)) * np.sqrt(sigma2 / 2)
    y = signal + noise * noisy
    batch = ImageBatch(
        index_i=np.arange(images),
        pixels=pixels,
        whitened_ip=(weight * ctf * y / sigma2).astype(np.complex64),
        ctf2_ip=(weight * ctf**2 / sigma2).astype(np.float32),
        data_ip=(ctf * y / sigma2).astype(np.complex64),
        power_ip=(0.5 * weight * np.abs(y) ** 2 / sigma2).astype(np.float32),
        masked_power_is=np.zeros((images, BOX // 2 + 1)),
        shift0_px=np.zeros((images, 2)),
        finite_i=np.ones(images, bool),
    )
    return batch, matrices, shifts


def slow_slices(volume: FourierVolume, matrices: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Central slices by gathering eight neighbours on the whole complex grid."""
    pixels = disc(volume.box, volume.radius)
    half = volume.values.view(np.complex64)[..., 0].astype(np.complex128)
    centre = (half.shape[0] - 1) // 2
    grid = SLICES["whole_grid"](half, centre)
    where = SLICES["positions"](matrices, pixels.kx_p, pixels.ky_p, volume.padding)
    found: NDArray[np.complex128] = SLICES["trilinear_slices"](grid, where, (centre,) * 3)
    return found


def slow_log_likelihood(
    batch: ImageBatch,
    volume: FourierVolume,
    matrices: NDArray[np.float64],
    shifts_px: NDArray[np.float64],
    radius: int,
) -> NDArray[np.float64]:
    """Log-likelihood of the first image at poses (m) over the pixels with ``|k| <= radius``."""
    pixels = batch.pixels
    model = slow_slices(volume, matrices)
    turn = np.outer(shifts_px[:, 0], pixels.kx_p) + np.outer(shifts_px[:, 1], pixels.ky_p)
    moved = batch.whitened_ip[0] * np.exp(-2j * np.pi / pixels.box * turn)
    cross = moved.real * model.real + moved.imag * model.imag
    terms = cross - 0.5 * batch.ctf2_ip[0] * np.abs(model) ** 2
    found: NDArray[np.float64] = terms[:, np.hypot(pixels.kx_p, pixels.ky_p) <= radius].sum(axis=1)
    return found


def slow_scores(
    batch: ImageBatch,
    volume: FourierVolume,
    plan: SearchPlan,
    matrices: NDArray[np.float64],
    shifts_px: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Log-probability of poses (m) over the plan's whole band, with the last level's prior mass."""
    prior = plan.prior.of_rotations(matrices) + plan.prior.of_shifts(shifts_px, plan.levels[-1].shift_step_px)
    return prior + slow_log_likelihood(batch, volume, matrices, shifts_px, plan.radius)


def random_plan(rng: np.random.Generator, plan: SearchPlan) -> SearchPlan:
    """Turn a plan's grid at random and give it a preferred direction."""
    turn = matrices_from_rotation_vectors(rng.normal(0, 1, (1, 3)))[0]
    directions = rng.normal(0, 0.5, len(plan.prior.log_direction_d))
    return replace(plan, grid_offset=turn, prior=replace(plan.prior, log_direction_d=directions))
