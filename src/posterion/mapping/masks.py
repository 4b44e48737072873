"""Soft masks: one made from a map, and a check of masks that others made.

A soft edge is a raised cosine: 1 up to a distance, then ``(1 + cos(pi d / edge)) / 2`` over the edge, then 0.
Spheres and discs, which need no map, come from `posterion.physics.soft_masks`.
"""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.physics.fourier import fourier_transform_3d, inverse_fourier_transform_3d, shell_index_3d
from posterion.physics.soft_masks import raised_cosine, soft_disc, soft_sphere

__all__ = [
    "MaskOptions",
    "automatic_mask",
    "automatic_threshold",
    "check_mask",
    "edge_width_px",
    "low_pass",
    "soft_disc",
    "soft_sphere",
]

Real = NDArray[np.float32]
Region = NDArray[np.bool_]

_LOW_PASS_EDGE_SHELLS = 2


@dataclass(frozen=True)
class MaskOptions:
    """How a mask is made from a map.

    Attributes
    ----------
    lowpass_angstrom : the map is low-passed to this resolution first
    threshold : density from which a voxel belongs to the particle; None chooses one, see
        `automatic_threshold`
    dilate_angstrom : how far the region grows
    soft_edge_angstrom : width of the raised cosine outside the grown region; 5 times the resolution is safe
    """

    lowpass_angstrom: float = 15.0
    threshold: float | None = None
    dilate_angstrom: float = 6.0
    soft_edge_angstrom: float = 15.0


def low_pass(volume: Real, resolution_angstrom: float, pixel_size_angstrom: float, workers: int = 1) -> Real:
    """Keep a map's frequencies up to a resolution: a raised cosine two shells wide is 0.5 there.

    Parameters
    ----------
    volume : (n, n, n) float32
    resolution_angstrom : amplitudes at its reciprocal are halved
    pixel_size_angstrom : voxel size
    workers : threads for the transforms

    Returns
    -------
    (n, n, n) float32, in the unit of the map.
    """
    n = volume.shape[0]
    last_shell = n * pixel_size_angstrom / resolution_angstrom
    beyond = np.arange(2 * n) - last_shell + _LOW_PASS_EDGE_SHELLS / 2
    keep_s = raised_cosine(beyond, _LOW_PASS_EDGE_SHELLS)
    spectrum = fourier_transform_3d(np.asarray(volume, np.float32), workers)
    spectrum *= keep_s[shell_index_3d(n)]
    return inverse_fourier_transform_3d(spectrum, n, workers)


def automatic_threshold(low_passed: Real) -> float:
    """Choose the density that separates a particle from its solvent in a low-passed map.

    The solvent is the bulk of the box, so its level is the median and its spread comes from the voxels
    below the median, where the particle has no part. The threshold is five such spreads above the level,
    but at least 8 % and at most 40 % of the way to the particle's plateau (99.9th percentile): noise must
    not enter, and density must not be lost where the noise is strong or the solvent was flattened to
    nothing.

    Parameters
    ----------
    low_passed : (n, n, n) float32

    Returns
    -------
    density, in the unit of the map

    Raises
    ------
    PosterionError
        If the map is constant.
    """
    below, level, plateau = (float(v) for v in np.percentile(low_passed, (15.87, 50.0, 99.9)))
    height = plateau - level
    if not height > 0:
        raise PosterionError("the map holds no density above its background; a mask cannot be made from it")
    return level + min(max(5 * (level - below), 0.08 * height), 0.40 * height)


def automatic_mask(
    volume: Real, pixel_size_angstrom: float, options: MaskOptions | None = None, workers: int = 1
) -> Real:
    """Make a soft mask from a map: low-pass, threshold, largest connected part, grow, raised-cosine edge.

    Parameters
    ----------
    volume : (n, n, n) float32
    pixel_size_angstrom : voxel size
    options : lengths in Angstrom and the threshold; None takes the defaults
    workers : threads for the transforms

    Returns
    -------
    (n, n, n) float32 in [0, 1]

    Raises
    ------
    PosterionError
        If no voxel lies above the threshold, or the map is constant or not finite.
    """
    options = options or MaskOptions()
    if not np.isfinite(volume).all():
        raise PosterionError("the map holds NaN or infinite values; a mask cannot be made from it")
    smooth = low_pass(volume, options.lowpass_angstrom, pixel_size_angstrom, workers)
    threshold = automatic_threshold(smooth) if options.threshold is None else options.threshold
    region = smooth > threshold
    if not region.any():
        raise PosterionError(
            f"no voxel of the low-passed map exceeds the threshold {threshold:g}: its maximum is "
            f"{smooth.max():g}; choose a lower --threshold"
        )
    grow_px = options.dilate_angstrom / pixel_size_angstrom
    edge_px = options.soft_edge_angstrom / pixel_size_angstrom
    return _grown(_largest_part(region), grow_px, edge_px)


