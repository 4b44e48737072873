"""RELION's columns <-> our fields: STAR files of RELION 1.3 to 5 read, of 3.1 and later written.

RELION's convention is ours (angles, sign of offsets); what differs between its versions is undone here:
before 3.1 there were no optics groups, offsets were in pixels, the pixel size was detector / magnification.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posterion.data.files import find_file, places_to_look, without_format
from posterion.data.mrc import StackHeader, read_stack_header
from posterion.data.particles import OpticsGroup, Particles, Poses, Supplement
from posterion.data.star import read_star, write_star
from posterion.data.table import Table, TextColumn
from posterion.errors import PosterionError

__all__ = ["first_stack_headers", "parse_image_names", "read_relion", "star_tables", "write_relion"]

_LOG = logging.getLogger("posterion")
_OPTICS_COLUMNS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
_PIXEL_COLUMNS = ("rlnMagnification", "rlnDetectorPixelSize", "rlnPixelSize", "rlnImagePixelSize")
_HEADER_PIXEL_TOLERANCE = 0.01
_NUMBERS = re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?")
_UNCORRECTED = {  # columns of effects that are not corrected, and the value that stands for none
    **dict.fromkeys(("rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike"), 0.0),
    **{"rlnMagMat00": 1.0, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0},
    "rlnCtfDataAreCtfPremultiplied": 0.0,
}
_PHASE_FLIPPED = "rlnCtfDataArePhaseFlipped"


def read_relion(path: Path, supplement: Supplement | None = None) -> Particles:
    """Read a RELION particle STAR file of any version.

    Parameters
    ----------
    path
        STAR file, plain or compressed.
    supplement
        Values for what the file does not say.

    Raises
    ------
    PosterionError
        Names file, line and column.
    """
    supplement = supplement or Supplement()
    tables = read_star(path)
    table = _particle_table(path, tables)
    optics_table = next((t for t in tables if t.name == "optics" and "rlnOpticsGroup" in t.columns), None)
    others = tuple(t for t in tables if t is not table and t is not optics_table)
    if optics_table is None:
        table, optics_table = _with_optics_groups(table, supplement)
    _tell_uncorrected(path, optics_table, table)
    particles = _with_stack(_particles(table, optics_table), supplement.stack)
    return replace(particles, optics=_optics(particles, optics_table, supplement), other_tables=others)


def write_relion(path: str | Path, particles: Particles, extra_columns: Mapping[str, ArrayLike]) -> None:
    """Write a RELION 3.1+ STAR file.

    Parameters
    ----------
    path
        File to write, whole or not at all.
    particles
        Stacks that could no longer be found from the new file's folder are named by their absolute path.
    extra_columns
        Name to ``(n,)`` values.
    """
    write_star(path, star_tables(particles, extra_columns, Path(path).parent))


def parse_image_names(column: TextColumn) -> tuple[list[str], NDArray[np.int32], NDArray[np.int64]]:
    """Split ``000001@stack.mrcs``; a name without @ is image 0 of its file.

    Returns
    -------
    stack_names
        Distinct stacks, in order of appearance.
    stack_index_i, image_index_i
        ``(n,)`` index among them, and image from 0; -1 where the number is none.
    """
    lookup: dict[str, int] = {}
    names, code_i = column.strings()
    stacks, images = np.empty(len(names), np.int32), np.empty(len(names), np.int64)
    for row, name in enumerate(names):
        number, at, stack = name.partition("@")
        stacks[row] = lookup.setdefault(stack if at else number, len(lookup))
        images[row] = int(number) - 1 if at and number.isdecimal() else -1 if at else 0
    return list(lookup), stacks[code_i], images[code_i]


def first_stack_headers(particles: Particles) -> list[StackHeader | None]:
    """Header of the first stack of each optics group; None where that stack is missing or unreadable."""
    headers: list[StackHeader | None] = [None] * len(particles.optics)
    groups, first_rows = np.unique(particles.optics_index_i, return_index=True)
    for group, row in zip(groups.tolist(), first_rows.tolist(), strict=True):
        path = particles.stack_paths[particles.stack_index_i[row]]
        try:
            headers[group] = read_stack_header(path) if path.is_file() else None
        except PosterionError as error:
            _LOG.warning("%s", error)
    return headers


def _with_stack(particles: Particles, stack: Path | None) -> Particles:
    """Particles whose one stack lies elsewhere than the file says."""
    if stack is None:
        return particles
    if len(particles.stack_names) > 1:
        source = particles.table.path if particles.table else None
        raise PosterionError(
            f"{source} names {len(particles.stack_names)} stacks; {stack} alone cannot stand for them."
        )
    return replace(particles, stack_paths=(stack.absolute(),), stack_names=(str(stack),))


def _tell_uncorrected(path: Path, *tables: Table) -> None:
    """Warn of aberrations and anisotropic magnification, whose columns are kept but not corrected for."""
    found = [
        name
        for name, none in _UNCORRECTED.items()
        for table in tables
        if name in table.columns
        and any(float(v) != none for text in table.columns[name].strings()[0] for v in _NUMBERS.findall(text))
    ]
    if found:
        _LOG.warning("%s: %s are kept but not corrected for.", path, ", ".join(dict.fromkeys(found)))


def _particle_table(path: Path, tables: tuple[Table, ...]) -> Table:
    table = next((t for t in tables if t.is_loop and "rlnImageName" in t.columns), None)
    if table is None:
        largest = max(tables, key=len)
        kind = "micrographs" if "rlnMicrographName" in largest.columns else "no particles"
        raise PosterionError(
            f"{path}: column rlnImageName is missing, so this is a file of {kind} (largest table "
            f"data_{largest.name}: {', '.join(list(largest.columns)[:8])}); give a particle STAR file."
        )
    if not len(table):
        raise PosterionError(f"{path}, table data_{table.name}: there are no particles in it.")
    return table


def _with_optics_groups(table: Table, supplement: Supplement) -> tuple[Table, Table]:
    """Turn a table of RELION 3.0 or older into one with optics groups, offsets in Angstrom."""
    shared = [_shared_column(table, name, supplement) for name in _OPTICS_COLUMNS]
    pixel_i = _pixel_size_before_31(table, supplement)
    old_groups = [table.floats(n) for n in ("rlnBeamTiltClass", "rlnOpticsGroup") if n in table.columns]
    rows, first, group_i = np.unique(
        np.stack([*shared, pixel_i, *old_groups], 1), axis=0, return_index=True, return_inverse=True
    )
    rank = np.argsort(np.argsort(first))  # groups are numbered as they appear
    rows, group_i = rows[np.argsort(first)], rank[group_i.ravel()]
    numbers = [str(number) for number in range(1, len(rows) + 1)]
    optics = {
        "rlnOpticsGroup": numbers,
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers],
        **{name: [f"{value:.6f}" for value in rows[:, i]] for i, name in enumerate(_OPTICS_COLUMNS)},
        **({"rlnImagePixelSize": [f"{value:.6f}" for value in rows[:, 3]]} if rows[:, 3].all() else {}),
    }
    changed: dict[str, TextColumn | None] = dict.fromkeys((*_OPTICS_COLUMNS, *_PIXEL_COLUMNS))
    changed["rlnOpticsGroup"] = TextColumn.of_codes(numbers, group_i.astype(np.int32))
    return _offsets_in_angstrom(table, pixel_i).with_columns(changed), Table.of("optics", optics)


def _shared_column(table: Table, name: str, supplement: Supplement) -> NDArray[np.float64]:
    given = {
        "rlnVoltage": supplement.voltage_kv,
        "rlnSphericalAberration": supplement.spherical_aberration_mm,
        "rlnAmplitudeContrast": supplement.amplitude_contrast,
    }[name]
    if name not in table.columns and given is None and name == "rlnAmplitudeContrast":
        _LOG.warning("%s has no rlnAmplitudeContrast; 0 is used, as RELION does.", table.path)
        given = 0.0
    return table.floats(name) if given is None or name in table.columns else np.full(len(table), given)


def _pixel_size_before_31(table: Table, supplement: Supplement) -> NDArray[np.float64]:
    """Pixel size ``(n,)`` in Angstrom, 10,000 D / M with the detector's D in micrometre; 0 where unknown."""
    for name in ("rlnImagePixelSize", "rlnPixelSize"):
        if name in table.columns:
            return table.floats(name)
    if {"rlnMagnification", "rlnDetectorPixelSize"} <= set(table.columns):
        return np.round(1e4 * table.floats("rlnDetectorPixelSize") / table.floats("rlnMagnification"), 6)
    return np.full(len(table), supplement.pixel_size_angstrom or 0.0)


