"""Checks of the stacks on disk by their headers: missing, truncated, too short, other box or pixel."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from posterion.compute import NullProgress, StageProgress
from posterion.data.mrc import StackHeader, read_stack_header
from posterion.data.particles import Particles
from posterion.errors import PosterionError
from posterion.report.findings import Finding, counted, listed
from posterion.report.table_checks import about_particles

__all__ = ["check_stacks"]

Mask = NDArray[np.bool_]

_PIXEL_TOLERANCE = 0.01
_MISSING = "is missing"


@dataclass(frozen=True)
class _Stack:
    """One stack: its header, or in words why it cannot be read."""

    path: Path
    header: StackHeader | None
    complaint: str


def check_stacks(particles: Particles, progress: StageProgress = NullProgress) -> tuple[list[Finding], Mask]:
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
    findings, readable = [], np.ones(len(particles), np.bool_)
    for check in (_unreadable_stacks, _images_out_of_range, _other_boxes):
        found, offends_i = check(particles, stacks)
        findings += found
        readable &= ~offends_i
    findings += _check_header_pixel_sizes(particles, stacks)
    text = f"{counted(len(stacks), 'stack')} on disk, complete, every image number in range"
    return findings or [Finding("stacks", "fine", text)], readable


def _examined(path: Path) -> _Stack:
    """Read a header and compare it with the file's length."""
    if not path.exists():
        return _Stack(path, None, _MISSING)
    try:
        header = read_stack_header(path)
    except PosterionError as error:
        return _Stack(path, None, f"cannot be used ({error})")
    actual = path.stat().st_size
    if actual < header.expected_bytes:
        whole = max(actual - header.offset_bytes, 0) // (header.ny * header.nx * header.dtype.itemsize)
        return _Stack(path, None, f"is truncated ({whole} of {header.n_images} images are there)")
    return _Stack(path, header, "")


def _unreadable_stacks(particles: Particles, stacks: list[_Stack]) -> tuple[list[Finding], Mask]:
    bad = [stack for stack in stacks if stack.header is None]
    offends_i = np.array([stack.header is None for stack in stacks])[particles.stack_index_i]
    text = (
        f"in {len(bad)} of {counted(len(stacks), 'stack')} that cannot be read: "
        f"{listed([f'{stack.path} {stack.complaint}' for stack in bad])}"
    )
    if any(stack.complaint == _MISSING for stack in bad):
        text += f"; paths count from the file's own folder or one above it{_stacks_nearby(particles)}"
    return about_particles("stacks", "problem", offends_i, text), offends_i


def _stacks_nearby(particles: Particles) -> str:
    """Name the stacks beside the particle file: one of them may be the missing one, renamed."""
    path = particles.table.path if particles.table is not None else None
    names = sorted(found.name for found in path.parent.glob("*.mrcs")) if path is not None else []
    return f"; beside the file lie {listed(names)}" if names else ""


def _images_out_of_range(particles: Particles, stacks: list[_Stack]) -> tuple[list[Finding], Mask]:
    count = np.array([stack.header.n_images if stack.header else np.iinfo(np.int64).max for stack in stacks])
    number, stack_i = particles.image_index_i, particles.stack_index_i
    offends_i = (number < 0) | (number >= count[stack_i])
    first = int(np.argmax(offends_i))
    text = (
        f"out of range, the first is image {number[first] + 1} of {particles.stack_paths[stack_i[first]]}, "
        f"which has {count[stack_i[first]]}"
    )
    return about_particles("image numbers", "problem", offends_i, text, "image number"), offends_i


def _other_boxes(particles: Particles, stacks: list[_Stack]) -> tuple[list[Finding], Mask]:
    box_i = np.array([group.box_px for group in particles.optics])[particles.optics_index_i]
    shape = np.array([(stack.header.ny, stack.header.nx) if stack.header else (0, 0) for stack in stacks])
    shape_i = shape[particles.stack_index_i]
    offends_i = (shape_i > 0).all(axis=1) & (shape_i != box_i[:, None]).any(axis=1)
    first = int(np.argmax(offends_i))
    text = f"of {shape_i[first, 1]} x {shape_i[first, 0]} pixels, where the optics group says {box_i[first]}"
    return about_particles("box", "problem", offends_i, text, "image"), offends_i


def _check_header_pixel_sizes(particles: Particles, stacks: list[_Stack]) -> list[Finding]:
    """Compare headers' pixel sizes with the optics groups'; the particle file wins, so this is a warning."""
    pixel_i = np.array([group.pixel_size_angstrom for group in particles.optics])[particles.optics_index_i]
    claimed = np.array([_claimed_pixel_size(stack) for stack in stacks]).reshape(-1, 2)
    claimed_i = claimed[particles.stack_index_i]
    off = np.abs(claimed_i - pixel_i[:, None]) > _PIXEL_TOLERANCE * pixel_i[:, None]
    offends_i = off.any(axis=1) & (claimed_i > 0).all(axis=1)
    first = int(np.argmax(offends_i))
    text = (
        f"whose stack's header claims {claimed_i[first, 0]:g} x {claimed_i[first, 1]:g} A per pixel, where "
        f"{pixel_i[first]:g} is used: make sure that it is the right one"
    )
    return about_particles("pixel size", "warning", offends_i, text)


def _claimed_pixel_size(stack: _Stack) -> tuple[float, float]:
    """Pixel along x and y as the header has it, sensible or not, Angstrom; 0 where it has none."""
    if stack.header is None:
        return 0.0, 0.0
    if stack.header.pixel_size_angstrom:
        return stack.header.pixel_size_angstrom, stack.header.pixel_size_angstrom
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with mrcfile.open(stack.path, permissive=True, header_only=True) as mrc:
            return float(mrc.voxel_size.x), float(mrc.voxel_size.y)
