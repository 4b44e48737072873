"""An output folder: whose it is, from the beginning of a run to its end, and what a run may replace in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posterion.data.atomic import write_text
from posterion.errors import PosterionError

__all__ = ["OutputFolder"]

_SUMMARY = "summary.json"


@dataclass(frozen=True)
class OutputFolder:
    """Folder that belongs to one command; its summary.json says to which.

    A stopped run has left its summary.json without results, so that the same command goes on there and
    any other is refused.

    Attributes
    ----------
    path : made when a run begins
    command : that writes to it
    results : files that join all that a run has done; only a run that came to its end leaves them
    of : what the command works on, where there are several kinds
    """

    path: Path
    command: str
    results: tuple[str, ...]
    of: str = ""

    def claim(self, inputs: Iterable[Path | None] = ()) -> None:
        """See that nothing would be lost; writes nothing.

        Parameters
        ----------
        inputs : tables that the run reads

        Raises
        ------
        PosterionError
            Where summary.json says that the folder is another's, results are there that no run of ours
            wrote, or one of them is read by this run.
        """
        read = {path.resolve() for path in inputs if path is not None}
        for name in self.results:
            if (self.path / name).resolve() in read:
                raise self._refused(f"{self.path / name} is read by this run, which would replace it")
        if self._is_ours():
            return
        self._refuse_files(self.path / name for name in self.results)

    def begin(self, products: Iterable[Path] = ()) -> None:
        """Write in summary.json whose the folder is, and remove results, which are of an earlier run.

        Parameters
        ----------
        products : files to be written that no earlier run is known to have written

        Raises
        ------
        PosterionError
            As `claim`, and where products are in a folder that was not ours.
        """
        self.claim()
        if not self._is_ours():
            self._refuse_files(products)
        self.finish({})
        for name in self.results:
            (self.path / name).unlink(missing_ok=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json: whose the folder is, and what is said of the run."""
        owner = {"command": self.command} | ({"of": self.of} if self.of else {})
        write_text(self.path / _SUMMARY, json.dumps({**owner, **summary}, indent=1) + "\n")

    def _is_ours(self) -> bool:
        """Whether a run of ours has begun here; raises where one of something else has."""
        try:
            there = json.loads((self.path / _SUMMARY).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            raise self._refused(f"{self.path} is a file") from None
        except (OSError, ValueError):
            there = None
        said = (there.get("command"), there.get("of", "")) if isinstance(there, dict) else None
        if said != (self.command, self.of):
            kind = f" of {self.of}" if self.of else ""
            raise self._refused(
                f"{self.path} holds results of something else than 'posterion {self.command}'{kind}"
            )
        return True

    def _refuse_files(self, files: Iterable[Path]) -> None:
        for file in files:
            if file.exists():
                raise self._refused(f"{file} is there already, and no earlier run of this command wrote it")

    def _refused(self, why: str) -> PosterionError:
        return PosterionError(f"{why}; choose another folder with -o")
