"""Command ``posterion convert``: particle sets between RELION, cryoSPARC and FREALIGN/cisTEM."""

from pathlib import Path
from typing import Annotated

import typer

from posterion.data.convert import convert as convert_particles
from posterion.data.ctffind import convert_ctffind
from posterion.data.particles import Supplement

__all__ = ["convert"]


def convert(  # noqa: PLR0917 (options of a command)
    source: Annotated[
        Path,
        typer.Argument(help="Particles: RELION .star, cryoSPARC .cs, FREALIGN .par; or CTFFIND's .txt."),
    ],
    target: Annotated[Path, typer.Argument(help="File to write; its extension (.star, .cs, .par) says how.")],
    stack: Annotated[
        Path | None, typer.Option(help="Image stack of a .par source, which names none.")
    ] = None,
    new_stack: Annotated[
        Path | None, typer.Option(help="Write all images into this one stack and let TARGET name it.")
    ] = None,
    passthrough: Annotated[
        list[Path] | None, typer.Option(help="Further .cs file with missing fields; may be repeated.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Angstrom, where SOURCE has none.", min=0.01)
    ] = None,
    voltage: Annotated[float | None, typer.Option(help="kV, where SOURCE has none.", min=1.0)] = None,
    cs: Annotated[
        float | None, typer.Option(help="Spherical aberration in mm, where SOURCE has none.")
    ] = None,
    amplitude_contrast: Annotated[
        float | None, typer.Option(help="Fraction 0 to 1, where SOURCE has none.", min=0.0, max=1.0)
    ] = None,
) -> None:
    """Convert a particle set between RELION, cryoSPARC and FREALIGN/cisTEM.

    Conventions of angles, shifts and units are translated; what the target can hold is kept as it is.
    CTFFIND's result text becomes a STAR file of micrographs.
    """
    supplement = Supplement(stack, pixel_size, voltage, cs, amplitude_contrast, tuple(passthrough or ()))
    if source.suffix.lower() == ".txt":
        fits = convert_ctffind(source, target, supplement)
        typer.echo(f"{target}: {len(fits.score)} micrograph{'s' * (len(fits.score) != 1)}")
        return
    particles = convert_particles(source, target, supplement, new_stack)
    poses = "with" if particles.poses is not None else "without"
    typer.echo(f"{target}: {len(particles)} particles {poses} poses, {len(particles.optics)} optics groups")