def _largest_part(region: Region) -> Region:
    """Keep the connected part (by faces, edges or corners) with most voxels."""
    labels, count = scipy.ndimage.label(region, structure=np.ones((3, 3, 3), bool))
    if count <= 1:
        return region
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def _grown(region: Region, grow_px: float, edge_px: float) -> Real:
    """Grow a region and give it a soft edge, by the Euclidean distance to it.

    Distances are computed only in the region's bounding box plus what the mask can reach: a third of the
    time.
    """
    reach = int(np.ceil(max(grow_px, 0) + max(edge_px, 0))) + 1
    found = scipy.ndimage.find_objects(region.astype(np.int8))[0]
    window = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in found)
    distance = scipy.ndimage.distance_transform_edt(~region[window])
    mask = np.zeros(region.shape, np.float32)
    mask[window] = raised_cosine(distance - grow_px, edge_px)
    return mask


def edge_width_px(mask: Real) -> float:
    """Estimate how wide a mask's soft edge is: voxels strictly inside (0, 1) over the surface.

    The surface is the number of voxel faces crossing 0.5, over 1.5, the mean of ``|nx| + |ny| + |nz|`` on a
    sphere.

    Parameters
    ----------
    mask : (n, n, n) float32 in [0, 1]

    Returns
    -------
    pixels; 0 for a hard-edged mask or one without surface
    """
    inside = mask > 0.5
    faces = sum(int(np.count_nonzero(np.diff(inside, axis=axis))) for axis in range(3))
    between = np.count_nonzero((mask > 1e-3) & (mask < 1 - 1e-3))
    return 1.5 * between / faces if faces else 0.0


def check_mask(
    mask: Real, box: int, name: str = "mask", volume: Real | None = None, pixel_size_angstrom: float = 1.0
) -> tuple[str, ...]:
    """Refuse a mask that cannot be used, and say in words what is suspicious about one that can.

    Parameters
    ----------
    mask : (n, n, n) float32
    box : of the maps the mask is for, pixels
    name : of the file, for the messages
    volume : (n, n, n) float32, the map to be masked; with it, density cut off is looked for
    pixel_size_angstrom : voxel size, used with ``volume`` only

    Returns
    -------
    warnings, one sentence each: hard edge, touches the side of the box, cuts density

    Raises
    ------
    PosterionError
        If the mask has another box, holds values outside [0, 1] or NaN, or is empty.
    """
    _refuse_unusable(mask, box, name)
    warnings = []
    width = edge_width_px(mask)
    if width < 3:
        warnings.append(
            f"{name}: the edge is {width:.1f} px wide; a hard edge makes the halves correlate, "
            "give it 5 px or more"
        )
    sides = [np.take(mask, side, axis=axis).max() for axis in range(3) for side in (0, -1)]
    if max(sides) > 0.1:
        warnings.append(f"{name}: the mask reaches the side of the box; use a larger box or a smaller mask")
    if volume is not None:
        lost = _density_outside(mask, volume, pixel_size_angstrom)
        if lost > 0.03:
            warnings.append(
                f"{name}: {100 * lost:.0f} % of the particle's density lies outside the mask; "
                "it is too tight or shifted"
            )
    return tuple(warnings)


def _refuse_unusable(mask: Real, box: int, name: str) -> None:
    if mask.shape != (box, box, box):
        found = "x".join(str(size) for size in mask.shape)
        raise PosterionError(f"{name}: the mask has {found} voxels but the map has {box}x{box}x{box}")
    if not np.isfinite(mask).all():
        raise PosterionError(
            f"{name}: the mask holds NaN or infinite values; values between 0 and 1 were expected"
        )
    low, high = float(mask.min()), float(mask.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise PosterionError(
            f"{name}: the mask's values run from {low:g} to {high:g}; values between 0 and 1 were expected: "
            "make one from a map with 'posterion mask'"
        )
    if high < 0.5:
        raise PosterionError(f"{name}: the mask is empty (its largest value is {high:g})")


def _density_outside(mask: Real, volume: Real, pixel_size_angstrom: float) -> float:
    """Share of the density above the automatic threshold, largest part only, that the mask takes away."""
    lowpass_angstrom = max(MaskOptions.lowpass_angstrom, 2.5 * pixel_size_angstrom)
    smooth = low_pass(volume, lowpass_angstrom, pixel_size_angstrom)
    particle = _largest_part(smooth > automatic_threshold(smooth))
    return float(np.sum((1 - mask)[particle] * smooth[particle]) / np.sum(smooth[particle]))
