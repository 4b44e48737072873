"""Particle sets from one program's format to another's: STAR, .cs and .par."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.data.cryosparc import Dataset, write_cryosparc
from posterion.data.frealign import write_frealign
from posterion.data.mrc import write_stack_batches
from posterion.data.particles import Particles, Supplement
from posterion.data.relion import write_relion
from posterion.data.table import Table
from posterion.errors import PosterionError

__all__ = ["convert"]

_LOG = logging.getLogger("posterion")
_BATCH = 256


def convert(
    source: str | Path,
    target: str | Path,
    supplement: Supplement | None = None,
    new_stack: str | Path | None = None,
) -> Particles:
    """Read a particle set and write it in the format that the target's extension names.

    Parameters
    ----------
    source
        RELION STAR, cryoSPARC .cs or FREALIGN/cisTEM .par.
    target
        File to write: .star (RELION 3.1+), .cs or .par.
    supplement
        What the source leaves unsaid.
    new_stack
        Write all images, in the order of the table and with protein in the table's contrast, into this stack,
        and let the target name it. A .par needs this where the images lie in several stacks.

    Returns
    -------
    particles
        As written.

    Raises
    ------
    PosterionError
        Unreadable source, unknown extension, or a target that cannot hold the set.
    """
    writers = {".star": _write_star, ".cs": write_cryosparc, ".par": write_frealign}
    extension = Path(target).suffix.lower()
    if extension not in writers:
        raise PosterionError(f"{target}: unknown extension '{extension}'; expected .star, .cs or .par.")
    particles = Particles.read(source, supplement)
    if new_stack is not None:
        particles = _restacked(particles, Path(new_stack))
    _say_what_is_lost(particles, extension)
    writers[extension](target, particles)
    return particles


def _write_star(target: str | Path, particles: Particles) -> None:
    if particles.contrast_sign_i is not None and (particles.contrast_sign_i < 0).any():
        _LOG.warning(
            "%s: protein is dark in the stacks (blob/sign -1) and STAR cannot say so; "
            "give --new-stack to write inverted images.",
            target,
        )
    # RELION takes a .mrc for a map unless told otherwise.
    names = tuple(name + ":mrcs" if name.endswith(".mrc") else name for name in particles.stack_names)
    is_star = isinstance(particles.table, Table) and "rlnImageName" in particles.table.columns
    write_relion(target, particles if is_star else replace(particles, stack_names=names), {})


def _restacked(particles: Particles, stack: Path) -> Particles:
    """Images of the set in table order in one new stack, multiplied by their contrast sign."""
    count = len(particles)

    def batches() -> Iterator[NDArray[np.float32]]:
        for start in range(0, count, _BATCH):
            yield particles.images(np.arange(start, min(start + _BATCH, count)))

    shape = (count, particles.box_px, particles.box_px)
    write_stack_batches(stack, batches(), shape, particles.pixel_size_angstrom)
    return replace(
        particles,
        stack_paths=(stack.absolute(),),
        stack_names=(str(stack),),
        stack_index_i=np.zeros(count, np.int32),
        image_index_i=np.arange(count, dtype=np.int64),
        contrast_sign_i=None,
    )


def _say_what_is_lost(particles: Particles, extension: str) -> None:
    """Name the columns that the target's format has no place for."""
    if extension != ".star" and any(group.phase_flipped for group in particles.optics):
        _LOG.warning("the images are phase flipped, and a %s file cannot say so.", extension)
    table = particles.table
    if isinstance(table, Dataset):
        kept, names = extension == ".cs", table.records.dtype.names or ()
    elif isinstance(table, Table):
        is_par = table.rows_are_lines
        kept, names = (extension == ".par") == is_par and extension != ".cs", tuple(table.columns)
    else:
        return
    if not kept:
        _LOG.info(
            "Of %s only optics, CTF, poses, half sets and names are converted; it has %s.",
            table.path,
            ", ".join(names),
        )
