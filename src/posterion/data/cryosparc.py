"""cryoSPARC's .cs columns <-> our fields, with passthrough files; NumPy record arrays, never unpickled.

Its conventions, from the fields' documentation and from public converters (pyem and cryoDRGN agree):

- ``alignments3D/pose`` is a rotation vector whose matrix maps image to volume coordinates: our R transposed.
- ``alignments3D/shift`` counts pixels of ``alignments3D/psize_A`` and has the sign of RELION's offsets.
- Angles of defocus and phase plate are in radians, ``blob/idx`` and ``alignments3D/split`` count from 0.
- ``blob/sign`` is -1 where the protein is dark in the file; its images are multiplied by it.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterion.data.atomic import replacing
from posterion.data.files import find_file, open_binary, places_to_look, without_format
from posterion.data.particles import OpticsGroup, Particles, Poses, Supplement
from posterion.errors import PosterionError
from posterion.physics.rotations import matrices_from_rotation_vectors, rotation_vectors_from_matrices

__all__ = ["CSDAT_MAGIC", "NUMPY_MAGIC", "Dataset", "read_cryosparc", "write_cryosparc"]

NUMPY_MAGIC = b"\x93NUMPY"
CSDAT_MAGIC = b"\x94CSDAT"

_LOG = logging.getLogger("posterion")
_OPTICS = ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "blob/psize_A", "blob/shape")
_ANYTHING = Supplement(None, 0.0, 0.0, 0.0, 0.0)
_REQUIRED = ("blob/path", "blob/idx", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of a .cs file, ``(n,)`` records, and where they come from."""

    records: NDArray[np.void]
    row_i: NDArray[np.int64]
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows: Any) -> Dataset:
        return Dataset(self.records[rows], self.row_i[rows], self.path)

    def __contains__(self, name: str) -> bool:
        return name in (self.records.dtype.names or ())

    def column(self, name: str) -> NDArray[Any]:
        """Values ``(n, ...)`` of a field; PosterionError where it is missing."""
        if name not in self:
            raise PosterionError(
                f"{self.path}: field {name} is missing; give the passthrough file of the same job "
                "(--passthrough)."
            )
        return self.records[name]

    def place(self, row: int) -> str:
        """File and row, in words."""
        return f"{self.path}, row {int(self.row_i[row]) + 1}"


def read_cryosparc(path: Path, supplement: Supplement | None = None) -> Particles:
    """Read a cryoSPARC .cs file, plain or compressed.

    Parameters
    ----------
    path
        The .cs file. Where it lacks fields, the only ``*passthrough_particles*.cs`` beside it is used.
    supplement
        Further passthrough files; values for what no file says.

    Raises
    ------
    PosterionError
        A missing field, pickled objects, cryoSPARC's compressed format, or particles without passthrough row.
    """
    supplement = supplement or Supplement()
    data = Dataset(*_load(path), path)
    for passthrough in supplement.passthrough or _passthrough_beside(data):
        data = _joined(data, passthrough)
    if not len(data):
        raise PosterionError(f"{path}: there are no particles in it.")
    return _particles(data, supplement)


def write_cryosparc(path: str | Path, particles: Particles) -> None:
    """Write a .cs file; fields of a .cs source that we do not understand go back as they were.

    Parameters
    ----------
    path
        File to write, whole or not at all.
    particles
        Any particle set; ``uid`` is the row number where the source had none.
    """
    columns, data = _columns(particles, Path(path).parent), particles.table
    if isinstance(data, Dataset):
        # Overwritten is only what differs from what the same records would give when read again.
        unchanged = _columns(_particles(data, _ANYTHING), (data.path or Path(path)).parent)
        same = {name for name, values in unchanged.items() if np.array_equal(values, columns.get(name, 0))}
        columns = {name: values for name, values in columns.items() if name not in same}
        columns = {name: data.records[name] for name in data.records.dtype.names or ()} | columns
    records = np.zeros(len(particles), [(n, v.dtype, v.shape[1:]) for n, v in columns.items()])
    for name, values in columns.items():
        records[name] = values
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, records, allow_pickle=False)


