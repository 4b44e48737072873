"""The command ``posterion average``."""

from pathlib import Path
from typing import Annotated

import numpy as np
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
from posterion.mapping.average import average as average_images
from posterion.mapping.average import average_folder, check_for_average, write_averages
from posterion.mapping.fsc import GOLD_STANDARD, resolution_at
from posterion.report.correction_figures import average_figure, ssnr_figure
from posterion.report.progress import Progress, configure_logging

__all__ = ["average"]


def average(
    particles: Annotated[Path, typer.Argument(help="Particle set with poses: .star, .cs or .par.")],
    *,
    output: Output,
    diameter: Annotated[
        float | None,
        typer.Option("-d", "--diameter", help="Of the particle, A; 90 % of the box if absent.", min=0.0),
    ] = None,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Of the half sets, where the file has none.")] = 1,
    stack: Stack = None,
    passthrough: Passthrough = None,
    pixel_size: PixelSize = None,
    voltage: Voltage = None,
    cs: Cs = None,
    amplitude_contrast: AmplitudeContrast = None,
) -> None:
    """Average aligned images, class by class, with the Wiener filter of many images; report their SSNR.

    In-plane angles and shifts are undone; rlnClassNumber, if present, divides the set. Writes averages.mrcs,
    plain.mrcs (means with the CTFs left in), ssnr.tsv, ssnr.png, average.png and summary.json.
    """
    configure_logging()
    supplement = Supplement(stack, pixel_size, voltage, cs, amplitude_contrast, tuple(passthrough or ()))
    chosen = Particles.read(particles, supplement)
    check_for_average(chosen, diameter)
    pixel, inputs = chosen.pixel_size_angstrom, [particles, *chosen.stack_paths]
    average_folder(output).claim(inputs)
    with open_folder(output):
        folder = average_folder(output)
        folder.claim(inputs)  # another process may have had it until now
        made = average_images(chosen, diameter, threads, seed, Progress)
        folder.begin()
        files = write_averages(output, made, pixel)
        ssnr_figure(made, output / "ssnr.png", pixel)
        average_figure(made, output / "average.png", pixel)
        folder.finish({"images_per_class": {one.number: one.n_images for one in made}})
    for one in made:
        at = resolution_at(one.frc_s, GOLD_STANDARD, pixel, chosen.box_px)
        seen = float(np.median(one.ssnr_s[1 : max(2, round(chosen.box_px * pixel / at))]))
        typer.echo(
            f"class {one.number}: {one.n_images:,} images, rings agree to {at:.1f} A (FRC 0.143), "
            f"median SSNR to there {seen:.2g}"
        )
    typer.echo(f"averages    {files['averages']}\nSSNR        {output / 'ssnr.png'}, {output}/ssnr*.tsv")
