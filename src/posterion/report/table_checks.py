"""Checks of a particle table that need no image: optics, defocus, duplicates, half sets, pose columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from posterion.data.particles import OpticsGroup, Particles, Poses
from posterion.data.table import Table
from posterion.report.findings import Finding, Level, counted, listed

__all__ = [
    "about_particles",
    "check_ctf",
    "check_duplicates",
    "check_halves",
    "check_optics",
    "check_pose_columns",
    "has_poses",
    "optics_in_use",
]

Mask = NDArray[np.bool_]
Float = NDArray[np.float64]

_PIXEL_SIZES = (0.2, 20.0)
"""Angstrom: from the finest super-resolution pixel to heavily binned tomograms."""
_VOLTAGES = (60.0, 400.0)
"""kV of the microscopes in use."""
_DEFOCI = (500.0, 80_000.0)
"""Angstrom of underfocus between which single particles are recorded."""
_LISTED = 10
"""Particles named in a finding."""


def about_particles(
    check: str, level: Level, offends_i: Mask, what: str, noun: str = "particle"
) -> list[Finding]:
    """Make the finding "12 particles WHAT" about those True in ``offends_i``; none where there is none."""
    rows = np.flatnonzero(offends_i)
    if not len(rows):
        return []
    first = tuple(int(row) + 1 for row in rows[:_LISTED])
    return [Finding(check, level, f"{counted(len(rows), noun)} {what}", first, len(rows))]


def optics_in_use(particles: Particles) -> list[OpticsGroup]:
    """Optics groups that have particles."""
    return [particles.optics[index] for index in np.unique(particles.optics_index_i)]


def check_optics(particles: Particles) -> list[Finding]:
    """Look for impossible constants of the microscope, and for groups that do not go together."""
    groups = optics_in_use(particles)
    complaints = [
        f"optics group '{group.name}' has {what}" for group in groups for what in _impossible(group)
    ]
    complaints += _disagreements(groups)
    if not complaints:
        return [Finding("optics", "fine", "voltage, Cs, amplitude contrast and pixel size are possible")]
    return [Finding("optics", "problem", complaint) for complaint in complaints]


def _impossible(group: OpticsGroup) -> Iterator[str]:
    """Say in words which constants of a group no microscope has."""
    if not _VOLTAGES[0] <= group.voltage_kv <= _VOLTAGES[1]:
        unit = "; these look like volts, kV are meant" if group.voltage_kv >= 1000 * _VOLTAGES[0] else ""
        yield f"{group.voltage_kv:g} kV{unit} (80 to 300 are usual)"
    if not 0 <= group.spherical_aberration_mm <= 10:
        yield f"Cs {group.spherical_aberration_mm:g} mm (0 to 5 are usual)"
    if not 0 <= group.amplitude_contrast <= 1:
        yield f"amplitude contrast {group.amplitude_contrast:g} (0.07 to 0.1 are usual)"
    if not _PIXEL_SIZES[0] <= group.pixel_size_angstrom <= _PIXEL_SIZES[1]:
        yield (
            f"a pixel of {group.pixel_size_angstrom:g} A, impossible (0.5 to 5 are usual): "
            "write the true one into the particle file"
        )


def _disagreements(groups: list[OpticsGroup]) -> list[str]:
    boxes = sorted({group.box_px for group in groups})
    pixels = sorted({round(group.pixel_size_angstrom, 4) for group in groups})
    text = []
    if len(boxes) > 1:
        text.append(
            f"optics groups have boxes of {listed([str(box) for box in boxes])} pixels; one is needed"
        )
    if len(pixels) > 1:
        text.append(
            f"optics groups have pixels of {listed([f'{pixel:g}' for pixel in pixels])} A; one is needed"
        )
    return text


def check_ctf(particles: Particles) -> list[Finding]:
    """Look for defoci, astigmatism and CTF scales that no micrograph has, and for the wrong unit."""
    u, v = particles.defocus_u_angstrom_i, particles.defocus_v_angstrom_i
    mean = (u + v) / 2
    known = _is_known(u, v, particles.defocus_angle_deg_i, particles.phase_shift_deg_i, particles.ctf_scale_i)
    findings = about_particles("ctf", "problem", ~known, "with a defocus or CTF value that is not a number")
    if known.any() and not np.any(mean[known]):
        text = "every defocus is 0: no CTF is known, or it is already corrected"
        return [*findings, Finding("ctf", "warning", text)]
    outside = known & ((mean < _DEFOCI[0]) | (mean > _DEFOCI[1]))
    astigmatic = known & ~outside & (np.abs(u - v) > 0.3 * mean)
    limits = f"outside {_DEFOCI[0]:.0f} to {_DEFOCI[1]:.0f} A"
    findings += about_particles("ctf", "problem", outside, f"with a defocus {limits}{_guess(mean[outside])}")
    findings += about_particles(
        "ctf", "warning", astigmatic, "with astigmatism above 30 % of the defocus: a failed fit?"
    )
    findings += about_particles(
        "ctf", "problem", known & (particles.ctf_scale_i <= 0), "with a CTF scale of 0 or less"
    )
    spread = f"defocus {mean.min():.0f} to {mean.max():.0f} A" if known.all() else ""
    return findings or [Finding("ctf", "fine", f"{spread}, underfocus as usual")]


def _is_known(*columns: Float) -> Mask:
    known: Mask = np.asarray(np.all([np.isfinite(column) for column in columns], axis=0))
    return known


def _guess(defocus_i: Float) -> str:
    """Guess why defoci are impossible."""
    median = float(np.median(defocus_i)) if len(defocus_i) else 0.0
    why = ""
    if median < 0:
        why = ": overfocus, or the sign of another convention (positive is underfocus here)"
    elif median < 10:
        why = ": these look like micrometres, Angstrom are meant"
    return f" (median {median:.4g}){why}"


def check_duplicates(particles: Particles) -> list[Finding]:
    """Look for images listed twice, and for particles cut twice from the same place of a micrograph."""
    harm = (
        ": half sets that share them overstate the resolution; remove them "
        "(a symmetry-expanded set has them by design, and is not to be refined as it is)"
    )
    image = (particles.image_index_i, particles.stack_index_i)
    findings = about_particles(
        "duplicates", "problem", _repeated(image), f"with an image that was listed before{harm}"
    )
    findings += about_particles(
        "duplicates", "problem", _repeated(_place(particles)), f"from the place of an earlier one{harm}"
    )
    return findings or [Finding("duplicates", "fine", "no image and no place of a micrograph comes twice")]


def _repeated(keys: tuple[NDArray[np.integer], ...]) -> Mask:
    """Tell which rows have come before, in file order; none where there are no keys."""
    if not keys:
        return np.zeros(0, np.bool_)
    order = np.lexsort(keys)
    same = np.all([np.diff(key[order]) == 0 for key in keys], axis=0)
    repeated = np.zeros(len(order), np.bool_)
    repeated[order[1:][same]] = True
    return repeated


def _place(particles: Particles) -> tuple[NDArray[np.integer], ...]:
    """Micrograph and coordinates, to a pixel, of each particle; nothing where the file has none."""
    names, table = ("rlnCoordinateX", "rlnCoordinateY"), particles.table
    if not isinstance(table, Table) or not all(name in table.columns for name in names):
        return ()
    if np.any(particles.micrograph_index_i < 0):
        return ()
    return (*(np.rint(table.floats(name)).astype(np.int64) for name in names), particles.micrograph_index_i)


def check_halves(particles: Particles) -> list[Finding]:
    """Look whether half-set numbers, where there are any, are complete and balanced."""
    unassigned, first, second = (int(np.sum(particles.half_i == half)) for half in (0, 1, 2))
    n = len(particles)
    if unassigned == n:
        return [Finding("halves", "note", "no half sets in the file; refine makes them and writes them down")]
    if unassigned:
        text = "in no half set (rlnRandomSubset is neither 1 nor 2), the others are"
        return about_particles("halves", "warning", particles.half_i == 0, text)
    text = f"half sets of {first:,} and {second:,} particles"
    if not (first and second):
        return [Finding("halves", "problem", f"{text}: with an empty half no resolution can be measured")]
    if abs(first - second) > max(0.1 * n, 3 * np.sqrt(n)):
        return [Finding("halves", "warning", f"{text}: unbalanced, the smaller one limits the FSC")]
    return [Finding("halves", "fine", text)]


def has_poses(particles: Particles) -> bool:
    """Tell whether the file has directions: rot or tilt columns that are not all zero."""
    poses = particles.poses
    return poses is not None and bool(np.any(poses.rot_deg_i) or np.any(poses.tilt_deg_i))


def _pose_columns(poses: Poses) -> tuple[Float, ...]:
    shifts = (poses.shift_x_angstrom_i, poses.shift_y_angstrom_i)
    return (poses.rot_deg_i, poses.tilt_deg_i, poses.psi_deg_i, *shifts)


def check_pose_columns(particles: Particles) -> list[Finding]:
    """Look for poses that are not numbers and for shifts that leave the box."""
    if particles.poses is None:
        return [Finding("poses", "note", "no poses in the file; refine finds them")]
    if not has_poses(particles):
        in_plane = any(np.any(column) for column in _pose_columns(particles.poses))
        what = "in-plane only, as from 2D classification" if in_plane else "there but all zero"
        return [
            Finding("poses", "note", f"rot and tilt are 0 everywhere, poses are {what}: taken as unknown")
        ]
    known = _is_known(*_pose_columns(particles.poses))
    edge = np.array([group.box_px * group.pixel_size_angstrom for group in particles.optics])
    shift = np.hypot(particles.poses.shift_x_angstrom_i, particles.poses.shift_y_angstrom_i)
    edge_i = edge[particles.optics_index_i]  # 0 where the box is not known
    far = known & (edge_i > 0) & (shift > edge_i / 4)
    return about_particles(
        "poses", "problem", ~known, "with an angle or shift that is not a number"
    ) + about_particles(
        "poses", "warning", far, "with a shift of more than a quarter of the box: a wrong unit?"
    )
