"""MRC maps."""

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

__all__ = ["read_map", "write_map"]


def read_map(path: str | Path) -> tuple[NDArray[np.float32], float]:
    """Map (z, y, x) as float32 and its pixel size in Angstrom (0.0 where the header has none)."""
    with mrcfile.open(path, permissive=True) as mrc:
        return np.asarray(mrc.data, dtype=np.float32), float(mrc.voxel_size.x)


def write_map(path: str | Path, values: NDArray[Any], pixel_size_angstrom: float) -> None:
    """Write a map (z, y, x) as float32 (mode 2) with its pixel size."""
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(np.asarray(values, dtype=np.float32))
        mrc.voxel_size = pixel_size_angstrom
