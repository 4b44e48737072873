"""Many micrographs with their optics: from file names or a STAR file, and written as RELION 3.1 reads it.

The STAR columns of micrographs live here: names, optics groups, and the CTF where it has been fitted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.data.files import find_file, places_to_look, without_format
from posterion.data.mrc import read_stack_header
from posterion.data.particles import OpticsGroup, Supplement
from posterion.data.star import read_star, write_star
from posterion.data.table import Table, TextColumn
from posterion.errors import PosterionError
from posterion.micrographs.reading import SUFFIXES
from posterion.physics.ctf import contrast_transfer

__all__ = [
    "MicrographCtf",
    "MicrographSet",
    "micrograph_set",
    "micrographs_in_table",
    "optics_as_table",
    "write_micrographs",
]

_PIXEL_COLUMNS = (
    "rlnMicrographPixelSize",
    "rlnMicrographOriginalPixelSize",
    "rlnImagePixelSize",
    "rlnPixelSize",
)
_OPTICS = {
    "rlnVoltage": ("voltage_kv", 300.0),
    "rlnSphericalAberration": ("spherical_aberration_mm", 2.7),
    "rlnAmplitudeContrast": ("amplitude_contrast", 0.1),
}
_LOG = logging.getLogger("posterion")
_HEADER_PIXEL_TOLERANCE = 0.01
_DETECTOR = ("rlnDetectorPixelSize", "rlnMagnification")
_PHASE_FLIPPED = "rlnCtfDataArePhaseFlipped"
_OLD_CTF = ("rlnDefocus", "rlnCtf", "rlnPhaseShift")
_NUMBERED = ("rlnOpticsGroup", "rlnOpticsGroupName")


@dataclass(frozen=True)
class MicrographCtf:
    """CTF of n micrographs: (n,) float64 each, Angstrom and degrees; RELION's convention, U >= V."""

    defocus_u_angstrom_i: NDArray[np.float64]
    defocus_v_angstrom_i: NDArray[np.float64]
    defocus_angle_deg_i: NDArray[np.float64]
    phase_shift_deg_i: NDArray[np.float64]


