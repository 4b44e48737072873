"""The command ``posterion bench``."""

import os
from typing import Annotated

import typer

from posterion.report.bench import BenchOptions
from posterion.report.bench import bench as measure
from posterion.report.progress import Progress, configure_logging

__all__ = ["bench"]

_IMAGES, _QUICK_IMAGES = 48, 16


def bench(
    *,
    box: Annotated[int, typer.Option(help="Box, pixels.")] = 128,
    particles: Annotated[int, typer.Option("-n", "--particles", help="How many.")] = 100_000,
    diameter: Annotated[float, typer.Option("-d", "--diameter", help="Of the particle, A.")] = 180.0,
    symmetry: Annotated[str, typer.Option(help="Point group, RELION's name.")] = "C1",
    resolution: Annotated[
        float | None, typer.Option(help="Of late iterations, A; 0.55 of Nyquist's frequency if absent.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="A; if absent the box is 1.2 diameters wide.", min=0.01)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads that the run would have; all cores if absent.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer images; noisier.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Time the stages of a refinement on this machine; predict time and memory of a whole run.

    Takes up to a minute at box 128. Two predictions: for images whose poses become sharp, and for weak ones,
    which keep many orientations in question. Operations are counted beside the lecture's formula for brute
    force.
    """
    configure_logging()
    options = BenchOptions(
        n_particles=particles,
        box_px=box,
        diameter_angstrom=diameter,
        symmetry=symmetry,
        pixel_size_angstrom=pixel_size,
        resolution_angstrom=resolution,
        threads=(os.cpu_count() or 1) if threads is None else threads,
        images=_QUICK_IMAGES if quick else _IMAGES,
    )
    report = measure(options, Progress)
    typer.echo(report.to_json() if json else report.to_text())