def _offsets_in_angstrom(table: Table, pixel_i: NDArray[np.float64]) -> Table:
    names = [name for name in ("rlnOriginX", "rlnOriginY") if name in table.columns]
    if names and not pixel_i.all():
        raise PosterionError(
            f"{table.path}: {names[0]} is in pixels, but no column gives the pixel size; give --pixel-size."
        )
    renamed: dict[str, TextColumn] = {}
    for name, column in table.columns.items():
        if name in names and f"{name}Angst" in table.columns:
            continue
        if name in names:
            renamed[f"{name}Angst"] = _text(table.floats(name) * pixel_i)
        else:
            renamed[name] = column
    return replace(table, columns=renamed)


def _particles(table: Table, optics_table: Table) -> Particles:
    count = len(table)
    stack_names, stack_index_i, image_index_i = parse_image_names(table.column("rlnImageName"))
    if (image_index_i < 0).any():
        row = int(np.flatnonzero(image_index_i < 0)[0])
        raise table.error("rlnImageName", row, "does not start with an image number from 1 on")
    defocus_u = table.floats("rlnDefocusU")
    micrographs, micrograph_index_i = _micrographs(table)
    return Particles(
        optics=tuple(OpticsGroup("", 0.0, 0.0, 0.0, 0.0, 0) for _ in range(len(optics_table))),
        optics_index_i=_optics_index(table, optics_table),
        stack_paths=tuple(_stack_paths(stack_names, table.path)),
        stack_names=tuple(stack_names),
        stack_index_i=stack_index_i,
        image_index_i=image_index_i,
        defocus_u_angstrom_i=defocus_u,
        defocus_v_angstrom_i=table.floats("rlnDefocusV") if "rlnDefocusV" in table.columns else defocus_u,
        defocus_angle_deg_i=_floats_or(table, "rlnDefocusAngle", 0.0),
        phase_shift_deg_i=_floats_or(table, "rlnPhaseShift", 0.0),
        ctf_bfactor_i=_floats_or(table, "rlnCtfBfactor", 0.0),
        ctf_scale_i=_floats_or(table, "rlnCtfScalefactor", 1.0),
        micrograph_names=micrographs,
        micrograph_index_i=micrograph_index_i,
        half_i=_halves(table) if "rlnRandomSubset" in table.columns else np.zeros(count, np.int8),
        poses=_poses(table),
        table=table,
        optics_table=optics_table,
    )


