"""Tables of text: a value stays the very text that stood in the file until somebody asks for a number.

So whatever we do not understand goes back unchanged, and an error can name file, line and column.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterion.data.files import open_binary
from posterion.errors import PosterionError

__all__ = ["ColumnBuilder", "Table", "TextColumn", "tokens"]

_TOKEN = re.compile(rb"""'(?:[^']|'(?=\S))*'(?=\s|$)|"(?:[^"]|"(?=\S))*"(?=\s|$)|#.*|\S+""")
_NEEDS_QUOTES = re.compile(r"""^$|^['"#;_$]|\s""")


def tokens(line: bytes) -> list[bytes]:
    """Values on one line of STAR text, quotes kept, comment dropped."""
    return [token for token in _TOKEN.findall(line) if not token.startswith(b"#")]


@dataclass(frozen=True, eq=False)
class TextColumn:
    """Text values of one column, as found (quotes included).

    Where few values repeat (micrograph names, class numbers), each is stored once.

    Attributes
    ----------
    entries
        ``(n,)`` bytes, or the ``(m,)`` distinct values where ``code_i`` is given.
    code_i
        ``(n,)`` int32 indices into ``entries``, or None.
    """

    entries: NDArray[np.bytes_]
    code_i: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.entries if self.code_i is None else self.code_i)

    def __getitem__(self, rows: Any) -> TextColumn:
        if self.code_i is None:
            return TextColumn(self.entries[rows])
        return TextColumn(self.entries, self.code_i[rows])

    @classmethod
    def of(cls, values: Sequence[str]) -> TextColumn:
        """Column of new values, quoted where STAR asks for it."""
        builder = ColumnBuilder()
        builder.add([_quoted(value) for value in values])
        return builder.build()

    @classmethod
    def of_codes(cls, values: Sequence[str], code_i: NDArray[np.int32]) -> TextColumn:
        """Column whose row i is ``values[code_i[i]]``."""
        return cls(_bytes_array([_quoted(value) for value in values]), code_i)

    def text(self) -> NDArray[np.bytes_]:
        """Values ``(n,)`` as they stand in the file."""
        return self.entries if self.code_i is None else self.entries[self.code_i]

    def strings(self) -> tuple[list[str], NDArray[np.int32]]:
        """Return stored values without quotes, and the index ``(n,)`` of each row's value among them."""
        codes = np.arange(len(self.entries), dtype=np.int32) if self.code_i is None else self.code_i
        return [os.fsdecode(_unquoted(value)) for value in self.entries.tolist()], codes

    def floats(self) -> NDArray[np.float64]:
        """Values ``(n,)`` as float64; ValueError where one is not a number."""
        try:
            numbers = self.entries.astype(np.float64)
        except ValueError:
            numbers = np.array([float(_unquoted(value)) for value in self.entries.tolist()], np.float64)
        return numbers if self.code_i is None else numbers[self.code_i]


class ColumnBuilder:
    """Collects one column piece by piece; distinct values once, for as long as that saves memory."""

    def __init__(self) -> None:
        self._lookup: dict[str, int] = {}
        self._codes: list[NDArray[np.int32]] = []
        self._texts: list[NDArray[np.bytes_]] = []

    def add(self, values: list[str]) -> None:
        """Append values, given as they stand in the file."""
        if self._texts:
            self._texts.append(_bytes_array(values))
            return
        for value in dict.fromkeys(values):
            self._lookup.setdefault(value, len(self._lookup))
        self._codes.append(np.fromiter(map(self._lookup.__getitem__, values), np.int32, len(values)))
        if 2 * len(self._lookup) > sum(map(len, self._codes)):
            entries = _bytes_array(list(self._lookup))
            self._texts = [entries[code_i] for code_i in self._codes]
            self._lookup, self._codes = {}, []

    def build(self) -> TextColumn:
        """Return the column."""
        if self._texts:
            return TextColumn(np.concatenate(self._texts))
        codes = np.concatenate([np.zeros(0, np.int32), *self._codes])
        return TextColumn(_bytes_array(list(self._lookup)), codes)


