"""Images whose grey values spread far beyond those of their optics group, and would drown its noise."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posterion.data.particles import OpticsGroup, Particles
from posterion.data.unusable import UNUSABLE, usable_images, why_unusable

__all__ = [
    "LARGEST_RATIO",
    "LEFT_OUT",
    "ScreenedParticles",
    "largest_spreads",
    "scale_warnings",
    "screened",
    "two_scales",
    "why_left_out",
]

_LOG = logging.getLogger("posterion")

LARGEST_RATIO = 15.0
"""Of an image's standard deviation to the median of its optics group.

Micrographs that nobody normalised differ by their gain and dose, at most about tenfold from the darkest to
the brightest; carbon, ice and gold make an image a few times as strong. A normalisation that failed is off by
its own scale, tens to millions. One image at the limit adds 225 noise variances to the sum over its group:
two hundred others lose half of their weight by it.
"""

LEFT_OUT = (
    f"{UNUSABLE}, or have a standard deviation of more than {LARGEST_RATIO:g} times the median of their "
    "optics group"
)
"""What is true of images that are none of `usable_images` once a set is `screened`, in words."""

_FEW = 3
"""Images are too few for a median of their own, or beyond the limit too few for a second grey scale."""
_SECOND_SCALE = 0.1
"""Share of images beyond the limit: failed normalisations are fewer, images of another kind of file more."""
_SAMPLE, _ALL_SAMPLES, _BLOCK = 100, 5000, 50
"""Images read of each group, of all groups (but three of each), and at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScreenedParticles(Particles):
    """A set whose images beyond a limit of their optics group read as NaN, so that nothing uses them.

    What is set aside depends on the image and the limit alone, not on when or beside what it is read.

    Attributes
    ----------
    largest_spread_g
        ``(groups,)`` largest standard deviation of an image, in order of ``optics``; infinite in a group of
        two grey scales.
    warnings
        A sentence where there is such a group.
    source
        The set that was screened. It reads the images, so other stacks or signs have to be given to it.
    """

    largest_spread_g: tuple[float, ...]
    warnings: tuple[str, ...]
    source: Particles

    def __getitem__(self, selection: Any) -> ScreenedParticles:
        chosen = super().__getitem__(selection)
        return replace(cast("ScreenedParticles", chosen), source=self.source[selection])

    def images(self, indices: ArrayLike | None = None) -> NDArray[np.float32]:
        """Read images as `Particles.images` does, NaN where they are beyond the limit."""
        images = self.source.images(indices)
        rows = np.atleast_1d(np.arange(len(self)) if indices is None else np.asarray(indices))
        group_i = self.optics_index_i[rows if rows.dtype == bool else rows.astype(np.int64)]
        for image, group in zip(images, group_i, strict=True):
            if _spread(image) > self.largest_spread_g[group]:
                image[:] = np.nan
        return images


def screened(particles: Particles) -> ScreenedParticles:
    """Set a limit for each optics group from up to 100 of its images, and warn of groups of two grey scales.

    Which images these are follows from the names of their stacks and their numbers, not from the order of
    the rows. Of more than fifty groups fewer are read, 5,000 in all, but three of each.

    Parameters
    ----------
    particles : set whose images can be read

    Raises
    ------
    PosterionError
        When a stack cannot be read.
    """
    sample = _sample(particles)
    spreads = []
    for start in range(0, len(sample), _BLOCK):
        images = particles.images(sample[start : start + _BLOCK])
        usable = usable_images(images)
        spreads += [_spread(image) if good else np.nan for image, good in zip(images, usable, strict=True)]
    group_i = particles.optics_index_i[sample]
    limit_g, second_g = largest_spreads(np.array(spreads), group_i, len(particles.optics))
    values = {field.name: getattr(particles, field.name) for field in fields(Particles)}
    warnings = two_scales(particles.optics, second_g)
    for warning in warnings:
        _LOG.warning("%s", warning)
    return ScreenedParticles(
        **values, largest_spread_g=tuple(limit_g.tolist()), warnings=warnings, source=particles
    )


