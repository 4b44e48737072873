"""Point groups with RELION's axes: their rotations, equivalent poses and one asymmetric unit of directions.

A particle with point group G looks the same after each rotation S of G, V(S x) = V(x). A pose R (volume to
image) is therefore equivalent to R S, and a viewing direction d = R^T e_z to S^T d.
"""

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posterion.errors import PosterionError

__all__ = [
    "PointGroup",
    "describe_operators",
    "in_asymmetric_unit",
    "parse_point_group",
    "point_group_operators",
    "symmetry_equivalents",
]

_KNOWN = "C1, C2, ... Cn, D1, D2, ... Dn, T, O, I (the same as I2), I1, I2, I3, I4"
_WITH_MIRRORS = re.compile(r"(C(I|S|\d+[HV])|D\d+[HV]|S\d+|T[HD]|OH|I[1-4]?H)")
_GOLDEN = (1 + np.sqrt(5)) / 2
_Z = (0.0, 0.0, 1.0)

# Two rotation axes (vector, order) that generate each polyhedral group in RELION's setting (relion_refine
# --print_symmetry_ops): O, I1 and I2 have 2-folds on x, y, z; T a 3-fold, I3 and I4 a 5-fold on z.
_GENERATORS: dict[str, tuple[tuple[tuple[float, float, float], int], ...]] = {
    "T": ((_Z, 3), ((0.0, np.sqrt(2.0), 1.0), 2)),
    "O": ((_Z, 4), ((1.0, 1.0, 1.0), 3)),
    "I1": ((_Z, 2), ((0.0, 1.0, _GOLDEN), 5)),
    "I2": ((_Z, 2), ((1.0, 0.0, _GOLDEN), 5)),
    "I3": ((_Z, 5), ((-2.0, 0.0, 1.0), 5)),
    "I4": ((_Z, 5), ((2.0, 0.0, 1.0), 5)),
}


class PointGroup(NamedTuple):
    """A point group without mirrors: its family and, for C, D and I, its number.

    Attributes
    ----------
    family : str
        ``C``, ``D``, ``T``, ``O`` or ``I``.
    number : int
        Order of the main axis for C and D, RELION's setting 1 to 4 for I, 0 for T and O.
    """

    family: str
    number: int

    @property
    def name(self) -> str:
        """The name in RELION's spelling, for example ``C4`` or ``I2``."""
        return f"{self.family}{self.number or ''}"


def parse_point_group(name: str) -> PointGroup:
    """Read the name of a point group, upper or lower case.

    Parameters
    ----------
    name : str
        RELION's spelling; a bare ``I`` is I2.

    Raises
    ------
    PosterionError
        When the name is unknown, or the group holds mirrors.
    """
    upper = name.strip().upper()
    if _WITH_MIRRORS.fullmatch(upper):
        raise PosterionError(
            f"symmetry {name!r} contains mirrors or inversions, which no chiral molecule has; "
            f"give a group of rotations: {_KNOWN}"
        )
    match = re.fullmatch(r"([CD])(\d{1,4})|([TO])|I([1-4]?)", upper)
    if match is None or (match[2] is not None and int(match[2]) == 0):
        raise PosterionError(f"symmetry {name!r} is not known; expected one of {_KNOWN}")
    if match[1]:
        return PointGroup(match[1], int(match[2]))
    if match[3]:
        return PointGroup(match[3], 0)
    return PointGroup("I", int(match[4] or 2))


def point_group_operators(name: str) -> NDArray[np.float64]:
    """Rotation matrices S of a point group with RELION's axes.

    Parameters
    ----------
    name : str
        Point group, for example ``C1``, ``D7``, ``O`` or ``I2``.

    Returns
    -------
    operators : (g, 3, 3) float64
        All rotations of the group, the identity first, acting on column vectors (x, y, z).

    Raises
    ------
    PosterionError
        When the name is unknown, or the group holds mirrors.

    Notes
    -----
    Main axis of C and D on z; 2-fold of D on x. Checked against ``relion_refine --print_symmetry_ops``.
    """
    return _operators(parse_point_group(name)).copy()


