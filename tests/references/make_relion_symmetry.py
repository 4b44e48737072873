"""Freeze RELION's point-group operators in relion_symmetry.npz (needs relion_refine 3.1 on PATH).

Run from any folder: python tests/references/make_relion_symmetry.py
"""

import re
import subprocess
from pathlib import Path

import numpy as np

GROUPS = [f"{family}{n}" for family in "CD" for n in (1, 2, 3, 4, 5, 6, 7, 11, 12)] + [
    "T",
    "O",
    "I",
    "I1",
    "I2",
    "I3",
    "I4",
]


def printed_operators(group: str) -> np.ndarray:
    """Operators (g, 3, 3) that RELION prints, six significant digits."""
    text = subprocess.run(
        ["relion_refine", "--print_symmetry_ops", "--sym", group], capture_output=True, text=True, check=True
    ).stdout
    blocks = re.split(r"R\(\d+\)=", text)[1:]
    return np.array([[line.split() for line in block.strip().splitlines()[:3]] for block in blocks], float)


if __name__ == "__main__":
    folder = Path(__file__).parent
    operators = {group: printed_operators(group).astype(np.float32) for group in GROUPS}
    np.savez_compressed(folder / "relion_symmetry.npz", **operators)
    for group, matrices in operators.items():
        print(group, len(matrices))
