"""A particle set: a table of metadata in one convention, and its images, read lazily.

Foreign conventions are undone before a `Particles` exists: `relion`, `cryosparc` and `frealign` build it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posterion.data.files import find_file, open_binary, places_to_look, without_format
from posterion.data.mrc import open_stack, read_images
from posterion.data.table import Table
from posterion.errors import PosterionError
from posterion.physics.rotations import euler_from_matrices, matrices_from_euler

__all__ = ["OpticsGroup", "Particles", "Poses", "SourceTable", "Supplement"]

_PIXEL_SIZE_TOLERANCE = 1e-4
_Rows = TypeVar("_Rows", "Poses", "Particles")


class SourceTable(Protocol):
    """Rows as the file had them, kept so that what we do not understand is written back unchanged."""

    @property
    def path(self) -> Path | None:
        """File the rows came from."""

    def __getitem__(self, rows: Any) -> SourceTable: ...

    def place(self, row: int) -> str:
        """File and line of a row, in words, for errors."""


@dataclass(frozen=True)
class OpticsGroup:
    """What the images of one group share: the microscope's constants, the pixel and the box.

    Attributes
    ----------
    name
        As in ``rlnOpticsGroupName``.
    voltage_kv, spherical_aberration_mm, amplitude_contrast
        kV, mm and the fraction Q0.
    pixel_size_angstrom
        Of the images; the table's, whatever the stack's header claims.
    box_px
        0 where neither table nor any stack says it.
    phase_flipped
        The images were multiplied by the sign of their CTF: what remains of it is its absolute value.
    """

    name: str
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    pixel_size_angstrom: float
    box_px: int
    phase_flipped: bool = False


@dataclass(frozen=True)
class Supplement:
    """What the user adds where a file leaves it unsaid.

    Attributes
    ----------
    stack
        Image stack of a .par file, which names none; or of a file whose one stack has moved.
    pixel_size_angstrom, voltage_kv, spherical_aberration_mm, amplitude_contrast
        Used only where the file has no such value.
    passthrough
        Further .cs files with the columns that the first one lacks, joined by uid.
    """

    stack: Path | None = None
    pixel_size_angstrom: float | None = None
    voltage_kv: float | None = None
    spherical_aberration_mm: float | None = None
    amplitude_contrast: float | None = None
    passthrough: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class Poses:
    """Orientations and origin offsets in RELION's convention, one per particle.

    Attributes
    ----------
    rot_deg_i, tilt_deg_i, psi_deg_i
        ``(n,)`` float64: R = Rz(psi) Ry(tilt) Rz(rot) maps volume to image coordinates.
    shift_x_angstrom_i, shift_y_angstrom_i
        ``(n,)`` float64: moving the image by this puts it onto its projection.
    """

    rot_deg_i: NDArray[np.float64]
    tilt_deg_i: NDArray[np.float64]
    psi_deg_i: NDArray[np.float64]
    shift_x_angstrom_i: NDArray[np.float64]
    shift_y_angstrom_i: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rot_deg_i)

    def __getitem__(self, selection: Any) -> Poses:
        return _select(self, _rows(selection, len(self)))

    def matrices(self) -> NDArray[np.float64]:
        """Rotation matrices R ``(n, 3, 3)``, volume to image, vectors ordered (x, y, z)."""
        return matrices_from_euler(self.rot_deg_i, self.tilt_deg_i, self.psi_deg_i)

    @classmethod
    def from_matrices(cls, matrices: NDArray[np.float64], shifts_angstrom: NDArray[np.float64]) -> Poses:
        """Poses from rotation matrices R ``(n, 3, 3)`` and offsets (x, y) ``(n, 2)`` in Angstrom."""
        shifts = np.asarray(shifts_angstrom, np.float64)
        rot, tilt, psi = (np.asarray(angle, np.float64) for angle in euler_from_matrices(matrices))
        return cls(rot, tilt, psi, shifts[:, 0].copy(), shifts[:, 1].copy())


@dataclass(frozen=True, eq=False)
class Particles:
    """A particle set: about 120 bytes per particle beyond the table it came from; images stay on disk.

    Attributes
    ----------
    optics, optics_index_i
        Optics groups, and for each particle ``(n,)`` its group.
    stack_paths, stack_names
        Distinct stacks: where they are, and as the file writes them.
    stack_index_i, image_index_i
        ``(n,)`` index among the stacks, and image within it, from 0.
    defocus_u_angstrom_i, defocus_v_angstrom_i, defocus_angle_deg_i, phase_shift_deg_i
        ``(n,)`` defocus along its two axes, Angstrom, underfocus positive; angle of the first; phase plate.
    ctf_bfactor_i, ctf_scale_i
        ``(n,)`` envelope exp(-B f^2 / 4) in square Angstrom, and factor; 0 and 1 where the file has none.
    micrograph_names, micrograph_index_i
        Distinct micrographs and ``(n,)`` index among them; -1 where the file names none.
    half_i
        ``(n,)`` half set 1 or 2; 0 where unassigned.
    poses
        None where the file has no orientations.
    contrast_sign_i
        ``(n,)`` +1 or -1; images are multiplied by it (cryoSPARC's ``blob/sign``); None for all +1.
    table
        Rows as found, written back with what has changed.
    other_tables, optics_table
        Further tables of the same STAR file, and its ``data_optics``.
    image_column
        Column that names the image, for errors.
    """

    optics: tuple[OpticsGroup, ...]
    optics_index_i: NDArray[np.int32]
    stack_paths: tuple[Path, ...]
    stack_names: tuple[str, ...]
    stack_index_i: NDArray[np.int32]
    image_index_i: NDArray[np.int64]
    defocus_u_angstrom_i: NDArray[np.float64]
    defocus_v_angstrom_i: NDArray[np.float64]
    defocus_angle_deg_i: NDArray[np.float64]
    phase_shift_deg_i: NDArray[np.float64]
    ctf_bfactor_i: NDArray[np.float64]
    ctf_scale_i: NDArray[np.float64]
    micrograph_names: tuple[str, ...]
    micrograph_index_i: NDArray[np.int32]
    half_i: NDArray[np.int8]
    poses: Poses | None = None
    contrast_sign_i: NDArray[np.int8] | None = None
    table: SourceTable | None = None
    other_tables: tuple[Table, ...] = ()
    optics_table: Table | None = None
    image_column: str = "rlnImageName"

    def __len__(self) -> int:
        return len(self.image_index_i)

    def __getitem__(self, selection: Any) -> Particles:
        rows = _rows(selection, len(self))
        selected = _select(self, rows)
        poses = None if self.poses is None else self.poses[rows]
        return replace(selected, poses=poses, table=None if self.table is None else self.table[rows])

    @property
    def box_px(self) -> int:
        """Box of all images, pixels; PosterionError where optics groups differ or none says it."""
        boxes = sorted({group.box_px for group in self._optics_in_use})
        if len(boxes) != 1:
            raise PosterionError(
                f"{self._source}: two box sizes, {boxes[0]} and {boxes[-1]} pixels; "
                "extract or rescale all particles with one box."
            )
        if boxes[0] == 0:
            raise PosterionError(
                f"{self._source}: the box is unknown, there is no rlnImageSize and no stack was found; "
                f"{self._looked_for(0)}"
            )
        return boxes[0]

    @property
    def pixel_size_angstrom(self) -> float:
        """Pixel size of all images, Angstrom; PosterionError where optics groups differ."""
        sizes = sorted({group.pixel_size_angstrom for group in self._optics_in_use})
        if sizes[-1] - sizes[0] > _PIXEL_SIZE_TOLERANCE * sizes[0]:
            raise PosterionError(
                f"{self._source}: two pixel sizes, {sizes[0]} and {sizes[-1]} Angstrom; "
                "rescale all particles to one pixel size."
            )
        return sizes[0]

    def images(self, indices: ArrayLike | None = None) -> NDArray[np.float32]:
        """Read images from their stacks, each stack forward, whatever the order asked for.

        Parameters
        ----------
        indices
            ``(n,)`` particles, integers or a boolean mask; all of them by default.

        Returns
        -------
        images
            ``(n, box, box)`` float32, times the contrast sign.

        Raises
        ------
        PosterionError
            Stack missing or truncated, image number out of range, or another box than the optics group's.
        """
        rows = np.arange(len(self)) if indices is None else _rows(np.asarray(indices), len(self))
        images = np.empty((len(rows), self.box_px, self.box_px), np.float32)
        order = self._file_order(rows)
        cuts = np.flatnonzero(np.diff(self.stack_index_i[rows[order]])) + 1
        for part in np.split(order, cuts) if len(rows) else []:
            images[part] = self._images_of_one_stack(rows[part])
        if self.contrast_sign_i is not None:
            images *= self.contrast_sign_i[rows, None, None]
        return images

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """All particles in file order (stack by stack), the next batch being read meanwhile.

        Parameters
        ----------
        size
            Particles per batch; the last may have fewer.

        Yields
        ------
        indices, images
            ``(n,)`` int64 particles, ``(n, box, box)`` float32.
        """
        order = self._file_order(np.arange(len(self)))
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            ahead = [reader.submit(self.images, part) for part in parts[:1]]
            for part, following in zip(parts, [*parts[1:], None], strict=False):
                images = ahead.pop().result()
                if following is not None:
                    ahead.append(reader.submit(self.images, following))
                yield part, images

    def require_poses(self) -> Poses:
        """Return the poses, or raise a PosterionError that says which columns are missing."""
        if self.poses is None:
            raise PosterionError(
                f"{self._source} has no poses: columns rlnAngleRot, rlnAngleTilt and rlnAnglePsi "
                "(alignments3D/pose in a .cs file) are needed here; refine the particles first."
            )
        return self.poses

    @classmethod
    def read(cls, path: str | Path, supplement: Supplement | None = None) -> Particles:
        """Read a particle set: RELION STAR (1.3 to 5), cryoSPARC .cs or FREALIGN/cisTEM .par.

        Parameters
        ----------
        path
            Told apart by content and extension; may be compressed (.gz, .bz2).
        supplement
            What the file leaves unsaid: stack, pixel size, voltage, ...

        Raises
        ------
        PosterionError
            Names file, line and column of what is missing or wrong. Stacks may be missing here; they are
            looked for when images are read.
        """
        from posterion.data import cryosparc, frealign, relion

        path = Path(path)
        with open_binary(path) as stream:
            start = stream.read(6)
        name = path.name.lower().removesuffix(".gz").removesuffix(".bz2")
        if name.endswith(".cs") or start in (cryosparc.NUMPY_MAGIC, cryosparc.CSDAT_MAGIC):
            reader = cryosparc.read_cryosparc
        else:
            reader = frealign.read_frealign if name.endswith(".par") else relion.read_relion
        return reader(path, supplement or Supplement())

    def write_star(
        self,
        path: str | Path,
        poses: Poses | None = None,
        extra_columns: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Write a RELION 3.1+ STAR file; text that stands for an unchanged value stays as it was.

        Parameters
        ----------
        path
            File to write, whole or not at all.
        poses
            Written instead of this set's own.
        extra_columns
            Name (``rlnMaxValueProbDistribution``, ...) to ``(n,)`` values, added or replaced.
        """
        from posterion.data.relion import write_relion

        changed = self if poses is None else replace(self, poses=poses)
        write_relion(path, changed, extra_columns or {})

    def find_stack(self, stack: int, row: int = 0) -> Path:
        """Path of a stack that exists; PosterionError names the row that asks for it and where we looked."""
        if not self.stack_paths[stack].is_file():
            raise PosterionError(f"{self.place(row)}, column {self.image_column}: {self._looked_for(stack)}")
        return self.stack_paths[stack]

    def stack_name_from(self, stack: int, folder: Path) -> str:
        """Name under which a table in ``folder`` finds a stack: as it was where that works, else absolute."""
        name, path = self.stack_names[stack], self.stack_paths[stack]
        plain = without_format(name)
        found = find_file(plain, places_to_look(folder))
        if not path.is_file() or (found is not None and found.samefile(path)):
            return name
        return str(path.resolve()) + name[len(plain) :]

    def place(self, row: int) -> str:
        """File and line a particle comes from, in words."""
        return f"particle {row + 1}" if self.table is None else self.table.place(row)

    @cached_property
    def _optics_in_use(self) -> list[OpticsGroup]:
        return [self.optics[index] for index in np.unique(self.optics_index_i)] or list(self.optics)

    @property
    def _source(self) -> str:
        return str(self.table.path) if self.table is not None and self.table.path else "particle set"

    def _looked_for(self, stack: int) -> str:
        folder = self.table.path.parent if self.table is not None and self.table.path else Path.cwd()
        looked = ", ".join(str(place) for place in places_to_look(folder))
        return f"stack '{self.stack_names[stack]}' does not exist; looked in {looked}."

    def _file_order(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.lexsort((self.image_index_i[rows], self.stack_index_i[rows]))

    def _images_of_one_stack(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        row, number = int(rows[0]), self.image_index_i[rows]
        stack = open_stack(self.find_stack(int(self.stack_index_i[row]), row))
        path = self.stack_paths[int(self.stack_index_i[row])]
        if stack.shape[1:] != (self.box_px, self.box_px):
            raise PosterionError(
                f"{self.place(row)}: images of {path} are {stack.shape[1]} x {stack.shape[2]} pixels, "
                f"its optics group '{self.optics[self.optics_index_i[row]].name}' says {self.box_px}."
            )
        outside = np.flatnonzero((number < 0) | (number >= len(stack)))
        if len(outside):
            raise PosterionError(
                f"{self.place(int(rows[outside[0]]))}, column {self.image_column}: image number "
                f"{number[outside[0]] + 1} is out of range, {path} has {len(stack)} images."
            )
        return read_images(stack, number)


def _rows(selection: Any, count: int) -> NDArray[np.int64]:
    """Row numbers of an integer, slice, boolean mask or list of integers."""
    if isinstance(selection, slice):
        return np.arange(count)[selection]
    rows = np.atleast_1d(np.asarray(selection))
    if rows.dtype == bool:
        if len(rows) != count:
            raise IndexError(f"mask of {len(rows)} for {count} particles")
        return np.flatnonzero(rows)
    rows = rows.astype(np.int64)
    if len(rows) and not -count <= rows.min() <= rows.max() < count:
        raise IndexError(f"particle index out of range: there are {count}")
    return rows % count if count else rows


def _select(record: _Rows, rows: NDArray[np.int64]) -> _Rows:
    """Copy of a record with the arrays of its per-particle fields (their names end in _i) cut to rows."""
    chosen = {
        field.name: getattr(record, field.name)[rows]
        for field in fields(record)
        if field.name.endswith("_i") and getattr(record, field.name) is not None
    }
    return replace(record, **chosen)