@dataclass(frozen=True)
class MicrographSet:
    """Micrographs, not read yet.

    Attributes
    ----------
    paths : (n,) files; one that was not found stands where it was looked for first
    names : (n,) as they stand in the STAR file, or were given
    optics : groups; their ``box_px`` is 0
    optics_index_i : (n,) int32, index into ``optics``
    ctf : where the STAR file has it
    table, optics_table : of the STAR file; None for file names
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    optics: tuple[OpticsGroup, ...]
    optics_index_i: NDArray[np.int32]
    ctf: MicrographCtf | None = None
    table: Table | None = None
    optics_table: Table | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def star_path(self) -> Path | None:
        """STAR file that lists them; None for file names."""
        return None if self.table is None else self.table.path

    def optics_of(self, index: int) -> OpticsGroup:
        """Optics of one micrograph."""
        return self.optics[int(self.optics_index_i[index])]

    def ctf_at(
        self, index: int, frequency_x: NDArray[np.float64], frequency_y: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """CTF (p,) of one micrograph at frequencies (p,), 1/Angstrom; its absolute value if phase flipped."""
        if self.ctf is None:
            raise ValueError("these micrographs have no CTF")
        optics = self.optics_of(index)
        values = contrast_transfer(
            frequency_x,
            frequency_y,
            self.ctf.defocus_u_angstrom_i[index],
            self.ctf.defocus_v_angstrom_i[index],
            self.ctf.defocus_angle_deg_i[index],
            voltage_kv=optics.voltage_kv,
            spherical_aberration_mm=optics.spherical_aberration_mm,
            amplitude_contrast=optics.amplitude_contrast,
            phase_shift_deg=self.ctf.phase_shift_deg_i[index],
        )[0]
        return np.asarray(np.abs(values)) if optics.phase_flipped else values


def micrograph_set(sources: Sequence[str | Path], supplement: Supplement | None = None) -> MicrographSet:
    """Micrographs from image files, or from one STAR file of micrographs (RELION 3.1; older with one optics).

    Parameters
    ----------
    sources
        Image files, or one ``.star`` file.
    supplement
        Pixel size, voltage, Cs and amplitude contrast where the sources do not say them. A pixel size given
        for image files stands above what their headers say. Unsaid optics are 300 kV, 2.7 mm and 0.1.

    Raises
    ------
    PosterionError
        No micrographs, one named twice, a file of another kind, or a pixel size that nobody says.
    """
    given, paths = supplement or Supplement(), [Path(source) for source in sources]
    stars = [path for path in paths if path.suffix.lower() == ".star"]
    if stars and len(paths) > 1:
        raise PosterionError(f"{stars[0]}: give either one STAR file of micrographs or image files, not both")
    if not paths:
        raise PosterionError("no micrographs: give image files or a STAR file of micrographs")
    made = _from_star(stars[0], given) if stars else _from_files(paths, given)
    seen: set[Path] = set()
    for path in made.paths:
        if path.absolute() in seen:
            raise PosterionError(f"{path} is named twice: give each micrograph once")
        seen.add(path.absolute())
    return made


def _from_files(paths: list[Path], given: Supplement) -> MicrographSet:
    for path in paths:
        if path.is_dir():
            raise PosterionError(f"{path} is a folder: give the micrographs in it, for example {path}/*.mrc")
    sizes = _pixel_sizes(paths, given.pixel_size_angstrom)
    distinct = list(dict.fromkeys(sizes))
    optics = tuple(
        _group(f"opticsGroup{number}", size, {}, given) for number, size in enumerate(distinct, start=1)
    )
    index_i = np.array([distinct.index(size) for size in sizes], np.int32)
    return MicrographSet(tuple(paths), tuple(map(str, paths)), optics, index_i)


def _pixel_sizes(paths: list[Path], given: float | None) -> list[float]:
    """Pixel size of each file: the one given, else its header's; of an unreadable file that of the others."""
    in_header = [_header_pixel_size(path) for path in paths]
    if given:
        for path, size in zip(paths, in_header, strict=True):
            if size and abs(size - given) > _HEADER_PIXEL_TOLERANCE * given:
                _LOG.warning("%s: pixel size %g A is used; its header claims %g A.", path, given, size)
                break
        return [given] * len(paths)
    for path, size in zip(paths, in_header, strict=True):
        if size == 0:
            raise PosterionError(f"{path} does not say its pixel size; give --pixel-size in Angstrom")
    readable = [size for size in in_header if size]
    if not readable:
        read_stack_header(paths[0])  # raises what is wrong with it
    return [size or readable[0] for size in in_header]


def _header_pixel_size(path: Path) -> float | None:
    """Pixel size in an MRC header, 0.0 where none is said; None where an MRC file cannot be read."""
    if not path.name.lower().endswith(SUFFIXES) or ".mrc" not in path.name.lower():
        return 0.0
    try:
        return read_stack_header(path).pixel_size_angstrom
    except (PosterionError, OSError, EOFError):
        return None


def _group(name: str, pixel_size: float, values: Mapping[str, float], given: Supplement) -> OpticsGroup:
    said = [(values.get(column, getattr(given, field)), usual) for column, (field, usual) in _OPTICS.items()]
    voltage, aberration, contrast = (usual if value is None else float(value) for value, usual in said)
    return OpticsGroup(name, voltage, aberration, contrast, pixel_size, 0)


def _from_star(path: Path, given: Supplement) -> MicrographSet:
    tables = read_star(path)
    optics_table = next((t for t in tables if t.name == "optics" and "rlnOpticsGroup" in t.columns), None)
    return micrographs_in_table(path, _micrograph_table(path, tables), optics_table, given)


