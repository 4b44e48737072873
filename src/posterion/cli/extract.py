"""Command ``posterion extract``: particle images out of micrographs."""

from pathlib import Path
from typing import Annotated

import typer

from posterion.cli._micrographs import MicrographThreads, end_if_failed
from posterion.cli._options import AmplitudeContrast, Cs, Output, PixelSize, Voltage
from posterion.data.particles import Supplement
from posterion.micrographs.extract_run import ExtractResult
from posterion.micrographs.extract_run import extract as extract_particles
from posterion.micrographs.extraction import ExtractOptions
from posterion.report.progress import Progress, configure_logging

__all__ = ["extract"]


def extract(
    coordinates: Annotated[
        list[Path],
        typer.Argument(
            help="STAR file of all particles (picks.star, RELION's), or coordinate files of single "
            "micrographs (.star, .box), or their folder."
        ),
    ],
    *,
    output: Output,
    box: Annotated[int, typer.Option(help="Edge of the windows, pixels of the micrograph; even.")],
    bin_to: Annotated[
        float | None, typer.Option(help="Pixel size to rescale to, A, by Fourier cropping.", min=0.0)
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option(
            "-d", "--diameter", help="The background is outside this circle, A; 75 % of the box if absent."
        ),
    ] = None,
    keep_contrast: Annotated[
        bool, typer.Option("--keep-contrast", help="Do not invert; else dark protein becomes white.")
    ] = False,
    keep_ramp: Annotated[
        bool, typer.Option("--keep-ramp", help="Subtract the background's mean only, not its plane.")
    ] = False,
    float16: Annotated[
        bool, typer.Option("--float16", help="Half the space; RELION before 5 does not read it.")
    ] = False,
    micrographs: Annotated[
        list[Path] | None,
        typer.Option(
            help="STAR file, folder or file of the micrographs, where the coordinates do not name them or "
            "have no CTF; may be repeated."
        ),
    ] = None,
    pixel_size: PixelSize = None,
    voltage: Voltage = None,
    cs: Cs = None,
    amplitude_contrast: AmplitudeContrast = None,
    threads: MicrographThreads = None,
) -> None:
    """Cut particles out of micrographs: rescaled, protein white, background normalised.

    Writes particles.star (for refine and RELION) and Particles/NAME.mrcs. Particles whose window crosses the
    edge are left out and counted. A stopped run goes on when the command is repeated.
    Exit code 0: all extracted; 1: those of some micrographs could not be; 2: of all, or nothing can be begun.
    """
    configure_logging()
    result = extract_particles(
        coordinates,
        output,
        ExtractOptions(
            box_px=box,
            bin_to_angstrom=bin_to,
            diameter_angstrom=diameter,
            keep_contrast=keep_contrast,
            remove_ramp=not keep_ramp,
            float16=float16,
        ),
        micrographs or (),
        Supplement(None, pixel_size, voltage, cs, amplitude_contrast),
        threads=threads,
        progress=Progress,
    )
    typer.echo(_told(result))
    end_if_failed(len(result.failures), result.micrographs, "gave no particles")


def _told(result: ExtractResult) -> str:
    left_out = [
        text
        for number, text in ((result.at_edge, "crossed the edge"), (result.outside, "lay outside"))
        if number
        for text in [f"{number:,} {text}"]
    ]
    sizes = ", ".join(
        f"{box} px of {pixel:.4g} A"
        for box, pixel in zip(result.boxes_px, result.pixel_sizes_angstrom, strict=True)
    )
    return "\n".join(
        [
            f"particles    {result.count:,}" + (f" ({'; '.join(left_out)})" if left_out else ""),
            f"box          {sizes}",
            f"table        {result.particles_path}",
        ]
    )
