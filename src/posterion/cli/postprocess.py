"""The command ``posterion postprocess``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from posterion.cli._maps import chosen_mask, read_pair, tell_warnings, write_json
from posterion.errors import PosterionError
from posterion.mapping.postprocess import postprocess as sharpened_map
from posterion.mapping.postprocess import write_postprocessed
from posterion.report.progress import configure_logging

__all__ = ["postprocess"]


def postprocess(
    half1: Annotated[Path, typer.Argument(help="First unfiltered half map (MRC).")],
    half2: Annotated[Path, typer.Argument(help="Second unfiltered half map (MRC).")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; made if needed.")],
    mask: Annotated[str, typer.Option(help="Mask (MRC), 'auto' to make one, or 'none'.")] = "auto",
    bfactor: Annotated[
        str, typer.Option(help="B-factor to apply, A^2 (negative sharpens), or 'auto' for the Guinier fit.")
    ] = "auto",
    fit_from: Annotated[float, typer.Option(help="Low-resolution end of the Guinier fit, A.")] = 10.0,
    fit_whole_box: Annotated[
        bool, typer.Option("--fit-whole-box", help="Fit the unmasked map's amplitudes, as RELION does.")
    ] = False,
    pixel_size: Annotated[
        float | None, typer.Option(help="Voxel size in A, instead of the header's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random phases.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Judge and sharpen a map from its half maps: four FSC curves, Guinier B-factor, low-pass, warnings."""
    configure_logging()
    workers = os.cpu_count() or 1
    given_b = _bfactor(bfactor)
    map1, map2, pixel = read_pair(half1, half2, pixel_size)
    result = sharpened_map(
        map1,
        map2,
        pixel,
        chosen_mask(mask, map1, map2, pixel)[0],
        bfactor_angstrom2=given_b,
        fit_from_angstrom=fit_from,
        fit_whole_box=fit_whole_box,
        seed=seed,
        workers=workers,
    )
    written = write_postprocessed(result, output)
    from posterion.report.figures import fsc_figure, guinier_figure

    fsc_figure(result.curves, output / "fsc.png", f"{half1.name} against {half2.name}")
    if result.guinier is not None:
        guinier_figure(result.guinier, output / "guinier.png")
    if json:
        write_json(result.summary() | {"files": {name: str(path) for name, path in written.items()}})
        return
    tell_warnings(result.warnings)
    for name in ("unmasked", "masked", "corrected"):
        if name in result.curves.named():
            typer.echo(f"{name:>10}: {result.curves.resolution(curve=name):.2f} A at FSC 0.143")
    typer.echo(f"B-factor applied: {result.bfactor_angstrom2:.1f} A^2; results in {output}")


def _bfactor(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise PosterionError(f"--bfactor {text}: a number in A^2 or 'auto' was expected") from None
