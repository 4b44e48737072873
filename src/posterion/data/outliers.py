"""Images whose grey values spread far beyond those of their optics group, and would drown its noise."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posterion.data.particles import Particles
from posterion.data.unusable import usable_images, why_unusable

__all__ = ["LARGEST_RATIO", "ScreenedParticles", "largest_spreads", "screened", "why_left_out"]

LARGEST_RATIO = 15.0
"""Of an image's standard deviation to the median of its optics group.

Micrographs that nobody normalised differ by their gain and dose, at most about tenfold from the darkest to
the brightest; carbon, ice and gold make an image a few times as strong. A normalisation that failed is off by
its own scale, tens to millions. One image at the limit adds 225 noise variances to the sum over its group:
two hundred others lose half of their weight by it.
"""

_SAMPLE, _BLOCK, _FEW = 100, 50, 3


@dataclass(frozen=True, eq=False, kw_only=True)
class ScreenedParticles(Particles):
    """A set whose images beyond a limit of their optics group read as NaN, so that nothing uses them.

    What is set aside depends on the image and the limit alone, not on when or beside what it is read.

    Attributes
    ----------
    largest_spread_g
        ``(groups,)`` largest standard deviation of an image, in order of ``optics``.
    source
        The set that was screened. It reads the images, so other stacks or signs have to be given to it.
    """

    largest_spread_g: tuple[float, ...]
    source: Particles

    def __getitem__(self, selection: Any) -> ScreenedParticles:
        chosen = super().__getitem__(selection)
        return replace(cast("ScreenedParticles", chosen), source=self.source[selection])

    def images(self, indices: ArrayLike | None = None) -> NDArray[np.float32]:
        """Read images as `Particles.images` does, NaN where they are beyond the limit."""
        images = self.source.images(indices)
        optics_i = self.optics_index_i if indices is None else self.optics_index_i[np.asarray(indices)]
        for image, group in zip(images, optics_i, strict=True):
            if _spread(image) > self.largest_spread_g[group]:
                image[:] = np.nan
        return images


def screened(particles: Particles) -> ScreenedParticles:
    """Set a limit for each optics group from up to 100 of its images, spread over the set.

    Parameters
    ----------
    particles : set whose images can be read

    Raises
    ------
    PosterionError
        When a stack cannot be read.
    """
    group_i, groups = particles.optics_index_i, len(particles.optics)
    chosen = [_sample(np.flatnonzero(group_i == group)) for group in range(groups)]
    sample = np.concatenate(chosen)
    spreads = []
    for start in range(0, len(sample), _BLOCK):
        images = particles.images(sample[start : start + _BLOCK])
        usable = usable_images(images)
        spreads += [_spread(image) if good else np.nan for image, good in zip(images, usable, strict=True)]
    limits = largest_spreads(np.array(spreads), group_i[sample], groups)
    values = {field.name: getattr(particles, field.name) for field in fields(Particles)}
    return ScreenedParticles(**values, largest_spread_g=tuple(limits.tolist()), source=particles)


def largest_spreads(
    spread_i: NDArray[np.float64], group_i: NDArray[np.integer], groups: int
) -> NDArray[np.float64]:
    """Fifteen times the median standard deviation of each group's images.

    A group with fewer than three that can be used is compared with all images. The median is the lower one
    of two, so that of four images two may be bad.

    Parameters
    ----------
    spread_i : (n,) standard deviations; NaN or 0 where an image cannot be used
    group_i : (n,) group of each
    groups : how many there are

    Returns
    -------
    (groups,) float64; infinite where nothing is known
    """
    sound_i = spread_i > 0
    everyone = _lower_median(spread_i[sound_i])
    limit_g = np.full(groups, LARGEST_RATIO * everyone)
    for group in np.unique(group_i[sound_i]):
        own = spread_i[sound_i & (group_i == group)]
        if len(own) >= _FEW:
            limit_g[group] = LARGEST_RATIO * _lower_median(own)
    return limit_g


def why_left_out(particles: Particles, row: int) -> str:
    """Name an image that was left out, and say why: because of itself, or beside others of its group."""
    image = getattr(particles, "source", particles).images([row])[0]
    stack = particles.stack_names[particles.stack_index_i[row]]
    if isinstance(particles, ScreenedParticles) and usable_images(image[None])[0]:
        reason = (
            f"has a standard deviation of {_spread(image):.3g}, where images of its optics group have about "
            f"{particles.largest_spread_g[particles.optics_index_i[row]] / LARGEST_RATIO:.3g} (more than "
            f"{LARGEST_RATIO:g} times that is set aside): normalise it again, or give images of another "
            "grey scale an optics group of their own"
        )
    else:
        reason = why_unusable(image)
    return f"{particles.place(row)}: image {particles.image_index_i[row] + 1} of {stack} {reason}"


def _sample(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(rows[np.unique(np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(int))])


def _spread(image: NDArray[np.float32]) -> float:
    """Compute the standard deviation of an image; NaN where it is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(image.std(dtype=np.float64))


def _lower_median(values: NDArray[np.float64]) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2]) if len(values) else np.inf
