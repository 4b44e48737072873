"""One micrograph from its file: MRC (also .gz, .bz2), TIFF or PNG, checked and as float32.

The first row of an MRC or PNG file is the first row of the array. TIFF is turned upside down, as RELION and
IMOD do (its first row is the top, an MRC's the bottom), so that coordinates and the azimuth of astigmatism
mean the same to them and to us.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, TiffImagePlugin

from posterion.data.mrc import read_map
from posterion.errors import PosterionError

__all__ = ["SUFFIXES", "Micrograph", "read_micrograph"]

_MRC = (".mrc", ".mrcs", ".map")
_COMPRESSED = (".gz", ".bz2")
_TIFF = (".tif", ".tiff")
_PNG = (".png",)
SUFFIXES = (*_MRC, *(kind + packed for kind in _MRC for packed in _COMPRESSED), *_TIFF, *_PNG)
"""Endings of the files that can be read, in lower case."""

_GREY_MODES = ("L", "I", "I;16", "I;16B", "I;16L", "F")
_SMALLEST_PX = 32


@dataclass(frozen=True)
class Micrograph:
    """One micrograph.

    Attributes
    ----------
    values : (ny, nx) float32
        Grey values as they are in the file.
    pixel_size_angstrom : float or None
        What the file says, if it says anything: MRC headers do, TIFF and PNG do not.
    path : Path
        The file.
    """

    values: NDArray[np.float32]
    pixel_size_angstrom: float | None
    path: Path


def read_micrograph(path: str | Path) -> Micrograph:
    """Read a micrograph and check that it is one: two dimensions, finite grey values that are not all equal.

    Parameters
    ----------
    path
        MRC file (``.mrc``, also ``.gz`` and ``.bz2``), TIFF or PNG; 16-bit PNG keep their 16 bits.

    Raises
    ------
    PosterionError
        Where the file is missing, empty, truncated, of another type, in colour, a movie, smaller than 32
        pixels, constant, or holds values that are not finite.
    """
    path = Path(path)
    suffix = _suffix(path)
    try:
        if path.stat().st_size == 0:
            raise PosterionError(f"{path} is empty (0 bytes): copy it again")
        if suffix in _TIFF:
            values, pixel_size = _read_tiff(path), None
        elif suffix in _PNG:
            values, pixel_size = _read_png(path), None
        else:
            values, pixel_size = _read_mrc(path)
    except (OSError, EOFError, SyntaxError, zlib.error) as error:
        system = getattr(error, "strerror", None)
        content = f"({str(error) or type(error).__name__}): is it whole?"
        raise PosterionError(f"{path} cannot be read{f': {system}' if system else ' ' + content}") from None
    values = np.ascontiguousarray(values, np.float32)
    _check(path, values)
    return Micrograph(values, pixel_size, path)


def _suffix(path: Path) -> str:
    suffixes = "".join(path.suffixes[-2:]).lower()
    ending = suffixes if suffixes.endswith(_COMPRESSED) else path.suffix.lower()
    found = next((known for known in SUFFIXES if ending.endswith(known)), None)
    if found is None:
        raise PosterionError(
            f"{path}: micrographs are read from MRC (.mrc, .mrc.gz, .mrc.bz2), TIFF (.tif) and PNG files; "
            f"{path.suffix or 'a file without ending'} is none of them"
        )
    return found


def _read_mrc(path: Path) -> tuple[NDArray[Any], float | None]:
    values, pixel_size = read_map(path)
    if values.shape[0] != 1:
        raise PosterionError(
            f"{path} holds {values.shape[0]} images of {values.shape[2]} x {values.shape[1]} pixels: "
            "expected one micrograph; average the frames of a movie first"
        )
    return values[0], pixel_size or None


def _read_tiff(path: Path) -> NDArray[Any]:
    """Grey values of a TIFF; what tifffile cannot unpack by itself (LZW) Pillow does."""
    try:
        with tifffile.TiffFile(path) as tiff:
            if len(tiff.pages) != 1:
                raise PosterionError(
                    f"{path} holds {len(tiff.pages)} images: expected one; average a movie's frames first"
                )
            values: NDArray[Any] = tiff.asarray()
    except tifffile.TiffFileError as error:
        raise PosterionError(f"{path} is no whole TIFF file: {error}") from None
    except (ValueError, ImportError, IndexError, KeyError):
        with TiffImagePlugin.TiffImageFile(path) as picture:
            values = _grey(path, picture)
    return values[::-1]


def _read_png(path: Path) -> NDArray[Any]:
    with PngImagePlugin.PngImageFile(path) as picture:
        return _grey(path, picture)


def _grey(path: Path, picture: Image.Image) -> NDArray[Any]:
    if picture.mode not in _GREY_MODES:
        raise PosterionError(
            f"{path} is a picture of mode {picture.mode}: expected grey values, 8 or 16 bits"
        )
    return np.asarray(picture)


def _check(path: Path, values: NDArray[np.float32]) -> None:
    if values.ndim != 2:
        shape = " x ".join(map(str, values.shape))
        raise PosterionError(f"{path} has values of shape {shape}: expected one grey image")
    if min(values.shape) < _SMALLEST_PX:
        raise PosterionError(
            f"{path} has {values.shape[1]} x {values.shape[0]} pixels: too small for a micrograph"
        )
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        count = int((~np.isfinite(values)).sum())
        raise PosterionError(f"{path} has {count} pixels that are not finite numbers: repair or leave it out")
    if low == high:
        raise PosterionError(f"{path} is constant: all pixels are {low:g}; leave it out")
