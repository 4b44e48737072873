"""Coordinates and the micrographs that they belong to, from whatever files say them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.data.files import find_file, places_to_look
from posterion.data.particles import Supplement
from posterion.data.star import read_star
from posterion.data.table import Table, TextColumn
from posterion.errors import PosterionError
from posterion.micrographs.coordinates import Coordinates, coordinate_files, read_coordinates
from posterion.micrographs.micrograph_set import MicrographSet, micrograph_set, micrographs_in_table
from posterion.micrographs.reading import SUFFIXES
from posterion.micrographs.streaming import micrograph_stem

__all__ = ["CoordinateSet", "join_coordinates", "read_coordinate_set"]

_X, _Y, _NAME = "rlnCoordinateX", "rlnCoordinateY", "rlnMicrographName"


@dataclass(frozen=True)
class CoordinateSet:
    """Particles of many micrographs.

    Attributes
    ----------
    micrographs : MicrographSet
        Those with coordinates.
    table : Table
        One row per particle, with whatever is known of it: CTF, score, ...
    micrograph_index_i : (n,) int64
    x_px_i, y_px_i : (n,) float64
        Column and row in pixels of the micrograph, from 0.
    """

    micrographs: MicrographSet
    table: Table
    micrograph_index_i: NDArray[np.int64]
    x_px_i: NDArray[np.float64]
    y_px_i: NDArray[np.float64]

    def rows_of(self, micrograph: int) -> NDArray[np.int64]:
        """Rows of one micrograph's particles."""
        return np.flatnonzero(self.micrograph_index_i == micrograph)


def join_coordinates(
    micrographs: MicrographSet, chosen: Sequence[int], parts: Sequence[Coordinates]
) -> Table:
    """Table of the particles of several micrographs; to their own columns come the micrograph's (CTF, ...).

    Parameters
    ----------
    micrographs : all of them
    chosen : index of each part's micrograph
    parts : coordinates of each
    """
    rows = np.repeat(np.array(chosen, np.int64), [len(part) for part in parts])
    x, y = (np.concatenate([getattr(part, axis) for part in parts]) for axis in ("x_px_i", "y_px_i"))
    columns = {
        _X: TextColumn.of([f"{value:.3f}" for value in x]),
        _Y: TextColumn.of([f"{value:.3f}" for value in y]),
    }
    shared = [name for name in parts[0].columns if all(name in part.columns for part in parts)]
    for name in shared:
        texts = [part.columns[name].text() for part in parts if len(part)]
        columns[name] = TextColumn(np.concatenate(texts) if texts else np.zeros(0, np.bytes_))
    names = list(micrographs.names)
    columns[_NAME] = TextColumn.of_codes(names, rows.astype(np.int32))
    groups = [str(number) for number in range(1, len(micrographs.optics) + 1)]
    columns["rlnOpticsGroup"] = TextColumn.of_codes(groups, micrographs.optics_index_i[rows])
    if micrographs.table is not None:
        kept = micrographs.table[rows].columns
        columns |= {name: column for name, column in kept.items() if name not in columns}
    return Table("particles", columns, np.arange(len(rows), dtype=np.int64))


def read_coordinate_set(
    coordinates: Sequence[str | Path],
    micrographs: Sequence[str | Path] = (),
    supplement: Supplement | None = None,
) -> CoordinateSet:
    """Read coordinates and find their micrographs.

    Parameters
    ----------
    coordinates
        One STAR file that names the micrograph of each particle (picks.star, RELION's particles.star), or
        RELION 4's list of coordinate files; or coordinate files of single micrographs (STAR, .box), or a
        folder of them, whose names begin with the micrograph's.
    micrographs
        Micrographs, one STAR file of them, or a folder; needed where the coordinates do not name them, and
        taken for pixel size and CTF where they do.
    supplement
        Pixel size and optics that nobody says.

    Raises
    ------
    PosterionError
        Names the file that is missing, holds no coordinates or belongs to no micrograph.
    """
    given, paths = supplement or Supplement(), _expanded(coordinates)
    known = micrograph_set(_expanded_micrographs(micrographs), given) if micrographs else None
    if len(paths) == 1 and paths[0].suffix.lower() != ".box":
        tables = read_star(paths[0])
        named = next((t for t in tables if {_X, _Y, _NAME} <= t.columns.keys()), None)
        if named is not None:
            return _from_particles(paths[0], tables, named, known, given)
        listed = coordinate_files(tables)
        if listed is not None:
            return _from_list(paths[0], listed, tables, known, given)
    if known is None:
        raise PosterionError(
            f"{paths[0]} does not name its micrograph; give the micrographs, or their STAR file, with "
            "--micrographs"
        )
    matched = _matched_by_name(paths, known)
    return _joined(known, list(matched), [read_coordinates(path) for path in matched.values()], paths[0])


def _expanded(coordinates: Sequence[str | Path]) -> list[Path]:
    """Files, folders replaced by the coordinate files in them."""
    files: list[Path] = []
    for path in map(Path, coordinates):
        if path.is_dir():
            inside = sorted(path.glob("*.box")) or sorted(path.glob("*_*.star"))
            if not inside:
                raise PosterionError(
                    f"{path}: the folder holds no coordinate files (NAME_*.star or NAME.box)"
                )
            files += inside
        else:
            files.append(path)
    if not files:
        raise PosterionError("no coordinates: give a STAR file, coordinate files or their folder")
    return files


