"""The command ``posterion ctf``."""

import re
import time
from pathlib import Path
from typing import Annotated

import typer

from posterion.cli._micrographs import MicrographThreads, end_if_failed
from posterion.cli._options import Output
from posterion.data.particles import Supplement
from posterion.errors import PosterionError
from posterion.micrographs.ctf_driver import CtfRun
from posterion.micrographs.ctf_driver import ctf as estimate_all
from posterion.micrographs.ctf_estimation import CtfOptions
from posterion.micrographs.ctf_records import CtfRecord
from posterion.report.ctf_figures import ctf_figure
from posterion.report.progress import Progress, configure_logging, format_duration

__all__ = ["ctf"]

_LONGEST_TABLE = 40


def ctf(
    micrographs: Annotated[
        list[Path],
        typer.Argument(help="Micrographs (MRC, also .gz and .bz2, TIFF, PNG), or one STAR file of them."),
    ],
    *,
    output: Output,
    pixel_size: Annotated[
        float | None, typer.Option(help="Angstrom; from MRC headers or the STAR file if absent.", min=0.01)
    ] = None,
    voltage: Annotated[
        float | None, typer.Option(help="kV, where the STAR file has none; else 300.", min=1.0)
    ] = None,
    cs: Annotated[
        float | None, typer.Option(help="Spherical aberration in mm, where the STAR file has none; else 2.7.")
    ] = None,
    amplitude_contrast: Annotated[
        float | None,
        typer.Option(help="Fraction, where the STAR file has none; else 0.1.", min=0.0, max=1.0),
    ] = None,
    phase_shift: Annotated[
        bool, typer.Option("--phase-shift", help="Fit the shift of a phase plate too.")
    ] = False,
    defocus: Annotated[tuple[float, float], typer.Option(help="Range of mean defoci to try, A.")] = (
        3000.0,
        50000.0,
    ),
    resolution: Annotated[tuple[float, float], typer.Option(help="Band of the fit, A, the larger first.")] = (
        30.0,
        5.0,
    ),
    patches: Annotated[
        str | None, typer.Option(help="Fit the defocus of patches too: columns x rows, for example 4x3.")
    ] = None,
    threads: MicrographThreads = None,
) -> None:
    """Estimate the CTF of micrographs from their Thon rings: defocus, astigmatism, phase shift.

    Writes micrographs.star (RELION 3.1), diagnostics/NAME.png for each micrograph, patches.star with
    --patches, and summary.json. What a stopped or repeated command finds done, it keeps.
    Exit code 0: all fitted; 1: some micrographs could not be; 2: none could, or nothing can be begun.
    """
    configure_logging()
    started = time.perf_counter()
    supplement = Supplement(
        pixel_size_angstrom=pixel_size,
        voltage_kv=voltage,
        spherical_aberration_mm=cs,
        amplitude_contrast=amplitude_contrast,
    )
    options = CtfOptions(
        fit_phase_shift=phase_shift,
        lowest_resolution_angstrom=resolution[0],
        highest_resolution_angstrom=resolution[1],
        defocus_range_angstrom=defocus,
    )
    grid = _grid(patches)
    run = estimate_all(
        micrographs,
        output,
        options,
        supplement,
        patches=grid,
        threads=threads,
        progress=Progress,
        draw=ctf_figure,
    )
    typer.echo(_summary(run, output, time.perf_counter() - started))
    end_if_failed(len(run.failures), len(run.records), "could not be fitted")


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", text.strip().lower())
    if not found:
        raise PosterionError(f"--patches {text!r}: expected columns x rows, for example 4x3")
    return int(found[1]), int(found[2])


def _fitted(run: CtfRun) -> int:
    return len(run.records) - len(run.failures)


def _summary(run: CtfRun, output: Path, seconds: float) -> str:
    """Say the result: a line for each micrograph where they are few, then what was used, failures, files."""
    lines = []
    if len(run.records) <= _LONGEST_TABLE:
        lines.append(f"{'micrograph':32} {'U':>8} {'V':>8} {'angle':>7} {'score':>6} {'rings to':>9}")
        lines += [
            _line(path.name, record) for path, record in zip(run.micrographs.paths, run.records, strict=True)
        ]
    for group in run.micrographs.optics:
        lines.append(
            f"optics      {group.pixel_size_angstrom:g} A/px, {group.voltage_kv:g} kV, "
            f"Cs {group.spherical_aberration_mm:g} mm, amplitude contrast {group.amplitude_contrast:g}"
        )
    reused = f", {run.reused} of them from before" if run.reused else ""
    lines.append(
        f"micrographs {_fitted(run)} of {len(run.records)} fitted in {format_duration(seconds)}{reused}"
    )
    lines += [f"failed      {sentence}" for sentence in run.failures]
    lines += [f"table       {run.star_path}", f"pictures    {output / 'diagnostics'}"]
    return "\n".join(lines)


def _line(name: str, record: CtfRecord | str) -> str:
    if isinstance(record, str):
        return f"{name:32} failed, see below"
    fit = record.parameters
    return (
        f"{name:32} {fit.defocus_u_angstrom:8.0f} {fit.defocus_v_angstrom:8.0f} {fit.defocus_angle_deg:7.1f} "
        f"{record.score:6.3f} {record.fit_resolution_angstrom:7.2f} A"
    )
