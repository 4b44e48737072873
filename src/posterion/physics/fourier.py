"""Half-spectrum layout: transforms, shells, Hermitian weights, phase shifts, cropping, the disc of pixels.

Forward kernel ``exp(-2 pi i k.x)``, unnormalised; the real-space origin is at index ``n // 2`` for even and
odd ``n``. A half spectrum keeps ``kx >= 0`` on its last axis (``n // 2 + 1`` columns); the other axes are in
FFT order.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = [
    "Disc",
    "disc",
    "disc_below_nyquist",
    "fourier_crop",
    "fourier_transform_2d",
    "fourier_transform_3d",
    "frequencies_2d",
    "hermitian_weights",
    "inverse_fourier_transform_2d",
    "inverse_fourier_transform_3d",
    "phase_shift",
    "resample",
    "shell_index_2d",
    "shell_index_3d",
    "shell_mean",
]

Real = NDArray[np.float32]
Complex = NDArray[np.complex64]


def fourier_transform_2d(images: Real, workers: int = 1) -> Complex:
    """Compute ``F(k) = sum_x f(x) exp(-2 pi i k.x / n)`` of images whose origin is at ``n // 2``.

    Parameters
    ----------
    images : (..., n, n) float32, any unit
    workers : number of threads

    Returns
    -------
    (..., n, n // 2 + 1) complex64 half spectra.
    """
    moved = scipy.fft.ifftshift(images, axes=(-2, -1))
    return scipy.fft.rfft2(moved, workers=workers)  # type: ignore[no-any-return]


def inverse_fourier_transform_2d(spectra: Complex, n: int, workers: int = 1) -> Real:
    """Invert `fourier_transform_2d`: (..., n, n // 2 + 1) half spectra to (..., n, n) images."""
    images = scipy.fft.irfft2(spectra, s=(n, n), workers=workers)
    return scipy.fft.fftshift(images, axes=(-2, -1))  # type: ignore[no-any-return]


def fourier_transform_3d(volume: Real, workers: int = 1) -> Complex:
    """Compute the (n, n, n // 2 + 1) half spectrum of a map whose origin is at ``n // 2``."""
    moved = scipy.fft.ifftshift(volume)
    return scipy.fft.rfftn(moved, workers=workers)  # type: ignore[no-any-return]


def inverse_fourier_transform_3d(spectrum: Complex, n: int, workers: int = 1) -> Real:
    """Invert `fourier_transform_3d`: (n, n, n // 2 + 1) half spectrum to an (n, n, n) map."""
    volume = scipy.fft.irfftn(spectrum, s=(n, n, n), workers=workers)
    return scipy.fft.fftshift(volume)  # type: ignore[no-any-return]


def frequencies_2d(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Integer Fourier pixels of a half spectrum: ``kx`` as a row (1, n//2+1), ``ky`` as a column (n, 1)."""
    return np.arange(n // 2 + 1)[None, :], _fft_integers(n)[:, None]


def _fft_integers(n: int) -> NDArray[np.int64]:
    """Integer frequencies of one full axis in FFT order."""
    return np.asarray(np.rint(np.fft.fftfreq(n, 1.0 / n)), np.int64)


def shell_index_2d(n: int) -> NDArray[np.int64]:
    """Shell ``rint(|k|)`` of every half-spectrum pixel, (n, n//2+1); corners exceed ``n // 2``."""
    kx, ky = frequencies_2d(n)
    return np.asarray(np.rint(np.hypot(kx, ky)), np.int64)


def shell_index_3d(n: int) -> NDArray[np.int64]:
    """Shell ``rint(|k|)`` of every half-spectrum voxel, (n, n, n//2+1)."""
    k = _fft_integers(n)
    squared = k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(n // 2 + 1) ** 2
    return np.asarray(np.rint(np.sqrt(squared)), np.int64)


def hermitian_weights(n: int) -> NDArray[np.float64]:
    """How often each half-spectrum column stands for a full-spectrum pixel: 1 if self-conjugate, else 2."""
    weights = np.full(n // 2 + 1, 2.0)
    weights[0] = 1.0
    if n % 2 == 0:
        weights[-1] = 1.0
    return weights


def shell_mean(values: NDArray[np.floating], n: int) -> NDArray[np.float64]:
    """Average half-spectrum values over shells with Hermitian weights.

    Parameters
    ----------
    values : (n, n//2+1) or (n, n, n//2+1) real
    n : box in pixels

    Returns
    -------
    (n//2+1,) float64, shells 0 .. n//2.
    """
    shell = shell_index_2d(n) if values.ndim == 2 else shell_index_3d(n)
    weight = np.broadcast_to(hermitian_weights(n), values.shape).ravel()
    total = np.bincount(shell.ravel(), weight * values.ravel())
    count = np.bincount(shell.ravel(), weight)
    return np.asarray((total / np.maximum(count, 1e-30))[: n // 2 + 1])


def phase_shift(spectra: Complex, shift_px: NDArray[np.floating]) -> Complex:
    """Move images by ``shift_px``: ``F(k) exp(-2 pi i k.t / n)``.

    Parameters
    ----------
    spectra : (..., n, n//2+1) complex64
    shift_px : (..., 2) shift along (x, y) in pixels; positive moves content to higher indices
    """
    n = spectra.shape[-2]
    kx, ky = frequencies_2d(n)
    shift = np.asarray(shift_px, np.float64)[..., None, None, :]
    angle = -2 * np.pi / n * (kx * shift[..., 0] + ky * shift[..., 1])
    return np.asarray(spectra * np.exp(1j * angle), np.complex64)


def fourier_crop(spectrum: Complex, n_new: int, dimensions: Literal[2, 3]) -> Complex:
    """Cut or zero-pad a half spectrum to another box; pixels at or beyond either Nyquist are dropped.

    Parameters
    ----------
    spectrum : (..., n, n//2+1) complex64 for images, (..., n, n, n//2+1) for maps
    n_new : new box in pixels
    dimensions : 2 for images, 3 for maps; axes before these are a batch

    Returns
    -------
    (..., n_new, n_new//2+1) or (..., n_new, n_new, n_new//2+1) complex64, values unchanged.
    """
    n = spectrum.shape[-2]
    keep = (min(n, n_new) - 1) // 2
    full = np.arange(-keep, keep + 1)
    batch = spectrum.shape[: spectrum.ndim - dimensions]
    out = np.zeros((*batch, *(n_new,) * (dimensions - 1), n_new // 2 + 1), spectrum.dtype)
    kept = np.ix_(*[full] * (dimensions - 1), np.arange(keep + 1))
    out[(..., *kept)] = spectrum[(..., *kept)]  # type: ignore[index, arg-type]
    return out


def resample(volume: Real, n_new: int) -> Real:
    """Fourier-crop or -pad a map to ``n_new`` voxels a side, keeping its voxel values' scale."""
    n = volume.shape[0]
    spectrum = fourier_crop(fourier_transform_3d(volume), n_new, 3)
    return inverse_fourier_transform_3d(spectrum, n_new) * np.float32((n_new / n) ** 3)


@dataclass(frozen=True)
class Disc:
    """The independent half-spectrum pixels p with ``|k| <= radius``, row by row, each Hermitian pair once.

    Attributes
    ----------
    box : image box in pixels
    radius : largest ``|k|`` in Fourier pixels
    kx_p, ky_p : (P,) int32, integer Fourier pixels; ``kx > 0``, or ``kx == 0`` and ``ky >= 0``
    shell_p : (P,) int32, ``rint(|k|)``
    multiplicity_p : (P,) float32, 1 for the DC pixel, 2 elsewhere
    row_ky, row_first_kx, row_start : (rows,), (rows,), (rows + 1,) int32, where each row of one ky lies in p
    """

    box: int
    radius: int
    kx_p: NDArray[np.int32]
    ky_p: NDArray[np.int32]
    shell_p: NDArray[np.int32]
    multiplicity_p: NDArray[np.float32]
    row_ky: NDArray[np.int32]
    row_first_kx: NDArray[np.int32]
    row_start: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.kx_p)

    def take(self, spectra: Complex) -> Complex:
        """Pick the disc's pixels from half spectra (..., n, n//2+1) -> (..., P)."""
        return spectra[..., self.ky_p, self.kx_p]

    def put(self, values: Complex) -> Complex:
        """Lay (..., P) values out as half spectra (..., n, n//2+1), zero elsewhere."""
        out = np.zeros((*values.shape[:-1], self.box, self.box // 2 + 1), np.complex64)
        out[..., self.ky_p, self.kx_p] = values
        on_axis = (self.kx_p == 0) & (self.ky_p > 0)
        out[..., -self.ky_p[on_axis], 0] = values[..., on_axis].conj()
        return out

    def within(self, radius: int) -> NDArray[np.intp]:
        """Positions in p of the pixels of the smaller disc of that radius, in that disc's order."""
        squared = self.kx_p.astype(np.int64) ** 2 + self.ky_p.astype(np.int64) ** 2
        return np.flatnonzero(squared <= radius**2)

    def shell_sum(self, values_p: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sum (P,) or (n, P) values over shells 0 .. radius, each pixel counted once."""
        flat = np.atleast_2d(values_p)
        sums = np.stack([np.bincount(self.shell_p, row, self.radius + 1) for row in flat])
        return np.asarray(sums[0] if values_p.ndim == 1 else sums, np.float64)


@lru_cache(maxsize=64)
def disc(box: int, radius: int) -> Disc:
    """Build the `Disc` of a box; ``radius`` at most ``(box - 1) // 2``, which leaves out the Nyquist row.

    Raises
    ------
    ValueError
        When the radius is not within 1 .. (box - 1) // 2.
    """
    if not 0 < radius <= (box - 1) // 2:
        raise ValueError(f"disc radius {radius} is outside 1 .. {(box - 1) // 2} for box {box}")
    return _disc_within(box, radius, radius**2)


@lru_cache(maxsize=8)
def disc_below_nyquist(box: int) -> Disc:
    """Build the largest `Disc` of a box: every pixel with ``|k| < n / 2``, those of the last shell included.

    Of an even box, `disc` of radius ``n / 2 - 1`` leaves out the pixels between that radius and Nyquist; the
    last shell of a reconstruction would lack half of its neighbours. Their shell counts as the last.
    """
    return _disc_within(box, (box - 1) // 2, int(np.ceil((box / 2) ** 2)) - 1)


def _disc_within(box: int, radius: int, largest_square: int) -> Disc:
    """Lay out the pixels with ``|k|^2 <= largest_square`` row by row."""
    row_ky = np.arange(-radius, radius + 1)
    first = np.where(row_ky < 0, 1, 0)
    last = np.floor(np.sqrt(np.maximum(largest_square - row_ky**2, 0)) + 1e-9).astype(int)
    keep = last >= first
    row_ky, first, last = row_ky[keep], first[keep], last[keep]
    kx = np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)])
    ky = np.repeat(row_ky, last - first + 1)
    start = np.concatenate([[0], np.cumsum(last - first + 1)])
    shell = np.minimum(np.rint(np.hypot(kx, ky)), radius)
    as_int = [a.astype(np.int32) for a in (kx, ky, shell, row_ky, first, start)]
    multiplicity = np.where((kx == 0) & (ky == 0), 1, 2).astype(np.float32)
    for array in (*as_int, multiplicity):
        array.setflags(write=False)
    return Disc(box, radius, as_int[0], as_int[1], as_int[2], multiplicity, as_int[3], as_int[4], as_int[5])
