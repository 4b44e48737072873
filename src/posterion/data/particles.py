"""A particle set: a table of metadata in one convention, and its images, read lazily.

Foreign conventions are undone before a :class:`Particles` exists: `relion`, `cryosparc` and `frealign` build it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterion.data.star import Table

__all__ = ["OpticsGroup", "Particles", "Poses"]


@dataclass(frozen=True)
class OpticsGroup:
    """What the images of one group share: the microscope's constants, the pixel and the box."""

    name: str
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    pixel_size_angstrom: float
    box_px: int


@dataclass(frozen=True, eq=False)
class Poses:
    """Orientations and origin offsets in RELION's convention, one per particle."""

    rot_deg_i: NDArray[np.float64]
    tilt_deg_i: NDArray[np.float64]
    psi_deg_i: NDArray[np.float64]
    shift_x_angstrom_i: NDArray[np.float64]
    shift_y_angstrom_i: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rot_deg_i)

    def __getitem__(self, selection: Any) -> Poses:
        raise NotImplementedError

    def matrices(self) -> NDArray[np.float64]:
        """Rotation matrices R = Rz(psi) Ry(tilt) Rz(rot), (n, 3, 3)."""
        raise NotImplementedError

    @classmethod
    def from_matrices(cls, matrices: NDArray[np.float64], shifts_angstrom: NDArray[np.float64]) -> Poses:
        """Poses from rotation matrices (n, 3, 3) and offsets (n, 2) in Angstrom."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Particles:
    """A particle set; see the module's first line."""

    optics: tuple[OpticsGroup, ...]
    optics_index_i: NDArray[np.int32]
    stack_paths: tuple[Path, ...]
    stack_names: tuple[str, ...]
    stack_index_i: NDArray[np.int32]
    image_index_i: NDArray[np.int64]
    defocus_u_angstrom_i: NDArray[np.float64]
    defocus_v_angstrom_i: NDArray[np.float64]
    defocus_angle_deg_i: NDArray[np.float64]
    phase_shift_deg_i: NDArray[np.float64]
    ctf_bfactor_i: NDArray[np.float64]
    ctf_scale_i: NDArray[np.float64]
    micrograph_names: tuple[str, ...]
    micrograph_index_i: NDArray[np.int32]
    half_i: NDArray[np.int8]
    poses: Poses | None = None
    contrast_sign_i: NDArray[np.int8] | None = None
    table: Table | None = None

    def __len__(self) -> int:
        return len(self.image_index_i)

    def __getitem__(self, selection: Any) -> Particles:
        raise NotImplementedError

    def images(self, indices: NDArray[np.integer[Any]] | None = None) -> NDArray[np.float32]:
        """Images (n, box, box) of the particles at ``indices`` (all of them by default)."""
        raise NotImplementedError

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """(indices, images) in file order, the next batch being read ahead."""
        raise NotImplementedError

    @property
    def box_px(self) -> int:
        """Box of all images, pixels."""
        raise NotImplementedError

    @property
    def pixel_size_angstrom(self) -> float:
        """Pixel size of all images, Angstrom."""
        raise NotImplementedError

    def require_poses(self) -> Poses:
        """The poses, or an error that says which columns are missing."""
        raise NotImplementedError

    @classmethod
    def read(cls, path: str | Path) -> Particles:
        """Read a RELION STAR, cryoSPARC .cs or FREALIGN .par file."""
        raise NotImplementedError

    def write_star(
        self, path: str | Path, poses: Poses | None = None, extra_columns: dict[str, Any] | None = None
    ) -> None:
        """Write a RELION 3.1+ STAR file."""
        raise NotImplementedError
