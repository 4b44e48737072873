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

    The temporary name keeps the suffix, because writers choose their format by it. Folders on the way are
    made.

    Raises
    ------
    PosterionError
        If the folder or file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-unfinished-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PosterionError(f"{path}: cannot be written ({reason}); choose another output") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text file or none."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
