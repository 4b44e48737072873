"""How kernels are compiled, and kept: one is compiled anew when any file of this folder has changed."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

__all__ = ["COMPILED", "kernel"]

# Sums may be taken in any order, so that they can be kept in lanes; NaN and infinity stay what they are.
COMPILED: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "arcp", "reassoc"},
}
"""How bodies, blocks and kernels are compiled."""


@cache
def _sources() -> str:
    """Hash of this folder's source files."""
    text = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text.update(path.read_bytes())
    return text.hexdigest()


def kernel(function: Any) -> Any:
    """Compile a function at its first call and keep the machine code on disk.

    Numba's cache looks at the kernel's own file only; a changed body in another one would leave stale machine
    code in use.
    """
    compiled = njit(cache=True, **COMPILED)(function)
    kept: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(kept, "_source_stamp"):
        kept._source_stamp = (kept._source_stamp, _sources())
    return compiled
