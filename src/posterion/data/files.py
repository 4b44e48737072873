"""Opening files, compressed or not, and finding those that a table names relative to somewhere."""

import bz2
import gzip
from pathlib import Path
from typing import IO, Any

from posterion.errors import PosterionError

__all__ = ["find_file", "open_binary", "places_to_look", "without_format"]


def open_binary(path: Path) -> IO[bytes]:
    """Open a plain, .gz or .bz2 file for reading bytes; PosterionError where that cannot be done."""
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix.lower(), open)
    try:
        stream: IO[bytes] = opener(path, "rb")
    except OSError as error:
        raise PosterionError(f"{path} cannot be read: {error.strerror}.") from None
    return stream


def places_to_look(folder: Path) -> list[Path]:
    """Folders a relative name may start from: the table's own, its parents (the project), the current one."""
    folder = folder.absolute()
    places = [folder, *folder.parents]
    return places if Path.cwd() in places else [*places, Path.cwd()]


def find_file(name: str, places: list[Path]) -> Path | None:
    """Return the first file that exists under this name; absolute names stand for themselves."""
    return next((place / name for place in places if (place / name).is_file()), None)


def without_format(name: str) -> str:
    """File name without RELION's note on how to read it: ``stack.mrc:mrcs`` lies in ``stack.mrc``."""
    return name.removesuffix(":mrcs").removesuffix(":mrc")
