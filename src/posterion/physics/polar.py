"""Polar sampling of Fourier space: rings and angles, on which a turn in the plane is a phase of harmonics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.sparse import csr_array

from posterion.physics.fourier import disc, fourier_crop, fourier_transform_2d, inverse_fourier_transform_2d

__all__ = ["Band", "PolarGrid"]

Real = NDArray[np.float32]
Complex = NDArray[np.complex64]
Band = tuple[slice, slice]
"""Some harmonics, and the rings that have any of them."""

_RING_STEP = 0.5
_SPARE_HARMONICS, _HARMONICS_TOGETHER = 8, 12
_BEYOND = 8
_PADDING, _KERNEL_WIDTH = 2, 4
_KERNEL_SHAPE = float(np.pi * np.sqrt((_KERNEL_WIDTH / _PADDING) ** 2 * (_PADDING - 0.5) ** 2 - 0.8))


@dataclass(frozen=True)
class PolarGrid:
    """Rings half a Fourier pixel apart, on each the same angles over half a circle.

    The transform of a real image has ``f(theta + pi) = conj f(theta)``, so half a circle says all, and of its
    harmonics ``a_m = < f(theta) exp(-i m theta) >`` those with m >= 0 do. Real parts have the even ones,
    imaginary parts the odd ones. Turning the image by psi multiplies a_m by ``exp(-i m psi)``.

    Attributes
    ----------
    box : of the images, pixels
    radius : highest shell; rings fill the disc ``|k| < radius``, the inner half of that shell
    angles : number of angles A over half a circle
    count : number of harmonics H
    extent_px : diameter of what the harmonics describe, pixels
    """

    box: int
    radius: int
    angles: int
    count: int
    extent_px: float

    @classmethod
    def of(cls, box: int, radius: int, extent_px: float, outside_px: float) -> PolarGrid:
        """Choose angles and harmonics.

        What lies within ``extent_px / 2`` of the centre has no harmonics beyond ``pi k extent / box`` on
        ring k (Bessel functions). There are so many angles that what lies outside of it, which has higher
        ones, does not fold back.

        Parameters
        ----------
        box : pixels
        radius : highest shell
        extent_px : diameter of what the harmonics describe, pixels
        outside_px : diameter of what else the images hold, pixels
        """
        edge = np.pi * (radius + 0.5) / box
        count = int(np.ceil(edge * extent_px)) + _SPARE_HARMONICS
        angles = (count + int(np.ceil(edge * outside_px)) + _SPARE_HARMONICS) // 2
        return cls(box, radius, angles, count, extent_px)

    @cached_property
    def harmonics(self) -> NDArray[np.intp]:
        """The harmonics m, (H,): the even ones, then the odd ones."""
        return np.concatenate([np.arange(0, self.count, 2), np.arange(1, self.count, 2)])

    @property
    def even_count(self) -> int:
        """How many harmonics are even: those of samples that are real."""
        return (self.count + 1) // 2

    @cached_property
    def mates_m(self) -> Real:
        """How many harmonics each one stands for, (H,): m = 0 for itself, the others for -m too."""
        return np.where(self.harmonics == 0, 1, 2).astype(np.float32)

    @cached_property
    def ring_k(self) -> NDArray[np.float64]:
        """Radius of each ring, (J,) Fourier pixels."""
        return np.asarray((np.arange(int(self.radius / _RING_STEP)) + 0.5) * _RING_STEP, np.float64)

    @property
    def needed_radius(self) -> int:
        """Shells that interpolation up to the last ring makes use of."""
        return self.radius + _BEYOND

    @cached_property
    def ring_shell(self) -> NDArray[np.intp]:
        """Shell of each ring, (J,)."""
        return np.floor(self.ring_k + 0.5).astype(np.intp)

    @cached_property
    def ring_area(self) -> Real:
        """Pixels of the full plane for which each ring stands, (J,): ``2 pi k`` times the rings' distance."""
        return np.asarray(2 * np.pi * self.ring_k * _RING_STEP, np.float32)

    def shell_sum(self, values_ij: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sum over rings (n, J) to shells (n, radius + 1), as if each had as many pixels as the disc's.

        Sums over all shells want areas, for where a pixel lies is chance; the mean of one shell does not.
        """
        pixels = disc(self.box, self.radius)
        count_s = pixels.shell_sum(pixels.multiplicity_p)
        first = np.searchsorted(self.ring_shell, np.arange(self.radius + 1))
        area_s = np.add.reduceat(self.ring_area, first)
        return np.asarray(np.add.reduceat(values_ij, first, axis=1) * (count_s / area_s))

    def ring_mean(self, samples_pi: Real) -> NDArray[np.float64]:
        """Mean of real samples (A J, n) over the angles of each ring: (n, J)."""
        by_angle = samples_pi.reshape(self.angles, -1, samples_pi.shape[1])
        return np.asarray(by_angle.mean(axis=0, dtype=np.float64).T)

    def shell_mean(self, samples_pi: Real) -> NDArray[np.float64]:
        """Mean of real samples (A J, n) over each shell, rings weighing by their area: (n, radius + 1)."""
        first = np.searchsorted(self.ring_shell, np.arange(self.radius + 1))
        sums = np.add.reduceat(self.ring_mean(samples_pi) * self.ring_area, first, axis=1)
        return np.asarray(sums / np.add.reduceat(self.ring_area, first))

    def bands(self, even: bool = False) -> list[Band]:
        """List a few harmonics at a time with the rings that have any of them: inner ones have low ones only.

        Parameters
        ----------
        even : of the even harmonics alone
        """
        limit_j = np.pi * self.ring_k * self.extent_px / self.box + _SPARE_HARMONICS
        parts = [(0, self.even_count)] + ([] if even else [(self.even_count, self.count)])
        bands = []
        for begin, end in parts:
            for first in range(begin, end, _HARMONICS_TOGETHER):
                ring = int(np.searchsorted(limit_j, self.harmonics[first]))
                last = min(first + _HARMONICS_TOGETHER, end)
                bands.append((slice(first, last), slice(min(ring, len(limit_j) - 1), None)))
        return bands

    @cached_property
    def _theta(self) -> NDArray[np.float64]:
        return np.pi * (np.arange(self.angles) / self.angles - 0.5)

    def positions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fourier pixels (kx, ky) of all samples, each (A J,), angles outermost."""
        kx, ky = (np.outer(f(self._theta), self.ring_k).ravel() for f in (np.cos, np.sin))
        return kx, ky

    def shift_phases(self, shifts_px: NDArray[np.float64]) -> Complex:
        """Phases that move images by shifts (T, 2) in pixels, ``exp(-2 pi i k.s / n)``: (A J, T)."""
        kx, ky = self.positions()
        angle_pt = -2 * np.pi / self.box * (np.outer(kx, shifts_px[:, 0]) + np.outer(ky, shifts_px[:, 1]))
        return np.asarray(np.exp(1j * angle_pt), np.complex64)

    def ray_steps(self, matrices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Find the steps from ring to ring along each angle of slices: rotations (n, 3, 3) -> (A, n, 3)."""
        theta = self._theta[:, None, None]
        return np.asarray(_RING_STEP * (np.cos(theta) * matrices[:, 0] + np.sin(theta) * matrices[:, 1]))

    def sample(self, spectra: Complex) -> Complex:
        """Interpolate half spectra of images: (n, box, box//2+1) -> (A J, n).

        Images are cut to the band in Fourier space and padded twofold in real space; on that fine grid, a
        Kaiser-Bessel kernel is exact to 1e-3.
        """
        small, padded = self._small, _PADDING * self._small
        images = inverse_fourier_transform_2d(fourier_crop(spectra, small, 2), small) * _kernel_undone(small)
        wide = np.zeros((len(images), padded, padded), np.float32)
        inside = slice(padded // 2 - small // 2, padded // 2 + small // 2)
        wide[:, inside, inside] = images
        values = fourier_transform_2d(wide).reshape(len(images), -1).T
        take_re, take_im = self._interpolation
        out = np.empty((take_re.shape[0], len(images)), np.complex64)
        out.real = take_re @ np.ascontiguousarray(values.real)
        out.imag = take_im @ np.ascontiguousarray(values.imag)
        return out

    @cached_property
    def _small(self) -> int:
        return 2 * int(scipy.fft.next_fast_len(self.needed_radius, real=True))

    @cached_property
    def _interpolation(self) -> tuple[csr_array, csr_array]:
        """Matrices (A J, padded half spectrum) for real and for imaginary parts, which change sign at -k."""
        padded = _PADDING * self._small
        kx, ky = (_PADDING * k for k in self.positions())
        reach = np.arange(_KERNEL_WIDTH)
        ix, iy = (np.floor(k - _KERNEL_WIDTH / 2 + 1).astype(int)[:, None] + reach for k in (kx, ky))
        weight = _kernel(iy - ky[:, None])[:, :, None] * _kernel(ix - kx[:, None])[:, None, :]
        sign = np.broadcast_to(np.where(ix < 0, -1, 1)[:, None, :], weight.shape)
        place = (sign * iy[:, :, None] % padded) * (padded // 2 + 1) + np.abs(ix)[:, None, :]
        start = np.arange(len(kx) + 1) * _KERNEL_WIDTH**2
        shape = len(kx), padded * (padded // 2 + 1)
        real, imaginary = (
            csr_array((part.astype(np.float32).ravel(), place.ravel(), start), shape)
            for part in (weight, weight * sign)
        )
        return real, imaginary

    @cached_property
    def _waves(self) -> tuple[Real, Real]:
        """``exp(-i m theta) / A`` for even m and i times that for odd m: (2 count, A) float32 each."""
        wave = np.exp(-1j * np.outer(self.harmonics, self._theta)) / self.angles
        even, odd = wave[: self.even_count], 1j * wave[self.even_count :]
        stacked = [np.stack([w.real, w.imag], 1).reshape(-1, self.angles) for w in (even, odd)]
        return stacked[0].astype(np.float32), stacked[1].astype(np.float32)

    def analyse(self, real: Real, imaginary: Real | None = None) -> Real:
        """Compute harmonics (H, 2, J, ...) of samples (A, J, ...), real and imaginary parts second; by bands.

        Parameters
        ----------
        real, imaginary : (A, J, ...) float32 parts of the samples; without imaginary ones there are even
            harmonics only
        """
        even_only = imaginary is None
        parts = [part.reshape(self.angles, -1) for part in (real, imaginary) if part is not None]
        out = np.zeros((self.even_count if even_only else self.count, 2, *real.shape[1:]), np.float32)
        flat, waves = out.reshape(2 * len(out), -1), np.concatenate(self._waves)
        per_ring = flat.shape[1] // len(self.ring_k)
        for m, rings in self.bands(even_only):
            rows, first = slice(2 * m.start, 2 * m.stop), per_ring * rings.start
            part = parts[0 if m.start < self.even_count else 1]
            np.matmul(waves[rows], part[:, first:], out=flat[rows, first:])
        return out

    def synthesise(self, harmonics: Real) -> Complex:
        """Compute samples (A, ...) from harmonics (H, 2, ...), or from the even ones: inverts `analyse`."""
        rest = harmonics.shape[2:]
        pairs = harmonics.reshape(len(harmonics), 2, -1)
        pairs = pairs * (self.mates_m[: len(pairs)] * np.float32(self.angles))[:, None, None]
        flat, cut = pairs.reshape(2 * len(pairs), -1), 2 * self.even_count
        out = np.zeros((self.angles, *rest), np.complex64)
        out.real = (self._waves[0].T @ flat[:cut]).reshape(out.shape)
        if len(flat) > cut:
            out.imag = (self._waves[1].T @ flat[cut:]).reshape(out.shape)
        return out


def _kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kaiser-Bessel kernel at distances in samples of the padded grid."""
    inside = np.maximum(1 - (2 * distance / _KERNEL_WIDTH) ** 2, 0)
    value = np.i0(_KERNEL_SHAPE * np.sqrt(inside)) / _KERNEL_WIDTH
    return np.where(np.abs(distance) <= _KERNEL_WIDTH / 2, value, 0)


@lru_cache(maxsize=8)
def _kernel_undone(box: int) -> Real:
    """One over the real-space picture of the kernel: (box, box)."""
    x = (np.arange(box) - box // 2) / (_PADDING * box)
    argument = np.sqrt(np.maximum(_KERNEL_SHAPE**2 - (np.pi * _KERNEL_WIDTH * x) ** 2, 1e-12))
    picture = np.sinh(argument) / argument
    return np.asarray(1 / np.outer(picture, picture), np.float32)
