"""What the map commands share: reading two maps that belong together, and masks by path or word."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from posterion.data.mrc import read_map
from posterion.errors import PosterionError
from posterion.mapping.fsc import FscCurves
from posterion.mapping.masks import automatic_mask, check_mask

__all__ = ["chosen_mask", "curves_table", "read_cube", "read_pair", "tell_warnings", "write_json"]

Real = NDArray[np.float32]

_LOG = logging.getLogger("posterion")


def read_cube(path: Path, pixel_size_angstrom: float | None) -> tuple[Real, float]:
    """Read a cubic, finite map and its pixel size; the one given by the user wins over the header's.

    Raises
    ------
    PosterionError
        If the map is not a cube, holds NaN, or has no pixel size and none is given.
    """
    values, from_header = read_map(path)
    if values.ndim != 3 or len(set(values.shape)) != 1:
        shape = "x".join(str(size) for size in values.shape)
        raise PosterionError(f"{path}: a cubic map was expected, this one has {shape} voxels")
    if not np.isfinite(values).all():
        raise PosterionError(
            f"{path}: the map holds {np.count_nonzero(~np.isfinite(values))} NaN or infinite voxels"
        )
    pixel_size = from_header if pixel_size_angstrom is None else pixel_size_angstrom
    if not pixel_size > 0:
        found = "none in its header" if pixel_size_angstrom is None else f"{pixel_size_angstrom} A"
        raise PosterionError(
            f"{path}: a positive pixel size is needed, found {found}; give one with --pixel-size"
        )
    return values, pixel_size


def read_pair(path_a: Path, path_b: Path, pixel_size_angstrom: float | None) -> tuple[Real, Real, float]:
    """Read two maps of the same box and pixel size.

    Raises
    ------
    PosterionError
        If boxes or, where none is given, pixel sizes differ.
    """
    map_a, pixel_a = read_cube(path_a, pixel_size_angstrom)
    map_b, pixel_b = read_cube(path_b, pixel_size_angstrom)
    if len(map_a) != len(map_b):
        raise PosterionError(
            f"{path_a} has a box of {len(map_a)} voxels and {path_b} one of {len(map_b)}; the same box was "
            "expected: crop or resample one of them"
        )
    if abs(pixel_a - pixel_b) > 1e-3 * pixel_a:
        raise PosterionError(
            f"{path_a} has voxels of {pixel_a:.4f} A and {path_b} of {pixel_b:.4f} A; say which is right "
            "with --pixel-size, or resample one of them"
        )
    return map_a, map_b, pixel_a


def chosen_mask(
    choice: str, map_a: Real, map_b: Real, pixel_size_angstrom: float
) -> tuple[Real | None, tuple[str, ...]]:
    """Give the mask a user chose, ``none``, ``auto`` (from the maps' mean) or a path, and its warnings.

    Raises
    ------
    PosterionError
        If the file cannot be read or is no mask for this box.
    """
    if choice == "none":
        return None, ()
    average = np.asarray((map_a + map_b) / 2, np.float32)
    mask = automatic_mask(average, pixel_size_angstrom) if choice == "auto" else read_map(choice)[0]
    warnings = check_mask(mask, len(average), choice, average, pixel_size_angstrom)
    return np.clip(mask, 0, 1), warnings


def tell_warnings(warnings: Sequence[str]) -> None:
    """Log each warning once."""
    for warning in warnings:
        _LOG.warning("%s", warning)


def curves_table(curves: FscCurves, rows: int = 16) -> str:
    """Lay the curves out as a short text table: about as many shells as ``rows``, evenly spaced."""
    named = curves.named()
    last = curves.box_px // 2
    shells = np.unique(np.rint(np.linspace(1, last, min(rows, last))).astype(int))
    lines = ["  shell  resolution (A)" + "".join(f"{name:>12}" for name in named)]
    for shell in shells:
        values = "".join(f"{fsc_s[shell]:12.3f}" for fsc_s in named.values())
        lines.append(f"{shell:7d}{1 / curves.frequency_s[shell]:16.2f}{values}")
    return "\n".join(lines)


def write_json(values: dict[str, Any]) -> None:
    """Print a record as JSON on stdout."""
    typer.echo(json.dumps(values, indent=1))