def _floats_or(table: Table, name: str, default: float) -> NDArray[np.float64]:
    return table.floats(name) if name in table.columns else np.full(len(table), default)


def _stack_paths(names: list[str], source: Path | None) -> list[Path]:
    """First existing place of each stack; under the table's own folder where there is none."""
    places = places_to_look((source or Path("x")).parent)
    plain = [without_format(name) for name in names]
    return [find_file(name, places) or places[0] / name for name in plain]


def _micrographs(table: Table) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    if "rlnMicrographName" not in table.columns:
        return (), np.full(len(table), -1, np.int32)
    names, code_i = table.columns["rlnMicrographName"].strings()
    return tuple(names), code_i


def _halves(table: Table) -> NDArray[np.int8]:
    half_i = table.integers("rlnRandomSubset")
    if ((half_i < 0) | (half_i > 2)).any():
        row = int(np.flatnonzero((half_i < 0) | (half_i > 2))[0])
        raise table.error("rlnRandomSubset", row, "is no half set; expected 1, 2, or 0 for none")
    return half_i.astype(np.int8)


def _poses(table: Table) -> Poses | None:
    angles = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    if not all(name in table.columns for name in angles):
        return None
    shifts = (_floats_or(table, f"rlnOrigin{axis}Angst", 0.0) for axis in "XY")
    return Poses(*(table.floats(name) for name in angles), *shifts)


def _optics_index(table: Table, optics_table: Table) -> NDArray[np.int32]:
    """Index ``(n,)`` into the optics groups; their ids may be any numbers."""
    ids = optics_table.integers("rlnOpticsGroup")
    if "rlnOpticsGroup" not in table.columns and len(ids) == 1:
        return np.zeros(len(table), np.int32)
    table.column("rlnOpticsGroup")
    wanted = table.integers("rlnOpticsGroup")
    order = np.argsort(ids)
    index = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)].astype(np.int32)
    if (ids[index] != wanted).any():
        row = int(np.flatnonzero(ids[index] != wanted)[0])
        raise table.error("rlnOpticsGroup", row, "is not among the groups of table data_optics")
    return index


