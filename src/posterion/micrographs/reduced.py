"""A micrograph Fourier-cropped to the band that a search needs, and what of it can be searched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from posterion.physics.fourier import hermitian_weights

__all__ = [
    "ReducedMicrograph",
    "frequency_grid",
    "grid_shape",
    "hermitian_columns",
    "mean_over_disc",
    "reduce_micrograph",
]

Real = NDArray[np.float32]

_PLANE_STRIDE = 8  # pixels between samples of the fitted plane: thousands of them say enough
_HOT_PIXEL_SD = 10.0


@dataclass(frozen=True)
class ReducedMicrograph:
    """A micrograph on a coarser grid.

    Attributes
    ----------
    values_yx : (ny, nx) float32
        Plane removed, standard deviation of the full micrograph 1.
    pixel_size_angstrom : float
        Of the coarse grid; along x and y the same to half a pixel in the whole width.
    step_px : (2,) float
        Distance of neighbours along y and x in pixels of the full micrograph; the origins coincide.
    """

    values_yx: Real
    pixel_size_angstrom: float
    step_px: tuple[float, float]


def reduce_micrograph(
    values_yx: Real, pixel_size_angstrom: float, new_pixel_size_angstrom: float
) -> ReducedMicrograph:
    """Fourier-crop a micrograph to about a coarser pixel, its plane of grey removed.

    Only rows' transforms are computed whole; columns beyond the band are dropped before the second axis.

    Parameters
    ----------
    values_yx : (ny, nx) float32
        Grey values; hot pixels are cut off at ten standard deviations.
    pixel_size_angstrom, new_pixel_size_angstrom : float
        Of the micrograph and wanted, Angstrom; a finer wanted one leaves the grid as it is.
    """
    levelled = _levelled(values_yx)
    sizes = [scipy.fft.next_fast_len(n, real=True) for n in values_yx.shape]
    factor = min(1.0, pixel_size_angstrom / new_pixel_size_angstrom)
    if factor == 1.0:
        return ReducedMicrograph(levelled, pixel_size_angstrom, (1.0, 1.0))
    new_sizes = [max(8, round(n * factor)) for n in sizes]
    rows = scipy.fft.rfft(levelled, sizes[1], axis=1)[:, : (new_sizes[1] - 1) // 2 + 1]
    columns = scipy.fft.fft(rows, sizes[0], axis=0)
    keep = (new_sizes[0] - 1) // 2
    cropped = np.zeros((new_sizes[0], new_sizes[1] // 2 + 1), np.complex64)
    cropped[: keep + 1, : rows.shape[1]] = columns[: keep + 1]
    cropped[new_sizes[0] - keep :, : rows.shape[1]] = columns[len(columns) - keep :]
    scale = np.float32(new_sizes[0] * new_sizes[1] / (sizes[0] * sizes[1]))
    steps = (sizes[0] / new_sizes[0], sizes[1] / new_sizes[1])
    inside = tuple(int((n - 1) / step) + 1 for n, step in zip(values_yx.shape, steps, strict=True))
    small = np.asarray(scipy.fft.irfft2(cropped, s=new_sizes) * scale, np.float32)
    small = small[: inside[0], : inside[1]]
    pixel = pixel_size_angstrom * float(np.sqrt(steps[0] * steps[1]))
    return ReducedMicrograph(np.ascontiguousarray(small), pixel, steps)


def _levelled(values_yx: Real) -> Real:
    """Subtract the plane of least squares, divide by the standard deviation, cut off hot pixels."""
    sample = values_yx[::_PLANE_STRIDE, ::_PLANE_STRIDE].astype(np.float64)
    y, x = (np.linspace(-1, 1, n) for n in values_yx.shape)
    y_s, x_s = y[::_PLANE_STRIDE, None], x[None, ::_PLANE_STRIDE]
    low, high = np.percentile(sample, [0.1, 99.9])
    sample = np.clip(sample, low, high)
    design = np.stack(
        [np.ones(sample.size), *(np.broadcast_to(a, sample.shape).ravel() for a in (x_s, y_s))], 1
    )
    (mean, slope_x, slope_y), *_ = np.linalg.lstsq(design, sample.ravel(), rcond=None)
    sd = float(np.std(sample.ravel() - design @ (mean, slope_x, slope_y))) or 1.0
    plane = (mean + slope_y * y[:, None]).astype(np.float32) + (slope_x * x).astype(np.float32)
    levelled: Real = (values_yx - plane) / np.float32(sd)
    np.clip(levelled, -_HOT_PIXEL_SD, _HOT_PIXEL_SD, out=levelled)
    return levelled


def grid_shape(shape_yx: tuple[int, int], margin_px: int) -> tuple[int, int]:
    """Even, fast FFT sizes with room for a margin, so that one edge does not see the other."""
    ny, nx = (2 * int(scipy.fft.next_fast_len((n + margin_px + 1) // 2, real=True)) for n in shape_yx)
    return ny, nx


def frequency_grid(shape_yx: tuple[int, int], pixel_size_angstrom: float) -> tuple[Real, Real, Real]:
    """Spatial frequencies (fx, fy, |f|) of a half spectrum (ny, nx // 2 + 1), 1/Angstrom, float32."""
    ny, nx = shape_yx
    fx = np.fft.rfftfreq(nx, pixel_size_angstrom)[None, :]
    fy = np.fft.fftfreq(ny, pixel_size_angstrom)[:, None]
    x, y = np.broadcast_arrays(fx, fy)
    return x.astype(np.float32), y.astype(np.float32), np.hypot(fx, fy).astype(np.float32)


def hermitian_columns(nx: int) -> Real:
    """How many pixels of the full spectrum each column of a half spectrum stands for: 1 or 2."""
    return np.asarray(hermitian_weights(nx), np.float32)


def mean_over_disc(images_yx: Real, radius_px: float) -> Real:
    """Mean of images (..., ny, nx) over a disc about each pixel; what lies outside the image counts as zero.

    The disc's edge is one pixel wide.
    """
    reach = int(np.ceil(radius_px + 1))
    shape = grid_shape((images_yx.shape[-2], images_yx.shape[-1]), reach)
    offsets = [np.minimum(np.arange(n), n - np.arange(n)) for n in shape]
    distance = np.hypot(offsets[0][:, None], offsets[1][None, :])
    disc = np.clip(radius_px - distance + 0.5, 0, 1).astype(np.float32)
    spectrum = scipy.fft.rfft2(disc / disc.sum())
    smoothed = scipy.fft.irfft2(scipy.fft.rfft2(images_yx, s=shape) * spectrum, s=shape)
    return np.asarray(smoothed[..., : images_yx.shape[-2], : images_yx.shape[-1]], np.float32)
