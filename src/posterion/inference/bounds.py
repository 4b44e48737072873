"""How far a score can rise: from a cell's centre, compared in a band, to any pose inside, compared fully."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from posterion.inference.images import ImageBatch
from posterion.inference.search import Level, SearchPlan
from posterion.physics.fourier import Disc, disc
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.sampling import RotationGrid
from posterion.physics.shifts import shift_phases

__all__ = ["ExpectedRise", "LargestRise", "Limits", "ShellMaxima", "cell_radius_deg", "most_probable_rise"]

_ENUMERATED_ORDERS = 5
_LARGEST_RATIO = 0.51
_BIN = 0.25
_ROUNDING = 1e-5
_PAIRS = 128
_PAIR_DEPTH = 4


@cache
def cell_radius_deg(order: int) -> float:
    """Largest angle between the centre of a cell of rotations and any rotation in it, degrees.

    Every rotation of a cell is the limit of a chain of children, so the angle is at most the sum over the
    orders of the largest step from a centre to a child's. Steps are measured over all directions up to
    order 5 (turning the image moves a cell onto its neighbours in psi) and then shrink by 0.51 or more.

    Parameters
    ----------
    order : HEALPix order
    """
    if order > _ENUMERATED_ORDERS:
        return _LARGEST_RATIO * cell_radius_deg(order - 1)
    grid = RotationGrid(order, np.eye(3))
    cell = np.arange(grid.n_directions, dtype=np.int64) * grid.n_psi
    children = grid.finer().matrices(grid.children(cell)).reshape(-1, 8, 3, 3)
    step = float(np.max(angular_distance_deg(grid.matrices(cell)[:, None], children)))
    deeper = step * _LARGEST_RATIO / (1 - _LARGEST_RATIO)
    return step + (deeper if order == _ENUMERATED_ORDERS else cell_radius_deg(order + 1))


@dataclass(frozen=True)
class ShellMaxima:
    """Largest modulus and largest gradient of an interpolated transform at each distance from its origin.

    Trilinear interpolation lies between the corners of a voxel cell, and its derivative along an axis
    between the differences along the four edges of that axis: both maxima are of the interpolated function
    itself.

    Attributes
    ----------
    value_b, gradient_b : (B,) float64, over the voxel cells that reach into a bin of a quarter of a padded
        Fourier pixel; gradients per padded Fourier pixel
    padding : padded Fourier pixels per Fourier pixel
    """

    value_b: NDArray[np.float64]
    gradient_b: NDArray[np.float64]
    padding: int

    @classmethod
    def of(cls, volume: FourierVolume) -> ShellMaxima:
        """Measure a volume."""
        grid = volume.values.view(np.complex64)[..., 0]
        centre = (grid.shape[0] - 1) // 2
        modulus = np.abs(grid)
        edges = [np.abs(np.diff(grid, axis=axis)).astype(np.float64) for axis in range(3)]
        largest = [_of_cells(e, [a for a in range(3) if a != axis]) for axis, e in enumerate(edges)]
        gradient = np.sqrt(largest[0] ** 2 + largest[1] ** 2 + largest[2] ** 2)
        z, y, x = (np.arange(size) + 0.5 for size in gradient.shape)
        distance = np.sqrt((z[:, None, None] - centre) ** 2 + (y[:, None] - centre) ** 2 + x**2)
        bins = int(np.ceil((volume.padding * (volume.radius + 1)) / _BIN))
        value = _of_cells(modulus, [0, 1, 2])
        return cls(
            _over_distance(value, distance, bins), _over_distance(gradient, distance, bins), volume.padding
        )

    def within(
        self, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Largest modulus and gradient (per Fourier pixel) at ``low`` to ``high`` (m,), Fourier pixels."""
        first = np.maximum(np.floor(low * self.padding / _BIN).astype(int), 0)
        last = np.minimum(np.floor(high * self.padding / _BIN).astype(int), len(self.value_b) - 1)
        spans = list(zip(first, last + 1, strict=True))
        value = np.array([self.value_b[a:b].max() for a, b in spans])
        return value, self.padding * np.array([self.gradient_b[a:b].max() for a, b in spans])


def _of_cells(values: NDArray[np.floating], axes: list[int]) -> NDArray[np.float64]:
    """Largest of the neighbours along axes: from corners or edges to voxel cells."""
    for axis in axes:
        values = np.maximum(
            values[(slice(None),) * axis + (slice(1, None),)],
            values[(slice(None),) * axis + (slice(None, -1),)],
        )
    return np.asarray(values, np.float64)


