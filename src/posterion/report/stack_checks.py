"""Checks of the stacks on disk by their headers: missing, truncated, too short, other box or pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.data.mrc import StackHeader, read_stack_header
from posterion.data.particles import Particles
from posterion.errors import PosterionError
from posterion.report.findings import Finding, listed
from posterion.report.progress import NullProgress
from posterion.report.table_checks import particle_finding

__all__ = ["check_stacks"]

Mask = NDArray[np.bool_]

_PIXEL_TOLERANCE = 0.01


@dataclass(frozen=True)
class _Stack:
    """One stack: its header, or in words why it cannot be read."""

    path: Path
    header: StackHeader | None
    complaint: str


def check_stacks(
    particles: Particles, progress: type[NullProgress] = NullProgress
) -> tuple[list[Finding], Mask]:
    """Examine the header of every stack.

    Returns
    -------
    findings : what is wrong
    is_readable_i : (n,) bool, particles whose image exists and has the box of its optics group
    """
    stacks = []
    with progress("looking at stacks", len(particles.stack_paths), "stacks") as bar:
        for path in particles.stack_paths:
            stacks.append(_examined(path))
            bar.advance()
    found = _unreadable_stacks(particles, stacks), *_unusable_images(particles, stacks)
    readable = np.ones(len(particles), np.bool_)
    findings = []
    for finding, offends_i in (item for item in found if item is not None):
        findings.append(finding)
        readable &= ~offends_i
    findings += _check_header_pixel_sizes(particles, stacks)
    text = f"{len(stacks)} on disk, complete, every image number in range"
    return findings or [Finding("stacks", "fine", text)], readable


def _examined(path: Path) -> _Stack:
    """Read a header and compare it with the file's length."""
    if not path.exists():
        return _Stack(path, None, "is missing")
    try:
        header = read_stack_header(path)
    except PosterionError as error:
        return _Stack(path, None, f"cannot be used ({error})")
    actual = path.stat().st_size
    if actual < header.expected_bytes:
        whole = max(actual - header.offset_bytes, 0) // (header.ny * header.nx * header.dtype.itemsize)
        return _Stack(path, None, f"is truncated ({whole} of {header.n_images} images are there)")
    return _Stack(path, header, "")


def _unreadable_stacks(particles: Particles, stacks: list[_Stack]) -> tuple[Finding, Mask] | None:
    bad = [stack for stack in stacks if stack.header is None]
    if not bad:
        return None
    offends_i = np.array([stack.header is None for stack in stacks])[particles.stack_index_i]
    text = (
        f"{len(bad)} of {len(stacks)} stacks, with {int(offends_i.sum())} particles, cannot be read: "
        f"{listed([f'{stack.path} {stack.complaint}' for stack in bad])}"
    )
    if any(stack.complaint == "is missing" for stack in bad):
        text += "; paths count from the file's own folder or one above it: link the stacks or mend the paths"
    return particle_finding("stacks", "problem", text, offends_i), offends_i


def _unusable_images(particles: Particles, stacks: list[_Stack]) -> list[tuple[Finding, Mask]]:
    """Find image numbers beyond the stacks' ends and images of another box than the optics group's."""
    known = [stack.header is not None for stack in stacks]
    count = np.array([stack.header.n_images if stack.header else 0 for stack in stacks])
    shape = np.array([(stack.header.ny, stack.header.nx) if stack.header else (0, 0) for stack in stacks])
    box = np.array([group.box_px for group in particles.optics])[particles.optics_index_i]
    known_i = np.array(known)[particles.stack_index_i]
    number = particles.image_index_i
    beyond = known_i & ((number < 0) | (number >= count[particles.stack_index_i]))
    differs = known_i & (shape[particles.stack_index_i] != box[:, None]).any(1)
    found = []
    if beyond.any():
        first = int(np.flatnonzero(beyond)[0])
        stack = int(particles.stack_index_i[first])
        text = (
            f"{int(beyond.sum())} image numbers are out of range, first image {int(number[first]) + 1} of "
            f"{particles.stack_paths[stack]}, which has {count[stack]}"
        )
        found.append((particle_finding("image numbers", "problem", text, beyond), beyond))
    if differs.any():
        first = int(np.flatnonzero(differs)[0])
        ny, nx = shape[particles.stack_index_i[first]]
        text = (
            f"{int(differs.sum())} images are {nx} x {ny} pixels, not {box[first]} as their optics group says"
        )
        found.append((particle_finding("box", "problem", text, differs), differs))
    return found


def _check_header_pixel_sizes(particles: Particles, stacks: list[_Stack]) -> list[Finding]:
    """Compare headers' pixel sizes with the optics groups'; the particle file wins, so this is a warning."""
    pixel = np.array([group.pixel_size_angstrom for group in particles.optics])[particles.optics_index_i]
    header = np.array([stack.header.pixel_size_angstrom if stack.header else 0.0 for stack in stacks])
    header_i = header[particles.stack_index_i]
    differs = (header_i > 0) & (np.abs(header_i - pixel) > _PIXEL_TOLERANCE * pixel)
    if not differs.any():
        return []
    first = int(np.flatnonzero(differs)[0])
    text = (
        f"stack headers say {header_i[first]:g} A per pixel where the particle file says {pixel[first]:g}; "
        "the particle file is believed: make sure that it is right"
    )
    return [particle_finding("pixel size", "warning", text, differs)]
