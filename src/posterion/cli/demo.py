"""The command ``posterion demo``."""

from pathlib import Path
from typing import Annotated

import typer

from posterion.cli._options import Threads
from posterion.report.demo import DemoResult
from posterion.report.demo import demo as run_demo
from posterion.report.progress import Progress, configure_logging, format_duration

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything.")] = Path("demo"),
    threads: Threads = None,
) -> None:
    """Show the main job: simulate images of an embedded model, refine them, compare with the truth.

    Takes one to three minutes; run again in the same folder, it goes on where it stopped.
    """
    configure_logging()
    typer.echo(_told(run_demo(output, threads, Progress)))


def _told(result: DemoResult) -> str:
    """Say what came out, how near the truth, and where everything is."""
    folder, summary = result.refined.folder, result.refined.summary
    stages = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in result.seconds.items())
    rows = {
        "images": result.images / "particles.mrcs",
        "map": folder / "map.mrc",
        "half maps": f"{folder / 'half1.mrc'}, {folder / 'half2.mrc'}",
        "FSC plot": folder / "fsc.png",
        "particle table": folder / "particles.star",
        "one page": folder / "summary.png",
        "resolution": f"{summary['resolution_angstrom']:.1f} A between half maps (FSC 0.143), "
        f"{result.truth_resolution_angstrom:.1f} A against the truth (FSC 0.5)",
        "poses": f"half of them within {result.median_error_deg:.2f} degrees of the truth",
        "time": stages,
        "memory": f"{summary['peak_memory_bytes'] / 1e9:.2f} GB at most",
    }
    return "\n".join(f"{name:<15} {value}" for name, value in rows.items())