def _optics(particles: Particles, table: Table, supplement: Supplement) -> tuple[OpticsGroup, ...]:
    """Optics groups; pixel size and box come from the first stack's header only where the table has none."""
    headers = first_stack_headers(particles)
    voltage, aberration, contrast = (_shared_column(table, name, supplement) for name in _OPTICS_COLUMNS)
    pixel = _floats_or(table, "rlnImagePixelSize", supplement.pixel_size_angstrom or 0.0)
    box = _floats_or(table, "rlnImageSize", 0.0)
    flipped = _floats_or(table, _PHASE_FLIPPED, 0.0) != 0
    names, code_i = table.columns.get("rlnOpticsGroupName", table.column("rlnOpticsGroup")).strings()
    groups = []
    for row, header in enumerate(headers):
        size = _pixel_size(particles, float(pixel[row]), header)
        box_px = int(box[row]) or (header.nx if header else 0)
        kv, cs_mm, q0 = float(voltage[row]), float(aberration[row]), float(contrast[row])
        groups.append(OpticsGroup(names[code_i[row]], kv, cs_mm, q0, size, box_px, bool(flipped[row])))
    return tuple(groups)


def _pixel_size(particles: Particles, size: float, header: StackHeader | None) -> float:
    source = particles.table.path if particles.table else None
    in_header = header.pixel_size_angstrom if header else 0.0
    if not size and not in_header:
        raise PosterionError(
            f"{source}: the pixel size is unknown, neither the table (rlnImagePixelSize) nor the header of "
            "the stack has one; give --pixel-size."
        )
    if not size and header:
        _LOG.warning("%s has no pixel size; %g A is used, from %s.", source, in_header, header.path)
        return in_header
    if header and abs(in_header - size) > _HEADER_PIXEL_TOLERANCE * size:
        claim = f"{in_header:g} A" if in_header else "no pixel size"
        _LOG.warning("%s: pixel size %g A is used; %s claims %s.", source, size, header.path, claim)
    return size


def star_tables(
    particles: Particles, extra_columns: Mapping[str, ArrayLike], folder: Path
) -> tuple[Table, ...]:
    """Tables of a RELION 3.1+ STAR file: optics groups, particles, and whatever else the source had.

    Parameters
    ----------
    particles
        Text of its table stays where it stands for the same value.
    extra_columns
        Name to ``(n,)`` values.
    folder
        Where the STAR file will lie; stacks have to be found from there.
    """
    rows = np.arange(len(particles), dtype=np.int64)
    source = particles.table if isinstance(particles.table, Table) else None
    is_star = source is not None and "rlnImageName" in source.columns
    table = source if source is not None and is_star else Table("particles", {}, rows)
    changed = _image_name_column(particles, table, folder)
    optics = _optics_table(particles)
    changed |= _changed_columns(particles, table, optics)
    changed |= {name.removeprefix("_"): _text(np.asarray(v)) for name, v in extra_columns.items()}
    for name, column in changed.items():
        if len(column) != len(particles):
            raise ValueError(f"column {name} has {len(column)} values for {len(particles)} particles")
    return optics, replace(table.with_columns(dict(changed)), name="particles"), *particles.other_tables


def _image_name_column(particles: Particles, table: Table, folder: Path) -> dict[str, TextColumn]:
    """``rlnImageName``, or nothing where the text that is there still says the same."""
    names = [particles.stack_name_from(stack, folder) for stack in range(len(particles.stack_names))]
    if "rlnImageName" in table.columns and names == list(particles.stack_names):
        old_names, old_stack_i, old_image_i = parse_image_names(table.columns["rlnImageName"])
        used = [names[stack] for stack in dict.fromkeys(particles.stack_index_i.tolist())]
        same = used == old_names and np.array_equal(old_image_i, particles.image_index_i)
        lookup = {name: index for index, name in enumerate(old_names)}
        code_i = np.array([lookup.get(name, -1) for name in names], np.int32)
        if same and np.array_equal(code_i[particles.stack_index_i], old_stack_i):
            return {}
    numbers = (particles.image_index_i + 1).tolist()
    stacks = particles.stack_index_i.tolist()
    return {
        "rlnImageName": TextColumn.of([f"{n:06d}@{names[s]}" for n, s in zip(numbers, stacks, strict=True)])
    }