def symmetry_equivalents(name: str, matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """All poses R S that look the same as pose R.

    Parameters
    ----------
    name : str
        Point group.
    matrices : (..., 3, 3) float64
        Poses R, volume to image.

    Returns
    -------
    equivalents : (..., g, 3, 3) float64
        R S for each S of the group; the first is R itself.
    """
    return np.asarray(matrices[..., None, :, :] @ _operators(parse_point_group(name)))


def in_asymmetric_unit(
    name: str, directions: NDArray[np.float64], margin_deg: float = 0.0
) -> NDArray[np.bool_]:
    """Tell which directions lie in one asymmetric unit, the Dirichlet cell of a seed direction.

    A direction d is inside when d . seed >= d . (S seed) for every S of the group: it is nearer to the seed
    than to any of its images. Each orbit {S d} has one member inside; members that tie within rounding all
    count as inside.

    Parameters
    ----------
    name : str
        Point group.
    directions : (n, 3) float64
        Unit viewing directions d = R^T e_z in the frame of the volume, (x, y, z).
    margin_deg : float
        Widen the unit by this angle on each side, degrees, so that cells of a grid cover it without gaps.

    Returns
    -------
    inside : (n,) bool
    """
    normals = _boundary_normals(parse_point_group(name))
    lowest = -np.sin(np.deg2rad(margin_deg)) - 1e-9
    return np.asarray((directions @ normals.T >= lowest).all(axis=1))


def describe_operators(name: str) -> str:
    """Text that lists the rotations of a point group, one matrix row a line.

    Parameters
    ----------
    name : str
        Point group.
    """
    group = parse_point_group(name)
    operators = _operators(group)
    lines = [f"Point group {group.name}: {len(operators)} rotations"]
    for number, operator in enumerate(operators, start=1):
        lines.append(f"S({number}) =")
        lines += ["  ".join(f"{value:10.6f}" for value in row) for row in operator.round(9) + 0.0]
    return "\n".join(lines)


@lru_cache(maxsize=64)
def _operators(group: PointGroup) -> NDArray[np.float64]:
    if group.family in "CD":
        turns = [_rotation_about(_Z, 2 * np.pi * i / group.number) for i in range(group.number)]
        flip = np.diag([1.0, -1.0, -1.0])
        operators = np.array(turns + [turn @ flip for turn in turns if group.family == "D"])
    else:
        axes = _GENERATORS[group.name]
        operators = _closure([_rotation_about(axis, 2 * np.pi / order) for axis, order in axes])
    operators.setflags(write=False)
    return operators


def _rotation_about(axis: tuple[float, float, float], angle_rad: float) -> NDArray[np.float64]:
    """Rodrigues' formula, R = cos a 1 + sin a [u]_x + (1 - cos a) u u^T."""
    u = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0.0, -u[2], u[1]], [u[2], 0.0, -u[0]], [-u[1], u[0], 0.0]])
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    return np.asarray(cosine * np.eye(3) + sine * cross + (1 - cosine) * np.outer(u, u))


def _closure(generators: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Multiply by the generators until nothing new appears."""
    found = [np.eye(3)]
    for operator in found:  # the list grows while it is walked
        for generator in generators:
            product = operator @ generator
            if all(np.abs(product - known).max() > 1e-6 for known in found):
                found.append(product)
    return np.array(found)


@lru_cache(maxsize=64)
def _boundary_normals(group: PointGroup) -> NDArray[np.float64]:
    """Inward unit normals (g - 1, 3) of the Dirichlet cell of the seed direction."""
    operators = _operators(group)[1:]
    seed = _seed_direction(operators)
    normals = seed - operators @ seed
    return np.asarray(normals / np.linalg.norm(normals, axis=1, keepdims=True))


def _seed_direction(operators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of 500 directions on a spiral, the one farthest from its own images, so that the cell is compact.

    The spiral is unaligned with the axes of any group, so no grid direction lies on a boundary by accident.
    """
    i = np.arange(500) + 0.5
    z, azimuth = 1 - 2 * i / 500, 2 * np.pi * i / _GOLDEN + 0.2345
    radius = np.sqrt(1 - z * z)
    spiral = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)
    if len(operators) == 0:
        return np.asarray(spiral[0])
    closeness = np.einsum("ni,gij,nj->ng", spiral, operators, spiral).max(axis=1)
    return np.asarray(spiral[closeness.argmin()])