def micrographs_in_table(
    path: Path, table: Table, optics_table: Table | None, given: Supplement
) -> MicrographSet:
    """Micrographs of a table that names one in each row.

    Parameters
    ----------
    path
        STAR file of the table; files are looked for from its folder.
    table, optics_table
        Rows with rlnMicrographName, and the optics groups; None for files of RELION 3.0 and older.
    given
        What the tables do not say.
    """
    if optics_table is None:
        optics_table = _optics_of_old_table(table)
        index_i = np.zeros(len(table), np.int32)
    else:
        index_i = _optics_index(table, optics_table)
    names, code_i = table.column("rlnMicrographName").strings()
    names = [names[code] for code in code_i.tolist()]
    places = places_to_look(path.parent)
    plain = [without_format(name) for name in names]
    paths = [find_file(name, places) or places[0] / name for name in plain]
    first_paths = [paths[int(np.argmax(index_i == group))] for group in range(len(optics_table))]
    optics = tuple(
        _group_of_row(optics_table, row, first_paths[row], given) for row in range(len(optics_table))
    )
    return MicrographSet(tuple(paths), tuple(names), optics, index_i, _ctf(table), table, optics_table)


def _micrograph_table(path: Path, tables: Sequence[Table]) -> Table:
    table = next((t for t in tables if t.is_loop and "rlnMicrographName" in t.columns), None)
    if table is None or "rlnImageName" in table.columns:
        found = "particles" if table is not None else f"data_{max(tables, key=len).name}"
        raise PosterionError(
            f"{path} is no STAR file of micrographs (found {found}): expected a table with rlnMicrographName"
        )
    if not len(table):
        raise PosterionError(f"{path}, table data_{table.name}: there are no micrographs in it")
    return table


def _optics_of_old_table(table: Table) -> Table:
    """RELION 3.0 and older wrote the optics, if at all, into each row; here all rows must have the same."""
    for name in (*_OPTICS, *_DETECTOR):
        if name in table.columns and np.ptp(table.floats(name)) > 0:
            row = int(np.argmax(table.floats(name) != table.floats(name)[0]))
            raise table.error(name, row, "differs from the first row's: give one STAR file for each optics")
    names = {"rlnOpticsGroup": TextColumn.of(["1"]), "rlnOpticsGroupName": TextColumn.of(["opticsGroup1"])}
    return table[:1].with_columns(dict(names))


def _optics_index(table: Table, optics_table: Table) -> NDArray[np.int32]:
    ids = optics_table.integers("rlnOpticsGroup").tolist()
    if "rlnOpticsGroup" not in table.columns and len(ids) == 1:
        return np.zeros(len(table), np.int32)
    wanted = table.integers("rlnOpticsGroup").tolist()
    for row, group in enumerate(wanted):
        if group not in ids:
            raise table.error("rlnOpticsGroup", row, "is not among the groups of table data_optics")
    return np.array([ids.index(group) for group in wanted], np.int32)


def _group_of_row(table: Table, row: int, first_path: Path, given: Supplement) -> OpticsGroup:
    names, code_i = table.columns.get("rlnOpticsGroupName", table.column("rlnOpticsGroup")).strings()
    values = {name: float(table.floats(name)[row]) for name in _OPTICS if name in table.columns}
    sizes = [float(table.floats(name)[row]) for name in _PIXEL_COLUMNS if name in table.columns]
    if set(_DETECTOR) <= set(table.columns):  # micrometre
        pixel_um, magnification = (float(table.floats(name)[row]) for name in _DETECTOR)
        sizes.append(round(1e4 * pixel_um / magnification, 6) if magnification > 0 else 0.0)
    sizes += [given.pixel_size_angstrom or 0.0, _header_pixel_size(first_path) or 0.0]
    pixel_size = next((size for size in sizes if size > 0), None)
    if pixel_size is None:
        raise PosterionError(
            f"{table.path}: the pixel size of optics group '{names[code_i[row]]}' is unknown "
            f"({_PIXEL_COLUMNS[0]} is missing); give --pixel-size in Angstrom"
        )
    flipped = _PHASE_FLIPPED in table.columns and bool(table.floats(_PHASE_FLIPPED)[row])
    return replace(_group(names[code_i[row]], pixel_size, values, given), phase_flipped=flipped)


