"""The command ``posterion run``."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from posterion.errors import PosterionError
from posterion.report.progress import configure_logging, format_duration
from posterion.workflow.execute import StepResult, run_workflow

__all__ = ["run"]

_SHOWN = 4
_FIRST = (".star", ".mrc", ".mrcs", ".tsv")


def run(
    workflow: Annotated[
        Path | None, typer.Argument(help="Workflow file (TOML), see docs/workflow.md.", show_default=False)
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the steps, in place of the file's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, and why.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Print a workflow file to start from.")] = False,
) -> None:
    """Run a workflow: every command can be a step, and only steps whose inputs or options changed run.

    Stopped at any moment, the same command goes on. Steps, their time and outputs are listed at the end.
    """
    if example:
        typer.echo(files("posterion.workflow").joinpath("example.toml").read_text(encoding="utf-8"), nl=False)
        return
    if workflow is None:
        raise PosterionError("WORKFLOW is missing; 'posterion run --example > workflow.toml' makes one")
    from posterion.cli import app

    configure_logging()
    commands = {
        str(info.name): info.callback for info in app.registered_commands if info.callback is not None
    }
    results: list[StepResult] = []
    try:
        run_workflow(workflow, commands, output, dry_run, results.append)
    finally:
        if results:
            typer.echo(_table(results, dry_run))


def _table(results: Sequence[StepResult], dry_run: bool) -> str:
    """Lay out what became of the steps."""
    wide = max(len(result.name) for result in results)
    status = max(len(result.status) for result in results)
    lines = [_line(result, dry_run).rstrip() for result in results]
    heads = [f"{r.name:<{wide}}  {r.status:<{status}}  " for r in results]
    return "\n".join(head + line for head, line in zip(heads, lines, strict=True))


def _line(result: StepResult, dry_run: bool) -> str:
    folder = result.folder
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    if result.status in ("would run", "may run"):
        return result.reason
    if dry_run or result.status in ("failed", "not reached"):
        return str(folder) if result.status == "up to date" else ""
    named = [name for name in result.outputs if "/" not in name and name.endswith(_FIRST)]
    names = sorted(named, key=lambda name: _FIRST.index(Path(name).suffix))
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    spent = f"{format_duration(result.wall_seconds)} ({format_duration(result.cpu_seconds)} of CPU)"
    return f"{spent:<28}  {folder}: {shown or 'no files'}"
