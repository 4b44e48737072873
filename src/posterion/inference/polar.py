"""The dense pass by harmonics: all turns in the plane at once, where posteriors cover many orientations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from posterion.compute import Workers
from posterion.inference.images import ImageBatch, PolarImages
from posterion.inference.posterior import Posterior, Support, posterior_of
from posterion.inference.search import LevelCount, SearchPlan
from posterion.kernels import shift_samples
from posterion.physics.fourier import disc
from posterion.physics.polar import Band, PolarGrid
from posterion.physics.projection import Accumulator, FourierVolume
from posterion.physics.sampling import shift_lattice

__all__ = ["PolarReference", "PolarSums", "expect_polar", "polar_log_prob"]

Real = NDArray[np.float32]
Complex = NDArray[np.complex64]

_CHUNK_BYTES = 2**23
_DIRECTIONS_TOGETHER = 32


class _Harmonics:
    """Harmonics of D slices as matrices: ``conj(s_m) y_m`` summed over rings, and the transpose of that.

    ``Re sum_m conj(s_m) y_m exp(-i m psi)`` is the inner product with the slice turned by psi.

    Parameters
    ----------
    bands : harmonics and the rings that have them
    slices : (H, 2, J, D) float32
    """

    def __init__(self, bands: list[Band], slices: Real) -> None:
        self.bands, self.rings = bands, slices.shape[2]
        self.parts = []
        for m, rings in bands:
            re, im = slices[m, 0, rings], slices[m, 1, rings]
            rows = np.stack([np.stack([re, im], 1), np.stack([-im, re], 1)], 1)  # m, out, in, ring, direction
            flat = np.moveaxis(rows, 4, 2).reshape(len(re), 2 * re.shape[2], 2 * re.shape[1])
            self.parts.append(np.ascontiguousarray(flat))

    def apply(self, images: Real) -> Real:
        """Compare images (H, 2, J, x) with all slices: (2 H, D x), real and imaginary parts by turns."""
        x = images.shape[-1]
        out = np.empty((len(images), self.parts[0].shape[1], x), np.float32)
        for (m, rings), part in zip(self.bands, self.parts, strict=True):
            np.matmul(part, np.ascontiguousarray(images[m, :, rings]).reshape(len(part), -1, x), out=out[m])
        return out.reshape(2 * len(images), -1)

    def transpose(self, turned: Real) -> Real:
        """Sum slices with the weights of turns (H, 2, D, x): (H, 2, J, x)."""
        x = turned.shape[-1]
        out = np.zeros((len(turned), 2, self.rings, x), np.float32)
        for (m, rings), part in zip(self.bands, self.parts, strict=True):
            own = part.transpose(0, 2, 1) @ turned[m].reshape(len(part), -1, x)
            out[m, :, rings] = own.reshape(len(part), 2, -1, x)
        return out


@dataclass(frozen=True)
class PolarReference:
    """Slices of one volume along the directions of a plan's only level, as harmonics; once per E-step.

    Attributes
    ----------
    grid, collected : rings that are compared, and that the M-step collects
    frames : (D, 3, 3) float64, rotation of each direction at the grid's first in-plane angle
    matrices : (psi D, 3, 3) float64, all rotations, in-plane angles outermost
    step_deg : angular step of the grid
    shifts_px : (T, 2) float64
    phases_pt, collected_phases_pt : (A J, T) complex64, of the shifts on both grids' samples
    log_prior_d : (D,) float32
    slices, powers : harmonics of the slices, and of their squared moduli, which have even ones only
    share_r : (psi D,) float32 or None, see `Support`
    """

    grid: PolarGrid
    collected: PolarGrid
    frames: NDArray[np.float64]
    matrices: NDArray[np.float64]
    step_deg: float
    shifts_px: NDArray[np.float64]
    phases_pt: Complex
    collected_phases_pt: Complex
    log_prior_d: Real
    slices: _Harmonics
    powers: _Harmonics
    share_r: Real | None = None

    @classmethod
    def of(
        cls,
        map_: NDArray[np.float32],
        plan: SearchPlan,
        grid: PolarGrid,
        collected: PolarGrid,
        workers: int = 1,
    ) -> PolarReference:
        """Slice a map along the directions of a plan's only level.

        Parameters
        ----------
        map_ : (n, n, n) float32
        plan : search plan with one level
        grid, collected : see the attributes
        workers : threads of the FFT
        """
        volume = FourierVolume.from_map(map_, grid.needed_radius, workers=workers)
        rotations = plan.grid(0)
        cell = rotations.all_cells(plan.point_group).reshape(-1, rotations.n_psi)
        frames = rotations.matrices(cell[:, 0])
        pixels = disc(volume.box, volume.radius)
        samples = grid.sample(pixels.put(volume.slices(frames, pixels)))
        samples = samples.reshape(grid.angles, -1, len(frames))
        re, im = np.ascontiguousarray(samples.real), np.ascontiguousarray(samples.imag)
        shifts_px = shift_lattice(plan.shift_range_px, plan.levels[0].shift_step_px)
        return cls(
            grid=grid,
            collected=collected,
            frames=frames,
            matrices=rotations.matrices(cell.T.ravel()),
            step_deg=rotations.step_deg,
            shifts_px=shifts_px,
            phases_pt=grid.shift_phases(shifts_px),
            collected_phases_pt=collected.shift_phases(shifts_px),
            log_prior_d=plan.prior.of_rotations(frames),
            slices=_Harmonics(grid.bands(), grid.analyse(re, im)),
            powers=_Harmonics(grid.bands(even=True), grid.analyse(re**2 + im**2)),
            share_r=plan.shares(0, cell.T.ravel()),
        )

    @property
    def image_bytes(self) -> int:
        """Memory of one image's samples on both grids."""
        return 12 * (len(self.phases_pt) + len(self.collected_phases_pt))

    @property
    def turns(self) -> int:
        """Number of in-plane angles."""
        return len(self.matrices) // len(self.frames)

    @cached_property
    def compared_waves(self) -> Real:
        """`_waves` of the compared harmonics, each as often as it stands for -m too."""
        return self._waves(self.grid.harmonics) * np.repeat(self.grid.mates_m, 2)[:, None]

    @cached_property
    def collected_waves(self) -> Real:
        """`_waves` of the harmonics that the M-step collects."""
        return self._waves(self.collected.harmonics)

    def _waves(self, harmonics: NDArray[np.intp]) -> Real:
        """``cos(m psi), sin(m psi)``, by turns: (2 H, psi) float32."""
        angle = np.outer(harmonics, np.arange(self.turns) * (2 * np.pi / self.turns))
        return np.stack([np.cos(angle), np.sin(angle)], 1).reshape(-1, self.turns).astype(np.float32)


