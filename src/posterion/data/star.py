"""STAR text <-> tables of text columns; no cryo-EM meaning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Table"]


@dataclass(frozen=True, eq=False)
class Table:
    """One table of a file: named columns of equal length, as found."""

    name: str
    columns: dict[str, NDArray[Any]]
    row_i: NDArray[np.int64]
    path: Path | None = None
    is_loop: bool = True
