"""MRC maps and image stacks: modes 0, 1, 2, 6 and 12, either byte order.

Maps are read whole, compressed or not; stacks are memory-mapped, and a bounded number of them stays open.
The format: Cheng et al., J. Struct. Biol. 192 (2015) 146 (MRC2014).
"""

from __future__ import annotations

import logging
import mmap
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import DTypeLike, NDArray

from posterion.data.atomic import replacing
from posterion.data.files import open_binary
from posterion.errors import PosterionError

__all__ = [
    "StackHeader",
    "open_stack",
    "read_images",
    "read_map",
    "read_stack_header",
    "write_map",
    "write_stack",
    "write_stack_batches",
]

_LOG = logging.getLogger("posterion")
_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_MODES = {np.dtype(code): mode for mode, code in _DTYPES.items()}
_HEADER_BYTES = 1024
_MAX_OPEN_STACKS = 64
_LABEL = "Created by Posterion"  # without the time: same values, same bytes
_IMOD_STAMP = 1146047817
_IMPLAUSIBLE_VOXEL_RATIO = 1.01


@dataclass(frozen=True)
class StackHeader:
    """What the header of an MRC file says: ``n_images`` sections of ``ny`` rows of ``nx`` pixels."""

    path: Path
    n_images: int
    ny: int
    nx: int
    dtype: np.dtype[Any]
    offset_bytes: int
    pixel_size_angstrom: float
    axes: tuple[int, int, int]

    @property
    def expected_bytes(self) -> int:
        """Length the file must have at least."""
        return self.offset_bytes + self.n_images * self.ny * self.nx * self.dtype.itemsize


def read_map(path: str | Path) -> tuple[NDArray[np.float32], float]:
    """Density map of an MRC file, plain or compressed (.gz, .bz2).

    Parameters
    ----------
    path
        MRC file of mode 0, 1, 2, 6 or 12 in either byte order and with any order of axes.

    Returns
    -------
    values
        ``(z, y, x)`` float32.
    pixel_size_angstrom
        Voxel size; 0.0 where the header has none, or three sizes that differ (this is logged).

    Raises
    ------
    PosterionError
        Where the file is missing, is not MRC or is shorter than its header says.
    """
    path = Path(path)
    with open_binary(path) as stream:
        header = _parse_header(path, stream.read(_HEADER_BYTES))
        stream.seek(header.offset_bytes)
        data = stream.read(header.expected_bytes - header.offset_bytes)
    _check_length(header, header.offset_bytes + len(data))
    values = np.frombuffer(data, header.dtype).reshape(header.n_images, header.ny, header.nx)
    # Header axes name what columns, rows and sections run along (1 x, 2 y, 3 z); we want (z, y, x).
    order = [header.axes[::-1].index(axis) for axis in (3, 2, 1)]
    return np.ascontiguousarray(values.transpose(order), dtype=np.float32), header.pixel_size_angstrom


def write_map(path: str | Path, values: NDArray[Any], pixel_size_angstrom: float) -> None:
    """Write a map ``(z, y, x)`` as float32 (mode 2), whole or not at all.

    Parameters
    ----------
    path
        MRC file to write or replace.
    values
        ``(z, y, x)``, any real type.
    pixel_size_angstrom
        Voxel size along all three axes, Angstrom.
    """
    _write(path, np.asarray(values, dtype=np.float32), pixel_size_angstrom, is_stack=False)


def write_stack(path: str | Path, images: NDArray[Any], pixel_size_angstrom: float) -> None:
    """Write images ``(n, y, x)`` as an MRC stack in their own type (float16, float32, int8, int16, uint16).

    Parameters
    ----------
    path
        MRCS file to write or replace.
    images
        ``(n, y, x)``; other types become float32.
    pixel_size_angstrom
        Pixel size, Angstrom.
    """
    images = np.asarray(images)
    dtype = images.dtype if images.dtype in _MODES else np.dtype(np.float32)
    _write(path, images.astype(dtype, copy=False), pixel_size_angstrom, is_stack=True)


def write_stack_batches(
    path: str | Path,
    batches: Iterable[NDArray[np.float32]],
    shape: tuple[int, int, int],
    pixel_size_angstrom: float,
    dtype: DTypeLike = np.float32,
) -> None:
    """Write a stack of known shape ``(n, y, x)`` from batches ``(m, y, x)``, without holding it.

    Parameters
    ----------
    path
        MRCS file to write, whole or not at all.
    batches
        Together ``n`` images.
    shape
        Of the whole stack.
    pixel_size_angstrom
        Angstrom.
    dtype
        In the file: float32, or float16 for half the size.
    """
    with replacing(path) as temporary, mrcfile.new_mmap(temporary, shape, _MODES[np.dtype(dtype)]) as mrc:
        mrc.set_image_stack()
        mrc.voxel_size = pixel_size_angstrom
        mrc.header.label[0] = _LABEL
        start = 0
        for images in batches:
            mrc.data[start : start + len(images)] = images
            start += len(images)


def read_stack_header(path: str | Path) -> StackHeader:
    """Header of an MRC file.

    Raises
    ------
    PosterionError
        Where the file is missing or is not MRC.
    """
    path = Path(path)
    with open_binary(path) as stream:
        return _parse_header(path, stream.read(_HEADER_BYTES))