@dataclass
class PolarSums:
    """What images add to the M-step along each direction: harmonics of numerators and weights.

    Attributes
    ----------
    frames : (D, 3, 3) float64, rotations that the sums are turned to
    grid : rings and harmonics
    numerator : (H, 2, J, D) float32, of ``sum_i sum_psi,t Gamma C y / sigma2``, turned and shifted back
    weight : (even H, 2, J, D) float32, of ``C^2 / sigma2`` likewise
    """

    frames: NDArray[np.float64]
    grid: PolarGrid
    numerator: Real
    weight: Real

    @classmethod
    def zero(cls, frames: NDArray[np.float64], grid: PolarGrid) -> PolarSums:
        """Nothing added yet."""
        shape = 2, len(grid.ring_k), len(frames)
        numerator, weight = (np.zeros((h, *shape), np.float32) for h in (grid.count, grid.even_count))
        return cls(frames, grid, numerator, weight)

    def added_to(self, total: PolarSums | None) -> PolarSums:
        """Add to what other images have added, in place; None where these are the first."""
        if total is None:
            return self
        total.numerator += self.numerator
        total.weight += self.weight
        return total

    def insert(self, accumulator: Accumulator, workers: Workers | None = None) -> None:
        """Insert along rays, one for each angle of each direction; samples count by their area."""
        grid = self.grid
        # Rays cover half the plane; the other half are the Hermitian mates.
        area_j = grid.ring_area / (2 * grid.angles)
        for first in range(0, len(self.frames), _DIRECTIONS_TOGETHER):
            some = slice(first, first + _DIRECTIONS_TOGETHER)
            numerator, weight = (
                (grid.synthesise(h[..., some]) * area_j[:, None]).transpose(0, 2, 1).reshape(-1, len(area_j))
                for h in (self.numerator, self.weight)
            )
            steps = grid.ray_steps(self.frames[some]).reshape(-1, 3)
            accumulator.insert_rays(steps, numerator, np.maximum(weight.real, 0), workers)


