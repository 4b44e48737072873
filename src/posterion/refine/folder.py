"""A run's output folder: whether it holds this run, and may be gone on with, or anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posterion.data.output_folder import OutputFolder
from posterion.errors import PosterionError
from posterion.refine.checkpoint import Checkpoint, load_checkpoint, require_same_run

__all__ = [
    "CHECKPOINT",
    "RESULTS",
    "SUMMARY",
    "claim_for_reconstruction",
    "find_checkpoint",
    "finished_summary",
]

CHECKPOINT = "checkpoint.h5"
SUMMARY = "summary.json"
_PARTICLES = "particles.star"
RESULTS = ("map.mrc", "map_unfiltered.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.tsv", _PARTICLES)
_MORE_OF_RECONSTRUCTION = ("quarantine.txt", "fsc.png", "summary.png", "directions.png")


def finished_summary(folder: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Summary of the same run if it is finished; None where there is none.

    Raises
    ------
    PosterionError
        If the folder holds the results of another run.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        there = summary["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PosterionError(
            f"{folder} holds results of something else than 'posterion refine' ({SUMMARY}); "
            "give another output folder"
        ) from None
    require_same_run(folder, there, fingerprint)
    return summary


def find_checkpoint(folder: Path, fingerprint: Mapping[str, Any]) -> Checkpoint | None:
    """Checkpoint of the same run that was stopped; None where nothing has begun.

    Raises
    ------
    PosterionError
        If the folder holds another run, or files under the names of results that no run here wrote.
    """
    path = folder / CHECKPOINT
    if path.exists():
        checkpoint = load_checkpoint(path)
        require_same_run(folder, checkpoint.fingerprint, fingerprint)
        return checkpoint
    _refuse_foreign_results(folder)
    return None


def claim_for_reconstruction(path: Path) -> OutputFolder:
    """Refuse a folder with results that no reconstruction wrote; an earlier reconstruction is replaced.

    Raises
    ------
    PosterionError
        If the folder holds a refinement, results of another command, or files under the names of ours.
    """
    if (path / CHECKPOINT).exists() or (path / _PARTICLES).exists():
        raise PosterionError(f"{path} holds a refinement or a particle set; give another output folder")
    results = (*(name for name in RESULTS if name != _PARTICLES), *_MORE_OF_RECONSTRUCTION)
    folder = OutputFolder(path, "reconstruct", results)
    folder.claim()
    return folder


def _refuse_foreign_results(folder: Path) -> None:
    for name in RESULTS:
        if (folder / name).exists():
            raise PosterionError(
                f"{folder} already holds {name}, which this run would replace; give another output folder"
            )