def open_stack(path: Path) -> np.memmap[Any, Any]:
    """Memory map ``(n, y, x)`` of an MRC stack in the file's own type; the last 64 opened stay open.

    Raises
    ------
    PosterionError
        Where the stack is missing, compressed, or shorter than its header says.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise PosterionError(f"{path} cannot be read: {error.strerror}.") from None
    # Files of one name may follow within a tick of the clock; while one is open no other has its number.
    return _open_stack(path, (status.st_ino, status.st_size, status.st_mtime_ns))


def read_images(stack: np.memmap[Any, Any], image_index_i: NDArray[np.int64]) -> NDArray[np.float32]:
    """Images ``(n, y, x)`` of an open stack as float32; ascending indices read forward through the file."""
    images: NDArray[np.float32] = np.asarray(stack)[image_index_i].astype(np.float32)
    # Pages of a long-lived map count as this process's memory until they are given back.
    if hasattr(mmap, "MADV_DONTNEED"):
        stack._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
    return images


@lru_cache(maxsize=_MAX_OPEN_STACKS)
def _open_stack(path: Path, state: tuple[int, int, int]) -> np.memmap[Any, Any]:
    if path.suffix.lower() in (".gz", ".bz2"):
        raise PosterionError(
            f"{path} is a compressed stack: unpack it first, its images are read in any order."
        )
    header = read_stack_header(path)
    _check_length(header, path.stat().st_size)
    shape = (header.n_images, header.ny, header.nx)
    return np.memmap(path, header.dtype, "r", header.offset_bytes, shape)


def _parse_header(path: Path, data: bytes) -> StackHeader:
    if len(data) < _HEADER_BYTES:
        raise PosterionError(f"{path} is no MRC file: it has {len(data)} bytes, an MRC header has 1024.")
    header = np.frombuffer(data, HEADER_DTYPE)[0]
    order = "<"
    if not _is_plausible(header):
        header, order = np.frombuffer(data, HEADER_DTYPE.newbyteorder())[0], ">"
    if not _is_plausible(header):
        raise PosterionError(f"{path} is no MRC file: its header makes sense in neither byte order.")
    mode = int(header["mode"])
    if mode not in _DTYPES:
        raise PosterionError(f"{path} has MRC mode {mode}; expected 0, 1, 2, 6 or 12.")
    code = "u1" if mode == 0 and _imod_bytes_are_unsigned(header) else _DTYPES[mode]
    return StackHeader(
        path=path,
        n_images=int(header["nz"]),
        ny=int(header["ny"]),
        nx=int(header["nx"]),
        dtype=np.dtype(order + code),
        offset_bytes=_HEADER_BYTES + int(header["nsymbt"]),
        pixel_size_angstrom=_pixel_size(path, header),
        axes=_axes(header),
    )


def _is_plausible(header: Any) -> bool:
    sizes = [int(header[name]) for name in ("nx", "ny", "nz")]
    return (
        0 <= int(header["mode"]) < 128 and all(0 < size < 1 << 24 for size in sizes) and header["nsymbt"] >= 0
    )


def _imod_bytes_are_unsigned(header: Any) -> bool:
    """IMOD marks its files, and in them says whether mode 0 is signed (bit 0 of its flags)."""
    stamp, flags = np.frombuffer(header["extra2"].tobytes()[40:48], header["nx"].dtype)
    return bool(stamp == _IMOD_STAMP and not flags & 1)


def _axes(header: Any) -> tuple[int, int, int]:
    axes = (int(header["mapc"]), int(header["mapr"]), int(header["maps"]))
    return axes if sorted(axes) == [1, 2, 3] else (1, 2, 3)


def _pixel_size(path: Path, header: Any) -> float:
    """Voxel size along x: cell length over sampling; 0.0 where x and y have no usable, equal one."""
    cell, sampling = header["cella"], (header["mx"], header["my"])
    if min(sampling) <= 0 or not np.isfinite([float(cell["x"]), float(cell["y"])]).all():
        return 0.0
    size_x, size_y = float(cell["x"]) / int(header["mx"]), float(cell["y"]) / int(header["my"])
    if min(size_x, size_y) <= 0:
        return 0.0
    if max(size_x, size_y) > _IMPLAUSIBLE_VOXEL_RATIO * min(size_x, size_y):
        _LOG.warning("%s: header has voxels of %.3f x %.3f A; ignored.", path, size_x, size_y)
        return 0.0
    return round(size_x, 6)


def _check_length(header: StackHeader, actual_bytes: int) -> None:
    if actual_bytes < header.expected_bytes:
        raise PosterionError(
            f"{header.path} is truncated: {header.n_images} images of {header.ny} x {header.nx} "
            f"({header.dtype.name}) need {header.expected_bytes} bytes, the file has {actual_bytes}."
        )


def _write(path: str | Path, values: NDArray[Any], pixel_size_angstrom: float, is_stack: bool) -> None:
    compression = {".gz": "gzip", ".bz2": "bzip2"}.get(Path(path).suffix.lower())
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # statistics of a map with NaN; it is written all the same
        with mrcfile.new(temporary, compression=compression) as mrc:
            mrc.set_data(values)
            if is_stack:
                mrc.set_image_stack()
            mrc.voxel_size = pixel_size_angstrom
            mrc.header.label[0] = _LABEL