def _ctf(table: Table) -> MicrographCtf | None:
    if "rlnDefocusU" not in table.columns:
        return None
    u, none = table.floats("rlnDefocusU"), np.zeros(len(table))
    optional = {
        name: table.floats(name) for name in table.columns if name.startswith(("rlnDefocus", "rlnPhase"))
    }
    v = optional.get("rlnDefocusV", u)
    angle, phase = optional.get("rlnDefocusAngle", none), optional.get("rlnPhaseShift", none)
    return MicrographCtf(u, v, angle, phase)


def write_micrographs(
    path: str | Path,
    micrographs: MicrographSet,
    chosen: Sequence[int],
    columns: Mapping[str, Sequence[str]],
) -> None:
    """Write micrographs as a RELION 3.1 STAR file: table data_optics, then data_micrographs.

    Parameters
    ----------
    path
        STAR file. Micrographs keep their names where these lead to the files from its folder, from one above
        it or from the current one; else they get absolute paths.
    chosen
        Indices of the micrographs to write, in order.
    columns
        Further columns, name to text for each of the chosen; they replace columns of the source. Where they
        hold a new defocus, all that belongs to the source's old CTF is left out.
    """
    folder = Path(path).parent
    names = [_name_from(micrographs, index, folder) for index in chosen]
    numbers = [str(int(micrographs.optics_index_i[index]) + 1) for index in chosen]
    own = {"rlnMicrographName": names, "rlnOpticsGroup": numbers, **columns}
    rows = np.array(chosen, np.int64)
    source = micrographs.table
    table = Table("micrographs", {}, rows) if source is None else source[rows]
    stale = _OLD_CTF if "rlnDefocusU" in columns else ()
    kept = {
        name: column
        for name, column in table.columns.items()
        if name not in (*_OPTICS, *_PIXEL_COLUMNS, *_DETECTOR) and not name.startswith(stale)
    }
    kept |= {name: TextColumn.of(values) for name, values in own.items()}
    written = Table("micrographs", kept, np.arange(len(rows), dtype=np.int64))
    write_star(path, [optics_as_table(micrographs), written])


def _name_from(micrographs: MicrographSet, index: int, folder: Path) -> str:
    name, file = micrographs.names[index], micrographs.paths[index]
    found = find_file(without_format(name), places_to_look(folder))
    same = found is not None and os.path.realpath(found) == os.path.realpath(file)
    return name if same else str(file.absolute())


def optics_as_table(micrographs: MicrographSet) -> Table:
    """Table data_optics of micrographs: the source's further columns are kept, groups numbered from 1."""
    groups = micrographs.optics
    columns = {
        "rlnOpticsGroupName": [group.name for group in groups],
        "rlnOpticsGroup": [str(number) for number in range(1, len(groups) + 1)],
        "rlnMicrographPixelSize": [f"{group.pixel_size_angstrom:.6f}" for group in groups],
        "rlnMicrographOriginalPixelSize": [f"{group.pixel_size_angstrom:.6f}" for group in groups],
        "rlnVoltage": [f"{group.voltage_kv:.6f}" for group in groups],
        "rlnSphericalAberration": [f"{group.spherical_aberration_mm:.6f}" for group in groups],
        "rlnAmplitudeContrast": [f"{group.amplitude_contrast:.6f}" for group in groups],
    }
    texts = {name: TextColumn.of(values) for name, values in columns.items()}
    source = micrographs.optics_table
    if source is not None and source.name == "optics":
        texts = {**texts, **{name: col for name, col in source.columns.items() if name not in _NUMBERED}}
    return Table("optics", texts, np.arange(len(groups), dtype=np.int64))
