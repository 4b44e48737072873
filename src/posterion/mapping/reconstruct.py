"""From sums over images to a map: the Wiener (MAP) solve, and reconstruction from known poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.compute import Workers
from posterion.data.outliers import LEFT_OUT, ScreenedParticles, screened
from posterion.data.particles import Particles
from posterion.data.unusable import usable_images
from posterion.errors import PosterionError
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.physics.ctf import ctf_at
from posterion.physics.fourier import Disc, disc_below_nyquist, fourier_transform_2d
from posterion.physics.padded_grid import PaddedGrid
from posterion.physics.projection import Accumulator, FourierVolume, map_of_transform
from posterion.physics.shifts import shift_phases
from posterion.physics.soft_masks import soft_sphere
from posterion.physics.symmetry import point_group_operators

__all__ = [
    "FLAT_PRIOR",
    "HalfSums",
    "Reconstruction",
    "centred_spectra",
    "half_ids",
    "reconstruct",
    "ssnr_from_fsc",
]

_BATCH = 64
_LEAST_WEIGHT = 1e-4  # of the best shell's: noise divided by less would leak from its shell into all others
FLAT_PRIOR = 0.3
"""Share of the mean weight of a shell that stands for k where the spectrum has no prior."""


@dataclass(frozen=True)
class HalfSums:
    """Numerator and weight of one half set on the padded grid, ready to be solved.

    Attributes
    ----------
    numerator : (D, D, W) complex64, ``sum_i P^T C_i X_i / sigma2``
    weight : (D, D, W) float32, ``sum_i P^T C_i^2 / sigma2``
    grid : where the voxels are
    """

    numerator: NDArray[np.complex64]
    weight: NDArray[np.float32]
    grid: PaddedGrid

    @classmethod
    def from_accumulator(cls, accumulator: Accumulator, point_group: str, workers: Workers) -> HalfSums:
        """Join Hermitian mates and apply the point group."""
        operators = point_group_operators(point_group)
        numerator, weight = accumulator.joined(operators, workers)
        return cls(numerator, weight, accumulator.grid)

    def add(self, other: HalfSums) -> None:
        """Add the sums of another half set, in place."""
        np.add(self.numerator, other.numerator, out=self.numerator)
        np.add(self.weight, other.weight, out=self.weight)

    def shell_weight(self) -> NDArray[np.float64]:
        """Mean weight per shell 0 .. radius, (radius + 1,)."""
        return self.grid.shell_sum(self.weight) / np.maximum(self.grid.voxels_s, 1)

    def join_below(self, other: HalfSums, shell_limit: int) -> None:
        """Put the mean of both halves below a shell into both, in place.

        Half maps then cannot drift apart in hand or origin.
        """
        reach = min(self.grid.padding * (shell_limit + 1), self.grid.centre)
        around = slice(self.grid.centre - reach, self.grid.centre + reach + 1)
        cube = (around, around, slice(reach + 1))
        low = self.grid.shells[cube] < shell_limit
        for own, others in ((self.numerator, other.numerator), (self.weight, other.weight)):
            mean = (own[cube][low] + others[cube][low]) / 2
            own[cube][low] = others[cube][low] = mean

    def solve(
        self,
        regularisation_s: NDArray[np.floating] | None,
        workers: int = 1,
        weight_s: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Compute ``V = numerator / (weight + k(s))`` and its map; see (L) "3D reconstruction", E-M update.

        Parameters
        ----------
        regularisation_s : (radius + 1,), ``k(s)``: sigma2/(T tau2) in the units of weight; where None, ``k``
            is three tenths of the shell's mean weight and the shell rescaled by 1.3: a map with no prior on
            its spectrum in which thinly covered voxels do not explode
        workers : threads of the FFT
        weight_s : (radius + 1,), `shell_weight` of these very sums, a tenth of the work, where it is at hand

        Returns
        -------
        (n, n, n) float32
        """
        limit = self.grid.radius
        # At Nyquist the voxels beyond the last whole shell hold data too, and the last shell leans on them.
        last = limit + (limit == (self.grid.box - 1) // 2)
        gain, weight_s = np.float32(1), self.shell_weight() if weight_s is None else weight_s
        if regularisation_s is None:
            regularisation_s = FLAT_PRIOR * weight_s
            gain = np.float32(1 + FLAT_PRIOR)
        least = max(_LEAST_WEIGHT * float(weight_s[1:].max()), 1e-30)
        floor_s = np.maximum(regularisation_s, least).astype(np.float32)

        def solved(rows: slice) -> NDArray[np.complex64]:
            shells = self.grid.shells[:, rows]
            denominator = (self.weight[:, rows] + floor_s[np.minimum(shells, limit)]) / gain
            values = self.numerator[:, rows] / denominator
            values[shells > last] = 0
            return values

        return map_of_transform(self.grid, solved, workers)

    def log_prior(self, volume: FourierVolume, regularisation_s: NDArray[np.floating]) -> float:
        """Compute the log of the prior behind `solve`, ``-1/2 sum_q k(s) |V_q|^2``, up to a constant.

        Added to the log-likelihood it is what expectation-maximisation with this ``k`` never lowers.

        Parameters
        ----------
        volume : of this box, radius and padding; q runs over its grid, both points of a Hermitian pair
        regularisation_s : (radius + 1,), ``k(s)`` as `solve` takes it
        """
        shells, pairs = self.grid.shells, np.ones(volume.values.shape[2])
        pairs[0] = 0.5
        power = pairs * np.sum(volume.values.astype(np.float64) ** 2, axis=-1)
        inside = shells <= self.grid.radius
        return -float(np.sum(power[inside] * regularisation_s[shells[inside]]))


def ssnr_from_fsc(fsc_s: NDArray[np.floating]) -> NDArray[np.float64]:
    """Spectral signal-to-noise ratio of one half map, ``FSC / (1 - FSC)``, FSC kept in [0.001, 0.999]."""
    clipped = np.clip(np.asarray(fsc_s, np.float64), 1e-3, 0.999)
    return clipped / (1 - clipped)


def centred_spectra(
    images: NDArray[np.float32], shifts_px: NDArray[np.floating], pixels: Disc
) -> NDArray[np.complex64]:
    """Transform images and move each by its origin offset: (n, box, box), (n, 2) -> (n, P)."""
    return pixels.take(fourier_transform_2d(images)) * shift_phases(pixels, shifts_px)


def half_ids(particles: Particles, seed: int = 0) -> NDArray[np.int8]:
    """Give half-set ids 1 and 2: those of the file, kept for ever, or a seeded random even split.

    Raises
    ------
    PosterionError
        When the file assigns particles to only one half, or only some particles.
    """
    present = np.unique(particles.half_i)
    if np.array_equal(present, [1, 2]):
        return particles.half_i
    if np.array_equal(present, [0]) and len(particles) > 1:
        half = 1 + np.arange(len(particles)) % 2
        return np.random.default_rng(seed).permutation(half).astype(np.int8)
    raise PosterionError(
        f"the half sets (rlnRandomSubset) of the {len(particles)} particles hold the values "
        f"{present.tolist()}; expected both 1 and 2: remove the column to have the halves drawn at random"
    )


@dataclass(frozen=True)
class Reconstruction:
    """What reconstruction from known poses gives.

    Attributes
    ----------
    map : (n, n, n) float32, Wiener map of all particles
    map_unfiltered : (n, n, n) float32, the same without regularisation
    half1, half2 : (n, n, n) float32, unregularised half maps
    fsc_s : (n//2+1,) float64, FSC of the half maps, unmasked
    fsc_sphere_s : (n//2+1,) float64, FSC inside the sphere that regularises the map
    left_out_i : (m,) int64, particles left out: their image is not of `usable_images`, or far too strong
    particles : the set, with the limits that it was screened with
    """

    map: NDArray[np.float32]
    map_unfiltered: NDArray[np.float32]
    half1: NDArray[np.float32]
    half2: NDArray[np.float32]
    fsc_s: NDArray[np.float64]
    fsc_sphere_s: NDArray[np.float64]
    left_out_i: NDArray[np.int64]
    particles: ScreenedParticles


def reconstruct(
    particles: Particles,
    point_group: str = "C1",
    diameter_angstrom: float | None = None,
    threads: int | None = None,
    seed: int = 0,
    observer: Callable[[int], None] | None = None,
) -> Reconstruction:
    """Reconstruct a map from particles with known poses: the many-image Wiener filter in three dimensions.

    ``V = sum_i P_i^T C_i X_i / (k(s) + sum_i P_i^T C_i^2)``, ``k`` from the spectral SNR of the half maps.

    Parameters
    ----------
    particles : particle set with poses
    point_group : symmetry, RELION's names and axes
    diameter_angstrom : diameter of the sphere inside which the FSC regularises; 90 % of the box where None
    threads : number of threads
    seed : for drawing half sets where the file has none
    observer : called with the number of particles after each batch

    Raises
    ------
    PosterionError
        When poses are missing or a half is empty.
    """
    with Workers(threads) as workers:
        half_i = half_ids(particles, seed)
        images = screened(particles)
        (both, other), left_out_i = _sums_of_halves(images, half_i, point_group, workers, observer)
        half1, half2 = (half.solve(None, workers.threads) for half in (both, other))
        both.add(other)
        box, pixel = particles.box_px, particles.pixel_size_angstrom
        diameter = diameter_angstrom if diameter_angstrom is not None else 0.9 * box * pixel
        sphere = soft_sphere(box, diameter / pixel / 2, edge_px=5)
        fsc_sphere = fourier_shell_correlation(half1 * sphere, half2 * sphere)
        ssnr_s = 2 * ssnr_from_fsc(fsc_sphere)[: both.grid.radius + 1]
        weight_s = both.shell_weight()
        return Reconstruction(
            map=both.solve(weight_s / ssnr_s, workers.threads, weight_s),
            map_unfiltered=both.solve(None, workers.threads, weight_s),
            half1=half1,
            half2=half2,
            fsc_s=fourier_shell_correlation(half1, half2),
            fsc_sphere_s=fsc_sphere,
            left_out_i=left_out_i,
            particles=images,
        )


def _sums_of_halves(
    particles: Particles,
    half_i: NDArray[np.int8],
    point_group: str,
    workers: Workers,
    observer: Callable[[int], None] | None,
) -> tuple[tuple[HalfSums, HalfSums], NDArray[np.int64]]:
    """Stream all images once into the accumulators of the two halves; also the particles left out."""
    box, pixel = particles.box_px, particles.pixel_size_angstrom
    poses = particles.require_poses()
    matrices = poses.matrices()
    shifts_px = np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], -1) / pixel
    pixels = disc_below_nyquist(box)
    accumulators = [Accumulator(box, pixels.radius), Accumulator(box, pixels.radius)]

    def prepare(
        batch: tuple[NDArray[np.int64], NDArray[np.float32]],
    ) -> tuple[NDArray[np.int64], NDArray[np.complex64], NDArray[np.float32]]:
        usable = usable_images(batch[1])
        index, images = batch[0][usable], batch[1][usable]
        ctf_ip = ctf_at(pixels.kx_p, pixels.ky_p, box, particles, index)
        return index, centred_spectra(images, shifts_px[index], pixels) * ctf_ip, ctf_ip**2

    used_i = np.zeros(len(particles), bool)
    for index, numerator_ip, weight_ip in workers.map_ordered(prepare, particles.batches(_BATCH)):
        for half, accumulator in enumerate(accumulators, start=1):
            own = half_i[index] == half
            accumulator.insert(matrices[index[own]], pixels, numerator_ip[own], weight_ip[own], workers)
        used_i[index] = True
        if observer is not None:
            observer(len(index))
    if not all(used_i[half_i == half].any() for half in (1, 2)):
        raise PosterionError(
            f"no image of one half set can be used: all {LEFT_OUT}; 'posterion doctor' says more"
        )
    # One after the other, each accumulator let go when its half is made: they are what takes most memory.
    first = HalfSums.from_accumulator(accumulators.pop(0), point_group, workers)
    second = HalfSums.from_accumulator(accumulators.pop(0), point_group, workers)
    return (first, second), np.flatnonzero(~used_i)
