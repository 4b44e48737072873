"""Picking many micrographs: templates once, then one micrograph after another, with all files written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posterion.compute import NullProgress, StageProgress
from posterion.data.mrc import read_map
from posterion.data.output_folder import OutputFolder, open_folder
from posterion.data.particles import Supplement
from posterion.data.star import write_star
from posterion.data.table import TextColumn
from posterion.errors import PosterionError
from posterion.micrographs.coordinate_set import join_coordinates
from posterion.micrographs.coordinates import (
    SUFFIX,
    Coordinates,
    read_coordinates,
    write_box,
    write_coordinate_files,
    write_coordinates,
)
from posterion.micrographs.micrograph_set import MicrographSet, micrograph_set, optics_as_table
from posterion.micrographs.overlay import draw_overlay
from posterion.micrographs.picking import CtfFunction, Picker, PickOptions, Picks
from posterion.micrographs.reading import read_micrograph
from posterion.micrographs.streaming import (
    Failure,
    Job,
    Outcome,
    file_state,
    output_stems,
    process_all,
    require_one,
)
from posterion.micrographs.templates import (
    TemplateBank,
    blob_templates,
    class_templates,
    map_templates,
)
from posterion.physics.sources import read_source

__all__ = ["PickResult", "Template", "pick", "read_templates"]

_LOG = logging.getLogger("posterion")
_BOX_OVER_DIAMETER = 1.5  # of EMAN's .box files
_PICKS, _LIST = "picks.star", "autopick.star"
_ALGORITHM = 2  # raised when the same settings give other picks than before


@dataclass(frozen=True)
class Template:
    """What particles look like.

    Attributes
    ----------
    path : map (MRC, PDB, mmCIF) or a stack of class averages, protein white
    symmetry : point group of a map
    pixel_size_angstrom : in place of the header's
    """

    path: str | Path
    symmetry: str = "C1"
    pixel_size_angstrom: float | None = None


@dataclass(frozen=True)
class PickResult:
    """Where the picks are.

    Attributes
    ----------
    picks_path : STAR file of all particles with their micrographs' optics and CTF, for `extract`
    records : per micrograph ``count``, ``threshold``, ``expected_false``, ``best_score``; None if it failed
    failures : micrographs that could not be picked
    resumed : how many micrographs had been done before
    """

    picks_path: Path
    records: tuple[dict[str, Any] | None, ...]
    failures: tuple[Failure, ...]
    resumed: int

    @property
    def count(self) -> int:
        """Number of particles in all micrographs."""
        return sum(int(record["count"]) for record in self.records if record is not None)


def pick(
    micrographs: Sequence[str | Path] | MicrographSet,
    output: str | Path,
    options: PickOptions,
    template: Template | None = None,
    supplement: Supplement | None = None,
    *,
    threads: int | None = None,
    progress: StageProgress = NullProgress,
) -> PickResult:
    """Find particles by correlation with templates, or with balls where none are given.

    Writes for each micrograph ``NAME_autopick.star`` (RELION), ``NAME.box`` (EMAN), ``overlays/NAME.png``,
    and for all ``picks.star`` and ``autopick.star`` (the list RELION 4 reads). The same call goes on where a
    stopped one was.

    Parameters
    ----------
    micrographs
        Image files, or one STAR file of micrographs; its CTF, if any, goes into the templates.
    output
        Folder; made if needed.
    options
        Diameter, low-pass, threshold and so on.
    template
        Map or class averages.
    supplement
        Pixel size and optics that the micrographs do not say.
    threads
        Micrographs at a time; all cores where None.
    progress
        Shows how far it is.

    Raises
    ------
    PosterionError
        For a template or list that cannot be used. A micrograph that cannot is in ``failures``.
    """
    source = (
        micrographs if isinstance(micrographs, MicrographSet) else micrograph_set(micrographs, supplement)
    )
    folder = OutputFolder(Path(output), "pick", (_PICKS, _LIST))
    folder.claim([source.star_path])
    jobs = _jobs(source, folder.path, _settings(options, template))
    picker = Picker(read_templates(template, options), options)

    def work(index: int) -> dict[str, Any]:
        micrograph = read_micrograph(source.paths[index])
        pixel = source.optics_of(index).pixel_size_angstrom
        try:
            picks = picker.pick(micrograph.values, pixel, _ctf_of(source, index))
        except PosterionError as error:
            raise PosterionError(f"{source.paths[index]}: {error}") from None
        _tell_if_empty(source.names[index], picks)
        _write(jobs[index].products, picks, options.diameter_angstrom, pixel, source.names[index])
        kept = ("threshold", "expected_false", "best_score")
        return {"count": len(picks), **{name: getattr(picks, name) for name in kept}}

    with open_folder(folder.path):
        outcome = process_all(folder, jobs, work, stage="picking", progress=progress, threads=threads)
        return _finished(folder, source, jobs, outcome)


def read_templates(template: Template | None, options: PickOptions) -> TemplateBank:
    """Templates on the pixel size that micrographs are searched at.

    Parameters
    ----------
    template : map or class averages; balls of the diameter where None
    options : diameter and low-pass

    Raises
    ------
    PosterionError
        When the file cannot be read, or does not say its pixel size.
    """
    pixel, diameter, lowpass = options.search_pixel_angstrom, options.diameter_angstrom, options.lowpass
    if template is None:
        return blob_templates(pixel, diameter, lowpass)
    if _is_class_stack(template.path):
        averages, own_pixel = read_map(template.path)
        own_pixel = template.pixel_size_angstrom or own_pixel
        if not own_pixel > 0:
            raise PosterionError(f"{template.path}: the header has no pixel size; give --template-pixel-size")
        return class_templates(averages, own_pixel, pixel, diameter, lowpass)
    density, own_pixel = read_source(template.path, None, template.pixel_size_angstrom)
    return map_templates(density, own_pixel, pixel, diameter, lowpass, symmetry=template.symmetry)


def _is_class_stack(path: str | Path) -> bool:
    """Tell class averages from a map: by the ending .mrcs."""
    return str(path).lower().endswith((".mrcs", ".mrcs.gz", ".mrcs.bz2"))


def _settings(options: PickOptions, template: Template | None) -> dict[str, Any]:
    """All that picks of any micrograph depend on."""
    settings: dict[str, Any] = {"algorithm": _ALGORITHM, **asdict(options)}
    if template is not None:
        settings |= {"template": file_state(template.path), "symmetry": template.symmetry}
        settings["template_pixel_size_angstrom"] = template.pixel_size_angstrom
    return settings


def _jobs(source: MicrographSet, folder: Path, settings: dict[str, Any]) -> list[Job]:
    return [
        Job(
            name=source.names[index],
            source=source.paths[index],
            settings=settings
            | {"optics": asdict(source.optics_of(index)), "ctf": _ctf_values(source, index)},
            record_path=folder / "records" / f"{stem}.json",
            products=(
                folder / f"{stem}{SUFFIX}",
                folder / f"{stem}.box",
                folder / "overlays" / f"{stem}.png",
            ),
        )
        for index, stem in enumerate(output_stems(source))
    ]


def _ctf_values(source: MicrographSet, index: int) -> list[float] | None:
    ctf = source.ctf
    if ctf is None:
        return None
    columns = (
        ctf.defocus_u_angstrom_i,
        ctf.defocus_v_angstrom_i,
        ctf.defocus_angle_deg_i,
        ctf.phase_shift_deg_i,
    )
    return [float(column[index]) for column in columns]


def _ctf_of(source: MicrographSet, index: int) -> CtfFunction | None:
    """CTF of a micrograph as a function of frequency; None where it is not known."""
    if source.ctf is None:
        return None

    def ctf(fx: Any, fy: Any) -> Any:
        return source.ctf_at(index, fx.ravel(), fy.ravel()).reshape(fx.shape)

    return ctf


def _tell_if_empty(name: str, picks: Picks) -> None:
    if not len(picks):
        _LOG.warning(
            "%s: no particles found: the best score is %.2f, the threshold %.2f",
            name,
            picks.best_score,
            picks.threshold,
        )


def _write(files: Sequence[Path], picks: Picks, diameter_angstrom: float, pixel: float, name: str) -> None:
    star, box, picture = files
    columns = {
        "rlnClassNumber": TextColumn.of([str(number) for number in picks.class_i.tolist()]),
        "rlnAnglePsi": TextColumn.of([f"{psi:.3f}" for psi in picks.psi_deg_i.tolist()]),
        "rlnAutopickFigureOfMerit": TextColumn.of([f"{score:.4f}" for score in picks.score_i.tolist()]),
    }
    coordinates = Coordinates(picks.x_px_i, picks.y_px_i, columns)
    edge = 2 * int(np.ceil(_BOX_OVER_DIAMETER * diameter_angstrom / pixel / 2))
    write_box(box, coordinates, edge)
    title = (
        f"{Path(name).name}: {len(picks)} particles above {picks.threshold:.2f} sd of the noise "
        f"({picks.expected_false:.2g} false expected)"
    )
    draw_overlay(picture, picks, diameter_angstrom, title)
    write_coordinates(star, coordinates)


def _finished(
    folder: OutputFolder, source: MicrographSet, jobs: Sequence[Job], outcome: Outcome
) -> PickResult:
    """Write what joins all micrographs, and say what became of each."""
    require_one(folder, outcome, f"none of {len(source)} micrographs could be picked")
    done = [i for i, record in enumerate(outcome.records) if record is not None]
    files = [jobs[i].products[0] for i in done]
    names = [source.names[i] for i in done]
    write_coordinate_files(folder.path / _LIST, names, [str(file) for file in files])
    path = folder.path / _PICKS
    _write_all(path, source, done, files)
    found = {jobs[i].name: outcome.records[i] for i in done}
    folder.finish({"micrographs": found, "failures": outcome.reasons})
    return PickResult(path, outcome.records, outcome.failures, outcome.resumed)


def _write_all(path: Path, source: MicrographSet, done: Sequence[int], files: Sequence[Path]) -> None:
    """Particles of all micrographs in one table, each with its micrograph's columns (CTF, ...)."""
    table = join_coordinates(source, done, [read_coordinates(file) for file in files])
    write_star(path, [optics_as_table(source), table])
