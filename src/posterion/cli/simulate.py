"""``posterion simulate``."""

from pathlib import Path
from typing import Annotated

import typer

from posterion.errors import PosterionError
from posterion.physics import simulate as simulation
from posterion.physics.sources import read_source
from posterion.report.progress import Progress, configure_logging

__all__ = ["simulate"]


def simulate(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="MRC maps or PDB/mmCIF models, one for each class.", show_default=False),
    ] = None,
    embedded: Annotated[bool, typer.Option(help="Use the embedded protein-like model.")] = False,
    number: Annotated[int, typer.Option("-n", "--number", help="How many images.")] = 1000,
    box: Annotated[int | None, typer.Option(help="Box, pixels; the source's own by default.")] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Pixel size, A; the source's own by default.")
    ] = None,
    snr: Annotated[
        float, typer.Option(help="Signal over noise variance in whole images; inf: no noise.")
    ] = 0.1,
    noise: Annotated[
        str, typer.Option(help="white, coloured, or a text file: frequency in 1/A and relative power.")
    ] = "white",
    defocus: Annotated[tuple[float, float], typer.Option(help="Range of defocus, A.")] = (10000.0, 25000.0),
    astigmatism: Annotated[float, typer.Option(help="Largest difference of defocus U and V, A.")] = 500.0,
    phase_shift: Annotated[float, typer.Option(help="Phase-plate shift, degrees.")] = 0.0,
    bfactor: Annotated[float, typer.Option(help="B of the envelope exp(-B s^2/4), A^2.")] = 0.0,
    optics: Annotated[
        list[str] | None,
        typer.Option(help="kV:Cs:Q0 of an optics group; repeat for several.", show_default="300:2.7:0.1"),
    ] = None,
    shift: Annotated[float, typer.Option(help="Standard deviation of the shifts along x and y, A.")] = 5.0,
    preferred: Annotated[
        float, typer.Option(help="Concentration of views about the map's z axis; 0: uniform.")
    ] = 0.0,
    fraction: Annotated[
        list[float] | None, typer.Option(help="Share of each source, in their order.")
    ] = None,
    poses: Annotated[bool, typer.Option(help="Write the true poses into particles.star too.")] = False,
    float32: Annotated[bool, typer.Option("--float32", help="float32 images in place of float16.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 0,
) -> None:
    """Make a particle set with known answers from maps, atomic models or the embedded model.

    Writes particles.star, particles.mrcs, truth.star (true poses and classes) and truth.mrc.
    """
    configure_logging()
    if embedded == bool(sources):
        raise PosterionError("give either maps or models to simulate from, or --embedded")
    options = simulation.SimulationOptions(
        n_particles=number,
        snr=snr,
        noise=_noise_spectrum(noise),
        defocus_range_angstrom=defocus,
        astigmatism_angstrom=astigmatism,
        phase_shift_deg=phase_shift,
        bfactor_angstrom2=bfactor,
        microscopes=tuple(_microscope(text) for text in optics or ["300:2.7:0.1"]),
        shift_sd_angstrom=shift,
        direction_concentration=preferred,
        fractions=tuple(fraction or ()),
        write_poses=poses,
        dtype="float32" if float32 else "float16",
        seed=seed,
    )
    maps = []
    chosen: list[Path | None] = [*sources] if sources else [None]
    for source in chosen:
        values, pixel_size = read_source(source, box, pixel_size)
        box = values.shape[0]
        maps.append(values)
    with Progress("simulation", number, "images") as progress:
        made = simulation.simulate(maps, float(pixel_size or 0), output, options, progress.advance)
    typer.echo(f"{number} images, box {box} px, {pixel_size:g} A/px")
    for path in (made.particles_path, made.truth_path, *made.map_paths):
        typer.echo(path)


def _noise_spectrum(text: str) -> simulation.NoiseSpectrum | None:
    if text == "white":
        return None
    return simulation.COLOURED_NOISE if text == "coloured" else simulation.NoiseSpectrum.read(text)


def _microscope(text: str) -> simulation.Microscope:
    try:
        voltage, cs, q0 = (float(part) for part in text.split(":"))
    except ValueError:
        raise PosterionError(f"--optics {text!r}: expected kV:Cs:Q0, for example 300:2.7:0.1") from None
    return simulation.Microscope(voltage, cs, q0)