def expect_polar(
    batch: ImageBatch, reference: PolarReference, plan: SearchPlan, mass: float
) -> tuple[list[Posterior], NDArray[np.float64], NDArray[np.float64], PolarSums]:
    """Posterior of each image over all rotations and shifts of a grid, and what they add to the M-step.

    ``log_prob_rt`` and the sums are those of docs/theory.md 4 and 5, with rings in place of pixels.

    Parameters
    ----------
    batch : prepared images, on polar samples too
    reference : slices
    plan : search plan with one level
    mass : share of each posterior to keep

    Returns
    -------
    posteriors : of each image
    cross_is, square_is : (n, radius + 1) float64, see `posterion.inference.contributions.ImageTerms`
    sums : for the M-step
    """
    images = batch.on_rings
    scores = len(reference.matrices) * len(reference.shifts_px)
    size = max(1, _CHUNK_BYTES // (4 * scores))
    sums = PolarSums.zero(reference.frames, reference.collected)
    posteriors: list[Posterior] = []
    cross: list[NDArray[np.float64]] = []
    square: list[NDArray[np.float64]] = []
    for first in range(0, len(batch), size):
        rows = slice(first, min(first + size, len(batch)))
        some = _Chunk.compared(batch, rows, reference, plan, mass)
        posteriors += some.posteriors
        for values, own in zip((cross, square), some.agreement(reference), strict=True):
            values.append(own)
        some.add_to(sums, images, rows, reference)
    shells = reference.grid.shell_sum
    return posteriors, shells(np.concatenate(cross)), shells(np.concatenate(square)), sums


def polar_log_prob(
    batch: ImageBatch, rows: slice, reference: PolarReference, plan: SearchPlan
) -> tuple[Real, Real, Real]:
    """Score some images of a batch at all turns of all directions and at all shifts.

    Parameters
    ----------
    batch : prepared images, on polar samples too
    rows : which of them, n
    reference : slices
    plan : search plan with one level

    Returns
    -------
    log_prob : (psi, D, n, T) float32, log-likelihood plus log prior
    y : (H, 2, J, n T) float32, harmonics of the shifted images
    ctf2 : (even H, 2, J, n) float32, harmonics of ``C^2 / sigma2``
    """
    grid, n, t = reference.grid, rows.stop - rows.start, len(reference.shifts_px)
    image_x, shift_x = np.repeat(np.arange(n), t), np.tile(np.arange(t), n)
    images = batch.on_rings
    y = _moved(grid, images.whitened_pi[:, rows], reference.phases_pt, image_x, shift_x)
    ctf2 = _real_harmonics(grid, images.ctf2_pi[:, rows])
    waves, cross = reference.compared_waves, reference.slices.apply(y)
    total_px = batch.shift0_px[rows, None] + reference.shifts_px
    log_prior_nt = plan.prior.of_shifts(total_px, plan.levels[0].shift_step_px)
    # What is the same for all turns joins the harmonic m = 0, which is one row and not one for each turn.
    cross[0] += (reference.log_prior_d[:, None, None] + log_prior_nt).ravel()
    log_prob = np.asarray(waves.T @ cross, np.float32).reshape(reference.turns, -1, n, t)
    norm = waves[: 2 * len(ctf2)].T @ reference.powers.apply(ctf2)
    log_prob -= norm.reshape(*log_prob.shape[:3], 1) / 2
    return log_prob, y, ctf2


@dataclass(frozen=True)
class _Chunk:
    """A few images, their posteriors, and their harmonics at the shifts that have any weight.

    Attributes
    ----------
    posteriors : n of them
    image_x, shift_x : (X,) pairs of an image and one of its shifts
    gamma_rx : (psi D, X) float32, posterior at these
    gamma_ri : (psi D, n) float32, summed over shifts
    y_x : (H, 2, J, X) float32, harmonics of the moved images
    ctf2_i : (even H, 2, J, n) float32, harmonics of ``C^2 / sigma2``
    """

    posteriors: list[Posterior]
    image_x: NDArray[np.intp]
    shift_x: NDArray[np.intp]
    gamma_rx: Real
    gamma_ri: Real
    y_x: Real
    ctf2_i: Real

    @classmethod
    def compared(
        cls, batch: ImageBatch, rows: slice, reference: PolarReference, plan: SearchPlan, mass: float
    ) -> _Chunk:
        """Compare images with all slices, at all turns and shifts."""
        log_prob, y, ctf2 = polar_log_prob(batch, rows, reference, plan)
        n, t = log_prob.shape[2:]
        posteriors = [_posterior(reference, log_prob[:, :, i], mass) for i in range(n)]
        gamma_rx, kept_x = [], []
        for i, own in enumerate(posteriors):
            gamma_rx.append(np.zeros((len(reference.matrices), len(own.shift_t)), np.float32))
            gamma_rx[-1][own.rotation_r] = own.weight_rt
            kept_x.append(i * t + own.shift_t)
        kept = np.concatenate(kept_x)
        gamma_ri = np.stack([own.sum(axis=1) for own in gamma_rx], 1)
        return cls(posteriors, kept // t, kept % t, np.concatenate(gamma_rx, 1), gamma_ri, y[..., kept], ctf2)

    def agreement(self, reference: PolarReference) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``Re(conj(R) X)`` and ``|R|^2`` with the references that the posteriors expect, by ring: (n, J)."""
        grid, waves = reference.grid, reference.compared_waves
        expected = reference.slices.transpose(self._turned(waves, self.gamma_rx))
        cross_xj = np.einsum("mcjx,mcjx->xj", expected, self.y_x)
        cross_ij = np.zeros((len(self.posteriors), len(grid.ring_k)))
        np.add.at(cross_ij, self.image_x, cross_xj)
        expected = reference.powers.transpose(self._turned(waves[: 2 * grid.even_count], self.gamma_ri))
        return cross_ij, np.einsum("mcjx,mcjx->xj", expected, self.ctf2_i).astype(np.float64)

    def add_to(self, sums: PolarSums, images: PolarImages, rows: slice, reference: PolarReference) -> None:
        """Turn and shift the images back by every pose, add them with its weight."""
        grid, waves = sums.grid, reference.collected_waves
        y = _moved(grid, images.data_pi[:, rows], reference.collected_phases_pt, self.image_x, self.shift_x)
        _add_products(sums.numerator, y, self._turned(waves, self.gamma_rx), grid.bands())
        ctf2 = _real_harmonics(grid, images.inserted_ctf2_pi[:, rows])
        turned = self._turned(waves[: 2 * grid.even_count], self.gamma_ri)
        _add_products(sums.weight, ctf2, turned, grid.bands(even=True))

    @staticmethod
    def _turned(waves: Real, gamma_rx: Real) -> Real:
        """``sum_psi Gamma (cos m psi, sin m psi)``: (H, 2, D, X)."""
        turns = waves.shape[1]
        return (waves @ gamma_rx.reshape(turns, -1)).reshape(len(waves) // 2, 2, -1, gamma_rx.shape[1])


def _posterior(reference: PolarReference, log_prob: Real, mass: float) -> Posterior:
    """Posterior of one image from its scores (psi, D, T)."""
    scores = np.ascontiguousarray(log_prob).reshape(len(reference.matrices), -1)
    counts = (LevelCount(scores.size, scores.size),)
    slices = np.empty((0, 0), np.complex64)
    support = Support(
        reference.matrices,
        reference.shifts_px,
        scores,
        slices,
        reference.step_deg,
        counts,
        share_r=reference.share_r,
    )
    return posterior_of(support, mass)


def _moved(
    grid: PolarGrid,
    samples_pi: Complex,
    phases_pt: Complex,
    image_x: NDArray[np.intp],
    shift_x: NDArray[np.intp],
) -> Real:
    """Harmonics (H, 2, J, X) of images (A J, n), each moved by some of the shifts (A J, T)."""
    parts = np.empty((2, len(samples_pi), len(image_x)), np.float32)
    shift_samples(np.ascontiguousarray(samples_pi), phases_pt, image_x, shift_x, parts)
    re, im = parts.reshape(2, grid.angles, -1, len(image_x))
    return grid.analyse(re, im)


def _real_harmonics(grid: PolarGrid, samples_pi: Real) -> Real:
    """Even harmonics (even H, 2, J, n) of real samples (A J, n)."""
    return grid.analyse(np.ascontiguousarray(samples_pi).reshape(grid.angles, -1, samples_pi.shape[1]))


def _add_products(out: Real, images: Real, turned: Real, bands: list[Band]) -> None:
    """Add ``sum_x y_m exp(-i m psi)``: images (H, 2, J, X) and turns (H, 2, D, X) to sums (H, 2, J, D)."""
    for m, rings in bands:
        cosine, sine = turned[m, 0].transpose(0, 2, 1), turned[m, 1].transpose(0, 2, 1)
        re, im = images[m, 0, rings], images[m, 1, rings]
        out[m, 0, rings] += re @ cosine + im @ sine
        out[m, 1, rings] += im @ cosine - re @ sine