def _particles(data: Dataset, supplement: Supplement) -> Particles:
    for name in _REQUIRED:
        data.column(name)
    optics, optics_index_i = _optics(data, supplement)
    stack_names, stack_index_i = _paths(data, "blob/path")
    places = places_to_look((data.path or Path("x")).parent)
    micrographs, micrograph_index_i = _micrographs(data)
    return Particles(
        optics=optics,
        optics_index_i=optics_index_i,
        stack_paths=tuple(find_file(name, places) or places[0] / name for name in stack_names),
        stack_names=tuple(stack_names),
        stack_index_i=stack_index_i,
        image_index_i=data.column("blob/idx").astype(np.int64),
        defocus_u_angstrom_i=_finite(data, "ctf/df1_A"),
        defocus_v_angstrom_i=_finite(data, "ctf/df2_A"),
        defocus_angle_deg_i=np.degrees(_finite(data, "ctf/df_angle_rad")),
        phase_shift_deg_i=np.degrees(_floats_or(data, "ctf/phase_shift_rad", 0.0)),
        ctf_bfactor_i=_floats_or(data, "ctf/bfactor", 0.0),
        ctf_scale_i=_floats_or(data, "ctf/scale", 1.0),
        micrograph_names=tuple(micrographs),
        micrograph_index_i=micrograph_index_i,
        half_i=_halves(data),
        poses=_poses(data),
        contrast_sign_i=np.sign(data.column("blob/sign")).astype(np.int8) if "blob/sign" in data else None,
        table=data,
        image_column="blob/path",
    )


def _load(path: Path) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    with open_binary(path) as stream:
        content = stream.read()
    if content.startswith(CSDAT_MAGIC):
        raise PosterionError(
            f"{path} is in cryoSPARC's own compressed format; export it, or save it with "
            "cryosparc-tools as NUMPY_FORMAT."
        )
    if not content.startswith(NUMPY_MAGIC):
        raise PosterionError(f"{path} is no .cs file: it does not start as a NumPy array does.")
    try:
        records = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        reason = (
            "it holds pickled Python objects, which could run any code" if "pickle" in str(error) else error
        )
        raise PosterionError(f"{path} is not read: {reason}; save it again without object columns.") from None
    if records.dtype.names is None:
        raise PosterionError(f"{path} is no .cs file: a NumPy array without named fields.")
    records = np.atleast_1d(records)
    return records, np.arange(len(records), dtype=np.int64)


def _passthrough_beside(data: Dataset) -> Sequence[Path]:
    if all(name in data for name in _REQUIRED) or data.path is None:
        return ()
    found = [p for p in sorted(data.path.parent.glob("*passthrough_particles*.cs")) if p != data.path]
    if len(found) == 1:
        _LOG.info("%s: missing fields are taken from %s.", data.path, found[0])
    return found if len(found) == 1 else ()


def _joined(data: Dataset, path: Path) -> Dataset:
    """Rows with the fields that only ``path`` has, matched by uid."""
    other = Dataset(*_load(path), path)
    uids, other_uids = data.column("uid"), other.column("uid")
    order = np.argsort(other_uids)
    match = (
        order[np.searchsorted(other_uids, uids, sorter=order).clip(max=len(order) - 1)]
        if len(order)
        else order
    )
    if not len(order) or (other_uids[match] != uids).any():
        missing = int((other_uids[match] != uids).sum()) if len(order) else len(uids)
        raise PosterionError(
            f"{path}: {missing} of {len(uids)} particles of {data.path} (by uid) are not in it."
        )
    new = [name for name in other.records.dtype.names or () if name not in data]
    dtype = [*_fields(data.records), *(field for field in _fields(other.records) if field[0] in new)]
    records = np.zeros(len(data), dtype)
    for name in data.records.dtype.names or ():
        records[name] = data.records[name]
    for name in new:
        records[name] = other.records[name][match]
    return replace(data, records=records)


def _fields(records: NDArray[np.void]) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    return [(name, records[name].dtype, records[name].shape[1:]) for name in records.dtype.names or ()]


def _optics(data: Dataset, supplement: Supplement) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int32]]:
    """Optics groups: particles that share exposure group, voltage, Cs, Q0, pixel size and box."""
    given = (
        supplement.voltage_kv,
        supplement.spherical_aberration_mm,
        supplement.amplitude_contrast,
        supplement.pixel_size_angstrom,
    )
    columns = [_floats_or(data, "ctf/exp_group_id", 0.0)]
    for name, value in zip(_OPTICS[:4], given, strict=True):
        columns.append(_finite(data, name) if name in data or value is None else np.full(len(data), value))
    shape = data.column("blob/shape")
    if (shape[:, 0] != shape[:, 1]).any():
        row = int(np.flatnonzero(shape[:, 0] != shape[:, 1])[0])
        raise PosterionError(f"{data.place(row)}, field blob/shape: {tuple(shape[row])} is not square.")
    columns.append(shape[:, 0].astype(np.float64))
    rows, index_i = np.unique(np.stack(columns, 1), axis=0, return_inverse=True)
    shared = [[_shortest(value) for value in row] for row in rows]
    groups = tuple(
        OpticsGroup(f"exposureGroup{int(g)}", kv, cs, q0, px, int(n)) for g, kv, cs, q0, px, n in shared
    )
    return groups, index_i.ravel().astype(np.int32)


def _shortest(value: float) -> float:
    """0.07 rather than 0.0700000003: single precision numbers as somebody typed them."""
    return float(str(np.float32(value)))


