"""How many operations a search does, counted while it runs, beside the lecture's formula for brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import pi

import numpy as np
from numpy.typing import NDArray

from posterion.inference.expectation import BatchExpectation
from posterion.inference.likelihood import Real, Score
from posterion.inference.search import SearchPlan
from posterion.physics.fourier import Disc
from posterion.physics.projection import FourierVolume
from posterion.report.bench_harmonics import HarmonicCounts

__all__ = [
    "Climbed",
    "Compared",
    "CountedVolume",
    "LectureCount",
    "OperationCounts",
    "Tally",
    "lecture_operations",
    "operation_counts",
]

_GATHER = 8 * 2  # trilinear: eight corners of a complex volume
_SCATTER = 8 * 3  # eight corners, numerator and weight
_CROSS, _NORM = 2, 1  # real part of a complex product; a product of real numbers
# One coefficient of a pose scored with its derivatives, as `kernels/bodies.py` has it: position 9, value and
# slopes 44, shift 8, derivatives along two directions 20, sums 51.
_CLIMB = 9 + 44 + 8 + 20 + 51
_NO_HARMONICS = HarmonicCounts()
_SECONDS_PER_YEAR = 365.25 * 86400
_LECTURE_RATE = 1e9  # operations per second that make the lecture's 6e17 its 19 CPU-years


@dataclass(frozen=True)
class LectureCount:
    """Operations of brute force, as the lecture counts them.

    Attributes
    ----------
    orientations : finding orientations
    reconstruction : 3D reconstruction
    """

    orientations: float
    reconstruction: float

    @property
    def total(self) -> float:
        """Both."""
        return self.orientations + self.reconstruction

    def cpu_years(self, operations_per_second: float = _LECTURE_RATE) -> float:
        """Years on one core of a given rate, one multiply-add counting as one operation."""
        return self.total / operations_per_second / _SECONDS_PER_YEAR


def lecture_operations(n_particles: int, box_px: int, shifts_per_axis: int = 7) -> LectureCount:
    """Compute ``(pi^3/8) t^2 n^5 N + pi n^4 + N n^2``, see (L) "orientation determination".

    With N = 1e5, n = 128, t = 7: 6e17, 19 CPU-years at 1e9 operations a second.

    Parameters
    ----------
    n_particles : N
    box_px : n, pixels
    shifts_per_axis : t, shifts tried along each axis
    """
    orientations = pi**3 / 8 * shifts_per_axis**2 * float(box_px) ** 5 * n_particles
    return LectureCount(orientations, pi * float(box_px) ** 4 + n_particles * float(box_px) ** 2)


@dataclass(frozen=True)
class Compared:
    """What was compared on one disc of Fourier pixels; counts are over all images.

    Attributes
    ----------
    pixels : coefficients of the disc
    pairs : (rotation, shift) pairs scored, a product of an image with a slice each
    norms : slices whose length under an image's CTF was computed
    slices : slices interpolated from the volume
    """

    pixels: int
    pairs: int = 0
    norms: int = 0
    slices: int = 0


@dataclass(frozen=True)
class Climbed:
    """What was compared while climbing, as expectation steps report it; counts are over all images.

    Attributes
    ----------
    poses : scored together with gradient and normal matrix, in one pass over their slice
    samples : coefficients of those slices
    """

    poses: int = 0
    samples: int = 0

    def plus(self, part: BatchExpectation) -> Climbed:
        """Add one batch."""
        return Climbed(self.poses + part.climbed, self.samples + part.climbed_samples)


@dataclass(frozen=True)
class OperationCounts:
    """Multiply-adds per image.

    Attributes
    ----------
    scoring : products of images with slices, ``2 P`` a pair, and norms, ``P`` a slice
    slicing : trilinear interpolation, 16 a sample
    climbing : slice, score and derivatives in one pass, 132 a sample
    insertion : trilinear back-projection, 24 a sample
    pairs : poses scored per image
    climbed : those of them with derivatives
    gathered, inserted : samples per image
    rings, posterior : by harmonics only, see `posterion.report.bench_harmonics.HarmonicCounts`; there
        ``scoring`` and ``pairs`` hold those by harmonics too
    once : not per image but per iteration and half, insertion of what harmonics summed
    """

    scoring: float
    slicing: float
    climbing: float
    insertion: float
    pairs: float
    climbed: float
    gathered: float
    inserted: float
    rings: float = 0.0
    posterior: float = 0.0
    once: float = 0.0

    @property
    def total(self) -> float:
        """All multiply-adds of an image."""
        return self.scoring + self.slicing + self.climbing + self.insertion + self.rings + self.posterior


def operation_counts(
    compared: Sequence[Compared],
    images: int,
    inserted_samples: int = 0,
    climbed: Climbed = Climbed(),
    harmonics: HarmonicCounts = _NO_HARMONICS,
) -> OperationCounts:
    """Turn counts of what was compared and inserted into multiply-adds per image.

    ``scoring = sum (2 pairs + norms) P``, ``slicing = 16 sum slices P``, ``climbing = 132 samples``,
    ``insertion = 24 samples``.

    Parameters
    ----------
    compared : what was compared on grids, one entry for each disc
    images : over how many images
    inserted_samples : coefficients of slices added to the map's sums
    climbed : what was compared while climbing
    harmonics : what was compared by harmonics
    """
    scoring = harmonics.scoring + sum(
        (_CROSS * level.pairs + _NORM * level.norms) * level.pixels for level in compared
    )
    sliced = sum(level.slices * level.pixels for level in compared)
    return OperationCounts(
        scoring=scoring / images,
        slicing=_GATHER * sliced / images,
        climbing=_CLIMB * climbed.samples / images,
        insertion=_SCATTER * inserted_samples / images,
        pairs=(sum(level.pairs for level in compared) + climbed.poses + harmonics.pairs) / images,
        climbed=climbed.poses / images,
        gathered=(sliced + climbed.samples) / images,
        inserted=inserted_samples / images,
        rings=harmonics.rings / images,
        posterior=harmonics.posterior / images,
        once=harmonics.insertion,
    )


@dataclass
class Tally:
    """Counts what one thread's expectation step scores on grids: its plan's score and its volume report here.

    Attributes
    ----------
    levels : counts by number of pixels of the disc
    """

    levels: dict[int, Compared] = field(default_factory=dict)
    _pixels: int = 0

    @property
    def compared(self) -> tuple[Compared, ...]:
        """Counts, the smallest disc first."""
        return tuple(self.levels[pixels] for pixels in sorted(self.levels))

    def on(self, pixels: int) -> None:
        """Say on how many pixels the next scores are, until slices are interpolated on others."""
        self._pixels = pixels

    def add(self, pairs: int = 0, norms: int = 0, slices: int = 0) -> None:
        """Add to the counts of the present disc."""
        level = self.levels.get(self._pixels, Compared(self._pixels))
        self.levels[self._pixels] = Compared(
            self._pixels, level.pairs + pairs, level.norms + norms, level.slices + slices
        )

    def plan(self, plan: SearchPlan) -> SearchPlan:
        """Return the plan with a score that is counted."""
        return replace(plan, score=self._counted(plan.score))

    def volume(self, volume: FourierVolume) -> CountedVolume:
        """Return the volume with slices that are counted."""
        return CountedVolume(volume.values, volume.box, volume.radius, volume.padding, self)

    def _counted(self, score: Score) -> Score:
        def counted(cross: Real, norm: Real) -> Real:
            self.add(pairs=cross.size, norms=norm.size)
            return score(cross, norm)

        return counted


@dataclass(frozen=True)
class CountedVolume(FourierVolume):
    """A volume that counts the slices taken from it.

    Attributes
    ----------
    tally : where they are counted
    """

    tally: Tally

    def slices(self, matrices: NDArray[np.floating], pixels: Disc) -> NDArray[np.complex64]:
        """Sample central slices, see `FourierVolume.slices`."""
        self.tally.on(len(pixels))
        self.tally.add(slices=len(matrices))
        return super().slices(matrices, pixels)