def _over_distance(
    values: NDArray[np.float64], distance: NDArray[np.float64], bins: int
) -> NDArray[np.float64]:
    """Largest value of the voxel cells that reach into each bin of distance from the origin."""
    reach = int(np.ceil(np.sqrt(3) / 2 / _BIN)) + 1
    table = np.zeros(bins + 2 * reach)
    index = np.floor(distance / _BIN).astype(int)
    inside = index < bins + reach
    np.maximum.at(table, index[inside] + reach, values[inside])
    around = np.stack([table[shift : shift + bins] for shift in range(2 * reach + 1)])
    return np.asarray(around.max(axis=0))


@dataclass(frozen=True)
class Limits:
    """What a level's cells can add to the log-likelihoods of their centres at most, per image (n,).

    Attributes
    ----------
    beyond_i : added by the pixels beyond the level's band
    inside_i : added by moving inside the cell, in the band, pixel by pixel
    half_power_i : P, half the whitened power of the image in the band
    move_i : D, largest whitened length of a slice's change inside the cell, in the band
    """

    beyond_i: NDArray[np.float64]
    inside_i: NDArray[np.float64]
    half_power_i: NDArray[np.float64]
    move_i: NDArray[np.float64]

    def floor(self, row: int, target: float) -> float:
        """Least log-likelihood of a centre in the band whose cell may hold a pose that reaches a target.

        ``max(F - inside, P - (D + sqrt(2 (P - F)))^2 / 2)``, F being the target less what lies beyond the
        band.
        """
        needed, half_power = target - self.beyond_i[row], self.half_power_i[row]
        residual = np.sqrt(2 * max(half_power - needed, 0.0))
        by_norm = half_power - 0.5 * (self.move_i[row] + residual) ** 2
        return float(max(needed - self.inside_i[row], by_norm) - _ROUNDING * half_power)


@dataclass(frozen=True)
class LargestRise:
    """Rigorous bound: no image and no noise can make a score rise by more (docs/theory.md, section 10).

    Attributes
    ----------
    maxima : of the reference
    """

    maxima: ShellMaxima

    @classmethod
    def of(cls, volume: FourierVolume) -> LargestRise:
        """Measure a reference."""
        return cls(ShellMaxima.of(volume))

    def limits(self, batch: ImageBatch, plan: SearchPlan, level: int) -> Limits:
        """Bound what a level's cells can add to the scores of their centres.

        Parameters
        ----------
        batch : prepared images
        plan : search plan
        level : index into the plan's levels
        """
        pixels = disc(batch.pixels.box, plan.radius)
        keep = batch.pixels.within(plan.radius)
        modulus_ip = np.abs(batch.whitened_ip[:, keep]).astype(np.float64)
        ctf2_ip = batch.ctf2_ip[:, keep].astype(np.float64)
        in_band = pixels.within(plan.levels[level].radius)
        beyond = np.setdiff1d(np.arange(len(pixels)), in_band)
        value_p, move_p = self._moves(pixels, plan.levels[level])
        return Limits(
            beyond_i=_parabola(modulus_ip, ctf2_ip, value_p)[:, beyond].sum(axis=1),
            inside_i=_parabola(modulus_ip + ctf2_ip * value_p, ctf2_ip, move_p)[:, in_band].sum(axis=1),
            half_power_i=batch.power_ip[:, keep][:, in_band].sum(axis=1, dtype=np.float64),
            move_i=np.sqrt((ctf2_ip * move_p**2)[:, in_band].sum(axis=1)),
        )

    def _moves(self, pixels: Disc, level: Level) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Largest modulus of a slice per pixel, and how far its value can move inside a cell, (P,) each.

        A sample turns along a chord of ``2 |k| sin(angle / 2)`` that stays beyond ``|k| cos(angle / 2)``.
        """
        k, where_p = np.unique(np.hypot(pixels.kx_p, pixels.ky_p), return_inverse=True)
        half = np.radians(min(cell_radius_deg(level.order), 180.0)) / 2
        value, _ = self.maxima.within(k, k)
        _, gradient = self.maxima.within(k * np.cos(half), k)
        phase = np.pi * np.sqrt(2) / pixels.box * level.shift_step_px * k
        turn = 2 * np.sin(half) * k * gradient
        move = np.minimum(turn + value * np.minimum(phase, 2), 2 * value)
        return value[where_p], move[where_p]


def _parabola(
    slope: NDArray[np.float64], curvature: NDArray[np.float64], most: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Largest value of ``slope d - curvature d^2 / 2`` over ``0 <= d <= most``."""
    d = np.minimum(most, slope / np.maximum(curvature, 1e-300))
    return np.asarray(slope * d - 0.5 * curvature * d**2)


