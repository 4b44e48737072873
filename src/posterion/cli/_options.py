"""Options that several commands share; most say what a particle file leaves unsaid."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AmplitudeContrast",
    "Cs",
    "Output",
    "Passthrough",
    "PixelSize",
    "Stack",
    "Threads",
    "Voltage",
]

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; made if needed.")]
Threads = Annotated[int | None, typer.Option(help="Threads; all cores if absent.", min=1)]
Stack = Annotated[
    Path | None,
    typer.Option(
        help="Image stack of a .par file, which names none, or in place of the one that a .star names."
    ),
]
PixelSize = Annotated[float | None, typer.Option(help="Angstrom, where the file has none.", min=0.01)]
Voltage = Annotated[float | None, typer.Option(help="kV, where the file has none.", min=1.0)]
Cs = Annotated[float | None, typer.Option(help="Spherical aberration in mm, where the file has none.")]
AmplitudeContrast = Annotated[
    float | None, typer.Option(help="Fraction 0 to 1, where the file has none.", min=0.0, max=1.0)
]
Passthrough = Annotated[
    list[Path] | None, typer.Option(help="Further .cs file with missing fields; may be repeated.")
]
