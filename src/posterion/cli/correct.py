"""The command ``posterion correct``."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from posterion.cli._micrographs import end_if_failed
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
from posterion.data.particles import Particles, Supplement
from posterion.data.star import read_star
from posterion.errors import PosterionError
from posterion.mapping.correct import SNR_TABLE, Correction
from posterion.mapping.correct import correct as correct_particles
from posterion.micrographs.correct import CorrectedMicrographs, correct_micrographs
from posterion.micrographs.micrograph_set import micrograph_set
from posterion.micrographs.reading import SUFFIXES, read_micrograph
from posterion.physics.ctf_correction import SnrSpectrum
from posterion.report.correction_figures import before_after_figure, snr_figure
from posterion.report.progress import Progress, configure_logging

__all__ = ["correct"]

_SHOWN = 4


def correct(
    source: Annotated[Path, typer.Argument(help="Particles, or a STAR file of micrographs with their CTF.")],
    *,
    output: Output,
    how: Annotated[
        Literal["phase-flip", "wiener"], typer.Option(help="A = sgn(C) X, or A = C X / (C^2 + k).")
    ] = "phase-flip",
    k: Annotated[
        float | None,
        typer.Option("--k", help="Of the Wiener filter, noise over signal power, one for all frequencies."),
    ] = None,
    snr: Annotated[
        Path | None,
        typer.Option(help="k = 1/SNR: text of frequency (1/A) and SNR. Without --k and this: measured."),
    ] = None,
    threads: Threads = None,
    stack: Stack = None,
    passthrough: Passthrough = None,
    pixel_size: PixelSize = None,
    voltage: Voltage = None,
    cs: Cs = None,
    amplitude_contrast: AmplitudeContrast = None,
) -> None:
    """Undo the CTF of particle images or micrographs, one by one: phase flipping or a Wiener filter.

    Writes new images and a STAR file that says what was done to them, so that no later step does it twice.
    For refinement and reconstruction this is not needed: they correct all images together, which is better.
    A stopped run goes on when the command is repeated.
    Exit code 0: all corrected; 1: some micrographs could not be; 2: none could, or nothing can be begun.
    """
    configure_logging()
    correction = Correction(how, k, None if snr is None else SnrSpectrum.read(snr))
    supplement = Supplement(stack, pixel_size, voltage, cs, amplitude_contrast, tuple(passthrough or ()))
    made: CorrectedMicrographs | None = None
    if _lists_micrographs(source):
        made = _correct_micrographs(source, output, correction, supplement, threads)
    else:
        _correct_particles(source, output, correction, supplement, threads)
    if correction.how == "wiener" and correction.k is None:
        snr_figure(SnrSpectrum.read(output / SNR_TABLE), output / "snr.png")
        typer.echo(f"SNR         {output / 'snr.png'}, {output / SNR_TABLE}")
    if made is not None:
        end_if_failed(len(made.failures), len(made.failures) + len(made.paths), "were left out")


def _lists_micrographs(source: Path) -> bool:
    """Whether a STAR file names micrographs and no particles; everything else is for the particle reader."""
    if source.name.lower().endswith(SUFFIXES):
        raise PosterionError(
            f"{source} is an image: give particles (.star, .cs or .par), or a STAR file of micrographs with "
            "their CTF ('posterion ctf' writes one)"
        )
    if source.suffix.lower() != ".star":
        return False
    names = {name for table in read_star(source) for name in table.columns}
    return "rlnMicrographName" in names and "rlnImageName" not in names


def _correct_particles(
    source: Path, output: Path, correction: Correction, supplement: Supplement, threads: int | None
) -> None:
    chosen = Particles.read(source, supplement)
    made = correct_particles(chosen, output, correction, threads, Progress)
    rows = np.unique(np.linspace(0, len(made) - 1, _SHOWN).astype(int))
    labels = [f"particle {row + 1}" for row in rows]
    images = zip(labels, chosen.images(rows), made.images(rows), strict=True)
    pairs = [(label, before, correction.how, after) for label, before, after in images]
    pixel = chosen.optics[0].pixel_size_angstrom
    before_after_figure(pairs, output / "correction.png", pixel, "Before and after")
    typer.echo(f"{output / 'particles.star'}: {len(made):,} images, {correction.how}")


def _correct_micrographs(
    source: Path, output: Path, correction: Correction, supplement: Supplement, threads: int | None
) -> CorrectedMicrographs:
    micrographs = micrograph_set([source], supplement)
    made = correct_micrographs(micrographs, output, correction, threads, Progress)
    index, path = next(iter(made.paths.items()))
    images = [read_micrograph(file).values for file in (micrographs.paths[index], path)]
    pair = (path.stem, images[0], correction.how, images[1])
    pixel = micrographs.optics_of(index).pixel_size_angstrom
    before_after_figure([pair], output / "correction.png", pixel, "Before and after")
    typer.echo(f"{made.star_path}: {len(made.paths)} micrographs, {correction.how}")
    return made
