"""CTF of many micrographs: each on its own, failures told at the end, what is done not done again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from posterion.compute import NullProgress, StageProgress
from posterion.data.output_folder import OutputFolder, open_folder
from posterion.data.particles import Supplement
from posterion.data.star import write_star
from posterion.errors import PosterionError
from posterion.micrographs.ctf_estimation import CtfEstimate, CtfOptions, estimate_ctf, fit_band
from posterion.micrographs.ctf_patches import PatchDefocus, defocus_gradient, patch_defoci
from posterion.micrographs.ctf_records import CtfRecord, micrograph_columns, patch_table
from posterion.micrographs.ctf_rings import MicroscopeOptics
from posterion.micrographs.micrograph_set import MicrographSet, micrograph_set, write_micrographs
from posterion.micrographs.reading import read_micrograph
from posterion.micrographs.streaming import Job, Outcome, output_stems, process_all, require_one

__all__ = ["CtfRun", "ctf"]

_LOG = logging.getLogger("posterion")
_ALGORITHM = 1  # raised when the same settings give other numbers than before
_TABLE, _PATCHES = "micrographs.star", "patches.star"
_POOR_FIT_ANGSTROM, _POOR_FIT_PX = 10.0, 4.0  # a fit that ends here may be of something else than rings
DrawEstimate = Callable[[CtfEstimate, Path, str], None]


@dataclass(frozen=True)
class CtfRun:
    """Results of a set of micrographs.

    Attributes
    ----------
    micrographs : MicrographSet
    records : (n,) a record, or the sentence that says why there is none
    star_path : micrographs.star, of those that have a record
    reused : how many were there from an earlier run
    """

    micrographs: MicrographSet
    records: tuple[CtfRecord | str, ...]
    star_path: Path
    reused: int

    @property
    def failures(self) -> tuple[str, ...]:
        """Why micrographs have no fit."""
        return tuple(record for record in self.records if isinstance(record, str))


def ctf(
    sources: Sequence[str | Path] | MicrographSet,
    output: str | Path,
    options: CtfOptions | None = None,
    supplement: Supplement | None = None,
    *,
    patches: tuple[int, int] | None = None,
    threads: int | None = None,
    progress: StageProgress = NullProgress,
    draw: DrawEstimate | None = None,
) -> CtfRun:
    """Estimate the CTF of micrographs and write micrographs.star, as RELION 3.1 reads it.

    Numbers of each micrograph go into ``ctf/NAME.json`` as soon as they are there; a repeated call with the
    same settings reads them and gives the same files. A micrograph that cannot be read or fitted is told and
    left out, the others go on. ``run.log`` is what was said; one process works in the folder at a time.

    Parameters
    ----------
    sources
        Image files, one STAR file of micrographs, or a set that is made of them already.
    output
        Folder.
    options
        The optics in it are replaced by each optics group's.
    supplement
        Pixel size, voltage, Cs and amplitude contrast where the sources do not say them.
    patches
        Columns and rows of a grid of patches whose defocus is fitted too; written to patches.star.
    threads
        All cores where None.
    progress
        Shows progress, for instance `posterion.report.progress.Progress`.
    draw
        Draws an estimate into ``diagnostics/NAME.png``: `posterion.report.ctf_figures.ctf_figure`.

    Raises
    ------
    PosterionError
        Nothing can be begun: no such micrographs, no pixel size, two of one name, a folder that holds
        something else or whose micrographs.star is read. Or none of the micrographs could be fitted.
    """
    folder, options = OutputFolder(Path(output), "ctf", (_TABLE, _PATCHES)), options or CtfOptions()
    micrographs = sources if isinstance(sources, MicrographSet) else micrograph_set(sources, supplement)
    folder.claim([micrographs.star_path])
    fits = _fits(micrographs, folder.path, options, patches)
    drawing = Lock()

    def work(index: int) -> dict[str, Any]:
        record, estimate = _estimated(fits[index])
        _tell_if_poor(fits[index], record)
        if draw is not None:
            with drawing:  # figures share their library's caches
                draw(estimate, fits[index].figure_path, fits[index].path.name)
        return asdict(record)

    jobs = [fit.job(draw is not None) for fit in fits]
    with open_folder(folder.path):
        outcome = process_all(folder, jobs, work, stage="CTF", progress=progress, threads=threads)
        return _finished(folder, micrographs, outcome, options)


def _finished(
    folder: OutputFolder, micrographs: MicrographSet, outcome: Outcome, options: CtfOptions
) -> CtfRun:
    """Write the tables and the summary."""
    require_one(folder, outcome, f"none of {len(micrographs)} micrographs could be fitted")
    reasons = iter(failure.reason for failure in outcome.failures)
    records = tuple(next(reasons) if r is None else CtfRecord.from_dict(r) for r in outcome.records)
    fitted = {i: record for i, record in enumerate(records) if isinstance(record, CtfRecord)}
    star_path = _write(folder.path, micrographs, fitted, options)
    gradients = {
        str(micrographs.paths[i]): defocus_gradient(r.patches, micrographs.optics_of(i).pixel_size_angstrom)
        for i, r in fitted.items()
        if r.patches
    }
    folder.finish(
        {
            "micrographs": len(records),
            "fitted": len(fitted),
            "failures": outcome.reasons,
            "gradient_angstrom_per_angstrom": gradients,
        }
    )
    _LOG.info("%s of %s micrographs fitted", len(fitted), len(records))
    return CtfRun(micrographs, records, star_path, outcome.resumed)


@dataclass(frozen=True)
class _Fit:
    """One micrograph: what to read, how to fit it, and where its results go."""

    path: Path
    pixel_size_angstrom: float
    options: CtfOptions
    patches: tuple[int, int] | None
    record_path: Path
    figure_path: Path

    def job(self, with_figure: bool) -> Job:
        """Say what the numbers depend on, and which files hold them."""
        settings = {
            "algorithm": _ALGORITHM,
            "pixel_size_angstrom": self.pixel_size_angstrom,
            "options": asdict(self.options),
            "patches": self.patches,
        }
        figure = (self.figure_path,)
        products, stale = (figure, ()) if with_figure else ((), figure)
        return Job(str(self.path), self.path, settings, self.record_path, products, stale)


def _fits(
    micrographs: MicrographSet,
    folder: Path,
    options: CtfOptions,
    patches: tuple[int, int] | None,
) -> list[_Fit]:
    fits = []
    for index, (path, name) in enumerate(zip(micrographs.paths, output_stems(micrographs), strict=True)):
        group = micrographs.optics_of(index)
        optics = MicroscopeOptics(group.voltage_kv, group.spherical_aberration_mm, group.amplitude_contrast)
        figure = folder / "diagnostics" / f"{name}.png"
        record = folder / "ctf" / f"{name}.json"
        own = replace(options, optics=optics)
        fits.append(_Fit(path, group.pixel_size_angstrom, own, patches, record, figure))
    return fits


def _estimated(fit: _Fit) -> tuple[CtfRecord, CtfEstimate]:
    """Fit one micrograph; raises a `PosterionError` that names it where that cannot be done."""
    values = read_micrograph(fit.path).values
    try:
        estimate = estimate_ctf(values, fit.pixel_size_angstrom, fit.options)
        patches: tuple[PatchDefocus, ...] = ()
        if fit.patches is not None:
            patches = patch_defoci(
                values,
                fit.pixel_size_angstrom,
                fit.options.optics,
                estimate.parameters,
                fit.patches,
                estimate.power.shape[0],
                fit_band(fit.pixel_size_angstrom, fit.options),
            )
    except PosterionError as error:
        raise PosterionError(f"{fit.path}: {error}") from None
    resolution = estimate.profile.fit_resolution_angstrom
    assert resolution is not None
    record = CtfRecord(estimate.parameters, estimate.score, estimate.significance, resolution, patches)
    return record, estimate


def _tell_if_poor(fit: _Fit, record: CtfRecord) -> None:
    limit = record.fit_resolution_angstrom
    if limit > _POOR_FIT_ANGSTROM and limit > _POOR_FIT_PX * fit.pixel_size_angstrom:
        _LOG.warning("%s: rings fit to %.1f A only; look whether they do.", fit.path, limit)


def _write(
    folder: Path, micrographs: MicrographSet, fitted: Mapping[int, CtfRecord], options: CtfOptions
) -> Path:
    """Write micrographs.star and, where there are any patches, patches.star; return the first."""
    with_patches = {i: record for i, record in fitted.items() if record.patches}
    if with_patches:
        write_star(folder / _PATCHES, [patch_table(micrographs, with_patches)])
    columns = micrograph_columns(list(fitted.values()), options.fit_phase_shift)
    write_micrographs(folder / _TABLE, micrographs, list(fitted), columns)
    return folder / _TABLE
