"""Grids of poses: HEALPix directions times in-plane angles, nested: a cell has 8 children; shifts have 4."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import hpgeom
import numpy as np
from numpy.typing import NDArray

from posterion.physics.rotations import matrices_from_euler, trace_of_angle
from posterion.physics.symmetry import in_asymmetric_unit

__all__ = ["RotationGrid", "shift_children", "shift_lattice"]

Index = NDArray[np.int64]
_UNIT_PROBE_ORDERS = 2
_LEAST_SHARE = 1e-3


def _unit_vectors(order: int, pixel: Index) -> NDArray[np.float64]:
    """Centres of nested HEALPix pixels as (n, 3) unit vectors."""
    theta, phi = hpgeom.pixel_to_angle(2**order, pixel, nest=True, lonlat=False)
    return np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)


def _frames(order: int, pixel: Index) -> NDArray[np.float64]:
    """Rotations (n, 3, 3) that look along each pixel, their in-plane zero carried over from its base pixel.

    Euler angles would twist the zero by up to 90 degrees between neighbours at the poles, so that a cell's
    children would not lie in it. Here the base pixel's frame is moved along the great circle to the pixel.
    """
    base = pixel >> (2 * order)
    theta, phi = hpgeom.pixel_to_angle(1, base, nest=True, lonlat=False)
    base_frames = matrices_from_euler(np.degrees(phi), np.degrees(theta), np.zeros(len(base)))
    start, end = base_frames[:, 2], _unit_vectors(order, pixel)
    axis = np.cross(start, end)
    cross = np.zeros((len(base), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross -= cross.transpose(0, 2, 1)
    cosine = np.einsum("ni,ni->n", start, end)
    swing = np.eye(3) + cross + cross @ cross / (1 + cosine)[:, None, None]
    return np.asarray(base_frames @ swing.transpose(0, 2, 1))


@dataclass(frozen=True)
class RotationGrid:
    """All rotations at one order: ``12 * 4**order`` directions times ``6 * 2**order`` in-plane angles.

    A cell is numbered ``direction * n_psi + psi``; its children at ``order + 1`` tile it.

    Attributes
    ----------
    order : HEALPix order; the step is 60 degrees / 2**order
    offset : (3, 3) rotation of the whole grid in the volume frame; a random one each iteration keeps the
        grid's artefacts from adding up
    """

    order: int
    offset: NDArray[np.float64]

    @property
    def n_psi(self) -> int:
        """Number of in-plane angles."""
        return int(6 * 2**self.order)

    @property
    def n_directions(self) -> int:
        """Number of viewing directions."""
        return int(12 * 4**self.order)

    @property
    def step_deg(self) -> float:
        """Angular distance of neighbours, degrees."""
        return float(60.0 / 2**self.order)

    def matrices(self, cell: Index) -> NDArray[np.float64]:
        """Rotations of cells: (n,) int64 -> (n, 3, 3)."""
        direction, psi = np.divmod(np.asarray(cell, np.int64), self.n_psi)
        zero = np.zeros(len(psi))
        in_plane = matrices_from_euler(zero, zero, (psi + 0.5) * (360.0 / self.n_psi))
        return in_plane @ _frames(self.order, direction) @ self.offset

    def finer(self) -> RotationGrid:
        """Subdivide every cell: the grid of this one's children."""
        return RotationGrid(self.order + 1, self.offset)

    def children(self, cell: Index) -> Index:
        """Eight cells of `finer` that tile each cell: (n,) -> (n * 8,), neighbours together."""
        direction, psi = np.divmod(np.asarray(cell, np.int64), self.n_psi)
        directions = 4 * direction[:, None, None] + np.arange(4)[:, None]
        psis = 2 * psi[:, None, None] + np.arange(2)
        return (directions * (2 * self.n_psi) + psis).reshape(-1)

    def all_cells(self, point_group: str = "C1") -> Index:
        """Cells whose directions touch the asymmetric unit of a point group; all cells for C1."""
        directions = np.arange(self.n_directions, dtype=np.int64)
        if point_group != "C1":
            # A pixel counts if a descendant two orders deeper lies inside: no part of the unit is missed.
            probes = _all_vectors(self.order + _UNIT_PROBE_ORDERS) @ self.offset
            inside = in_asymmetric_unit(point_group, probes)
            directions = np.flatnonzero(inside.reshape(self.n_directions, -1).any(axis=1))
        return (directions[:, None] * self.n_psi + np.arange(self.n_psi)).reshape(-1)

    def share_inside(self, cell: Index, point_group: str) -> NDArray[np.float32]:
        """Share of each cell's directions that lie in the asymmetric unit: (n,) int64 -> (n,).

        Cells on the unit's border have equivalents on the other side of it. Weighed so, every orientation
        counts once; a cell that none of the probes finds inside keeps a thousandth.
        """
        direction, position = np.unique(np.asarray(cell, np.int64) // self.n_psi, return_inverse=True)
        vectors = _unit_vectors(self.order, direction) @ self.offset
        share = np.ones(len(direction), np.float32)
        # No corner of a HEALPix pixel is farther from its centre than its step.
        border = np.flatnonzero(~in_asymmetric_unit(point_group, vectors, margin_deg=-self.step_deg))
        descendants = direction[border, None] * 4**_UNIT_PROBE_ORDERS + np.arange(4**_UNIT_PROBE_ORDERS)
        probes = _unit_vectors(self.order + _UNIT_PROBE_ORDERS, descendants.ravel()) @ self.offset
        inside = in_asymmetric_unit(point_group, probes).reshape(descendants.shape)
        share[border] = np.maximum(inside.mean(axis=1), _LEAST_SHARE)
        return share[position]

    def near(self, matrix: NDArray[np.float64], radius_deg: float) -> Index:
        """Cells whose rotation lies within ``radius_deg`` of one rotation (3, 3)."""
        target = matrix @ self.offset.T
        vectors = _all_vectors(self.order)
        directions = np.flatnonzero(vectors @ target[2] >= np.cos(np.radians(radius_deg)))
        if not len(directions):
            directions = np.array([np.argmax(vectors @ target[2])])
        cell = (directions[:, None] * self.n_psi + np.arange(self.n_psi)).reshape(-1)
        trace = np.einsum("nij,ij->n", self.matrices(cell), matrix)
        inside = trace >= trace_of_angle(radius_deg)
        return cell[inside] if inside.any() else cell[[np.argmax(trace)]]


@lru_cache(maxsize=8)
def _all_vectors(order: int) -> NDArray[np.float64]:
    vectors = _unit_vectors(order, np.arange(12 * 4**order, dtype=np.int64))
    vectors.setflags(write=False)
    return vectors


def shift_lattice(range_px: float, step_px: float) -> NDArray[np.float64]:
    """Shifts (n, 2) as (x, y) in pixels on a square lattice of ``step_px`` within a disc of ``range_px``."""
    reach = int(np.floor(range_px / step_px + 1e-6))
    axis = np.arange(-reach, reach + 1) * step_px
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside = np.hypot(x, y) <= range_px + 1e-6
    return np.stack([x[inside], y[inside]], -1)


def shift_children(shifts_px: NDArray[np.float64], step_px: float) -> NDArray[np.float64]:
    """Four shifts that tile each shift's square cell of side ``step_px``: (n, 2) -> (4 n, 2), pixels."""
    quarter = step_px / 4
    corners = np.array([[-quarter, -quarter], [quarter, -quarter], [-quarter, quarter], [quarter, quarter]])
    return np.asarray((shifts_px[:, None, :] + corners).reshape(-1, 2))
