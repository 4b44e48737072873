"""The starting map and the mask, brought to the box and pixel size of the images, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.data.mrc import read_map
from posterion.errors import PosterionError
from posterion.mapping.masks import check_mask
from posterion.physics.soft_masks import soft_sphere
from posterion.physics.sources import map_on_grid

__all__ = ["prepare_mask", "prepare_reference"]

Map = NDArray[np.float32]

_SAME_PIXEL_SIZE = 5e-4
_MASK_EDGE_PX = 5.0


def prepare_reference(
    reference: str | Path | NDArray[np.floating],
    box_px: int,
    pixel_size_angstrom: float,
    own_pixel_size_angstrom: float | None = None,
) -> tuple[Map, tuple[str, ...]]:
    """Read a starting map and bring it to the images' grid; its grey scale is fitted later, to the images.

    Parameters
    ----------
    reference : MRC file, or (m, m, m) values
    box_px, pixel_size_angstrom : of the images
    own_pixel_size_angstrom : of the reference, in place of its header's; an array without one has the images'

    Returns
    -------
    values : (box_px, box_px, box_px) float32
    notes : what was changed, one sentence each

    Raises
    ------
    PosterionError
        When the map cannot be read, is no cube, holds NaN, is constant, or has another box than the images
        and says no pixel size.
    """
    if isinstance(reference, np.ndarray):
        name, values, in_header = "the reference", np.asarray(reference, np.float32), 0.0
    else:
        name = str(reference)
        values, in_header = read_map(reference)
    _refuse_unusable(name, values)
    notes: tuple[str, ...] = ()
    size = own_pixel_size_angstrom or in_header
    if not size > 0:
        size, notes = pixel_size_angstrom, _same_pixel_size(name, len(values), box_px, pixel_size_angstrom)
    if abs(size / pixel_size_angstrom - 1) <= _SAME_PIXEL_SIZE:
        size = pixel_size_angstrom
    if len(values) == box_px and size == pixel_size_angstrom:
        return values, notes
    change = (
        f"{name}: box {len(values)} px of {size:g} A brought to the images' box {box_px} px of "
        f"{pixel_size_angstrom:g} A"
    )
    return map_on_grid(values, size, box_px, pixel_size_angstrom), (*notes, change)


def _refuse_unusable(name: str, values: Map) -> None:
    if values.ndim != 3 or len(set(values.shape)) != 1:
        raise PosterionError(
            f"{name}: a cubic map is needed as reference, this one has "
            f"{' x '.join(map(str, values.shape))} voxels"
        )
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise PosterionError(f"{name}: {bad} voxels of the reference are NaN or infinite; give a finite map")
    if not np.ptp(values) > 0:
        raise PosterionError(f"{name}: the reference is constant; give a map that shows the particle")


def _same_pixel_size(name: str, own_box: int, box_px: int, pixel_size_angstrom: float) -> tuple[str, ...]:
    """Take a reference without pixel size to have the images', and say so; refuse one of another box."""
    if own_box != box_px:
        raise PosterionError(
            f"{name}: the reference says no pixel size, and its box, {own_box} px, is not the images', "
            f"{box_px} px; give --reference-pixel-size"
        )
    return (f"{name}: the reference says no pixel size; the images', {pixel_size_angstrom:g} A, is used",)


def prepare_mask(
    mask: str | Path | NDArray[np.floating] | None,
    box_px: int,
    pixel_size_angstrom: float,
    diameter_angstrom: float,
) -> tuple[Map, tuple[str, ...]]:
    """Read the solvent mask, or make a soft sphere of the particle's diameter.

    Parameters
    ----------
    mask : MRC file or (box_px, box_px, box_px) values in [0, 1]; None for the sphere
    box_px, pixel_size_angstrom : of the images
    diameter_angstrom : of the particle

    Returns
    -------
    values : (box_px, box_px, box_px) float32 in [0, 1]
    warnings : what is suspicious about the mask, one sentence each

    Raises
    ------
    PosterionError
        When the mask cannot be read, has another box or pixel size, or values outside [0, 1].
    """
    if mask is None:
        return soft_sphere(box_px, diameter_angstrom / pixel_size_angstrom / 2, _MASK_EDGE_PX), ()
    if isinstance(mask, np.ndarray):
        name, values, in_header = "the mask", np.asarray(mask, np.float32), 0.0
    else:
        name = str(mask)
        values, in_header = read_map(mask)
    warnings = check_mask(values, box_px, name)
    if in_header > 0 and abs(in_header / pixel_size_angstrom - 1) > 0.01:
        warnings += (
            f"{name}: voxels of {in_header:g} A in its header; the images' {pixel_size_angstrom:g} A is used",
        )
    return np.clip(values, 0, 1), warnings
