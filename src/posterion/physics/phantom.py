"""A protein-like assembly made from a seed: helices and sheets of pseudo-atoms, packed into domains.

It stands in for a real structure where none may be shipped. No part is related to another by symmetry; the
secondary structure has the geometry of proteins (helix rise 1.5 A, strands 4.8 A apart, layers 10 A apart),
so projections and FSC curves behave as a protein's do.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.physics.atomic_model import Atoms, map_from_atoms

__all__ = ["phantom_atoms", "phantom_map"]

_BFACTOR_ANGSTROM2 = 90.0  # displacement and scattering of one pseudo-atom
_CARBON_WEIGHT = 2.5  # electron scattering factor of carbon at zero angle, Angstrom


class _Domain(NamedTuple):
    """An ellipsoidal domain: layers of helices, or of helices on both sides of a sheet."""

    fold: str
    centre_angstrom: tuple[float, float, float]
    semi_axes_angstrom: tuple[float, float, float]
    euler_deg: tuple[float, float, float]


# A body with a long arm, a head and smaller lobes: no two alike, nothing near a mirror plane or an axis.
_DOMAINS = (
    _Domain("sandwich", (0.0, 0.0, 0.0), (30.0, 26.0, 32.0), (20.0, 35.0, 10.0)),
    _Domain("helices", (36.0, 8.0, 14.0), (24.0, 20.0, 28.0), (70.0, 80.0, 40.0)),
    _Domain("sandwich", (-22.0, 30.0, 18.0), (22.0, 19.0, 25.0), (130.0, 60.0, 95.0)),
    _Domain("helices", (-14.0, -20.0, 36.0), (16.0, 14.0, 26.0), (15.0, 25.0, 170.0)),
    _Domain("sandwich", (10.0, -33.0, -19.0), (21.0, 18.0, 19.0), (210.0, 110.0, 60.0)),
    _Domain("helices", (-26.0, 4.0, -32.0), (14.0, 15.0, 22.0), (300.0, 50.0, 20.0)),
    _Domain("helices", (16.0, 41.0, -14.0), (12.0, 12.0, 24.0), (50.0, 100.0, 80.0)),
)


def phantom_atoms(seed: int = 0) -> Atoms:
    """Pseudo-atoms of the embedded assembly.

    Parameters
    ----------
    seed : int
        Seed of the packing (lengths, tilts and side chains); the arrangement of the seven domains is fixed.

    Returns
    -------
    atoms : Atoms
        About 12,000 atoms within 145 A, centred on the centre of mass, with equal weights and B.
    """
    rng = np.random.default_rng(seed)
    positions = np.concatenate([_domain_atoms(domain, rng) for domain in _DOMAINS])
    positions -= positions.mean(axis=0)
    return Atoms(
        positions, np.full(len(positions), _CARBON_WEIGHT), np.full(len(positions), _BFACTOR_ANGSTROM2)
    )


def phantom_map(box_px: int, pixel_size_angstrom: float, seed: int = 0) -> NDArray[np.float32]:
    """Density of the embedded assembly.

    Parameters
    ----------
    box_px : int
        Box, pixels; its edge should exceed 150 A.
    pixel_size_angstrom : float
        Voxel size, Angstrom.
    seed : int
        Seed of the packing.

    Returns
    -------
    density : (box_px, box_px, box_px) float32
        Indexed [z, y, x], protein positive.
    """
    return map_from_atoms(phantom_atoms(seed), box_px, pixel_size_angstrom)


def _domain_atoms(domain: _Domain, rng: np.random.Generator) -> NDArray[np.float64]:
    """Fill an ellipsoid with layers 10 A apart along its x; the elements run along its z."""
    a, b, c = domain.semi_axes_angstrom
    layers = np.arange(-a + 5, a - 2, 10.0)
    parts = []
    for number, x in enumerate(layers):
        sheet = domain.fold == "sandwich" and number % 2 == 1
        spacing, twist_deg = (4.8, -4.0) if sheet else (9.8, rng.normal(0, 6))
        tilt_deg = rng.normal(-20 if number % 2 else 15, 5)
        half_width = b * np.sqrt(max(0.0, 1 - (x / a) ** 2))
        for order, y in enumerate(np.arange(-half_width + spacing / 2, half_width, spacing)):
            length = 2 * c * np.sqrt(max(0.02, 1 - (x / a) ** 2 - (y / b) ** 2)) * rng.uniform(0.8, 1.0)
            element = _strand(length, rng) if sheet else _helix(length, rng)
            turn = Rotation.from_euler(
                "XZ", [tilt_deg + twist_deg * y / 4.8, 180.0 * (order % 2)], degrees=True
            )
            parts.append(turn.apply(element) + np.array([x, y, rng.normal(0, 1.5)]))
    turn = Rotation.from_euler("ZYZ", domain.euler_deg, degrees=True)
    return np.asarray(turn.apply(np.concatenate(parts)) + domain.centre_angstrom)


def _helix(length_angstrom: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Alpha helix along z: 100 degrees and 1.5 A a residue; N, CA, C, O and a side chain of 1 to 4 atoms."""
    residue = np.arange(max(4, int(length_angstrom / 1.5)))
    radius = np.array([1.55, 2.29, 1.66, 1.92, 3.3, 4.3, 5.2, 6.0])
    azimuth = np.deg2rad([-28, 0, 26, 24, -10, -5, 0, 10])
    height = np.array([-0.9, 0.0, 1.1, 2.3, 0.3, 0.4, 0.2, 0.0])
    angle = np.deg2rad(100.0) * residue[:, None] + azimuth
    z = 1.5 * (residue[:, None] - residue.mean()) + height
    atoms = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=2)
    return _with_side_chains(atoms, rng)


def _strand(length_angstrom: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Beta strand along z: 3.3 A a residue, pleated along x, side chains to alternating sides."""
    residue = np.arange(max(3, int(length_angstrom / 3.3)))
    side = np.where(residue % 2 == 0, 1.0, -1.0)[:, None]
    x = side * np.array([0.3, 0.85, 0.3, 0.2, 2.2, 3.2, 4.0, 4.8])
    y = side * np.array([0.3, 0.0, -0.4, -1.6, 0.3, 0.6, 0.9, 1.2])
    height = np.array([-1.2, 0.0, 1.2, 1.4, 0.3, 0.2, 0.4, 0.0])
    z = 3.3 * (residue[:, None] - residue.mean()) + height
    return _with_side_chains(np.stack([x, y, z], axis=2), rng)


def _with_side_chains(atoms: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Keep four backbone atoms and one to four of the side chain's, jittered by 0.4 A, of (residue, 8, 3)."""
    kept = np.arange(8) < 4 + rng.integers(1, 5, size=(len(atoms), 1))
    chain = np.where(np.arange(8) < 4, 0.0, 0.4)[:, None]
    return np.asarray((atoms + chain * rng.normal(size=atoms.shape))[kept])
