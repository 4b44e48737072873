"""The command ``posterion mask``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from posterion.cli._maps import read_cube, tell_warnings
from posterion.data.mrc import write_map
from posterion.mapping.masks import MaskOptions, automatic_mask, check_mask, edge_width_px
from posterion.report.progress import configure_logging

__all__ = ["mask"]


def mask(
    source: Annotated[Path, typer.Argument(metavar="MAP", help="Map to make the mask from (MRC).")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Mask to write (MRC).")],
    lowpass: Annotated[float, typer.Option(help="Low-pass the map to this resolution first, A.")] = 15.0,
    threshold: Annotated[
        float | None,
        typer.Option(help="Density from which a voxel is particle; chosen from the map if absent."),
    ] = None,
    dilate: Annotated[float, typer.Option(help="Grow the region by this much, A.")] = 6.0,
    soft_edge: Annotated[float, typer.Option(help="Width of the cosine edge outside it, A.")] = 15.0,
    pixel_size: Annotated[
        float | None, typer.Option(help="Voxel size in A, instead of the header's.")
    ] = None,
) -> None:
    """Make a soft mask from a map: low-pass, threshold, largest connected part, grow, cosine edge."""
    configure_logging()
    volume, pixel = read_cube(source, pixel_size)
    options = MaskOptions(lowpass, threshold, dilate, soft_edge)
    made = automatic_mask(volume, pixel, options, workers=os.cpu_count() or 1)
    tell_warnings(check_mask(made, len(volume), str(output), volume, pixel))
    write_map(output, made, pixel)
    typer.echo(
        f"{output}: {100 * float(made.mean()):.1f} % of the box, {float(made.sum()) * pixel**3:.3g} A^3, "
        f"edge {edge_width_px(made) * pixel:.1f} A"
    )