@dataclass(frozen=True, eq=False)
class Table:
    """Named text columns of equal length: one loop of a STAR block, its single values, or the rows of a .par.

    Attributes
    ----------
    name
        Block name without ``data_``.
    columns
        In file order; names without the leading underscore.
    row_i
        ``(n,)`` row numbers in the file, from 0; they survive a selection, so that errors find the line.
    path
        The file the table came from, if any.
    is_loop
        False for single values, one ``_name value`` per line.
    rows_are_lines
        True where ``row_i`` counts lines of the file (.par) instead of rows of the table.
    """

    name: str
    columns: dict[str, TextColumn]
    row_i: NDArray[np.int64]
    path: Path | None = None
    is_loop: bool = True
    rows_are_lines: bool = False

    def __len__(self) -> int:
        return len(self.row_i)

    def __getitem__(self, rows: Any) -> Table:
        columns = {name: column[rows] for name, column in self.columns.items()}
        return replace(self, columns=columns, row_i=self.row_i[rows])

    @classmethod
    def of(cls, name: str, columns: Mapping[str, Sequence[str]]) -> Table:
        """Table of new values."""
        count = len(next(iter(columns.values()), ()))
        texts = {key: TextColumn.of(values) for key, values in columns.items()}
        return cls(name, texts, np.arange(count, dtype=np.int64))

    def with_columns(self, changed: dict[str, TextColumn | None]) -> Table:
        """Table with columns replaced where they stand, appended where new, removed where None."""
        columns = {name: changed.get(name, column) for name, column in self.columns.items()}
        columns |= {name: column for name, column in changed.items() if name not in columns}
        return replace(self, columns={name: column for name, column in columns.items() if column is not None})

    def column(self, name: str) -> TextColumn:
        """Column of this name; PosterionError says what the table has instead."""
        if name not in self.columns:
            raise PosterionError(
                f"{self.path}, table data_{self.name}: column {name} is missing; "
                f"it has {', '.join(self.columns) or 'no columns at all'}."
            )
        return self.columns[name]

    def floats(self, name: str) -> NDArray[np.float64]:
        """Numbers ``(n,)`` of a column; PosterionError names file, line and column of what is none."""
        column = self.column(name)
        try:
            numbers = column.floats()
        except ValueError:
            raise self.error(name, _first_not_a_number(column), "is not a number") from None
        if not np.isfinite(numbers).all():
            raise self.error(name, int(np.flatnonzero(~np.isfinite(numbers))[0]), "is not a finite number")
        return numbers

    def integers(self, name: str) -> NDArray[np.int64]:
        """Whole numbers ``(n,)`` of a column; ``2.000000`` is one."""
        numbers = self.floats(name)
        whole = np.rint(numbers)
        if not np.array_equal(whole, numbers):
            raise self.error(name, int(np.flatnonzero(whole != numbers)[0]), "is not a whole number")
        return whole.astype(np.int64)

    def error(self, name: str, row: int, complaint: str) -> PosterionError:
        """Complaint about one value, with its file, line and column."""
        value = os.fsdecode(bytes(self.columns[name].text()[row]))
        return PosterionError(f"{self.place(row)}, column {name}: '{value}' {complaint}.")

    def place(self, row: int) -> str:
        """File and line of a row, in words."""
        row_in_file = int(self.row_i[row])
        if self.rows_are_lines:
            return f"{self.path}, line {row_in_file + 1}"
        line = _line_of_row(self.path, self.name, row_in_file) if self.path else None
        return f"{self.path}, {f'line {line}' if line else f'row {row_in_file + 1}'}"


def _line_of_row(path: Path, block: str, row: int) -> int | None:
    """Line of a row of a loop, found by reading the file again (only for an error, so slowly but simply)."""
    in_block, width, values = False, 0, 0
    with open_binary(path) as stream:
        for number, line in enumerate(stream, 1):
            words = tokens(line)
            if not words:
                continue
            if words[0].lower().startswith(b"data_"):
                in_block, width, values = words[0][5:] == os.fsencode(block), 0, 0
            elif words[0].lower() == b"loop_":
                width, values = 0, 0
            elif words[0].startswith(b"_") and not values:
                width += in_block
            elif in_block and width:
                values += len(words)
                if values > row * width:
                    return number
    return None


def _first_not_a_number(column: TextColumn) -> int:
    for row, value in enumerate(column.text().tolist()):
        try:
            float(_unquoted(value))
        except ValueError:
            return row
    raise AssertionError("every value is a number")


def _quoted(value: str) -> str:
    if not _NEEDS_QUOTES.search(value):
        return value
    return f"'{value}'" if '"' in value else f'"{value}"'


def _unquoted(value: bytes) -> bytes:
    if value[:1] == b";":
        return value[1:-2].strip(b"\r\n")
    return value[1:-1] if len(value) > 1 and value[:1] in b"'\"" and value[-1:] == value[:1] else value


def _bytes_array(values: list[str]) -> NDArray[np.bytes_]:
    try:
        return np.array(values, dtype=np.bytes_)
    except UnicodeEncodeError:
        return np.array([os.fsencode(value) for value in values], dtype=np.bytes_)
