"""Checks of a particle table that need no image: optics, defocus, duplicates, half sets, pose columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posterion.data.particles import OpticsGroup, Particles, Poses
from posterion.data.table import Table
from posterion.report.findings import Finding, Level, listed

__all__ = [
    "check_ctf",
    "check_duplicates",
    "check_halves",
    "check_optics",
    "check_pose_columns",
    "has_poses",
    "optics_in_use",
]

Mask = NDArray[np.bool_]

_PIXEL_SIZES = (0.2, 20.0)
"""Angstrom: from the finest super-resolution pixel to heavily binned tomograms."""
_VOLTAGES = (60.0, 400.0)
"""kV of the microscopes in use."""
_DEFOCI = (500.0, 80_000.0)
"""Angstrom of underfocus between which single particles are recorded."""
_LISTED = 10
"""Particles named in a finding."""


def particle_finding(check: str, level: Level, message: str, offends_i: Mask) -> Finding:
    """Make a finding about the particles that are True in ``offends_i``."""
    rows = np.flatnonzero(offends_i)
    return Finding(check, level, message, tuple(int(row) + 1 for row in rows[:_LISTED]), len(rows))


def optics_in_use(particles: Particles) -> list[OpticsGroup]:
    """Optics groups that have particles."""
    return [particles.optics[index] for index in np.unique(particles.optics_index_i)]


def check_optics(particles: Particles) -> list[Finding]:
    """Look for impossible constants of the microscope, and for groups that do not go together."""
    findings: list[Finding] = []
    for group in optics_in_use(particles):
        name = f"optics group '{group.name}'"
        if not _VOLTAGES[0] <= group.voltage_kv <= _VOLTAGES[1]:
            unit = (
                "; it looks like volts, and kV are meant" if group.voltage_kv >= 1000 * _VOLTAGES[0] else ""
            )
            findings.append(_optics(f"{name} has {group.voltage_kv:g} kV{unit} (80 to 300 are usual)"))
        if not 0 <= group.spherical_aberration_mm <= 10:
            findings.append(
                _optics(f"{name} has Cs {group.spherical_aberration_mm:g} mm (0 to 5 mm are usual)")
            )
        if not 0 <= group.amplitude_contrast <= 1:
            findings.append(
                _optics(f"{name} has amplitude contrast {group.amplitude_contrast:g} (0.07 to 0.1 is usual)")
            )
        if not _PIXEL_SIZES[0] <= group.pixel_size_angstrom <= _PIXEL_SIZES[1]:
            findings.append(
                _optics(
                    f"{name} has a pixel of {group.pixel_size_angstrom:g} A, impossible for single "
                    "particles (0.5 to 5 A are usual): write the true one into the particle file"
                )
            )
    return findings + _check_groups_agree(particles) or [
        Finding("optics", "fine", "voltage, Cs, amplitude contrast and pixel size are possible")
    ]


def _optics(message: str) -> Finding:
    return Finding("optics", "problem", message)


def _check_groups_agree(particles: Particles) -> list[Finding]:
    groups = optics_in_use(particles)
    boxes = sorted({group.box_px for group in groups})
    pixels = sorted({round(group.pixel_size_angstrom, 4) for group in groups})
    findings = []
    if len(boxes) > 1:
        text = f"optics groups have boxes of {listed([str(box) for box in boxes])} pixels; one is needed"
        findings.append(_optics(text))
    if len(pixels) > 1:
        text = f"optics groups have pixels of {listed([f'{pixel:g}' for pixel in pixels])} A; one is needed"
        findings.append(_optics(text))
    return findings


def check_ctf(particles: Particles) -> list[Finding]:
    """Look for defoci, astigmatism and phase shifts that no micrograph has, and for the wrong unit."""
    u, v = particles.defocus_u_angstrom_i, particles.defocus_v_angstrom_i
    mean = (u + v) / 2
    columns = (u, v, particles.defocus_angle_deg_i, particles.phase_shift_deg_i, particles.ctf_scale_i)
    unknown: Mask = np.logical_not(np.isfinite(np.stack(columns)).all(axis=0))
    findings = [_not_numbers(unknown)] if unknown.any() else []
    known = ~unknown
    if known.any() and not np.any(mean[known]):
        return [
            *findings,
            Finding("ctf", "warning", "every defocus is 0: no CTF is known, or it is already corrected"),
        ]
    outside = known & ((mean < _DEFOCI[0]) | (mean > _DEFOCI[1]))
    if outside.any():
        findings.append(particle_finding("ctf", "problem", _defocus_message(mean, outside), outside))
    astigmatic = known & ~outside & (np.abs(u - v) > 0.3 * np.abs(mean))
    if astigmatic.any():
        text = f"{int(astigmatic.sum())} particles have astigmatism above 30 % of the defocus: a failed fit?"
        findings.append(particle_finding("ctf", "warning", text, astigmatic))
    scale = known & (particles.ctf_scale_i <= 0)
    if scale.any():
        text = f"{int(scale.sum())} particles have a CTF scale of 0 or less: nothing, or the wrong sign"
        findings.append(particle_finding("ctf", "problem", text, scale))
    spread = f"defocus {mean[known].min():.0f} to {mean[known].max():.0f} A" if known.any() else ""
    return findings or [Finding("ctf", "fine", f"{spread}, as underfocused micrographs have")]


def _not_numbers(unknown: Mask) -> Finding:
    text = (
        f"{int(unknown.sum())} particles have a defocus, angle, phase shift or CTF scale that is not a number"
    )
    return particle_finding("ctf", "problem", text, unknown)


def _defocus_message(mean: NDArray[np.float64], outside: Mask) -> str:
    """Say how many defoci are impossible, and guess why."""
    median = float(np.median(mean[outside]))
    why = ""
    if median < 0:
        why = ": overfocus, or the sign of another convention (positive is underfocus here)"
    elif median < 10:
        why = ": they look like micrometres, and Angstrom are meant"
    return (
        f"{int(outside.sum())} particles have a defocus outside {_DEFOCI[0]:.0f} to {_DEFOCI[1]:.0f} A "
        f"(median {median:.4g} A){why}"
    )


def check_duplicates(particles: Particles) -> list[Finding]:
    """Look for images listed twice, and for particles cut twice from the same place of a micrograph."""
    image = np.stack([particles.stack_index_i, particles.image_index_i], 1)
    findings = [_duplicates(particles, _repeated(image), "images are listed more than once")]
    place = _places(particles)
    if place is not None:
        text = "particles have the micrograph and coordinates of another one"
        findings.append(_duplicates(particles, _repeated(place), text))
    found = [finding for finding in findings if finding is not None]
    return found or [Finding("duplicates", "fine", "no image and no place of a micrograph comes twice")]


def _repeated(rows: NDArray[np.generic]) -> Mask:
    """Which rows have come before, in file order."""
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    repeated: Mask = first[inverse.ravel()] != np.arange(len(rows))
    return repeated


def _duplicates(particles: Particles, repeated: Mask, what: str) -> Finding | None:
    if not repeated.any():
        return None
    text = (
        f"{int(repeated.sum())} {what}: half sets that share them overstate the resolution; remove them "
        "(a symmetry-expanded set has them by design and must not be refined as it is)"
    )
    return particle_finding("duplicates", "problem", text, repeated)


def _places(particles: Particles) -> NDArray[np.int64] | None:
    """Micrograph and rounded coordinates of each particle, (n, 3), or None where the file has none."""
    if not particles.micrograph_names or np.any(particles.micrograph_index_i < 0):
        return None
    columns = [_column(particles, f"rlnCoordinate{axis}") for axis in "XY"]
    if any(column is None or not np.isfinite(column).all() for column in columns):
        return None
    places = [np.rint(column).astype(np.int64) for column in columns if column is not None]
    return np.stack([particles.micrograph_index_i.astype(np.int64), *places], 1)


def _column(particles: Particles, name: str) -> NDArray[np.float64] | None:
    if not isinstance(particles.table, Table) or name not in particles.table.columns:
        return None
    return particles.table.floats(name)


def check_halves(particles: Particles) -> list[Finding]:
    """Look whether half-set numbers, where there are any, are complete and balanced."""
    counts = {half: int(np.sum(particles.half_i == half)) for half in (0, 1, 2)}
    n = len(particles)
    if counts[0] == n:
        return [Finding("halves", "note", "no half sets in the file; refine makes them and writes them down")]
    if counts[0]:
        text = f"{counts[0]} of {n} particles belong to no half set (rlnRandomSubset is neither 1 nor 2)"
        return [particle_finding("halves", "warning", text, particles.half_i == 0)]
    text = f"half sets of {counts[1]} and {counts[2]} particles"
    if not (counts[1] and counts[2]):
        return [
            Finding(
                "halves", "problem", f"{text}: one is empty, so no resolution can be measured; renumber them"
            )
        ]
    if abs(counts[1] - counts[2]) > max(0.1 * n, 3 * np.sqrt(n)):
        return [
            Finding("halves", "warning", f"{text}: far from balanced, the FSC is limited by the smaller one")
        ]
    return [Finding("halves", "fine", text)]


def has_poses(particles: Particles) -> bool:
    """Whether the file has poses that say anything: columns that are not all zero."""
    if particles.poses is None:
        return False
    return any(np.any(column) for column in _pose_columns(particles.poses))


def _pose_columns(poses: Poses) -> tuple[NDArray[np.float64], ...]:
    shifts = (poses.shift_x_angstrom_i, poses.shift_y_angstrom_i)
    return (poses.rot_deg_i, poses.tilt_deg_i, poses.psi_deg_i, *shifts)


def check_pose_columns(particles: Particles) -> list[Finding]:
    """Look for poses that are not numbers and for shifts that leave the box."""
    if particles.poses is None:
        return [Finding("poses", "note", "no poses in the file; refine finds them")]
    if not has_poses(particles):
        return [Finding("poses", "note", "pose columns are there and all zero: taken as unknown")]
    finite = np.isfinite(np.stack(_pose_columns(particles.poses)))
    unknown: Mask = np.logical_not(finite.all(axis=0))
    findings = []
    if unknown.any():
        text = f"{int(unknown.sum())} particles have an angle or shift that is not a number"
        findings.append(particle_finding("poses", "problem", text, unknown))
    edge = np.array([group.box_px * group.pixel_size_angstrom for group in particles.optics])
    shift = np.hypot(particles.poses.shift_x_angstrom_i, particles.poses.shift_y_angstrom_i)
    far = ~unknown & (shift > edge[particles.optics_index_i] / 4)
    if far.any():
        text = f"{int(far.sum())} particles are shifted by more than a quarter of the box: a wrong unit?"
        findings.append(particle_finding("poses", "warning", text, far))
    return findings
