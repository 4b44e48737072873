"""CTFFIND's result texts: fits per micrograph, and rotational averages; the only home of their columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.data.particles import Supplement
from posterion.data.star import write_star
from posterion.data.table import Table
from posterion.errors import PosterionError

__all__ = ["CtffindFits", "convert_ctffind", "read_ctffind", "read_ctffind_profiles"]

_VALUES = 7
_PROFILE_LINES = 6
_HEADER = {
    "pixel_size_angstrom": r"Pixel size: ([\d.]+)",
    "voltage_kv": r"acceleration voltage: ([\d.]+)",
    "spherical_aberration_mm": r"spherical aberration: ([\d.]+)",
    "amplitude_contrast": r"amplitude contrast: ([\d.]+)",
}


@dataclass(frozen=True)
class CtffindFits:
    """CTF fits of micrographs.

    Attributes
    ----------
    micrograph_names : (n,) names; ``000001@stack.mrc`` for the images of one stack
    defocus_u_angstrom, defocus_v_angstrom, defocus_angle_deg : (n,) float64
    phase_shift_deg : (n,) float64; the file has radians
    score : (n,) float64, cross-correlation of spectrum and fit
    fit_resolution_angstrom : (n,) float64, to where rings were fitted
    optics : what the header says: pixel size, voltage, Cs, amplitude contrast; empty without a header
    """

    micrograph_names: tuple[str, ...]
    defocus_u_angstrom: NDArray[np.float64]
    defocus_v_angstrom: NDArray[np.float64]
    defocus_angle_deg: NDArray[np.float64]
    phase_shift_deg: NDArray[np.float64]
    score: NDArray[np.float64]
    fit_resolution_angstrom: NDArray[np.float64]
    optics: dict[str, float]


def read_ctffind(path: str | Path) -> CtffindFits:
    """Read CTFFIND 4's result: a header and seven numbers a line, or a name and seven numbers a line.

    Parameters
    ----------
    path : text file, ``..._ctffind4.txt``, ``diagnostic_output.txt`` or such

    Raises
    ------
    PosterionError
        A missing file, or a line that is neither; the line is named.
    """
    file = Path(path)
    lines = _lines(file)
    header = "\n".join(line for line in lines if line.startswith("#"))
    found = {key: re.search(pattern, header) for key, pattern in _HEADER.items()}
    source = re.search(r"Input file: (.*?) ;", header)
    stem = Path(source.group(1)).name if source else file.stem
    rows = [_fields(file, number, line, stem) for number, line in _data_lines(lines)]
    if not rows:
        raise PosterionError(
            f"{file}: no CTF fits; expected lines of {_VALUES} numbers as CTFFIND 4 writes them"
        )
    values = np.array([numbers for _, numbers in rows])
    return CtffindFits(
        micrograph_names=tuple(name for name, _ in rows),
        defocus_u_angstrom=values[:, 1],
        defocus_v_angstrom=values[:, 2],
        defocus_angle_deg=values[:, 3],
        phase_shift_deg=np.degrees(values[:, 4]),
        score=values[:, 5],
        fit_resolution_angstrom=values[:, 6],
        optics={key: float(match.group(1)) for key, match in found.items() if match},
    )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError as error:
        raise PosterionError(
            f"{file} cannot be read: {error.strerror}; expected CTFFIND's result text"
        ) from None


def _data_lines(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Lines with values and their numbers, from 1."""
    return [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]


def _fields(file: Path, number: int, line: str, stem: str) -> tuple[str, list[float]]:
    """Name and numbers of one line; without a name it is the image of that number in the stack."""
    texts = line.split()
    try:
        values = [float(text) for text in texts[-_VALUES:]]
    except ValueError:
        values = []
    if len(values) != _VALUES or len(texts) > _VALUES + 1:
        raise PosterionError(
            f"{file}, line {number}: expected {_VALUES} numbers, or a name and {_VALUES} numbers, "
            f"as CTFFIND 4 writes them; found '{line.strip()[:60]}'"
        )
    return (texts[0] if len(texts) > _VALUES else f"{round(values[0]):06d}@{stem}"), values


def read_ctffind_profiles(path: str | Path) -> NDArray[np.float64]:
    """Read CTFFIND 4's rotational averages (``..._avrot.txt``): (micrographs, 6, frequencies) float64.

    The six lines are the spatial frequency (1/Angstrom), the rotational average without and with astigmatism,
    the fit, the correlation of both, and twice the sigma that noise would give it.

    Raises
    ------
    PosterionError
        A missing file, a line that does not hold numbers, or lines that are not six per micrograph.
    """
    file = Path(path)
    rows = []
    for number, line in _data_lines(_lines(file)):
        try:
            rows.append([float(text) for text in line.split()])
        except ValueError:
            raise PosterionError(f"{file}, line {number}: expected numbers only") from None
    if not rows or len(rows) % _PROFILE_LINES or len({len(row) for row in rows}) > 1:
        raise PosterionError(
            f"{file}: expected {_PROFILE_LINES} lines of equal length per micrograph, found {len(rows)} lines"
        )
    return np.array(rows).reshape(-1, _PROFILE_LINES, len(rows[0]))


def convert_ctffind(
    source: str | Path, target: str | Path, supplement: Supplement | None = None
) -> CtffindFits:
    """Write CTFFIND's fits as a RELION 3.1 STAR file of micrographs.

    Parameters
    ----------
    source : CTFFIND 4's result text
    target : STAR file to write
    supplement : pixel size, voltage, Cs and amplitude contrast where the text has no header

    Raises
    ------
    PosterionError
        When the optics are said nowhere.
    """
    fits = read_ctffind(source)
    given = supplement or Supplement()
    optics = {key: fits.optics.get(key, getattr(given, key)) for key in _HEADER}
    missing = [key for key, value in optics.items() if value is None]
    if missing:
        raise PosterionError(f"{source} has no header with {', '.join(missing)}: give them as options")
    write_star(target, [_optics_table(optics), _micrographs_table(fits)])
    return fits


def _optics_table(optics: dict[str, float]) -> Table:
    values = {
        "rlnOpticsGroupName": "opticsGroup1",
        "rlnOpticsGroup": "1",
        "rlnMicrographPixelSize": f"{optics['pixel_size_angstrom']:.6f}",
        "rlnMicrographOriginalPixelSize": f"{optics['pixel_size_angstrom']:.6f}",
        "rlnVoltage": f"{optics['voltage_kv']:.6f}",
        "rlnSphericalAberration": f"{optics['spherical_aberration_mm']:.6f}",
        "rlnAmplitudeContrast": f"{optics['amplitude_contrast']:.6f}",
    }
    return Table.of("optics", {name: [value] for name, value in values.items()})


def _micrographs_table(fits: CtffindFits) -> Table:
    numbers = {
        "rlnDefocusU": fits.defocus_u_angstrom,
        "rlnDefocusV": fits.defocus_v_angstrom,
        "rlnDefocusAngle": fits.defocus_angle_deg,
        "rlnPhaseShift": fits.phase_shift_deg,
        "rlnCtfFigureOfMerit": fits.score,
        "rlnCtfMaxResolution": fits.fit_resolution_angstrom,
    }
    columns = {"rlnMicrographName": list(fits.micrograph_names), "rlnOpticsGroup": ["1"] * len(fits.score)}
    columns |= {name: [f"{value:.6f}" for value in values] for name, values in numbers.items()}
    return Table.of("micrographs", columns)
