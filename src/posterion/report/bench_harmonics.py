"""How many operations the dense pass by harmonics does: columns counted while it runs, products from them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from posterion.inference.polar import PolarReference
from posterion.physics.polar import PolarGrid

__all__ = ["Columns", "CountedGrid", "HarmonicCounts", "counted", "harmonic_counts"]

_FFT = 5 / 4  # a real transform of N values: 5/2 N log2 N operations, two to a multiply-add
_KERNEL = 2 * 4 * 4  # sampled by a kernel of 4 x 4: real and imaginary part
_SCATTER = 8 * 3  # eight corners, numerator and weight
_EACH_SCORE = 4  # norm, prior of the shift and of the direction, exponential


@dataclass
class Columns:
    """What was done on one grid of rings; counts are over all images.

    Attributes
    ----------
    sampled : images sampled on the rings
    moved : images turned into harmonics, once for each of their shifts
    real : images whose ``C^2 / sigma2`` was turned into (even) harmonics
    """

    sampled: int = 0
    moved: int = 0
    real: int = 0


@dataclass(frozen=True)
class CountedGrid(PolarGrid):
    """Rings that count what is sampled on them and turned into harmonics.

    Attributes
    ----------
    columns : where that is counted
    """

    columns: Columns = field(default_factory=Columns, compare=False)

    @classmethod
    def like(cls, grid: PolarGrid) -> CountedGrid:
        """Return the same rings, with what they have worked out already, and nothing counted yet."""
        made = cls(**{own.name: getattr(grid, own.name) for own in fields(PolarGrid)})
        made.__dict__.update(grid.__dict__ | {"columns": made.columns})
        return made

    def sample(self, spectra: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """Sample half spectra of images, see `PolarGrid.sample`."""
        self.columns.sampled += len(spectra)
        return super().sample(spectra)

    def analyse(
        self, real: NDArray[np.float32], imaginary: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Compute harmonics, see `PolarGrid.analyse`."""
        if imaginary is None:
            self.columns.real += real.shape[-1]
        else:
            self.columns.moved += real.shape[-1]
        return super().analyse(real, imaginary)

    @property
    def rings_of_harmonics(self) -> tuple[int, int]:
        """Pairs of a harmonic and a ring that has it: of all harmonics, and of the even ones."""
        lengths = [
            sum((m.stop - m.start) * (len(self.ring_k) - rings.start) for m, rings in self.bands(even))
            for even in (False, True)
        ]
        return lengths[0], lengths[1]

    @property
    def sampling(self) -> float:
        """Multiply-adds of sampling: the band's transform back, the padded one forth, the kernel."""
        band, padded = self._small**2, (2 * self._small) ** 2
        transforms = sum(_FFT * size * np.log2(size) for size in (band, padded))
        samples = self.angles * len(self.ring_k)
        return float(self.columns.sampled * (transforms + _KERNEL * samples))

    @property
    def analysis(self) -> float:
        """Multiply-adds of turning angles into harmonics, ``2 A`` for a harmonic of a ring."""
        every, even = self.rings_of_harmonics
        return 2.0 * self.angles * (every * self.columns.moved + even * self.columns.real)

    def products(self, directions: int, turns: int, columns: Columns) -> float:
        """Multiply-adds of products over rings, then over turns, or of their transposes.

        ``D ((4 S + 2 H psi) moved + (4 S' + 2 H' psi) real)``, S pairs of one of H harmonics and a ring that
        has it, primes for the even ones.

        Parameters
        ----------
        directions, turns : D and psi
        columns : how often
        """
        every, even = self.rings_of_harmonics
        moved = columns.moved * (4 * every + 2 * self.count * turns)
        real = columns.real * (4 * even + 2 * self.even_count * turns)
        return float(directions * (moved + real))

    def insertion(self, directions: int) -> float:
        """Multiply-adds of what all images summed: harmonics to samples, samples into the map's sums."""
        samples = directions * self.angles * len(self.ring_k)
        return float(samples * (2 * self.count + 2 * self.even_count + _SCATTER))


@dataclass(frozen=True)
class HarmonicCounts:
    """Multiply-adds over all images, and of one half's insertion.

    Attributes
    ----------
    pairs : poses scored
    rings : sampling on rings and harmonics of the samples
    scoring : cross terms and norms at all turns
    posterior : from scores to the posterior, references that it expects, sums for the M-step
    insertion : once per iteration and half
    """

    pairs: float = 0.0
    rings: float = 0.0
    scoring: float = 0.0
    posterior: float = 0.0
    insertion: float = 0.0


def counted(reference: PolarReference) -> PolarReference:
    """Return a reference whose grids count what is done on them."""
    compared, collected = CountedGrid.like(reference.grid), CountedGrid.like(reference.collected)
    return replace(reference, grid=compared, collected=collected)


def harmonic_counts(reference: PolarReference) -> HarmonicCounts:
    """Turn what `counted` grids counted into multiply-adds.

    Images are compared at every shift, ``scoring``; those shifts that have any weight come back twice: for
    the references that the posterior expects, on the compared rings, and for the M-step, on the others.
    """
    compared, collected = reference.grid, reference.collected
    if not isinstance(compared, CountedGrid) or not isinstance(collected, CountedGrid):
        return HarmonicCounts()
    directions, turns = len(reference.frames), reference.turns
    pairs = directions * turns * compared.columns.moved
    kept = collected.columns
    return HarmonicCounts(
        pairs=pairs,
        rings=sum(grid.sampling + grid.analysis for grid in (compared, collected)),
        scoring=compared.products(directions, turns, compared.columns),
        posterior=_EACH_SCORE * pairs
        + sum(grid.products(directions, turns, kept) for grid in (compared, collected)),
        insertion=collected.insertion(directions) if kept.moved else 0.0,
    )
