"""Extraction from many micrographs: one stack each, one STAR file of all particles, ready for refinement."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posterion.compute import NullProgress, StageProgress
from posterion.data.mrc import write_stack
from posterion.data.output_folder import OutputFolder, open_folder
from posterion.data.particles import Supplement
from posterion.data.star import write_star
from posterion.data.table import Table, TextColumn
from posterion.errors import PosterionError
from posterion.micrographs.coordinate_set import CoordinateSet, read_coordinate_set
from posterion.micrographs.extraction import ExtractOptions, cut_windows, normalise_background, rescale
from posterion.micrographs.micrograph_set import optics_as_table
from posterion.micrographs.reading import read_micrograph
from posterion.micrographs.streaming import (
    Failure,
    Job,
    Outcome,
    output_stems,
    process_all,
    require_one,
)

__all__ = ["ExtractResult", "extract"]

_LOG = logging.getLogger("posterion")
_TABLE = "particles.star"
_ALGORITHM = 1  # raised when the same settings give other images than before
_OF_ANOTHER_IMAGE = ("rlnImageName", "rlnOriginX", "rlnOriginY")  # stacks, and pixels, that are no more


@dataclass(frozen=True)
class ExtractResult:
    """Where the particles are.

    Attributes
    ----------
    particles_path : STAR file
    count : particles extracted
    at_edge : particles left out because their window crosses the micrograph's edge
    outside : coordinates outside their micrograph
    pixel_sizes_angstrom, boxes_px : of the particles, per optics group
    failures : micrographs that no particles could be cut from
    resumed : how many micrographs had been done before
    micrographs : how many there are
    """

    particles_path: Path
    count: int
    at_edge: int
    outside: int
    pixel_sizes_angstrom: tuple[float, ...]
    boxes_px: tuple[int, ...]
    failures: tuple[Failure, ...]
    resumed: int
    micrographs: int


def extract(
    coordinates: Sequence[str | Path] | CoordinateSet,
    output: str | Path,
    options: ExtractOptions,
    micrographs: Sequence[str | Path] = (),
    supplement: Supplement | None = None,
    *,
    threads: int | None = None,
    progress: StageProgress = NullProgress,
) -> ExtractResult:
    """Cut particles out of micrographs: rescaled, protein white, background of mean 0 and deviation 1.

    Writes ``Particles/NAME.mrcs`` for each micrograph and ``particles.star``. A particle whose window crosses
    the micrograph's edge is left out and counted. The same call goes on where a stopped one was.

    Parameters
    ----------
    coordinates
        Files as `read_coordinate_set` takes them.
    output
        Folder; made if needed.
    options
        Box, pixel size, contrast.
    micrographs, supplement
        Where the coordinates do not name their micrographs, or not all of their optics.
    threads
        Micrographs at a time; all cores where None.
    progress
        Shows how far it is.

    Raises
    ------
    PosterionError
        For coordinates or options that cannot be used. A micrograph that cannot be is in ``failures``.
    """
    if isinstance(coordinates, CoordinateSet):
        source = coordinates
    else:
        source = read_coordinate_set(coordinates, micrographs, supplement)
    folder = OutputFolder(Path(output), "extract", (_TABLE,))
    folder.claim([source.table.path, source.micrographs.star_path])
    for optics in source.micrographs.optics:
        options.background_radius_px(
            optics.pixel_size_angstrom, options.new_box_px(optics.pixel_size_angstrom)
        )
    used = np.unique(source.micrograph_index_i).tolist()
    jobs = _jobs(source, used, folder.path, options)
    with open_folder(folder.path):
        outcome = process_all(
            folder,
            jobs,
            lambda number: _extract_one(source, used[number], jobs[number].products[0], options),
            stage="extracting",
            progress=progress,
            threads=threads,
        )
        return _finished(folder, source, used, jobs, outcome, options)


def _jobs(source: CoordinateSet, used: Sequence[int], folder: Path, options: ExtractOptions) -> list[Job]:
    stems, set_ = output_stems(source.micrographs), source.micrographs
    jobs = []
    for index in used:
        rows = source.rows_of(index)
        positions = np.stack([source.x_px_i[rows], source.y_px_i[rows]])
        settings = {
            "algorithm": _ALGORITHM,
            **asdict(options),
            "pixel_size_angstrom": set_.optics_of(index).pixel_size_angstrom,
            "positions": hashlib.sha256(positions.tobytes()).hexdigest(),
        }
        stack = folder / "Particles" / f"{stems[index]}.mrcs"
        record = folder / "records" / f"{stems[index]}.json"
        jobs.append(Job(set_.names[index], set_.paths[index], settings, record, (stack,)))
    return jobs


def _extract_one(source: CoordinateSet, index: int, stack: Path, options: ExtractOptions) -> dict[str, Any]:
    """Cut one micrograph's particles into a stack; the record says which of its rows are in it."""
    micrographs, rows = source.micrographs, source.rows_of(index)
    path, pixel = micrographs.paths[index], micrographs.optics_of(index).pixel_size_angstrom
    values = read_micrograph(path).values
    try:
        windows = cut_windows(values, source.x_px_i[rows], source.y_px_i[rows], options.box_px)
    except PosterionError as error:
        raise PosterionError(f"{path}: {error}") from None
    if windows.outside:
        _refuse_or_warn(path, values.shape, windows.outside, source, rows)
    if not len(windows.kept):
        raise PosterionError(
            f"{path}: the windows of all {len(rows)} particles cross its edge; give a smaller --box"
        )
    new_box = options.new_box_px(pixel)
    images = normalise_background(
        rescale(windows.images_i, new_box),
        options.background_radius_px(pixel, new_box),
        remove_ramp=options.remove_ramp,
    )
    images = images if options.keep_contrast else -images
    dtype = np.float16 if options.float16 else np.float32
    write_stack(stack, images.astype(dtype, copy=False), pixel * options.box_px / new_box)
    return {"kept": windows.kept.tolist(), "at_edge": windows.at_edge, "outside": windows.outside}


