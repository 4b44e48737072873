"""The command ``posterion doctor``."""

from pathlib import Path
from typing import Annotated

import typer

from posterion.report.doctor import doctor as examine
from posterion.report.progress import Progress, configure_logging

__all__ = ["doctor"]


def doctor(
    particles: Annotated[Path, typer.Argument(help="RELION .star, cryoSPARC .cs or FREALIGN .par file.")],
    images: Annotated[int, typer.Option(min=1, help="Images to read, spread evenly over the set.")] = 1000,
    all_images: Annotated[bool, typer.Option("--all-images", help="Read every image.")] = False,
    symmetry: Annotated[str, typer.Option(help="Point group of the particle, RELION's name.")] = "C1",
    json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
) -> None:
    """Check a particle set: files, optics, defocus, duplicates, pixels, contrast, poses.

    Where the file has poses, up to 1,000 images are back-projected: a structure, noise, or inverted?

    Exit code 0: the set is sound; 1: something has to be mended; 2: it cannot be examined.
    """
    configure_logging()
    diagnosis = examine(particles, None if all_images else images, symmetry, Progress)
    typer.echo(diagnosis.to_json() if json else diagnosis.to_text())
    raise typer.Exit(diagnosis.exit_code)
