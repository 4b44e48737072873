"""The Fourier slice theorem both ways: a volume's transform, projection, and its adjoint, back-projection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from posterion.compute import Workers
from posterion.kernels import SCORE_TERMS, gather_slices, scatter_slices, score_poses, sum_rotated
from posterion.physics.fourier import (
    Disc,
    disc,
    fourier_transform_3d,
    inverse_fourier_transform_3d,
    resample,
)

__all__ = ["Accumulator", "FourierVolume", "backproject", "gridding_correction"]

_SLABS = 16


def _working_box(box: int, radius: int) -> int:
    """Smallest fast even box with eight shells beyond ``radius``.

    A sharper cut costs 3 % in the last shells, this one 1 %.
    """
    return min(box, 2 * int(scipy.fft.next_fast_len(radius + 8, real=True)))


def _centre(radius: int, padding: int) -> int:
    """Index of the zero frequency in a cropped transform, with room for the upper trilinear neighbour."""
    return padding * radius + 2


def _scaled_axes(matrices: NDArray[np.floating], padding: int) -> NDArray[np.float32]:
    """First two rows of each rotation times the padding: where kx and ky point in the padded transform."""
    return np.ascontiguousarray(padding * np.asarray(matrices)[:, :2, :], np.float32)


@lru_cache(maxsize=8)
def gridding_correction(box: int, padding: int) -> NDArray[np.float32]:
    """Compute sinc^2 per axis, the real-space picture of trilinear interpolation on a padded grid.

    Parameters
    ----------
    box : box in voxels
    padding : padding factor of the transform

    Returns
    -------
    (box,) float32 for one axis; the correction of a map is the outer product over three axes.
    """
    return np.asarray(np.sinc((np.arange(box) - box // 2) / (padding * box)) ** 2, np.float32)


def _gridding_undone(volume: NDArray[np.float32], padding: int) -> NDArray[np.float32]:
    """Divide a map by the gridding correction of its own box."""
    return _multiply_axes(volume, np.float32(1) / gridding_correction(volume.shape[0], padding))


def _multiply_axes(volume: NDArray[np.float32], factor: NDArray[np.float32]) -> NDArray[np.float32]:
    return volume * (factor[:, None, None] * factor[:, None]) * factor


def _pad_map(volume: NDArray[np.float32], box: int) -> NDArray[np.float32]:
    """Lay a map into a larger box, origin on origin."""
    n = volume.shape[0]
    start = box // 2 - n // 2
    out = np.zeros((box,) * 3, np.float32)
    out[(slice(start, start + n),) * 3] = volume
    return out


def _crop_map(volume: NDArray[np.float32], box: int) -> NDArray[np.float32]:
    start = volume.shape[0] // 2 - box // 2
    return volume[(slice(start, start + box),) * 3]


@dataclass(frozen=True)
class FourierVolume:
    """The transform of a map, padded, corrected for trilinear gridding and cropped to a radius.

    Attributes
    ----------
    values : (D, D, W, 2) float32, half transform ``[z, y, x >= 0]``, origin at ``(centre, centre, 0)``
    box : box of the map in voxels
    radius : largest Fourier pixel that may be sampled
    padding : padding factor
    """

    values: NDArray[np.float32]
    box: int
    radius: int
    padding: int

    @classmethod
    def from_map(
        cls, volume: NDArray[np.floating], radius: int | None = None, padding: int = 2, workers: int = 1
    ) -> FourierVolume:
        """Transform a map: ``V(k) = sum_x v(x) / sinc^2(x) exp(-2 pi i k.x)``.

        Parameters
        ----------
        volume : (n, n, n) real map
        radius : highest shell to keep, Fourier pixels; up to Nyquist where None
        padding : how much finer than the box the transform is sampled
        workers : threads of the FFT
        """
        box = volume.shape[0]
        radius = (box - 1) // 2 if radius is None else min(radius, (box - 1) // 2)
        small = _working_box(box, radius)
        reduced = np.asarray(volume, np.float32)
        if small != box:
            reduced = resample(reduced, small)
        padded = _pad_map(_gridding_undone(reduced, padding), padding * small)
        spectrum = fourier_transform_3d(padded, workers=workers)
        centre = _centre(radius, padding)
        full = np.arange(-centre, centre + 1)
        cropped = spectrum[np.ix_(full, full, np.arange(min(centre + 1, spectrum.shape[2])))]
        values = np.zeros((len(full), len(full), centre + 1, 2), np.float32)
        scaled = cropped * np.float32((box / small) ** 3)
        values[:, :, : cropped.shape[2], 0], values[:, :, : cropped.shape[2], 1] = scaled.real, scaled.imag
        return cls(values, box, radius, padding)

    def slices(self, matrices: NDArray[np.floating], pixels: Disc) -> NDArray[np.complex64]:
        """Sample central slices ``V(R^T (kx, ky, 0))`` on a disc's pixels: (n, 3, 3) -> (n, P) complex64."""
        out = np.empty((len(matrices), len(pixels), 2), np.float32)
        rows = (pixels.row_ky, pixels.row_first_kx, pixels.row_start)
        gather_slices(
            self.values, _centre(self.radius, self.padding), _scaled_axes(matrices, self.padding), rows, out
        )
        return out.view(np.complex64)[..., 0]

    def score_poses(
        self,
        matrices: NDArray[np.float64],
        shifts_px: NDArray[np.float64],
        image_k: NDArray[np.int32],
        pixels: Disc,
        whitened_ip: NDArray[np.complex64],
        ctf2_ip: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Compare images with slices at poses, with derivatives: (K, 22), see `posterion.kernels.score_poses`.

        Parameters
        ----------
        matrices, shifts_px : (K, 3, 3) and (K, 2) poses, pixels
        image_k : (K,) which image each is compared with
        pixels : disc of the images
        whitened_ip, ctf2_ip : (n, P) complex64 ``w C y / sigma2`` and float32 ``w C^2 / sigma2``
        """
        terms = np.empty((len(matrices), SCORE_TERMS))
        axes = np.ascontiguousarray(self.padding * np.asarray(matrices), np.float32)
        rows = (pixels.row_ky, pixels.row_first_kx, pixels.row_start)
        centre = _centre(self.radius, self.padding)
        score_poses(
            self.values, centre, axes, shifts_px, image_k, rows, self.box, whitened_ip, ctf2_ip, terms
        )
        return terms

    def project(self, matrices: NDArray[np.floating]) -> NDArray[np.complex64]:
        """Project along rotated z: (n, 3, 3) rotations -> (n, box, box//2+1) half spectra of the projections.

        Pixels beyond ``radius`` are zero. The real image is the sum of the rotated map's voxels along z, see
        (L) "Fourier slice theorem".
        """
        pixels = disc(self.box, self.radius)
        return pixels.put(self.slices(np.reshape(matrices, (-1, 3, 3)), pixels))


class Accumulator:
    """Sums over images of back-projected numerators and weights, on the padded grid of a `FourierVolume`.

    Parameters
    ----------
    box : image box in pixels
    radius : highest shell collected, Fourier pixels
    padding : padding factor

    Attributes
    ----------
    values : (D, D, W, 4) float32: numerator (real, imaginary), weight, unused
    """

    def __init__(self, box: int, radius: int, padding: int = 2) -> None:
        self.box, self.radius, self.padding = box, min(radius, (box - 1) // 2), padding
        self.centre = _centre(self.radius, padding)
        self.values = np.zeros((2 * self.centre + 1, 2 * self.centre + 1, self.centre + 1, 4), np.float32)

    def insert(
        self,
        matrices: NDArray[np.floating],
        pixels: Disc,
        values_rp: NDArray[np.complex64],
        weights_rp: NDArray[np.float32],
        workers: Workers | None = None,
    ) -> None:
        """Add slices: the transpose of `FourierVolume.slices`.

        The volume is split into slabs, each written by one thread in the order of the slices: the result has
        the same bits for any number of threads. Pixels of weight zero are skipped.

        Parameters
        ----------
        matrices : (n, 3, 3) rotations
        pixels : the disc that the slices are given on
        values_rp : (n, P) complex64, numerators
        weights_rp : (n, P) float32, weights
        workers : threads; none where None
        """
        axes = _scaled_axes(matrices, self.padding)
        rows = (pixels.row_ky, pixels.row_first_kx, pixels.row_start)
        parts = np.ascontiguousarray(values_rp, np.complex64).view(np.float32).reshape(*values_rp.shape, 2)
        weights = np.ascontiguousarray(weights_rp, np.float32)

        def insert_slab(planes: tuple[int, int]) -> None:
            scatter_slices(self.values, self.centre, axes, rows, parts, weights, planes)

        self._over_slabs(insert_slab, workers)

    def _over_slabs(self, function: Callable[[tuple[int, int]], None], workers: Workers | None) -> None:
        """Call a function on slabs of z planes, over the threads if there are any."""
        if workers is None:
            function((0, len(self.values)))
            return
        # A plane's sums do not depend on the slab it is in; fewer slabs clip fewer rows.
        slabs = 1 if workers.threads == 1 else min(_SLABS, 4 * workers.threads)
        edges = np.linspace(0, len(self.values), slabs + 1).astype(int).tolist()
        for _ in workers.map_ordered(function, pairwise(edges)):
            pass

    def add(self, other: Accumulator) -> None:
        """Add another accumulator of the same box, radius and padding."""
        self.values += other.values

    def joined(
        self, operators: NDArray[np.floating] | None = None, workers: Workers | None = None
    ) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """Numerator and weight with Hermitian mates joined and, if given, summed over a point group.

        Parameters
        ----------
        operators : (g, 3, 3) rotations S with V(S x) = V(x), the identity among them; none where None
        workers : threads; none where None

        Returns
        -------
        numerator : (D, D, W) complex64
        weight : (D, D, W) float32
        """
        values = self.values.copy()
        mates = self.values[::-1, ::-1, 0] * np.array([1, -1, 1, 1], np.float32)
        values[:, :, 0] += mates
        if operators is not None and len(operators) > 1:
            source, values = values, np.zeros_like(values)
            rotations = np.ascontiguousarray(operators, np.float32)

            def sum_slab(planes: tuple[int, int]) -> None:
                sum_rotated(source, self.centre, rotations, planes, values)

            self._over_slabs(sum_slab, workers)
        numerator = np.ascontiguousarray(values[..., :2]).view(np.complex64)[..., 0]
        return numerator, np.ascontiguousarray(values[..., 2])

    def to_map(self, spectrum: NDArray[np.complex64], workers: int = 1) -> NDArray[np.float32]:
        """Turn a cropped, padded half transform on this grid into a map of ``box`` voxels, gridding undone.

        Parameters
        ----------
        spectrum : (D, D, W) complex64, Hermitian on the plane x = 0
        workers : threads of the FFT
        """
        small = _working_box(self.box, self.radius)
        padded = self._padded_map(spectrum, small, workers)
        cropped = _gridding_undone(_crop_map(padded, small), self.padding)
        scaled = cropped * np.float32((small / self.box) ** 3)
        return scaled if small == self.box else resample(scaled, self.box)

    def _padded_map(self, spectrum: NDArray[np.complex64], small: int, workers: int) -> NDArray[np.float32]:
        """Inverse-transform onto the padded box of ``small`` voxels."""
        size = self.padding * small
        keep = min(self.centre, size // 2 - 1)
        full = np.arange(-keep, keep + 1)
        grid = np.zeros((size, size, size // 2 + 1), np.complex64)
        grid[np.ix_(full, full, np.arange(keep + 1))] = spectrum[
            self.centre - keep : self.centre + keep + 1,
            self.centre - keep : self.centre + keep + 1,
            : keep + 1,
        ]
        return inverse_fourier_transform_3d(grid, size, workers=workers)


def backproject(
    spectra: NDArray[np.complex64], matrices: NDArray[np.floating], padding: int = 2
) -> NDArray[np.float32]:
    """Compute the adjoint of `FourierVolume.project`, gridding correction included.

    ``sum_p w_p Re(conj(project(v)_p) s_p) = sum_x v(x) backproject(s)(x)`` with Hermitian weights ``w_p``.

    Parameters
    ----------
    spectra : (n, box, box//2+1) complex64 half spectra
    matrices : (n, 3, 3) rotations
    padding : padding factor

    Returns
    -------
    (box, box, box) float32
    """
    box = spectra.shape[-2]
    pixels = disc(box, (box - 1) // 2)
    accumulator = Accumulator(box, pixels.radius, padding)
    values = pixels.take(spectra) * pixels.multiplicity_p
    accumulator.insert(matrices, pixels, values, np.ones(values.shape, np.float32))
    numerator, _ = accumulator.joined()
    centre, size = accumulator.centre, padding * box
    full = np.arange(-centre, centre + 1) % size
    grid = np.zeros((size, size, size // 2 + 1), np.complex64)
    keep = min(centre + 1, grid.shape[2])
    np.add.at(grid, np.ix_(full, full, np.arange(keep)), numerator[:, :, :keep] / 2)
    full_sum = inverse_fourier_transform_3d(grid, size) * np.float32(float(size) ** 3)
    return _gridding_undone(_crop_map(full_sum, box), padding)
