"""What the commands over many micrographs share: an option, and how a run that failed in part ends."""

import logging
from typing import Annotated

import typer

__all__ = ["MicrographThreads", "end_if_failed"]

MicrographThreads = Annotated[
    int | None, typer.Option(help="Micrographs at a time; all cores if absent.", min=1)
]


def end_if_failed(failed: int, total: int, what: str) -> None:
    """Say how many micrographs failed, and end with exit code 1 where any did.

    Parameters
    ----------
    failed, total : micrographs
    what : the sentence's end, for instance "could not be picked"
    """
    if failed:
        logging.getLogger("posterion").warning(
            "%d of %d micrographs %s; the reasons are above and in summary.json", failed, total, what
        )
        raise typer.Exit(1)
