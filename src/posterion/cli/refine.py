"""The command ``posterion refine``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from posterion.cli._options import (
    AmplitudeContrast,
    Cs,
    Output,
    Passthrough,
    PixelSize,
    Stack,
    Threads,
    Voltage,
)
from posterion.data.particles import Supplement
from posterion.errors import PosterionError
from posterion.refine.options import RefineOptions, read_config
from posterion.refine.run import RefineResult
from posterion.refine.run import refine as run_refinement
from posterion.report.progress import Progress, configure_logging, format_duration
from posterion.report.run_figures import draw_run

__all__ = ["refine"]


def refine(
    particles: Annotated[
        Path | None, typer.Argument(help="Particle set: .star, .cs or .par.", show_default=False)
    ] = None,
    *,
    reference: Annotated[
        Path | None, typer.Option("-r", "--reference", help="Starting map (MRC); any box and grey scale.")
    ] = None,
    diameter: Annotated[
        float | None, typer.Option("-d", "--diameter", help="Diameter of the particle, A.", min=0.0)
    ] = None,
    output: Output,
    config: Annotated[
        Path | None,
        typer.Option(help="config.toml of an earlier run; what is given beside it goes before it."),
    ] = None,
    symmetry: Annotated[str | None, typer.Option(help="Point group, RELION's name; C1 if absent.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Solvent mask (MRC); a soft sphere of the diameter if absent.")
    ] = None,
    initial_lowpass: Annotated[
        float | None,
        typer.Option(help="Low-pass the reference to this, A; if absent diameter/6, 20 to 60.", min=0.0),
    ] = None,
    method: Annotated[
        Literal["em", "projection-matching"] | None,
        typer.Option(help="Weigh all poses (em, if absent) or take the best."),
    ] = None,
    search: Annotated[
        Literal["exhaustive", "adaptive", "branch-and-bound", "auto"] | None,
        typer.Option(help="Which poses are scored; auto, the fastest, if absent."),
    ] = None,
    join_halves: Annotated[
        float | None,
        typer.Option(help="Halves share what is coarser than this, A; 40 if absent.", min=0.0),
    ] = None,
    shift_range: Annotated[
        float | None, typer.Option(help="Radius of the search for shifts, A; 5 px if absent.", min=0.0)
    ] = None,
    subset: Annotated[
        Literal["auto", "all"] | None,
        typer.Option(help="Early iterations: a random part that grows (auto, if absent), or all particles."),
    ] = None,
    max_iterations: Annotated[
        int | None, typer.Option(help="Stop after this many; 30 if absent.", min=1)
    ] = None,
    reference_pixel_size: Annotated[
        float | None, typer.Option(help="Of the reference, A, in place of its header's.", min=0.01)
    ] = None,
    threads: Threads = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same result; 1 if absent.")] = None,
    invert_contrast: Annotated[
        bool | None, typer.Option("--invert-contrast", help="Particles are dark in the images.")
    ] = None,
    stack: Stack = None,
    passthrough: Passthrough = None,
    pixel_size: PixelSize = None,
    voltage: Voltage = None,
    cs: Cs = None,
    amplitude_contrast: AmplitudeContrast = None,
) -> None:
    """Refine a map and all poses from a starting map: gold-standard maximum likelihood.

    Writes map.mrc, half1.mrc, half2.mrc, mask.mrc, fsc.tsv, particles.star, summary.json and figures.
    A run that was stopped goes on from its last finished iteration when the same command is given again.
    """
    configure_logging()
    supplement = Supplement(stack, pixel_size, voltage, cs, amplitude_contrast, tuple(passthrough or ()))
    given = {"particles": particles, "reference": reference, "diameter_angstrom": diameter}
    options = {
        "symmetry": symmetry,
        "mask": mask,
        "initial_lowpass_angstrom": initial_lowpass,
        "method": method,
        "search": search,
        "join_halves_angstrom": join_halves,
        "shift_range_angstrom": shift_range,
        "subset": subset,
        "max_iterations": max_iterations,
        "reference_pixel_size_angstrom": reference_pixel_size,
        "threads": threads,
        "seed": seed,
        "invert_contrast": invert_contrast,
        "supplement": supplement if supplement != Supplement() else None,
    }
    job = _merged(config, given, options)
    result = run_refinement(
        job["particles"], job["reference"], output, job["diameter_angstrom"], job["options"], Progress
    )
    draw_run(result.folder, redraw=not result.was_finished)
    typer.echo(_told(result))


def _merged(config: Path | None, given: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Give what the file says, overruled by what the command says."""
    job = read_config(config) if config is not None else {"options": RefineOptions()}
    job |= {name: value for name, value in given.items() if value is not None}
    missing = {"particles": "PARTICLES", "reference": "--reference", "diameter_angstrom": "--diameter"}
    for name, flag in missing.items():
        if name not in job:
            raise PosterionError(
                f"{flag} is missing; give it, or --config with the config.toml of an earlier run"
            )
    changes = {name: value for name, value in options.items() if value is not None}
    return job | {"options": replace(job["options"], **changes)}


def _told(result: RefineResult) -> str:
    """Say what was reached and where it is."""
    summary, folder = result.summary, result.folder
    quarantined = len(summary["quarantined"])
    left_out = f" ({quarantined} left out, see quarantine.txt)" if quarantined else ""
    return "\n".join(
        [
            f"resolution  {summary['resolution_angstrom']:.2f} A at FSC 0.143 "
            f"(unmasked {summary['resolution_unmasked_angstrom']:.2f} A)",
            f"particles   {summary['particles'] - quarantined:,}{left_out}",
            f"computed    {summary['iterations']} iterations, {format_duration(summary['wall_seconds'])}, "
            f"{summary['peak_memory_bytes'] / 1e9:.2f} GB at most",
            f"map         {folder / 'map.mrc'}",
            f"half maps   {folder / 'half1.mrc'}, {folder / 'half2.mrc'}",
            f"FSC         {folder / 'fsc.png'}, {folder / 'fsc.tsv'}",
            f"poses       {folder / 'particles.star'}",
            f"one page    {folder / 'summary.png'}",
        ]
    )