def _refuse_or_warn(
    path: Path, shape: tuple[int, ...], outside: int, source: CoordinateSet, rows: np.ndarray[Any, Any]
) -> None:
    """Tell of coordinates outside; if they all are, the micrograph fails."""
    told = (
        f"{path}: {outside} of {len(rows)} coordinates lie outside the micrograph of {shape[1]} x {shape[0]} "
        f"pixels (x up to {source.x_px_i[rows].max():.0f}, y up to {source.y_px_i[rows].max():.0f}); "
        "were they picked at another pixel size?"
    )
    if outside == len(rows):
        raise PosterionError(told)
    _LOG.warning("%s", told)


def _finished(
    folder: OutputFolder,
    source: CoordinateSet,
    used: Sequence[int],
    jobs: Sequence[Job],
    outcome: Outcome,
    options: ExtractOptions,
) -> ExtractResult:
    """Write particles.star and the summary."""
    require_one(folder, outcome, f"no particles could be extracted from {len(jobs)} micrographs")
    done = [(n, record) for n, record in enumerate(outcome.records) if record is not None]
    rows = np.concatenate([source.rows_of(used[n])[record["kept"]] for n, record in done])
    stacks = [_name_in_project(jobs[n].products[0]) for n, _ in done]
    names = [
        f"{number:06d}@{stack}"
        for (_, record), stack in zip(done, stacks, strict=True)
        for number in range(1, len(record["kept"]) + 1)
    ]
    path = folder.path / _TABLE
    write_star(path, [_optics(source, options), _particles(source, rows, names)])
    at_edge, outside = (sum(record[name] for _, record in done) for name in ("at_edge", "outside"))
    counts = {"particles": len(rows), "at_edge": at_edge, "outside": outside}
    folder.finish({**counts, "failures": outcome.reasons})
    pixels = [group.pixel_size_angstrom for group in source.micrographs.optics]
    boxes = tuple(options.new_box_px(pixel) for pixel in pixels)
    return ExtractResult(
        particles_path=path,
        count=len(rows),
        at_edge=at_edge,
        outside=outside,
        pixel_sizes_angstrom=tuple(p * options.box_px / b for p, b in zip(pixels, boxes, strict=True)),
        boxes_px=boxes,
        failures=outcome.failures,
        resumed=outcome.resumed,
        micrographs=len(jobs),
    )


def _name_in_project(stack: Path) -> str:
    """Name of a stack as RELION wants it: from the current folder, the project's; absolute if outside."""
    relative = os.path.relpath(stack.absolute())
    return str(stack.absolute()) if relative.startswith("..") else relative


def _particles(source: CoordinateSet, rows: np.ndarray[Any, Any], names: Sequence[str]) -> Table:
    table = source.table[rows]
    changed: dict[str, TextColumn | None] = dict.fromkeys(_OF_ANOTHER_IMAGE)
    groups = [str(number) for number in range(1, len(source.micrographs.optics) + 1)]
    group_i = source.micrographs.optics_index_i[source.micrograph_index_i[rows]]
    if "rlnDefocusU" not in table.columns:
        _LOG.warning(
            "the particles have no CTF, which refinement needs: give the STAR file that 'posterion ctf' "
            "wrote with --micrographs"
        )
    own: dict[str, TextColumn | None] = {
        "rlnImageName": TextColumn.of(names),
        "rlnOpticsGroup": TextColumn.of_codes(groups, group_i),
    }
    columns = table.with_columns(changed).with_columns(own).columns
    return Table("particles", columns, np.arange(len(rows), dtype=np.int64))


def _optics(source: CoordinateSet, options: ExtractOptions) -> Table:
    """Optics groups of the micrographs, with pixel size and box of the particles."""
    table = optics_as_table(source.micrographs)
    pixels = [group.pixel_size_angstrom for group in source.micrographs.optics]
    boxes = [options.new_box_px(pixel) for pixel in pixels]
    sizes = [pixel * options.box_px / box for pixel, box in zip(pixels, boxes, strict=True)]
    return table.with_columns(
        {
            "rlnMicrographOriginalPixelSize": TextColumn.of([f"{pixel:.6f}" for pixel in pixels]),
            "rlnMicrographPixelSize": None,
            "rlnImagePixelSize": TextColumn.of([f"{size:.6f}" for size in sizes]),
            "rlnImageSize": TextColumn.of([str(box) for box in boxes]),
            "rlnImageDimensionality": TextColumn.of(["2"] * len(boxes)),
        }
    )