def _paths(data: Dataset, name: str) -> tuple[list[str], NDArray[np.int32]]:
    """Distinct paths in order of the alphabet, and each row's index; a leading > only marks a link."""
    values, code_i = np.unique(data.column(name), return_inverse=True)
    texts = [os.fsdecode(value) if isinstance(value, bytes) else str(value) for value in values.tolist()]
    return [text.removeprefix(">") for text in texts], code_i.ravel().astype(np.int32)


def _micrographs(data: Dataset) -> tuple[list[str], NDArray[np.int32]]:
    if "location/micrograph_path" in data:
        return _paths(data, "location/micrograph_path")
    return [], np.full(len(data), -1, np.int32)


def _halves(data: Dataset) -> NDArray[np.int8]:
    """Half sets 1 and 2; a file that puts every particle into one has none."""
    if "alignments3D/split" not in data or len(np.unique(data.column("alignments3D/split"))) != 2:
        return np.zeros(len(data), np.int8)
    return (data.column("alignments3D/split") + 1).astype(np.int8)


def _poses(data: Dataset) -> Poses | None:
    if "alignments3D/pose" not in data:
        return None
    matrices = matrices_from_rotation_vectors(_finite(data, "alignments3D/pose")).transpose(0, 2, 1)
    pixel_i = _finite(data, "alignments3D/psize_A" if "alignments3D/psize_A" in data else "blob/psize_A")
    return Poses.from_matrices(matrices, _finite(data, "alignments3D/shift") * pixel_i[:, None])


def _finite(data: Dataset, name: str) -> NDArray[np.float64]:
    values = data.column(name).astype(np.float64)
    bad = ~np.isfinite(values).reshape(len(data), -1).all(1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise PosterionError(f"{data.place(row)}, field {name}: {values[row]} is not a finite number.")
    return values


def _floats_or(data: Dataset, name: str, default: float) -> NDArray[np.float64]:
    return _finite(data, name) if name in data else np.full(len(data), default)


def _columns(particles: Particles, folder: Path) -> dict[str, NDArray[Any]]:
    """Our fields as cryoSPARC has them."""
    count, optics, group_i = len(particles), particles.optics, particles.optics_index_i
    sign_i = particles.contrast_sign_i
    stacks = range(len(particles.stack_names))
    names = np.array([os.fsencode(without_format(particles.stack_name_from(s, folder))) for s in stacks])
    pixel_i = np.array([group.pixel_size_angstrom for group in optics])[group_i]
    boxes = np.array([group.box_px for group in optics], np.uint32)[group_i]
    columns: dict[str, NDArray[Any]] = {
        "uid": np.arange(1, count + 1, dtype=np.uint64),
        "blob/path": names[particles.stack_index_i],
        "blob/idx": particles.image_index_i.astype(np.uint32),
        "blob/shape": np.stack([boxes, boxes], 1),
        "blob/psize_A": pixel_i.astype(np.float32),
        "blob/sign": (np.ones(count) if sign_i is None else sign_i).astype(np.float32),
        "ctf/type": np.full(count, b"imported"),
        "ctf/exp_group_id": group_i.astype(np.uint32),
        "ctf/accel_kv": np.array([group.voltage_kv for group in optics], np.float32)[group_i],
        "ctf/cs_mm": np.array([group.spherical_aberration_mm for group in optics], np.float32)[group_i],
        "ctf/amp_contrast": np.array([group.amplitude_contrast for group in optics], np.float32)[group_i],
        "ctf/df1_A": particles.defocus_u_angstrom_i.astype(np.float32),
        "ctf/df2_A": particles.defocus_v_angstrom_i.astype(np.float32),
        "ctf/df_angle_rad": np.radians(particles.defocus_angle_deg_i).astype(np.float32),
        "ctf/phase_shift_rad": np.radians(particles.phase_shift_deg_i).astype(np.float32),
        "ctf/bfactor": particles.ctf_bfactor_i.astype(np.float32),
        "ctf/scale": particles.ctf_scale_i.astype(np.float32),
    }
    if particles.poses is not None or particles.half_i.any():
        columns["alignments3D/split"] = np.maximum(particles.half_i.astype(np.int64) - 1, 0).astype(np.uint32)
    if (particles.micrograph_index_i >= 0).all() and particles.micrograph_names:
        micrographs = np.array([os.fsencode(name) for name in particles.micrograph_names])
        columns["location/micrograph_path"] = micrographs[particles.micrograph_index_i]
    if particles.poses is not None:
        columns |= _alignments(particles.poses, pixel_i)
    return columns


def _alignments(poses: Poses, pixel_i: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    shifts = np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], 1)
    vectors = rotation_vectors_from_matrices(poses.matrices().transpose(0, 2, 1))
    return {
        "alignments3D/shift": (shifts / pixel_i[:, None]).astype(np.float32),
        "alignments3D/pose": vectors.astype(np.float32),
        "alignments3D/psize_A": pixel_i.astype(np.float32),
    }
