"""Command ``posterion pick``: particles in micrographs."""

from pathlib import Path
from typing import Annotated

import typer

from posterion.cli._micrographs import MicrographThreads, end_if_failed
from posterion.cli._options import AmplitudeContrast, Cs, Output, PixelSize, Voltage
from posterion.data.particles import Supplement
from posterion.errors import PosterionError
from posterion.micrographs.pick_run import PickResult, Template
from posterion.micrographs.pick_run import pick as pick_micrographs
from posterion.micrographs.picking import PickOptions
from posterion.report.progress import Progress, configure_logging

__all__ = ["pick"]


def pick(
    micrographs: Annotated[
        list[Path], typer.Argument(help="Micrographs (MRC, TIFF, PNG), or one STAR file of them with CTF.")
    ],
    *,
    diameter: Annotated[
        float, typer.Option("-d", "--diameter", help="Diameter of the particle, A.", min=0.0)
    ],
    output: Output,
    template: Annotated[
        Path | None,
        typer.Option(help="Map (MRC, PDB, mmCIF) or class averages (.mrcs), protein white; balls if absent."),
    ] = None,
    symmetry: Annotated[str, typer.Option(help="Point group of the map.")] = "C1",
    lowpass: Annotated[
        float | None,
        typer.Option(help="Finest detail compared, A; diameter/6, at least 20, if absent.", min=0.0),
    ] = None,
    false_positives: Annotated[
        float, typer.Option(help="Peaks that noise alone may give in a micrograph; sets the threshold.")
    ] = 1.0,
    threshold: Annotated[
        float | None, typer.Option(help="Lowest score, noise standard deviations, in place of that.")
    ] = None,
    minimum_distance: Annotated[
        float | None, typer.Option(help="Of two particles, A; 0.7 diameters if absent.", min=0.0)
    ] = None,
    outlier_limit: Annotated[
        float,
        typer.Option(
            help="Leave out ice, dirt and carbon: grey or texture so many robust standard deviations "
            "beyond that of background and particles; 0 keeps all.",
            min=0.0,
        ),
    ] = 6.0,
    white_protein: Annotated[
        bool, typer.Option("--white-protein", help="Particles are brighter than the ice; else darker.")
    ] = False,
    template_pixel_size: Annotated[
        float | None, typer.Option(help="Of the template, A, in place of its header's.", min=0.01)
    ] = None,
    pixel_size: PixelSize = None,
    voltage: Voltage = None,
    cs: Cs = None,
    amplitude_contrast: AmplitudeContrast = None,
    threads: MicrographThreads = None,
) -> None:
    """Find particles in micrographs, by a template or as blobs, with a threshold from the noise.

    Writes picks.star (all particles, for extract), NAME_autopick.star and autopick.star (RELION), NAME.box
    (EMAN) and overlays/NAME.png (the picks with their scores). A stopped run goes on when repeated.
    Exit code 0: all picked; 1: some micrographs could not be; 2: nothing found, or nothing can be begun.
    """
    configure_logging()
    result = pick_micrographs(
        micrographs,
        output,
        PickOptions(
            diameter_angstrom=diameter,
            lowpass_angstrom=lowpass,
            false_positives=false_positives,
            threshold=threshold,
            exclusion_angstrom=minimum_distance,
            outlier_limit_sd=outlier_limit,
            white_protein=white_protein,
        ),
        None if template is None else Template(template, symmetry, template_pixel_size),
        Supplement(None, pixel_size, voltage, cs, amplitude_contrast),
        threads=threads,
        progress=Progress,
    )
    typer.echo(_told(result))
    if not result.count:
        raise PosterionError(
            "no particles were found in any micrograph: check --diameter and --white-protein, "
            "or allow more with --false-positives"
        )
    end_if_failed(len(result.failures), len(result.records), "could not be picked")


def _told(result: PickResult) -> str:
    done = [record for record in result.records if record is not None]
    empty = sum(record["count"] == 0 for record in done)
    thresholds = sorted(record["threshold"] for record in done)
    lines = [
        f"particles    {result.count:,} in {len(done)} micrographs ({result.count / len(done):.0f} each)"
        + (f", none in {empty}" if empty else ""),
        f"threshold    {thresholds[0]:.2f} to {thresholds[-1]:.2f} sd of the noise, which alone would give "
        f"{sum(record['expected_false'] for record in done) / len(done):.2g} per micrograph",
        f"coordinates  {result.picks_path}",
        f"pictures     {result.picks_path.parent / 'overlays'}",
    ]
    return "\n".join(lines)
