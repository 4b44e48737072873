"""Examine a particle set before anything is computed from it: files, table, images, poses, in that order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.compute import NullProgress, StageProgress
from posterion.data.particles import Particles
from posterion.physics.symmetry import point_group_operators
from posterion.report.findings import Diagnosis, Finding, listed
from posterion.report.image_checks import check_contrast, check_pixels, image_statistics
from posterion.report.pose_check import check_poses
from posterion.report.stack_checks import check_stacks
from posterion.report.table_checks import (
    check_ctf,
    check_duplicates,
    check_halves,
    check_optics,
    check_pose_columns,
    has_poses,
    optics_in_use,
)

__all__ = ["doctor"]

Rows = NDArray[np.int64]

_BACK_PROJECTED = 1000


def doctor(
    particles: Particles | str | Path,
    n_images: int | None = 1000,
    point_group: str = "C1",
    progress: StageProgress = NullProgress,
) -> Diagnosis:
    """Examine a particle set and say in words what is wrong with it.

    Headers of all stacks are read, the table is checked as a whole, ``n_images`` images spread evenly over it
    are measured, and where the file has poses up to 1,000 of them are back-projected.

    Parameters
    ----------
    particles : a set, or the file that holds it
    n_images : how many images to read; all where None
    point_group : symmetry for the back-projection
    progress : shows how far it is

    Raises
    ------
    PosterionError
        When the particle file itself cannot be read or the point group is unknown.
    """
    point_group_operators(point_group)
    examined = particles if isinstance(particles, Particles) else Particles.read(particles)
    table = examined.table
    source = str(table.path) if table is not None and table.path else "particles in memory"
    findings, is_readable = check_stacks(examined, progress)
    for check in (check_optics, check_ctf, check_duplicates, check_halves, check_pose_columns):
        findings += check(examined)
    findings += _check_images(examined, np.flatnonzero(is_readable), n_images, point_group, progress)
    return Diagnosis(source, len(examined), _facts(examined), tuple(findings))


def _check_images(
    particles: Particles, readable: Rows, n_images: int | None, point_group: str, progress: StageProgress
) -> list[Finding]:
    """Measure a sample of the images, then back-project what is sound of it."""
    if not len(readable):
        return [Finding("pixels", "problem", "no image can be read, so nothing can be said of the images")]
    statistics = image_statistics(particles, _spread_evenly(readable, n_images), progress)
    findings = check_pixels(particles, statistics) + check_contrast(statistics)
    if not has_poses(particles):
        return findings
    usable = statistics.index_i[statistics.is_usable_i]
    return findings + _check_poses(particles, usable, point_group, progress)


def _check_poses(
    particles: Particles, usable: Rows, point_group: str, progress: StageProgress
) -> list[Finding]:
    scales = {(group.box_px, group.pixel_size_angstrom) for group in optics_in_use(particles)}
    if len(scales) > 1:
        return [Finding("structure", "note", "not back-projected: optics groups differ in box or pixel size")]
    return check_poses(particles, _spread_evenly(usable, _BACK_PROJECTED), point_group, progress)


def _spread_evenly(rows: Rows, at_most: int | None) -> Rows:
    """Choose at most so many rows, evenly over the set and in file order."""
    if at_most is None or len(rows) <= at_most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, at_most).round().astype(np.int64)]


def _facts(particles: Particles) -> tuple[tuple[str, str], ...]:
    """Say what the set is, for the head of the report."""
    groups = [
        f"{group.name}: box {group.box_px or 'unknown'}, {group.pixel_size_angstrom:g} A/px, "
        f"{group.voltage_kv:g} kV, Cs {group.spherical_aberration_mm:g} mm, Q0 {group.amplitude_contrast:g}"
        for group in optics_in_use(particles)
    ]
    return (
        ("optics", listed(groups, at_most=4)),
        ("stacks", str(len(particles.stack_paths))),
        ("micrographs", str(len(particles.micrograph_names)) if particles.micrograph_names else "not named"),
        ("poses", "yes" if has_poses(particles) else "none"),
    )
