"""STAR text <-> tables of text columns; no cryo-EM meaning.

gemmi parses. It gets the text in pieces of 16 MB, because its document of a million particles would be
several times larger than the table we keep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gemmi
import numpy as np

from posterion.data.atomic import replacing
from posterion.data.files import open_binary
from posterion.data.table import ColumnBuilder, Table, TextColumn, tokens
from posterion.errors import PosterionError

__all__ = ["read_star", "write_star"]

_PIECE_BYTES = 1 << 24
_WRITE_ROWS = 1 << 16
# What RELION writes and CIF forbids: bytes beyond ASCII, and values that look like keywords (data_001.mrc).
_FOREIGN = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]|(?<=\S[ \t])(?:\$|(?:data|loop|save|stop|global)(?=_))",
    re.IGNORECASE,
)
_MASKED = re.compile(r"~x([0-9a-f]+)~")


def read_star(path: str | Path) -> tuple[Table, ...]:
    """Tables of a STAR file, plain or compressed (.gz, .bz2), in file order.

    Parameters
    ----------
    path
        STAR file of any RELION version; CRLF, comments and quoted values included.

    Raises
    ------
    PosterionError
        Where the file is missing, empty or not STAR; names the line.
    """
    path = Path(path)
    reader = _Reader(path)
    try:
        with open_binary(path) as stream:
            while piece := stream.read(reader.wanted_bytes):
                reader.feed(piece)
            reader.finish()
    except (OSError, EOFError) as error:
        raise PosterionError(f"{path} cannot be read: {error}.") from None
    if not reader.builders:
        raise PosterionError(f"{path} holds no table: expected a STAR file with at least one data_ block.")
    return tuple(builder.build(path) for builder in reader.builders)


def write_star(path: str | Path, tables: Sequence[Table], comment: str = "version 30001") -> None:
    """Write tables as a STAR file that RELION 3.1 and later read; never leaves half a file.

    Parameters
    ----------
    path
        File to write; replaced only once everything is on disk.
    tables
        In file order; tables of one name that follow each other share a block.
    comment
        Written above each block: RELION looks for its ``version 30001``.
    """
    with replacing(path) as temporary, temporary.open("wb") as stream:
        previous = None
        for table in tables:
            if table.name != previous:
                stream.write(b"\n# %s\n\ndata_%s\n" % (comment.encode(), os.fsencode(table.name)))
            previous = table.name
            stream.write(b"\n")
            for lines in _loop_lines(table) if table.is_loop else _pair_lines(table):
                stream.write(lines)
            stream.write(b"\n")


def _loop_lines(table: Table) -> Iterator[bytes]:
    names = [f"_{name} #{number}\n" for number, name in enumerate(table.columns, 1)]
    yield ("loop_\n" + "".join(names)).encode()
    for start in range(0, len(table), _WRITE_ROWS):
        rows = slice(start, start + _WRITE_ROWS)
        texts = [_on_own_lines(column[rows]) for column in table.columns.values()]
        yield b"\n".join(map(b" ".join, zip(*texts, strict=True))) + b"\n"


def _pair_lines(table: Table) -> Iterator[bytes]:
    for name, column in table.columns.items():
        yield f"_{name} ".ljust(48).encode() + _on_own_lines(column)[0] + b"\n"


def _on_own_lines(column: TextColumn) -> list[bytes]:
    """Values to write; one that spans lines (it starts with a semicolon) has to start on its own."""
    values: list[bytes] = column.text().tolist()
    if not (column.entries.astype("S1") == b";").any():
        return values
    return [b"\n%s\n" % value if value.startswith(b";") else value for value in values]


@dataclass
class _TableBuilder:
    """A table that grows piece by piece."""

    name: str
    is_loop: bool
    columns: dict[str, ColumnBuilder] = field(default_factory=dict)
    rows: int = 0

    def add(self, columns: dict[str, list[str]]) -> None:
        for tag, values in columns.items():
            self.columns.setdefault(tag, ColumnBuilder()).add(values)
        self.rows += len(next(iter(columns.values())))

    def build(self, path: Path) -> Table:
        columns = {tag[1:]: builder.build() for tag, builder in self.columns.items()}
        self.columns = {}
        rows = self.rows if self.is_loop else 1
        return Table(self.name, columns, np.arange(rows, dtype=np.int64), path, self.is_loop)


class _Reader:
    """Feeds pieces of text to gemmi, each headed by the block and loop it continues.

    A piece that gemmi refuses may have been cut inside a row or a quoted text, so it is tried again with the
    next piece; only what fails at the end of the file is an error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.builders: list[_TableBuilder] = []
        self.wanted_bytes = _PIECE_BYTES
        self._text = b""
        self._lines_done = 0
        self._block: str | None = None
        self._in_loop = False

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the file, parse up to the last line break where that is possible."""
        self._text += piece
        cut = self._text.rfind(b"\n") + 1
        if len(self._text) < _PIECE_BYTES or not cut:
            return
        try:
            self._parse(self._text[:cut])
        except (ValueError, RuntimeError):
            self.wanted_bytes = len(self._text)
            return
        self._lines_done += self._text.count(b"\n", 0, cut)
        self._text, self.wanted_bytes = self._text[cut:], _PIECE_BYTES

    def finish(self) -> None:
        """Parse what is left; what gemmi cannot read now is a mistake in the file."""
        if not self._text.strip():
            return
        try:
            self._parse(self._text)
        except (ValueError, RuntimeError) as error:
            raise self._complaint(str(error)) from None

    def _parse(self, text: bytes) -> None:
        head, continued = self._head(text)
        try:
            document = gemmi.cif.read_string(head + text)
        except (ValueError, RuntimeError):
            document = gemmi.cif.read_string(head + _FOREIGN.sub(_masked, text))
        for block in document:
            for item in block:
                if item.loop is not None:
                    self._take_loop(block, item.loop, continued)
                elif item.pair is not None:
                    self._take_pair(block.name, *item.pair)
                self._in_loop, continued = item.loop is not None, False
        if len(document):
            self._in_loop = self._in_loop and len(list(document[-1])) > 0
            self._block = document[-1].name.strip()

    def _head(self, text: bytes) -> tuple[bytes, bool]:
        """Lines that put gemmi back where the last piece ended, and whether that is inside a loop."""
        if self._block is None:
            return b"", False
        head = b"data_%s\n" % os.fsencode(self._block)
        words = next(filter(None, map(tokens, text.splitlines())), [b""])
        if not self._in_loop or (self.builders[-1].rows and words[0].startswith(b"_")):
            return head, False
        return head + b"loop_\n" + b"".join(tag.encode() + b"\n" for tag in self.builders[-1].columns), True

    def _take_loop(self, block: gemmi.cif.Block, loop: gemmi.cif.Loop, continued: bool) -> None:
        if not continued:
            self.builders.append(_TableBuilder(block.name.strip(), is_loop=True))
        self.builders[-1].add({tag: _unmasked(list(block.find_loop(tag))) for tag in loop.tags})

    def _take_pair(self, name: str, tag: str, value: str) -> None:
        last = self.builders[-1] if self.builders else None
        if last is None or last.is_loop or last.name != name.strip():
            self.builders.append(_TableBuilder(name.strip(), is_loop=False))
        self.builders[-1].add({tag: _unmasked([value])})

    def _complaint(self, error: str) -> PosterionError:
        """Say in words, with the line, what gemmi did not like."""
        found = re.match(r"\w+:(\d+)\S*:? ?(.*)", error)
        line, what = (int(found[1]), found[2]) if found else (0, error)
        if "Wrong number of values" in what:
            return self._ragged_row()
        line += self._lines_done - self._head(self._text)[0].count(b"\n")
        return PosterionError(f"{self.path}, line {line}: not STAR text ({what}).")

    def _ragged_row(self) -> PosterionError:
        width, in_header = len(self.builders[-1].columns) if self.builders else 0, False
        for number, line in enumerate(self._text.splitlines(), self._lines_done + 1):
            words = tokens(line)
            is_name = bool(words) and words[0].startswith(b"_")
            if is_name:
                width = width + 1 if in_header else 1
                in_header = True
            elif words and not re.match(rb"data_|loop_", words[0], re.IGNORECASE):
                in_header = False
                if len(words) != width:
                    return PosterionError(
                        f"{self.path}, line {number}: {len(words)} values for {width} columns."
                    )
        return PosterionError(f"{self.path}: a table has rows with too few or too many values.")


def _masked(match: re.Match[bytes]) -> bytes:
    return b"~x%s~" % match[0].hex().encode()


def _unmasked(values: list[str]) -> list[str]:
    if not any("~x" in value for value in values):
        return values
    return [_MASKED.sub(lambda match: os.fsdecode(bytes.fromhex(match[1])), value) for value in values]
