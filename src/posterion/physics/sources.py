"""The maps that simulation starts from: an MRC map on any grid, an atomic model, or the embedded one."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.data.mrc import read_map
from posterion.errors import PosterionError
from posterion.physics.atomic_model import choose_sampling, map_from_atoms, read_atoms
from posterion.physics.fourier import resample
from posterion.physics.phantom import phantom_map

__all__ = ["map_on_grid", "read_source"]

_MODEL_SUFFIXES = {".pdb", ".ent", ".cif", ".mmcif"}
_EMBEDDED_BOX_PX = 64
_EMBEDDED_EDGE_ANGSTROM = 180.0
_MAX_PADDING_PX = 64


def read_source(
    path: str | Path | None, box_px: int | None = None, pixel_size_angstrom: float | None = None
) -> tuple[NDArray[np.float32], float]:
    """Map of an MRC file, of a PDB or mmCIF model, or of the embedded assembly, on the wanted grid.

    Parameters
    ----------
    path : str or Path or None
        Map or model (plain or .gz); the embedded assembly where None.
    box_px : int, optional
        Box, pixels; the map's own, 1.5 times the model's diameter, or 64 for the embedded assembly.
    pixel_size_angstrom : float, optional
        Pixel size, Angstrom; the map's own, 1.5 for a model, or 180 A over the box for the embedded assembly.

    Returns
    -------
    values : (box, box, box) float32
        Indexed [z, y, x].
    pixel_size_angstrom : float

    Raises
    ------
    PosterionError
        When the file cannot be read, is not cubic, or does not say its pixel size.
    """
    if path is None:
        box = box_px or _EMBEDDED_BOX_PX
        pixel = pixel_size_angstrom or _EMBEDDED_EDGE_ANGSTROM / box
        return phantom_map(box, pixel), pixel
    path = Path(path)
    if not _MODEL_SUFFIXES.isdisjoint(path.suffixes):
        atoms = read_atoms(path)
        box, pixel = choose_sampling(atoms, box_px, pixel_size_angstrom)
        return map_from_atoms(atoms, box, pixel), pixel
    values, own_pixel = read_map(path)
    if len(set(values.shape)) != 1:
        raise PosterionError(f"{path}: expected a cubic map, got {' x '.join(map(str, values.shape))} voxels")
    if own_pixel <= 0 and pixel_size_angstrom is None:
        raise PosterionError(f"{path}: the header has no voxel size; give --pixel-size")
    own_pixel = own_pixel if own_pixel > 0 else float(pixel_size_angstrom or 0)
    pixel = pixel_size_angstrom or own_pixel
    return map_on_grid(values, own_pixel, box_px or values.shape[0], pixel), pixel


def map_on_grid(
    values: NDArray[np.float32], pixel_size_angstrom: float, new_box_px: int, new_pixel_size_angstrom: float
) -> NDArray[np.float32]:
    """Bring a map onto another box and pixel size by Fourier cropping or padding; voxel values keep scale.

    Parameters
    ----------
    values : (n, n, n) float32
        Map with its origin at n // 2.
    pixel_size_angstrom : float
        Its pixel size, Angstrom.
    new_box_px : int
        Wanted box, pixels; the map is cut, or padded with zeros, about its origin.
    new_pixel_size_angstrom : float
        Wanted pixel size, Angstrom. It is met to 0.01 % where padding by up to 64 voxels brings the ratio of
        the boxes that close to the ratio of the pixel sizes, else as well as that can.

    Returns
    -------
    resampled : (new_box_px, new_box_px, new_box_px) float32
    """
    ratio = pixel_size_angstrom / new_pixel_size_angstrom
    if ratio != 1:
        padded = values.shape[0] + np.arange(_MAX_PADDING_PX + 1)
        mismatch = np.abs(np.rint(padded * ratio) / (padded * ratio) - 1)
        good = np.flatnonzero(mismatch < 1e-4)
        chosen = int(padded[good[0] if len(good) else mismatch.argmin()])
        values = resample(_about_origin(values, chosen), round(chosen * ratio))
    return _about_origin(values, new_box_px)


def _about_origin(values: NDArray[np.float32], box_px: int) -> NDArray[np.float32]:
    """Cut or zero-pad a map so that its origin n // 2 stays the origin."""
    out = np.zeros((box_px,) * 3, np.float32)
    n, offset = values.shape[0], box_px // 2 - values.shape[0] // 2
    into = slice(max(0, offset), min(box_px, n + offset))
    taken = slice(into.start - offset, into.stop - offset)
    out[into, into, into] = values[taken, taken, taken]
    return out
