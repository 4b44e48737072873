"""A particle set without the text of its file: the numbers stay, the text is read again for writing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterion.data.particles import Particles, Supplement
from posterion.errors import PosterionError

__all__ = ["UnreadTable", "with_text", "without_text"]

_LOG = logging.getLogger("posterion")


@dataclass(frozen=True, eq=False)
class UnreadTable:
    """Stands for the rows of a file that has been read and let go.

    Attributes
    ----------
    path : the file
    supplement : with what it was read
    row_i : (n,) int64 rows of the file; None for all of them
    """

    path: Path
    supplement: Supplement | None = None
    row_i: NDArray[np.int64] | None = None

    def __getitem__(self, rows: Any) -> UnreadTable:
        row_i = np.asarray(rows) if self.row_i is None else self.row_i[rows]
        return replace(self, row_i=row_i)

    def place(self, row: int) -> str:
        """File and line of a row, in words; reads the file again, so meant for errors."""
        row = row if self.row_i is None else int(self.row_i[row])
        try:
            return Particles.read(self.path, self.supplement).place(row)
        except (PosterionError, IndexError):
            return f"{self.path}, particle {row + 1}"

    def read(self) -> Particles:
        """Read the file again, and choose the same rows."""
        particles = Particles.read(self.path, self.supplement)
        return particles if self.row_i is None else particles[self.row_i]


def without_text(particles: Particles, path: Path, supplement: Supplement | None = None) -> Particles:
    """Let go of the text of a set as read from ``path``, and of its poses: 70 bytes at most are left of each.

    A column that holds the same value in all rows (one optics group, no phase plate) is kept as that value.

    Parameters
    ----------
    particles : all rows of the file
    path, supplement : as given to `Particles.read`
    """
    light = replace(
        particles, table=UnreadTable(path, supplement), other_tables=(), optics_table=None, poses=None
    )
    columns = {f.name: getattr(light, f.name) for f in fields(light) if f.name.endswith("_i")}
    constant: dict[str, Any] = {
        name: np.broadcast_to(column[:1].copy(), column.shape)
        for name, column in columns.items()
        if column is not None and len(column) and (column == column[0]).all()
    }
    return replace(light, **constant)


def with_text(particles: Particles) -> Particles:
    """Give a set its text back; where the file has gone or holds other rows now, say so and do without.

    Parameters
    ----------
    particles : set, from `without_text` or any other
    """
    table = particles.table
    if not isinstance(table, UnreadTable):
        return particles
    try:
        source = table.read()
        same = source.stack_names == particles.stack_names and np.array_equal(
            source.image_index_i, particles.image_index_i
        )
        reason = "holds other rows now"
    except (PosterionError, IndexError) as error:
        same, reason = False, str(error)
    if not same:
        _LOG.warning("%s: %s; only columns that Posterion knows are written", table.path, reason)
        return replace(particles, table=None)
    return replace(
        particles,
        table=source.table,
        other_tables=source.other_tables,
        optics_table=source.optics_table,
    )
