"""All shifts of a list from few of them: what an image gives at a shift is band-limited in the shift."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.linalg
import scipy.special
from numpy.typing import NDArray

from posterion.physics.fourier import Disc

__all__ = ["ShiftInterpolation", "interpolation"]

_TOLERANCE = 3e-4
_WORTH = 1.5
_FEWEST_SHIFTS = 64


@dataclass(frozen=True)
class ShiftInterpolation:
    """Combinations of S moved images that stand for T: ``exp(-2 pi i k.s_t / n)`` as a sum over few shifts.

    ``X(s_t) = sum_s weight_ts X(s_s)`` for whatever is a sum of these phases over the disc ``|k| < r``: moved
    images, their inner products with slices. Sums over all shifts go the other way, by the transpose.

    Attributes
    ----------
    kept_s : (S,) int64, positions of the few among all, ascending
    weight_ts : (T, S) float32
    samples : real numbers of which an image consists, on the disc
    """

    kept_s: NDArray[np.int64]
    weight_ts: NDArray[np.float32]
    samples: int

    def at_all(self, values_sx: NDArray[np.float32]) -> NDArray[np.float32]:
        """Interpolate what was found at the few: (S, x) -> (T, x)."""
        return self.weight_ts @ values_sx

    def onto_few(
        self, values_xt: NDArray[np.float32], shift_t: NDArray[np.intp] | slice = slice(None)
    ) -> NDArray[np.float32]:
        """Move weights of shifts to the few, the adjoint of `at_all`: (x, some of T) -> (x, S).

        Parameters
        ----------
        values_xt : weights
        shift_t : of which shifts; all of them unless told
        """
        return values_xt @ self.weight_ts[shift_t]

    def saves(self, shifts: int) -> bool:
        """Whether sums over so many shifts of the list are made in much less time by way of the few."""
        return _most_worth(shifts, self.samples) >= len(self.kept_s)


def interpolation(shifts_px: NDArray[np.floating], pixels: Disc) -> ShiftInterpolation | None:
    """Find few shifts from which all of a list follow; None where they would not save much.

    Time is counted in multiplications for one slice: T shifts of an image of p real numbers take T p, a few
    S (p + T). An interpolation takes at most 2/3 of the former. Lists of less than 64 are left as they are:
    there, products are not what takes the time.

    The few are found by Cholesky decomposition, with pivots, of the inner products of phases over the disc,
    ``2 J1(x) / x`` with ``x = 2 pi r |s - s'| / n``: each next one is the shift that those before give worst.
    Of the worst shift left out, phases are off by at most 3e-4, root mean square over the disc.

    Parameters
    ----------
    shifts_px : (T, 2)
    pixels : disc on which images are moved
    """
    if len(shifts_px) < _FEWEST_SHIFTS:
        return None
    listed = np.ascontiguousarray(shifts_px, np.float64)
    return _interpolation(listed.tobytes(), pixels.radius, pixels.box, 2 * len(pixels))


def _most_worth(shifts: int, samples: int) -> int:
    """Count the columns that still save much in place of so many shifts."""
    return int(shifts * samples / (_WORTH * (samples + shifts)))


@lru_cache(maxsize=16)
def _interpolation(listed: bytes, radius: int, box: int, samples: int) -> ShiftInterpolation | None:
    shifts_px = np.frombuffer(listed).reshape(-1, 2)
    kept, factor_tk = _pivots(shifts_px, 2 * np.pi * radius / box, _most_worth(len(shifts_px), samples))
    if not kept:
        return None
    # G[:, kept] = L Lk^T, so the best combinations, G[:, kept] G[kept, kept]^-1, are L Lk^-1.
    weight_tk = scipy.linalg.solve_triangular(factor_tk[kept], factor_tk.T, lower=True, trans="T").T
    order = np.argsort(kept)
    weight_ts = np.ascontiguousarray(weight_tk[:, order], np.float32)
    kept_s = np.array(kept, np.int64)[order]
    for array in (kept_s, weight_ts):
        array.setflags(write=False)
    return ShiftInterpolation(kept_s, weight_ts, samples)


def _pivots(shifts_px: NDArray[np.float64], edge: float, most: int) -> tuple[list[int], NDArray[np.float64]]:
    """Pivots and factor (T, pivots) of the decomposition up to the tolerance; none if ``most`` do not do."""
    factor_tk = np.empty((len(shifts_px), most))
    left_t = np.ones(len(shifts_px))  # squared error of each shift, by the ones before
    kept: list[int] = []
    while (worst := left_t.max()) > _TOLERANCE**2:
        if len(kept) == most:
            return [], factor_tk
        # A lattice is symmetric: among equals the first, whatever the rounding.
        pivot = int(np.argmax(left_t >= (1 - 1e-6) * worst))
        before = factor_tk[:, : len(kept)]
        inner_t = _inner_product(edge * np.hypot(*(shifts_px - shifts_px[pivot]).T))
        column_t = (inner_t - before @ before[pivot]) / np.sqrt(left_t[pivot])
        factor_tk[:, len(kept)] = column_t
        left_t = np.maximum(left_t - column_t**2, 0)
        kept.append(pivot)
        left_t[kept] = 0
    return kept, factor_tk[:, : len(kept)]


def _inner_product(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of ``exp(i x.k)`` over the disc of radius one: ``2 J1(x) / x``."""
    away = np.maximum(x, 1e-6)
    return np.asarray(2 * scipy.special.j1(away) / away)
