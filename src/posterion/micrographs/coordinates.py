"""Particle coordinates in files: RELION's STAR (one per micrograph, or one for all) and EMAN's .box.

x is the column and y the row of the micrograph's array, in its pixels; the centre of the first pixel is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.data.atomic import write_text
from posterion.data.files import open_binary
from posterion.data.star import read_star, write_star
from posterion.data.table import Table, TextColumn
from posterion.errors import PosterionError

__all__ = [
    "COORDINATE_FILES",
    "SUFFIX",
    "Coordinates",
    "coordinate_files",
    "read_box",
    "read_coordinates",
    "write_box",
    "write_coordinate_files",
    "write_coordinates",
]

SUFFIX = "_autopick.star"
"""What RELION 3.1 expects after the micrograph's name: ``--coord_suffix _autopick.star``."""
COORDINATE_FILES = "coordinate_files"
_X, _Y = "rlnCoordinateX", "rlnCoordinateY"


@dataclass(frozen=True)
class Coordinates:
    """Particles of one micrograph.

    Attributes
    ----------
    x_px_i, y_px_i : (n,) float64
        Column and row of the centre, pixels of the micrograph, from 0.
    columns : dict
        Further STAR columns, (n,) each.
    """

    x_px_i: NDArray[np.float64]
    y_px_i: NDArray[np.float64]
    columns: dict[str, TextColumn] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x_px_i)


def write_coordinates(path: str | Path, coordinates: Coordinates) -> None:
    """Write one micrograph's particles as RELION's coordinate STAR file."""
    columns = {
        _X: TextColumn.of([f"{x:.3f}" for x in coordinates.x_px_i]),
        _Y: TextColumn.of([f"{y:.3f}" for y in coordinates.y_px_i]),
    }
    table = Table("", {**columns, **coordinates.columns}, np.arange(len(coordinates), dtype=np.int64))
    write_star(path, [table])


def read_coordinates(path: str | Path) -> Coordinates:
    """Read one micrograph's coordinates: a STAR file with rlnCoordinateX and Y, or an EMAN .box file.

    Raises
    ------
    PosterionError
        Where there is no such file or column, or a value is no number; names the line.
    """
    path = Path(path)
    if path.suffix.lower() == ".box":
        return read_box(path)
    tables = [table for table in read_star(path) if _X in table.columns]
    if not tables:
        raise PosterionError(f"{path} holds no coordinates: expected columns {_X} and {_Y}")
    table = tables[0]
    others = {name: column for name, column in table.columns.items() if name not in (_X, _Y)}
    if not len(table):
        return Coordinates(np.zeros(0), np.zeros(0), others)
    return Coordinates(table.floats(_X), table.floats(_Y), others)


def write_box(path: str | Path, coordinates: Coordinates, box_px: int) -> None:
    """Write EMAN's .box: column and row of the first pixel of an even box, then its width and height.

    The box's centre is pixel box_px / 2 of the box, RELION's and EMAN's origin.
    """
    corner_x = np.rint(coordinates.x_px_i).astype(int) - box_px // 2
    corner_y = np.rint(coordinates.y_px_i).astype(int) - box_px // 2
    lines = [f"{x}\t{y}\t{box_px}\t{box_px}\n" for x, y in zip(corner_x, corner_y, strict=True)]
    write_text(path, "".join(lines))


def read_box(path: str | Path) -> Coordinates:
    """Read EMAN's .box: the centre is at the corner plus half the box, rounded down."""
    path, centres = Path(path), []
    with open_binary(path) as stream:
        for number, line in enumerate(stream, 1):
            words = line.split()
            if not words:
                continue
            try:
                x, y, width, height = (float(word) for word in words[:4])
            except ValueError:
                raise PosterionError(
                    f"{path}, line {number}: expected four numbers, corner x and y, width and height"
                ) from None
            centres.append((x + width // 2, y + height // 2))
    table = np.array(centres, np.float64).reshape(-1, 2)
    return Coordinates(table[:, 0].copy(), table[:, 1].copy())


def write_coordinate_files(path: str | Path, names: Sequence[str], files: Sequence[str]) -> None:
    """Write the list of micrographs and their coordinate files that RELION 4 and later read."""
    columns = {"rlnMicrographName": names, "rlnMicrographCoordinates": files}
    texts = {name: TextColumn.of(values) for name, values in columns.items()}
    write_star(path, [Table(COORDINATE_FILES, texts, np.arange(len(names), dtype=np.int64))])


def coordinate_files(tables: Sequence[Table]) -> list[tuple[str, str]] | None:
    """Give (micrograph, coordinate file) of each row of RELION 4's list; None where the file is none."""
    table = next((table for table in tables if "rlnMicrographCoordinates" in table.columns), None)
    if table is None:
        return None
    pairs = []
    for name in ("rlnMicrographName", "rlnMicrographCoordinates"):
        values, code_i = table.column(name).strings()
        pairs.append([values[code] for code in code_i.tolist()])
    return list(zip(*pairs, strict=True))
