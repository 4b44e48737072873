"""The command ``posterion reconstruct``."""

import logging
import time
from pathlib import Path
from typing import Annotated

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
from posterion.data.output_folder import open_folder
from posterion.data.particles import Particles, Supplement
from posterion.mapping.reconstruct import reconstruct as reconstruct_map
from posterion.refine.folder import claim_for_reconstruction
from posterion.refine.inputs import check_for_reconstruction, inverted
from posterion.refine.outputs import write_reconstruction
from posterion.report.progress import Progress, configure_logging, format_duration
from posterion.report.run_figures import draw_run

__all__ = ["reconstruct"]


def reconstruct(
    particles: Annotated[Path, typer.Argument(help="Particle set with poses: .star, .cs or .par.")],
    *,
    output: Output,
    symmetry: Annotated[str, typer.Option(help="Point group, RELION's name.")] = "C1",
    diameter: Annotated[
        float | None,
        typer.Option("-d", "--diameter", help="Of the particle, A; 90 % of the box if absent.", min=0.0),
    ] = None,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Of the half sets, where the file has none.")] = 1,
    invert_contrast: Annotated[
        bool, typer.Option("--invert-contrast", help="Particles are dark in the images.")
    ] = False,
    stack: Stack = None,
    passthrough: Passthrough = None,
    pixel_size: PixelSize = None,
    voltage: Voltage = None,
    cs: Cs = None,
    amplitude_contrast: AmplitudeContrast = None,
) -> None:
    """Reconstruct a map and its half maps from particles whose poses are known: the Wiener filter in 3D.

    Writes map.mrc, map_unfiltered.mrc, half1.mrc, half2.mrc, mask.mrc, fsc.tsv, figures and summary.json.
    """
    configure_logging()
    started = time.perf_counter()
    supplement = Supplement(stack, pixel_size, voltage, cs, amplitude_contrast, tuple(passthrough or ()))
    chosen = Particles.read(particles, supplement)
    if invert_contrast:
        chosen = inverted(chosen)
    check_for_reconstruction(chosen, symmetry, diameter, seed)
    claim_for_reconstruction(output)
    with open_folder(output):
        folder = claim_for_reconstruction(output)  # another process may have had it until now
        with Progress("reconstruction", len(chosen)) as progress:
            made = reconstruct_map(chosen, symmetry, diameter, threads, seed, progress.advance)
        logging.getLogger("posterion").info("%s: %s particles, symmetry %s", particles, len(chosen), symmetry)
        summary = write_reconstruction(folder, made, chosen, {"symmetry": symmetry, "seed": seed})
        draw_run(output, chosen)
    typer.echo(
        f"resolution  {summary['resolution_angstrom']:.2f} A at FSC 0.143 "
        f"(unmasked {summary['resolution_unmasked_angstrom']:.2f} A)\n"
        f"particles   {len(chosen) - len(made.left_out_i):,}, computed in "
        f"{format_duration(time.perf_counter() - started)}\n"
        f"map         {output / 'map.mrc'}\n"
        f"half maps   {output / 'half1.mrc'}, {output / 'half2.mrc'}\n"
        f"FSC         {output / 'fsc.png'}, {output / 'fsc.tsv'}"
    )
