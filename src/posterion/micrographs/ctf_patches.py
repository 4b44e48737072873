"""Defocus across a micrograph: the mean defocus of each patch, and the plane through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.micrographs.ctf_rings import CtfParameters, MicroscopeOptics, Rings
from posterion.micrographs.periodogram import averaged_periodogram, without_outliers
from posterion.micrographs.sector_spectrum import sector_spectrum

__all__ = ["PatchDefocus", "defocus_gradient", "patch_defoci"]

_RANGE_ANGSTROM, _STEP_ANGSTROM = 3000.0, 100.0


@dataclass(frozen=True)
class PatchDefocus:
    """Mean defocus (Angstrom) about one point (column, row, in pixels), and how well its rings correlate."""

    x_px: float
    y_px: float
    defocus_angstrom: float
    correlation: float


def patch_defoci(
    values: NDArray[np.float32],
    pixel_size_angstrom: float,
    optics: MicroscopeOptics,
    parameters: CtfParameters,
    grid: tuple[int, int],
    tile_px: int,
    band: tuple[float, float],
) -> tuple[PatchDefocus, ...]:
    """Fit the mean defocus of each patch within 3,000 A of the whole's; astigmatism and phase shift stay.

    Parameters
    ----------
    values : (ny, nx) float32
        Micrograph.
    pixel_size_angstrom : float
        Angstrom.
    optics, parameters
        Fit of the whole micrograph.
    grid : (int, int)
        Patches along the columns and along the rows. A patch smaller than a tile is grown to one, so
        neighbours then overlap.
    tile_px : int
        Edge of the tiles, pixels.
    band : (float, float)
        Lowest and highest frequency, 1/Angstrom.

    Raises
    ------
    PosterionError
        Where the grid has no patches.
    """
    if min(grid) < 1:
        raise PosterionError(f"a grid of {grid[0]}x{grid[1]} patches: expected at least 1x1")
    patches = []
    for rows in _spans(values.shape[0], grid[1], tile_px):
        for columns in _spans(values.shape[1], grid[0], tile_px):
            power = averaged_periodogram(without_outliers(values[rows, columns]), tile_px)
            spectrum = sector_spectrum(power, pixel_size_angstrom, band[0] / 2, band[1])
            guessed = Rings.of(spectrum, optics, *band)
            rough, _ = _best_offset(guessed, parameters)
            offset, correlation = _best_offset(
                guessed.with_envelope_of(parameters.shifted(rough)), parameters
            )
            x, y = (columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2
            patches.append(PatchDefocus(x, y, parameters.mean_defocus_angstrom + offset, correlation))
    return tuple(patches)


def _spans(length: int, count: int, tile_px: int) -> list[slice]:
    """Evenly spread stretches that cover an edge, none shorter than a tile."""
    edge = max(tile_px, -(-length // count))
    starts = np.linspace(0, length - edge, count) if count > 1 else np.array([(length - edge) / 2])
    return [slice(round(start), round(start) + edge) for start in starts.tolist()]


def _best_offset(rings: Rings, parameters: CtfParameters) -> tuple[float, float]:
    def loss(offset: float) -> float:
        return -rings.correlation(parameters.shifted(offset))

    offsets = np.arange(-_RANGE_ANGSTROM, _RANGE_ANGSTROM + 1, _STEP_ANGSTROM)
    best = float(offsets[np.argmin([loss(offset) for offset in offsets.tolist()])])
    bounds = (best - _STEP_ANGSTROM, best + _STEP_ANGSTROM)
    result = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.5})
    return float(result.x), -float(result.fun)


def defocus_gradient(patches: Sequence[PatchDefocus], pixel_size_angstrom: float) -> tuple[float, float]:
    """Slope of the plane through the patches' defoci along the columns and the rows, Angstrom per Angstrom.

    Least squares, patches weighted by their correlation; 0 along a direction with one patch only. A flat
    specimen tilted by t about an axis has the slope tan t across it.
    """
    points = np.array([(p.x_px, p.y_px) for p in patches]) * pixel_size_angstrom
    design = np.column_stack([np.ones(len(patches)), points - points.mean(0)])
    weight = np.sqrt(np.maximum([p.correlation for p in patches], 0.0))
    defocus = np.array([p.defocus_angstrom for p in patches])
    plane = np.linalg.lstsq(design * weight[:, None], defocus * weight, rcond=None)[0]
    return float(plane[1]), float(plane[2])
