"""The only pixel loops: central slices out of a volume, and their adjoint, insertion into one.

| kernel | file | what it does |
|---|---|---|
| `gather_slices` | cpu.py | trilinear samples of a volume's transform on central slices |
| `scatter_slices` | cpu.py | the adjoint: adds slice values and weights to the eight neighbours |
| `shift_spectrum` | shifts.py | moves one image by many shifts |
| `shift_samples` | shifts.py | moves samples of several images, each by its own shifts |
| `sum_unshifted` | shifts.py | the adjoint: moves many spectra back and adds them |
| `score_poses` | poses.py | log-probability, gradient and normal matrix of poses, fused |
| `sum_rotated` | cpu.py | sums a numerator and weight over the operators of a point group |

Everything else in the package is array algebra; dense comparisons are matrix products.
"""

from posterion.kernels.cpu import gather_slices, scatter_slices, sum_rotated
from posterion.kernels.poses import SCORE_TERMS, score_poses
from posterion.kernels.shifts import shift_samples, shift_spectrum, sum_unshifted

__all__ = [
    "SCORE_TERMS",
    "gather_slices",
    "scatter_slices",
    "score_poses",
    "shift_samples",
    "shift_spectrum",
    "sum_rotated",
    "sum_unshifted",
]
