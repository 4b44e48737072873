"""The command ``posterion doctor``."""

from pathlib import Path
from typing import Annotated

import typer

from posterion.cli._options import AmplitudeContrast, Cs, Passthrough, PixelSize, Stack, Voltage
from posterion.data.particles import Particles, Supplement
from posterion.report.doctor import doctor as examine
from posterion.report.progress import Progress, configure_logging

__all__ = ["doctor"]


def doctor(  # noqa: PLR0917 (options of a command)
    particles: Annotated[Path, typer.Argument(help="RELION .star, cryoSPARC .cs or FREALIGN .par file.")],
    images: Annotated[int, typer.Option(min=1, help="Images to read, spread evenly over the set.")] = 1000,
    all_images: Annotated[bool, typer.Option("--all-images", help="Read every image.")] = False,
    symmetry: Annotated[str, typer.Option(help="Point group of the particle, RELION's name.")] = "C1",
    json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
    stack: Stack = None,
    passthrough: Passthrough = None,
    pixel_size: PixelSize = None,
    voltage: Voltage = None,
    cs: Cs = None,
    amplitude_contrast: AmplitudeContrast = None,
) -> None:
    """Check a particle set: files, optics, defocus, duplicates, pixels, contrast, poses.

    Where the file has poses, up to 1,000 images are back-projected: a structure, noise, or inverted?
    Exit code 0: the set is sound; 1: something has to be mended; 2: it cannot be examined.
    """
    configure_logging()
    supplement = Supplement(stack, pixel_size, voltage, cs, amplitude_contrast, tuple(passthrough or ()))
    n_images = None if all_images else images
    diagnosis = examine(Particles.read(particles, supplement), n_images, symmetry, Progress)
    typer.echo(diagnosis.to_json() if json else diagnosis.to_text())
    raise typer.Exit(diagnosis.exit_code)