def _expanded_micrographs(micrographs: Sequence[str | Path]) -> list[Path]:
    paths = [Path(path) for path in micrographs]
    if len(paths) == 1 and paths[0].is_dir():
        inside = sorted(p for p in paths[0].iterdir() if p.name.lower().endswith(SUFFIXES))
        if not inside:
            raise PosterionError(f"{paths[0]}: the folder holds no micrographs")
        return inside
    return paths


def _from_particles(
    path: Path, tables: Sequence[Table], table: Table, known: MicrographSet | None, given: Supplement
) -> CoordinateSet:
    """Particles of a table that names their micrographs; columns of known micrographs are added."""
    if not len(table):
        raise PosterionError(f"{path}, table data_{table.name}: there are no particles in it")
    x, y = table.floats(_X), table.floats(_Y)
    values, code_i = table.column(_NAME).strings()
    names: dict[str, int] = {}  # a table with few particles per micrograph stores a name more than once
    index_of_code = np.array([names.setdefault(name, len(names)) for name in values], np.int64)
    used, first, index_i = np.unique(index_of_code[code_i], return_index=True, return_inverse=True)
    if known is None:
        optics = next((t for t in tables if t.name == "optics" and "rlnOpticsGroup" in t.columns), None)
        micrographs = micrographs_in_table(path, table[first], optics, given)
        return CoordinateSet(micrographs, table, index_i, x, y)
    chosen = np.array([_find(known, list(names)[i], path) for i in used.tolist()], np.int64)[index_i]
    groups = [str(number) for number in range(1, len(known.optics) + 1)]
    changed: dict[str, TextColumn | None] = {
        "rlnOpticsGroup": TextColumn.of_codes(groups, known.optics_index_i[chosen]),
    }
    if known.table is not None:
        rows = known.table[chosen].columns
        changed |= {
            name: column for name, column in rows.items() if name not in (*table.columns, "rlnOpticsGroup")
        }
    return CoordinateSet(known, table.with_columns(changed), chosen, x, y)


def _from_list(
    path: Path,
    listed: Sequence[tuple[str, str]],
    tables: Sequence[Table],
    known: MicrographSet | None,
    given: Supplement,
) -> CoordinateSet:
    """Particles of RELION 4's list of micrographs and coordinate files."""
    if known is None:
        names = Table.of("micrographs", {_NAME: [name for name, _ in listed]})
        optics = next((t for t in tables if t.name == "optics" and "rlnOpticsGroup" in t.columns), None)
        known = micrographs_in_table(path, names, optics, given)
    places, parts = places_to_look(path.parent), []
    for _, name in listed:
        file = find_file(name, places)
        if file is None:
            raise PosterionError(f"{path}: coordinate file {name} does not exist")
        parts.append(read_coordinates(file))
    return _joined(known, [_find(known, name, path) for name, _ in listed], parts, path)


def _joined(
    micrographs: MicrographSet, chosen: Sequence[int], parts: Sequence[Coordinates], path: Path
) -> CoordinateSet:
    if not any(len(part) for part in parts):
        raise PosterionError(f"{path}: there are no particles in it, nor in the {len(parts)} files together")
    with_some = [(index, part) for index, part in zip(chosen, parts, strict=True) if len(part)]
    indices, filled = [index for index, _ in with_some], [part for _, part in with_some]
    table = join_coordinates(micrographs, indices, filled)
    rows = np.repeat(np.array(indices, np.int64), [len(part) for part in filled])
    x, y = (np.concatenate([getattr(part, axis) for part in filled]) for axis in ("x_px_i", "y_px_i"))
    return CoordinateSet(micrographs, table, rows, x, y)


def _find(known: MicrographSet, name: str, path: Path) -> int:
    """Index of a micrograph by its name, else by its file's name without folder and ending."""
    if name in known.names:
        return known.names.index(name)
    stem = micrograph_stem(Path(name))
    found = [index for index, file in enumerate(known.paths) if micrograph_stem(file) == stem]
    if len(found) != 1:
        raise PosterionError(
            f"{path} names micrograph {name}, which is {'twice' if found else 'not'} among those of "
            "--micrographs"
        )
    return found[0]


def _matched_by_name(paths: Sequence[Path], known: MicrographSet) -> dict[int, Path]:
    """Coordinate file of each micrograph: named after it, then an underscore and anything, or .box."""
    stems = {micrograph_stem(file): index for index, file in enumerate(known.paths)}
    matched: dict[int, Path] = {}
    for path in paths:
        name = path.name.removesuffix(path.suffix)
        fitting = [stem for stem in stems if name == stem or name.startswith(f"{stem}_")]
        if not fitting:
            raise PosterionError(
                f"{path}: no micrograph of that name among {len(known)}; coordinate files are called "
                "MICROGRAPH_*.star or MICROGRAPH.box"
            )
        index = stems[max(fitting, key=len)]
        if index in matched:
            raise PosterionError(f"{path} and {matched[index]} are both for {known.names[index]}; give one")
        matched[index] = path
    return dict(sorted(matched.items()))
