"""The command ``posterion fsc``."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from posterion.cli._maps import chosen_mask, curves_table, read_pair, tell_warnings, write_json
from posterion.mapping.fsc import FscCurves, fsc_curves, write_fsc
from posterion.mapping.postprocess import fsc_warnings
from posterion.report.progress import configure_logging

__all__ = ["fsc"]


def fsc(
    map_a: Annotated[Path, typer.Argument(help="First half map, or a map.")],
    map_b: Annotated[Path, typer.Argument(help="Second half map, or the model's map.")],
    *,
    mask: Annotated[str, typer.Option(help="Mask (MRC), 'auto' to make one, or 'none'.")] = "none",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for fsc.tsv and fsc.png; made if needed.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Voxel size in A, instead of the header's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random phases.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print curves and resolutions as JSON.")] = False,
) -> None:
    """Fourier shell correlation of two half maps (read at 0.143) or of a map and its model (read at 0.5)."""
    configure_logging()
    workers = os.cpu_count() or 1
    first, second, pixel = read_pair(map_a, map_b, pixel_size)
    the_mask, warnings = chosen_mask(mask, first, second, pixel)
    curves = fsc_curves(first, second, pixel, the_mask, seed=seed, workers=workers)
    if output is not None:
        from posterion.report.figures import fsc_figure

        write_fsc(curves, output / "fsc.tsv")
        fsc_figure(curves, output / "fsc.png", f"{map_a.name} against {map_b.name}")
    if json:
        write_json(_record(curves) | {"warnings": [*warnings, *fsc_warnings(curves)]})
        return
    tell_warnings(warnings + fsc_warnings(curves))
    typer.echo(curves_table(curves))
    for name in _quoted(curves):
        at_0143, at_05 = curves.resolution(0.143, name), curves.resolution(0.5, name)
        typer.echo(f"{name:>10}: {at_0143:.2f} A at 0.143, {at_05:.2f} A at 0.5")


def _quoted(curves: FscCurves) -> list[str]:
    """Names of the curves that have a resolution: all but the phase-randomised."""
    return [name for name in curves.named() if name != "randomised"]


def _record(curves: FscCurves) -> dict[str, Any]:
    names = _quoted(curves)
    return {
        "box_px": curves.box_px,
        "pixel_size_angstrom": curves.pixel_size_angstrom,
        "resolution_at_0.143": {name: curves.resolution(0.143, name) for name in names},
        "resolution_at_0.5": {name: curves.resolution(0.5, name) for name in names},
        "frequency_per_angstrom": curves.frequency_s.tolist(),
        "fsc": {name: fsc_s.tolist() for name, fsc_s in curves.named().items()},
    }
