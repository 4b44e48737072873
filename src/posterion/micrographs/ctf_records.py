"""What is kept of a CTF estimate, and the columns of the tables made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posterion.data.table import Table
from posterion.micrographs.ctf_patches import PatchDefocus
from posterion.micrographs.ctf_rings import CtfParameters
from posterion.micrographs.micrograph_set import MicrographSet

__all__ = ["CtfRecord", "micrograph_columns", "patch_table"]


@dataclass(frozen=True)
class CtfRecord:
    """Result of one micrograph: fit, score, significance, resolution of the last fitted ring, patches."""

    parameters: CtfParameters
    score: float
    significance: float
    fit_resolution_angstrom: float
    patches: tuple[PatchDefocus, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CtfRecord:
        """Make a record of what ``dataclasses.asdict`` made of one, also by way of JSON."""
        parameters = CtfParameters(**values["parameters"])
        patches = tuple(PatchDefocus(**patch) for patch in values["patches"])
        return cls(**{**values, "parameters": parameters, "patches": patches})


def micrograph_columns(records: Sequence[CtfRecord], with_phase: bool) -> dict[str, list[str]]:
    """RELION's columns of a micrographs table, name to text."""
    fits = [record.parameters for record in records]
    numbers = {
        "rlnDefocusU": [fit.defocus_u_angstrom for fit in fits],
        "rlnDefocusV": [fit.defocus_v_angstrom for fit in fits],
        "rlnCtfAstigmatism": [fit.defocus_u_angstrom - fit.defocus_v_angstrom for fit in fits],
        "rlnDefocusAngle": [fit.defocus_angle_deg for fit in fits],
        "rlnCtfFigureOfMerit": [record.score for record in records],
        "rlnCtfMaxResolution": [record.fit_resolution_angstrom for record in records],
    }
    if with_phase:
        numbers["rlnPhaseShift"] = [fit.phase_shift_deg for fit in fits]
    return {name: [f"{value:.6f}" for value in values] for name, values in numbers.items()}


def patch_table(micrographs: MicrographSet, records: Mapping[int, CtfRecord]) -> Table:
    """Table data_patches: a row for each patch of each micrograph, whose index is the key of its record."""
    rows = [
        (index, record.parameters, patch) for index, record in records.items() for patch in record.patches
    ]
    half = [(fit.defocus_u_angstrom - fit.defocus_v_angstrom) / 2 for _, fit, _ in rows]
    numbers = {
        "rlnCoordinateX": [patch.x_px for _, _, patch in rows],
        "rlnCoordinateY": [patch.y_px for _, _, patch in rows],
        "rlnDefocusU": [patch.defocus_angstrom + h for (_, _, patch), h in zip(rows, half, strict=True)],
        "rlnDefocusV": [patch.defocus_angstrom - h for (_, _, patch), h in zip(rows, half, strict=True)],
        "rlnDefocusAngle": [fit.defocus_angle_deg for _, fit, _ in rows],
        "rlnCtfFigureOfMerit": [patch.correlation for _, _, patch in rows],
    }
    columns = {"rlnMicrographName": [micrographs.names[index] for index, _, _ in rows]}
    columns |= {name: [f"{value:.6f}" for value in values] for name, values in numbers.items()}
    return Table.of("patches", columns)
