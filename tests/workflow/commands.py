"""Commands that write a line or two: a workflow of them runs in milliseconds."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from posterion.errors import PosterionError

CALLS: list[str] = []


def make(
    *,
    output: Annotated[Path, typer.Option(help="Folder.")],
    text: Annotated[str, typer.Option(help="What to write.")] = "hello",
    threads: Annotated[int | None, typer.Option(help="Threads.", min=1)] = None,
    code: Annotated[int, typer.Option(help="Exit code.")] = 0,
) -> None:
    """Write a text."""
    CALLS.append("make")
    output.mkdir(exist_ok=True)
    (output / "made.txt").write_text(text)
    if code:
        raise typer.Exit(code)


def double(
    source: Annotated[Path, typer.Argument(help="Text to double.")],
    others: Annotated[list[Path] | None, typer.Option(help="Further texts.")] = None,
    *,
    output: Annotated[Path, typer.Option(help="Folder.")],
    times: Annotated[int, typer.Option(help="How often.", min=1)] = 2,
    how: Annotated[Literal["plain", "loud"], typer.Option(help="How.")] = "plain",
    threads: Annotated[int | None, typer.Option(help="Threads.", min=1)] = None,
) -> None:
    """Write a text several times."""
    CALLS.append("double")
    texts = [path.read_text() for path in (source, *(others or []))]
    if "bad" in texts[0]:
        raise PosterionError(f"{source}: bad text")
    (output / "doubled.txt").write_text("".join(texts).upper() * times)


def refine(
    particles: Annotated[Path | None, typer.Argument(help="Particles.")] = None,
    *,
    output: Annotated[Path, typer.Option(help="Folder.")],
    reference: Annotated[Path | None, typer.Option(help="Map.")] = None,
    diameter: Annotated[float | None, typer.Option(help="Diameter, A.", min=0.0)] = None,
    config: Annotated[Path | None, typer.Option(help="Options.")] = None,
    symmetry: Annotated[str | None, typer.Option(help="Point group.")] = None,
) -> None:
    """Stand for a long step that goes on where it was stopped."""
    CALLS.append("refine")
    state = output / "state.txt"
    begun = state.exists()
    state.write_text("begun")
    if not begun:
        raise KeyboardInterrupt
    (output / "map.txt").write_text("map")


def mask(
    source: Annotated[Path, typer.Argument(help="Map.")],
    *,
    output: Annotated[Path, typer.Option(help="File.")],
) -> None:
    """Write a file, not a folder."""
    CALLS.append("mask")
    output.write_text(source.read_text())


def run(workflow: Annotated[Path, typer.Argument(help="File.")]) -> None:
    """No workflow inside a workflow."""


COMMANDS = {"make": make, "double": double, "refine": refine, "mask": mask, "run": run, "ctf": make}
