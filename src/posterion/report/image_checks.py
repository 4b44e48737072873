"""Checks of the images themselves: not-a-number, constant, hot, outliers; are particles bright or dark."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from posterion.compute import NullProgress, StageProgress
from posterion.data.outliers import LARGEST_RATIO, largest_spreads, two_scales
from posterion.data.particles import Particles
from posterion.data.unusable import LARGEST_PIXEL, is_hot
from posterion.report.findings import Finding, counted
from posterion.report.table_checks import about_particles

__all__ = ["ImageStatistics", "check_contrast", "check_pixels", "image_statistics"]

Float = NDArray[np.float64]

_BATCH = 64
_DISC = 0.3
"""Radius of the central disc, in boxes; wide, because hollow particles are dark in the very middle."""
_RING = (0.42, 0.5)
"""Inner and outer radius of the background ring, in boxes."""
_STANDARD_ERRORS = 4.0
_LEAST_CONTRAST = 0.005
"""Contrast in background standard deviations below which a large set's significance means nothing."""


@dataclass(frozen=True)
class ImageStatistics:
    """Per-image numbers of the images that were read.

    Attributes
    ----------
    index_i : (n,) int64, rows of the particle set
    is_finite_i : (n,) bool, whether no pixel is NaN, infinite or beyond `LARGEST_PIXEL`
    spread_i : (n,) float64, standard deviation of all pixels; 0 for a constant image
    contrast_i : (n,) float64, disc minus ring in standard deviations of the ring; NaN where unknown
    is_hot_i : (n,) bool, whether the power of a finite image lies in a few pixels
    is_outlier_i : (n,) bool, whether an image's spread is far beyond its optics group's
    warnings : a sentence where an optics group has two grey scales, and no image that is an outlier
    """

    index_i: NDArray[np.int64]
    is_finite_i: NDArray[np.bool_]
    spread_i: Float
    contrast_i: Float
    is_hot_i: NDArray[np.bool_]
    is_outlier_i: NDArray[np.bool_]
    warnings: tuple[str, ...]

    @property
    def is_usable_i(self) -> NDArray[np.bool_]:
        """Images that `refine` uses."""
        return self.is_finite_i & (self.spread_i > 0) & ~self.is_hot_i & ~self.is_outlier_i


def image_statistics(
    particles: Particles, indices: NDArray[np.int64], progress: StageProgress = NullProgress
) -> ImageStatistics:
    """Read images and measure each; one batch is in memory at a time.

    Parameters
    ----------
    particles : set whose images at ``indices`` can be read
    indices : (n,) rows to read
    progress : shows how far it is
    """
    chosen = particles[indices]
    finite, hot = np.zeros((2, len(indices)), np.bool_)
    spread = np.zeros(len(indices))
    contrast = np.full(len(indices), np.nan)
    with progress("reading images", len(indices), "images") as bar:
        for index, images in chosen.batches(_BATCH):
            finite[index] = np.abs(images).max((1, 2)) <= LARGEST_PIXEL
            sound = images[finite[index]]
            varies = np.ptp(sound, axis=(1, 2)) > 0
            spread[index[finite[index]]] = np.where(varies, sound.std((1, 2), dtype=np.float64), 0)
            contrast[index[finite[index]]] = image_contrast(sound)
            hot[index[finite[index]]] = varies & [is_hot(image) for image in sound]
            bar.advance(len(index))
    group = chosen.optics_index_i
    limit_g, second_g = largest_spreads(np.where(hot, 0, spread), group, len(particles.optics))
    outlier = ~hot & (spread > limit_g[group])
    warnings = two_scales(particles.optics, second_g)
    return ImageStatistics(np.asarray(indices), finite, spread, contrast, hot, outlier, warnings)