def largest_spreads(
    spread_i: NDArray[np.float64], group_i: NDArray[np.integer], groups: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fifteen times the median standard deviation of each group's images, and where there are two scales.

    Groups with fewer than three that can be used are compared with all images. The median is the lower one
    of two, so that of four images two may be bad. Where more than a tenth of a group, three at least, are
    beyond the limit they are a second grey scale, and there is no limit.

    Parameters
    ----------
    spread_i : (n,) standard deviations; NaN or 0 where an image cannot be used
    group_i : (n,) group of each
    groups : how many there are

    Returns
    -------
    limit_g : (groups,) float64; infinite where nothing is known, or where there are two grey scales
    second_g : (groups,) float64, share of the images that have the second grey scale; 0 where there is one
    """
    sound_i = spread_i > 0
    spread_i, group_i = spread_i[sound_i], group_i[sound_i]
    count_g = np.bincount(group_i, minlength=groups)
    is_small_g = count_g < _FEW
    everyone = _lower_median(spread_i)
    limit_g, second_g = np.full(groups, LARGEST_RATIO * everyone), np.zeros(groups)
    small_i = is_small_g[group_i]
    second_g[is_small_g & (count_g > 0)] = _second_share(spread_i[small_i], LARGEST_RATIO * everyone)
    for group in np.unique(group_i[~small_i]):
        own = spread_i[group_i == group]
        limit_g[group] = LARGEST_RATIO * _lower_median(own)
        second_g[group] = _second_share(own, limit_g[group])
    limit_g[second_g > 0] = np.inf
    return limit_g, second_g


def two_scales(optics: tuple[OpticsGroup, ...], second_g: NDArray[np.float64]) -> tuple[str, ...]:
    """Say in a sentence which groups have two grey scales, and how to mend it; nothing where none has.

    Parameters
    ----------
    optics : groups
    second_g : (groups,) as from `largest_spreads`
    """
    mixed = np.flatnonzero(second_g)
    if not len(mixed):
        return ()
    worst = mixed[second_g[mixed].argmax()]
    more = f", and many of {len(mixed) - 1} other groups," if len(mixed) > 1 else ""
    return (
        f"about {100 * second_g[worst]:.0f} % of the images of optics group '{optics[worst].name}'{more} "
        f"have a standard deviation of more than {LARGEST_RATIO:g} times the median: a second grey scale, so "
        "none is set aside for it, but they drown the others; normalise the images, or give each grey scale "
        "an optics group of its own",
    )


def scale_warnings(particles: Particles) -> tuple[str, ...]:
    """Say what `screened` found about the grey scales of a set; nothing for one that was not screened."""
    return particles.warnings if isinstance(particles, ScreenedParticles) else ()


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


def _sample(particles: Particles) -> NDArray[np.int64]:
    """Rows to read of each group, no image twice, in the order of the files."""
    group_i, key_i = particles.optics_index_i, _keys(particles)
    order = np.lexsort((key_i, group_i))
    group, key = group_i[order], key_i[order]
    # Sets expanded by a symmetry hold each image many times.
    is_new = np.append(True, (np.diff(group) != 0) | (key[1:] != key[:-1]))[: len(order)]
    order, group = order[is_new], group[is_new]
    starts = np.flatnonzero(np.append(True, np.diff(group) != 0)[: len(order)])
    each = min(_SAMPLE, max(_FEW, _ALL_SAMPLES // max(len(starts), 1)))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    chosen: NDArray[np.int64] = order[rank < each]
    return chosen[np.lexsort((particles.image_index_i[chosen], particles.stack_index_i[chosen]))]


def _keys(particles: Particles) -> NDArray[np.uint64]:
    """Make a number for each image that looks random but follows from its stack's name and its number.

    The mixing is splitmix64's (Steele, Lea and Flood, OOPSLA 2014).
    """
    names = [name.encode(errors="surrogateescape") for name in particles.stack_names]
    digests = b"".join(blake2b(name, digest_size=8).digest() for name in names)
    key_i = np.frombuffer(digests, "<u8").astype(np.uint64)[particles.stack_index_i]
    key_i += particles.image_index_i.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    key_i = (key_i ^ (key_i >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key_i = (key_i ^ (key_i >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key_i ^ (key_i >> np.uint64(31))


def _second_share(values: NDArray[np.float64], limit: float) -> float:
    """Share of the values that are beyond the limit where they are many, 0 where they are few."""
    beyond = int((values > limit).sum())
    return beyond / len(values) if beyond >= _FEW and beyond > _SECOND_SCALE * len(values) else 0.0


def _spread(image: NDArray[np.float32]) -> float:
    """Compute the standard deviation of an image; NaN where it is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(image.std(dtype=np.float64))


def _lower_median(values: NDArray[np.float64]) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2]) if len(values) else np.inf
