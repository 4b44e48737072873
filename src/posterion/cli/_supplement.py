"""Options that say what a particle file leaves unsaid, the same for every command that reads one."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AmplitudeContrast", "Cs", "Passthrough", "PixelSize", "Stack", "Voltage"]

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