def image_contrast(images: NDArray[np.float32]) -> Float:
    """Mean of the central disc minus the background plane, in standard deviations of the background ring.

    The plane is the least-squares fit to the ring, so a gradient of ice thickness does not count.

    Parameters
    ----------
    images : (n, box, box) float32, finite

    Returns
    -------
    (n,) float64; NaN where the ring is constant.
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    ring, fit, disc_mean = _windows(images.shape[-1])
    values = flat[:, ring]
    plane = values @ fit.T
    spread = (values - plane @ _plane_terms(images.shape[-1])[ring].T).std(1)
    contrast = np.full(len(flat), np.nan)
    np.divide(flat @ disc_mean - plane[:, 0], spread, out=contrast, where=spread > 0)
    return contrast


@lru_cache(maxsize=4)
def _windows(box: int) -> tuple[NDArray[np.intp], Float, Float]:
    """Ring pixels, the (3, ring) matrix that fits a plane to them, and the averaging weights of the disc."""
    terms = _plane_terms(box)
    radius = np.hypot(terms[:, 1], terms[:, 2]) / box
    ring = np.flatnonzero((radius >= _RING[0]) & (radius <= _RING[1]))
    disc = radius <= _DISC
    fit: Float = np.linalg.pinv(terms[ring]).astype(np.float64)
    return ring, fit, disc / disc.sum()


@lru_cache(maxsize=4)
def _plane_terms(box: int) -> Float:
    """Columns 1, x, y of every pixel, origin at the centre, (box^2, 3)."""
    centred = np.arange(box) - box // 2
    y, x = np.meshgrid(centred, centred, indexing="ij")
    return np.stack([np.ones(box * box), x.ravel(), y.ravel()], 1)


def check_pixels(particles: Particles, statistics: ImageStatistics) -> list[Finding]:
    """Report images not finite, beyond all sums, constant, hot, or far stronger than others; two scales."""
    finite, n = statistics.is_finite_i, len(statistics.index_i)
    removed = "remove them from the set"
    complaints = (
        (~finite, f"with pixels that are not finite or beyond {LARGEST_PIXEL:g}", removed),
        (finite & (statistics.spread_i == 0), "constant, with nothing in them", removed),
        (
            statistics.is_hot_i,
            "with a hot pixel that outweighs all others",
            f"{removed}, or replace such pixels (relion_preprocess --white_dust 5 --black_dust 5)",
        ),
        (
            statistics.is_outlier_i,
            f"whose standard deviation is more than {LARGEST_RATIO:g} times the median of their optics group",
            f"{removed}, normalise them again, or give images of another grey scale an optics group of "
            "their own",
        ),
    )
    findings = [Finding("pixels", "problem", warning) for warning in statistics.warnings]
    for offends, what, mend in complaints:
        offends_i = np.zeros(len(particles), np.bool_)
        offends_i[statistics.index_i] = offends
        first = int(np.argmax(offends_i))
        stack = particles.stack_names[particles.stack_index_i[first]]
        where = f"of {n:,} read, the first is image {particles.image_index_i[first] + 1} of {stack}"
        findings += about_particles("pixels", "problem", offends_i, f"{what}, {where}: {mend}", "image")
    return findings or [
        Finding("pixels", "fine", f"all {counted(n, 'image')} read are finite and not constant")
    ]


def check_contrast(statistics: ImageStatistics) -> list[Finding]:
    """Say whether the particles are bright, dark, or not to be told from their surround.

    The mean over images of `ImageStatistics.contrast_i` is compared with its standard error, which comes from
    the spread between images. In the band that decides (the disc's size) the CTF has not changed sign yet.
    """
    contrast = statistics.contrast_i[np.isfinite(statistics.contrast_i) & statistics.is_usable_i]
    if len(contrast) < 3:
        return [
            Finding(
                "contrast",
                "note",
                f"cannot tell from {len(contrast)} images whether particles are bright or dark",
            )
        ]
    mean, error = float(contrast.mean()), float(contrast.std(ddof=1) / np.sqrt(len(contrast)))
    values: dict[str, float | str] = {
        "contrast": mean,
        "standard_error": error,
        "images": float(len(contrast)),
    }
    text = (
        f"{mean:+.3f} +- {error:.3f} background standard deviations in the middle of {len(contrast)} images"
    )
    if abs(mean) < max(_STANDARD_ERRORS * error, _LEAST_CONTRAST):
        return [
            Finding(
                "contrast", "note", f"cannot tell whether particles are bright or dark: {text}", values=values
            )
        ]
    if mean < 0:
        message = (
            f"inverted: particles are dark ({text}), bright ones are expected; multiply the images by -1, "
            "for instance with relion_image_handler --multiply_constant -1"
        )
        return [Finding("contrast", "problem", message, values=values)]
    return [Finding("contrast", "fine", f"particles are bright, as expected ({text})", values=values)]
