"""Whole files or none: write under a temporary name in the same folder, then rename."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posterion.errors import PosterionError

__all__ = ["replacing", "write_text"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path`` when the block succeeds, else is removed.

    The temporary name keeps the suffix, as writers choose their format by it. Folders on the way are made.
    The rename comes after everything is on disk, so an older ``path`` survives any failure.

    Raises
    ------
    PosterionError
        If the folder or file cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-unfinished-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PosterionError(f"{path}: cannot be written ({reason}); choose another output") from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # no such folder: nothing was written
        return


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text file or none."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
