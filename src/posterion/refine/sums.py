"""Sums of an expectation step over both halves, all that the maximisation step needs."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from posterion.inference.expectation import BatchExpectation
from posterion.inference.images import mask_area
from posterion.inference.polar import PolarSums
from posterion.inference.search import LevelCount, SearchPlan, total_counts
from posterion.inference.slice_sums import insert_slices
from posterion.mapping.reconstruct import HalfSums
from posterion.physics.fourier import Disc, disc
from posterion.physics.projection import Accumulator
from posterion.refine.context import RefineContext
from posterion.refine.state import ParticleEstimates, RefinementState
from posterion.refine.subsets import searched_count

__all__ = ["ExpectationSums"]

_LOG = logging.getLogger("posterion")

_LEAST_SHARE = 1e-3  # of the last noise variance: residuals are differences and may come out negative


class ExpectationSums:
    """Sums of one expectation step over both halves; added in order, so the bits are always the same.

    Parameters
    ----------
    context, state : the run and where it stands
    plan : how poses were searched
    radius : highest shell collected for the maximisation step; None where none follows

    Attributes
    ----------
    accumulators : numerator and weight of each half; none without a maximisation step
    searched : images that were looked at
    estimates : of each particle
    noise_gs, count_g : residual power per shell and number of images per noise group
    cross_g, square_g : agreement with the reference per scale group
    scored : rotations scored at the last level, over all images
    counts : poses scored and kept at each level of the grid search, over all images
    gaussian : images whose posterior is a sum of Gaussians
    diverged : images that kept the grid because their optimiser found no peak
    """

    def __init__(
        self, context: RefineContext, state: RefinementState, plan: SearchPlan, radius: int | None
    ) -> None:
        groups, shells = state.sigma2_gs.shape
        self._context, self._sigma2_gs = context, state.sigma2_gs
        self._compared = disc(context.box, plan.radius)
        self._collected = None if radius is None else disc(context.box, radius)
        self.accumulators = [] if radius is None else [Accumulator(context.box, radius) for _ in range(2)]
        self._turned: list[PolarSums | None] = [None, None]
        self.noise_gs = np.zeros((groups, shells))
        self.count_g = np.zeros(groups)
        self.cross_g, self.square_g = np.zeros((2, len(state.scale_g)))
        self.estimates = ParticleEstimates.empty(len(context.particles))
        self.searched = searched_count(context.half_i, state.search.subset)
        self.scored = self.gaussian = self.diverged = 0
        self.counts: tuple[LevelCount, ...] = ()

    def add(self, part: BatchExpectation, half: int) -> None:
        """Add one batch of a half (0 or 1)."""
        if self._collected is not None:
            self._insert(part, half, self._collected)
        self.estimates.put(part)
        self._add_noise(part)
        scale_group = self._context.scale_group_i[part.index_i]
        np.add.at(self.cross_g, scale_group, part.cross_is.sum(axis=1))
        np.add.at(self.square_g, scale_group, part.square_is.sum(axis=1))
        self.scored += int(part.scored_i.sum())
        self.counts = total_counts([self.counts, part.counts])
        self.gaussian += part.gaussian
        self.diverged += part.diverged

    def _insert(self, part: BatchExpectation, half: int, pixels: Disc) -> None:
        insert_slices(part.sums, self.accumulators[half], pixels, self._context.workers)
        if part.turned is not None:
            self._turned[half] = part.turned.added_to(self._turned[half])

    def _add_noise(self, part: BatchExpectation) -> None:
        """Add ``|y|^2 - 2 y.R + |R|^2`` per shell, of masked images, scaled to the whole image's area."""
        group = self._context.noise_group_i[part.index_i]
        area = mask_area(self._context.box, self._context.diameter_px)
        count_s = np.maximum(self._compared.shell_sum(self._compared.multiplicity_p), 1)
        used = slice(0, self._compared.radius + 1)
        explained_is = (2 * part.cross_is - part.square_is) / (count_s * area)
        residual_is = part.masked_power_is.copy()
        residual_is[:, used] -= self._sigma2_gs[group, used] * explained_is
        np.add.at(self.noise_gs, group, residual_is)
        np.add.at(self.count_g, group, 1)

    def take_halves(self) -> tuple[HalfSums, HalfSums]:
        """Hand over the sums of both halves; each accumulator, the largest array, is let go on the way."""
        group, workers = self._context.config.point_group, self._context.workers
        for turned, accumulator in zip(self._turned, self.accumulators, strict=True):
            if turned is not None:
                turned.insert(accumulator, workers)
        first = HalfSums.from_accumulator(self.accumulators.pop(0), group, workers)
        return first, HalfSums.from_accumulator(self.accumulators.pop(0), group, workers)

    def sigma2_gs(self) -> NDArray[np.float64]:
        """Compute new noise spectra; a group of which no image was used keeps its old one.

        Where the residual is less than a thousandth of the last noise, or negative, that thousandth takes its
        place; a warning names the shells where images have been compared.
        """
        mean_gs = self.noise_gs / np.maximum(self.count_g, 1)[:, None]
        smallest = _LEAST_SHARE * self._sigma2_gs
        self._warn_of_cut((mean_gs < smallest) & (self.count_g[:, None] > 0))
        return np.where(self.count_g[:, None] > 0, np.maximum(mean_gs, smallest), self._sigma2_gs)

    def _warn_of_cut(self, cut_gs: NDArray[np.bool_]) -> None:
        """Say of which groups and shells the noise has been cut; not of shell 0, which says nothing."""
        particles, group_i = self._context.particles, self._context.noise_group_i
        where = []
        for group in np.flatnonzero(cut_gs.any(axis=1)):
            shells = 1 + np.flatnonzero(cut_gs[group, 1 : self._compared.radius + 1])
            name = particles.optics[particles.optics_index_i[np.argmax(group_i == group)]].name
            if len(shells):
                where.append(f"optics group '{name}', shells {', '.join(map(str, shells))}")
        if where:
            _LOG.warning(
                "images differ from the reference by less than a thousandth of the last noise variance, as "
                "only images without noise should; that thousandth is taken for noise: %s",
                "; ".join(where),
            )

    def scale_g(self, old_g: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute new intensity scales ``sum y.R / sum |R|^2`` per group, relative to their mean."""
        ratio_g = np.where(self.square_g > 0, self.cross_g / np.maximum(self.square_g, 1e-30), 1.0)
        new_g = old_g * np.clip(ratio_g, 0.2, 5.0)
        return np.asarray(new_g / new_g.mean())