def _changed_columns(particles: Particles, table: Table, optics: Table) -> dict[str, TextColumn]:
    """Columns whose text is missing or stands for another value than the particles now have."""
    poses = particles.poses
    wanted: dict[str, tuple[NDArray[Any], bool]] = {  # values, and whether they are worth a new column
        "rlnDefocusU": (particles.defocus_u_angstrom_i, True),
        "rlnDefocusV": (particles.defocus_v_angstrom_i, True),
        "rlnDefocusAngle": (particles.defocus_angle_deg_i, True),
        "rlnPhaseShift": (particles.phase_shift_deg_i, bool(particles.phase_shift_deg_i.any())),
        "rlnCtfBfactor": (particles.ctf_bfactor_i, bool(particles.ctf_bfactor_i.any())),
        "rlnCtfScalefactor": (particles.ctf_scale_i, bool((particles.ctf_scale_i != 1).any())),
        "rlnRandomSubset": (particles.half_i, bool(particles.half_i.any())),
        "rlnOpticsGroup": (optics.integers("rlnOpticsGroup")[particles.optics_index_i], True),
    }
    if poses is not None:
        wanted |= {
            "rlnAngleRot": (poses.rot_deg_i, True),
            "rlnAngleTilt": (poses.tilt_deg_i, True),
            "rlnAnglePsi": (poses.psi_deg_i, True),
            "rlnOriginXAngst": (poses.shift_x_angstrom_i, True),
            "rlnOriginYAngst": (poses.shift_y_angstrom_i, True),
        }
    changed = {
        name: _text(values) for name, (values, new) in wanted.items() if _differs(table, name, values, new)
    }
    if "rlnMicrographName" not in table.columns and (particles.micrograph_index_i >= 0).all():
        changed["rlnMicrographName"] = TextColumn.of_codes(
            particles.micrograph_names, particles.micrograph_index_i
        )
    return changed


def _differs(table: Table, name: str, values: NDArray[Any], worth_a_new_column: bool) -> bool:
    if name not in table.columns:
        return worth_a_new_column
    return not np.array_equal(table.columns[name].floats(), values)


def _optics_table(particles: Particles) -> Table:
    """``data_optics``: the source's own with changed values replaced, or a new one."""
    groups, old = particles.optics, particles.optics_table
    if old is None or len(old) != len(groups):
        old = Table.of("optics", {"rlnOpticsGroup": [str(i + 1) for i in range(len(groups))]})
    wanted: dict[str, NDArray[Any]] = {
        "rlnVoltage": np.array([group.voltage_kv for group in groups]),
        "rlnSphericalAberration": np.array([group.spherical_aberration_mm for group in groups]),
        "rlnAmplitudeContrast": np.array([group.amplitude_contrast for group in groups]),
        "rlnImagePixelSize": np.array([group.pixel_size_angstrom for group in groups]),
        "rlnImageSize": np.array([group.box_px for group in groups]),
        "rlnImageDimensionality": np.full(len(groups), 2),
    }
    if not wanted["rlnImageSize"].all():
        del wanted["rlnImageSize"]
    if _PHASE_FLIPPED in old.columns or any(group.phase_flipped for group in groups):
        wanted[_PHASE_FLIPPED] = np.array([group.phase_flipped for group in groups])
    changed = {name: _text(values) for name, values in wanted.items() if _differs(old, name, values, True)}
    if "rlnOpticsGroupName" not in old.columns:
        changed["rlnOpticsGroupName"] = TextColumn.of(
            [group.name or f"opticsGroup{i + 1}" for i, group in enumerate(groups)]
        )
    return old.with_columns(dict(changed))


def _text(values: NDArray[Any]) -> TextColumn:
    """Column of numbers as RELION writes them (six decimals), or of strings."""
    if values.dtype.kind in "iub":
        return TextColumn.of([str(int(value)) for value in values.tolist()])
    if values.dtype.kind == "f":
        return TextColumn.of([f"{v:.6f}" if abs(v) < 1e7 else f"{v:.6e}" for v in values.tolist()])
    return TextColumn.of(
        [value if isinstance(value, str) else os.fsdecode(value) for value in values.tolist()]
    )