@dataclass(frozen=True)
class ExpectedRise:
    """Probabilistic bound: what the score of the true pose rises by is normal, of known mean and variance.

    From the centre c of the true pose's cell, compared in a band, to the true pose, compared fully, the
    slice changes by ``delta = C m* - C m_c`` (outside of the band: by C m*), and the score by
    ``N(Q/2, Q)``, ``Q = sum_p |delta_p|^2 / sigma2_p``. Q is sampled at random cells and poses inside.

    Attributes
    ----------
    inside_lkp : (levels, K, P) float32, ``|m* - m_c|^2`` in the level's band, zero outside
    beyond_lkp : (levels, K, P) float32, ``|m*|^2`` outside of it
    """

    inside_lkp: NDArray[np.float32]
    beyond_lkp: NDArray[np.float32]

    @classmethod
    def of(cls, volume: FourierVolume, plan: SearchPlan) -> ExpectedRise:
        """Sample a reference."""
        parts = [_sample(volume, plan, level) for level in range(len(plan.levels))]
        return cls(np.stack([a for a, _ in parts]), np.stack([b for _, b in parts]))

    def rise_i(
        self, batch: ImageBatch, plan: SearchPlan, level: int, failure: float, tail: bool
    ) -> NDArray[np.float64]:
        """Rise of the true pose's score that is exceeded with a given probability, (n,).

        Parameters
        ----------
        batch : prepared images
        plan : search plan
        level : index into the plan's levels
        failure : probability
        tail : count what the pixels beyond the band add
        """
        table_kp = self.inside_lkp[level] + self.beyond_lkp[level] if tail else self.inside_lkp[level]
        ctf2_ip = np.ascontiguousarray(batch.ctf2_ip[:, batch.pixels.within(plan.radius)])
        return most_probable_rise(ctf2_ip @ table_kp.T, failure)


def _sample(
    volume: FourierVolume, plan: SearchPlan, level: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Squared changes of slices from random cells' centres to random poses inside, see `ExpectedRise`."""
    rng = np.random.default_rng(level)
    grid = finer = plan.grid(level)
    centre = inside = rng.integers(0, grid.n_directions * grid.n_psi, _PAIRS)
    for _ in range(_PAIR_DEPTH):
        inside = finer.children(inside).reshape(_PAIRS, 8)[np.arange(_PAIRS), rng.integers(0, 8, _PAIRS)]
        finer = finer.finer()
    pixels = disc(volume.box, plan.radius)
    moved_px = rng.uniform(-0.5, 0.5, (_PAIRS, 2)) * plan.levels[level].shift_step_px
    at_centre = volume.slices(grid.matrices(centre), pixels)
    at_pose = volume.slices(finer.matrices(inside), pixels) * shift_phases(pixels, moved_px)
    in_band = np.zeros(len(pixels), bool)
    in_band[pixels.within(plan.levels[level].radius)] = True
    change, power = np.abs(at_pose - at_centre) ** 2, np.abs(at_pose) ** 2
    return np.where(in_band, change, 0), np.where(in_band, 0, power)


def most_probable_rise(q_ik: NDArray[np.floating], failure: float) -> NDArray[np.float64]:
    """Value that a draw from the mixture over k of normals ``N(q/2, q)`` exceeds with a given probability.

    Parameters
    ----------
    q_ik : (n, K) positive
    failure : probability

    Returns
    -------
    (n,) float64
    """
    q_ik = np.maximum(np.asarray(q_ik, np.float64), 1e-12)
    deviation_ik = np.sqrt(q_ik)
    low_i, high_i = np.zeros(len(q_ik)), (q_ik / 2 + 9 * deviation_ik).max(axis=1)
    for _ in range(40):
        middle_i = (low_i + high_i) / 2
        enough_i = ndtr((middle_i[:, None] - q_ik / 2) / deviation_ik).mean(axis=1) >= 1 - failure
        low_i, high_i = np.where(enough_i, low_i, middle_i), np.where(enough_i, middle_i, high_i)
    return np.asarray(high_i)
