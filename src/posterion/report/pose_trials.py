"""Back-project a sample under several readings of its poses and measure how well each explains the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posterion.compute import NullProgress, StageProgress, Workers
from posterion.data.particles import Particles
from posterion.mapping.fsc import fourier_shell_correlation, resolution_at
from posterion.mapping.reconstruct import HalfSums
from posterion.physics.ctf import ctf_at
from posterion.physics.fourier import Disc, disc, fourier_transform_2d
from posterion.physics.projection import Accumulator, FourierVolume
from posterion.physics.shifts import shift_phases
from posterion.physics.soft_masks import soft_sphere

__all__ = ["PoseTrial", "pose_trials", "standard_errors"]

Float = NDArray[np.float64]

_BOX = 64
"""Largest box back-projected: misplaced poses show at low resolution, and eight trials take seconds."""
_BATCH = 64
_REGULARISATION = 0.1
"""Added to the weights, relative to their shell's mean: empty directions stay empty."""


@dataclass(frozen=True)
class _Sample:
    """Image transforms inside a small disc, with CTF and poses.

    Attributes
    ----------
    pixels : disc of the transforms, in the box of the images
    image_ip, ctf_ip : (n, P) complex64 and float32
    matrices : (n, 3, 3)
    shifts_px : (n, 2) offsets x, y
    pixel_size_angstrom : of the images
    half_i : (n,) 1 or 2
    precision_p : (P,) float32, multiplicity over the images' mean power on the shell, 0 at DC
    point_group : symmetry
    """

    pixels: Disc
    image_ip: NDArray[np.complex64]
    ctf_ip: NDArray[np.float32]
    matrices: Float
    shifts_px: Float
    pixel_size_angstrom: float
    half_i: NDArray[np.int8]
    precision_p: NDArray[np.float32]
    point_group: str

    @property
    def small_box(self) -> int:
        """Box of the maps: the smallest even one that holds the disc."""
        return 2 * self.pixels.radius + 2

    @property
    def small_pixel_size_angstrom(self) -> float:
        """Voxel of the maps."""
        return self.pixel_size_angstrom * self.pixels.box / self.small_box


@dataclass(frozen=True)
class PoseTrial:
    """One way of reading the poses, and how well it explains the images.

    Attributes
    ----------
    name : "as written", or what was changed
    cc_i : (n,) correlation of each image with the projection, at its pose, of the other half's map
    shuffled_cc_i : (n,) the same at another image's rotation
    skewness : of the low-resolution density; positive where the particle is brighter than its surround
    resolution_angstrom : FSC 0.143 between the halves inside a sphere, no finer than the small box
    is_limited_by_box : whether the halves agree to the very end
    """

    name: str
    cc_i: Float
    shuffled_cc_i: Float
    skewness: float
    resolution_angstrom: float
    is_limited_by_box: bool

    @property
    def score(self) -> float:
        """Mean of ``cc_i``."""
        return float(self.cc_i.mean())

    @property
    def shuffled_score(self) -> float:
        """Mean of ``shuffled_cc_i``: what a blob in the middle explains."""
        return float(self.shuffled_cc_i.mean())

    @property
    def gain(self) -> float:
        """By how much own rotations explain the images better than shuffled ones."""
        return self.score - self.shuffled_score

    @property
    def significance(self) -> float:
        """By how many standard errors the images prefer their own rotations to shuffled ones."""
        return standard_errors(self.cc_i - self.shuffled_cc_i)


def standard_errors(difference_i: Float) -> float:
    """Mean over its standard error, ``mean / (std / sqrt(n))``."""
    error = float(difference_i.std(ddof=1)) / np.sqrt(len(difference_i))
    return float(difference_i.mean()) / max(float(error), 1e-30)


def _negated_shifts(sample: _Sample) -> _Sample:
    return replace(sample, shifts_px=-sample.shifts_px)


def _shifts_in_pixels(sample: _Sample) -> _Sample:
    return replace(sample, shifts_px=sample.shifts_px * sample.pixel_size_angstrom)


def _shifts_divided(sample: _Sample) -> _Sample:
    return replace(sample, shifts_px=sample.shifts_px / sample.pixel_size_angstrom)


def _exchanged_shifts(sample: _Sample) -> _Sample:
    return replace(sample, shifts_px=sample.shifts_px[:, ::-1])


def _transposed(sample: _Sample) -> _Sample:
    return replace(sample, matrices=np.swapaxes(sample.matrices, 1, 2))


def _transposed_negated(sample: _Sample) -> _Sample:
    return _negated_shifts(_transposed(sample))


def _upside_down(sample: _Sample) -> _Sample:
    """Images whose rows run the other way: F R F maps the mirrored volume onto them."""
    flip = np.diag([1.0, -1.0, 1.0])
    return replace(sample, matrices=flip @ sample.matrices @ flip, shifts_px=sample.shifts_px * [1.0, -1.0])


_SHIFT_READINGS: dict[str, Callable[[_Sample], _Sample]] = {
    "shifts of the other sign": _negated_shifts,
    "shifts that are pixels where Angstrom is written": _shifts_in_pixels,
    "shifts that are Angstrom where pixels are written": _shifts_divided,
    "shifts with x and y exchanged": _exchanged_shifts,
}
_ROTATION_READINGS: dict[str, Callable[[_Sample], _Sample]] = {
    "transposed (inverse) rotations": _transposed,
    "transposed (inverse) rotations and shifts of the other sign": _transposed_negated,
    "images whose rows run the other way (upside down)": _upside_down,
}


def pose_trials(
    particles: Particles,
    indices: NDArray[np.int64],
    point_group: str = "C1",
    progress: StageProgress = NullProgress,
) -> list[PoseTrial]:
    """Reconstruct small half maps under each reading of the poses, the one as written first.

    Parameters
    ----------
    particles : set with poses, one box and one pixel size
    indices : (n,) images to use
    point_group : symmetry
    progress : shows how far it is
    """
    sample = _sample(particles, indices, point_group, progress)
    readings = {"as written": sample}
    if np.any(sample.shifts_px):
        readings |= {name: change(sample) for name, change in _SHIFT_READINGS.items()}
    readings |= {name: change(sample) for name, change in _ROTATION_READINGS.items()}
    trials = []
    with Workers() as workers, progress("trying poses", len(readings), "readings") as bar:
        for name, reading in readings.items():
            trials.append(_trial(name, reading, workers))
            bar.advance()
    return trials


def _sample(
    particles: Particles, indices: NDArray[np.int64], point_group: str, progress: StageProgress
) -> _Sample:
    """Read, normalise and transform the images; keep what the small box holds."""
    chosen = particles[indices]
    poses = chosen.require_poses()
    box = chosen.box_px
    pixels = disc(box, min(_BOX, box - 1) // 2 - 1)
    image_ip = np.empty((len(chosen), len(pixels)), np.complex64)
    with progress("transforming images", len(chosen), "images") as bar:
        for index, images in chosen.batches(_BATCH):
            level, spread = images.mean((1, 2), keepdims=True), images.std((1, 2), keepdims=True)
            normalised = ((images - level) / np.maximum(spread, 1e-30)).astype(np.float32)
            image_ip[index] = pixels.take(fourier_transform_2d(normalised))
            bar.advance(len(index))
    return _Sample(
        pixels=pixels,
        image_ip=image_ip,
        ctf_ip=ctf_at(pixels.kx_p, pixels.ky_p, box, chosen),
        matrices=poses.matrices(),
        shifts_px=np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], -1)
        / chosen.pixel_size_angstrom,
        pixel_size_angstrom=chosen.pixel_size_angstrom,
        half_i=_halves(chosen),
        precision_p=_precision(image_ip, pixels),
        point_group=point_group,
    )


def _halves(particles: Particles) -> NDArray[np.int8]:
    """Half sets of the file where both have images, else every other image."""
    if all(np.sum(particles.half_i == half) > len(particles) / 4 for half in (1, 2)):
        return particles.half_i
    return (1 + np.arange(len(particles)) % 2).astype(np.int8)


def _precision(image_ip: NDArray[np.complex64], pixels: Disc) -> NDArray[np.float32]:
    """Weights that whiten: multiplicity over the shell's mean power, and 0 for the mean of an image."""
    power_p = np.mean(image_ip.real**2 + image_ip.imag**2, axis=0)
    count_s = pixels.shell_sum(np.ones(len(pixels)))
    power_s = pixels.shell_sum(power_p) / np.maximum(count_s, 1)
    precision = pixels.multiplicity_p / np.maximum(power_s[pixels.shell_p], 1e-30)
    return np.where(pixels.shell_p > 0, precision, 0).astype(np.float32)


def _trial(name: str, sample: _Sample, workers: Workers) -> PoseTrial:
    box, pixel = sample.small_box, sample.small_pixel_size_angstrom
    sphere = soft_sphere(box, 0.42 * box, edge_px=4)
    maps = [_half_map(sample, half, workers) * sphere for half in (1, 2)]
    fsc_s = fourier_shell_correlation(maps[0], maps[1])
    cc_i, shuffled_cc_i = _correlations(sample, maps, fsc_s)
    return PoseTrial(
        name=name,
        cc_i=cc_i,
        shuffled_cc_i=shuffled_cc_i,
        skewness=_skewness(maps[0] + maps[1], sphere > 0.5),
        resolution_angstrom=float(resolution_at(fsc_s[:-1], 0.143, pixel, box)),
        is_limited_by_box=bool(np.all(fsc_s[1:-1] >= 0.143)),
    )


def _correlations(sample: _Sample, maps: list[NDArray[np.float32]], fsc_s: Float) -> tuple[Float, Float]:
    """Compare each image with the other half's map, at its own rotation and at another image's.

    ``CC = X.R / (|X||R|)``, ``R = C P V``, whitened; shells of V count as far as the halves agree on them.
    """
    pixels = sample.pixels
    weight_p = np.clip(fsc_s, 0, 1)[pixels.shell_p].astype(np.float32)
    other = np.random.default_rng(0).permutation(len(sample.matrices))
    cc = np.zeros((2, len(sample.matrices)))
    for half in (1, 2):
        own = np.flatnonzero(sample.half_i == half)
        volume = FourierVolume.from_map(maps[2 - half], pixels.radius)
        image_ip = sample.image_ip[own] * shift_phases(pixels, sample.shifts_px[own])
        for row, rotations in enumerate((sample.matrices[own], sample.matrices[other[own]])):
            model_ip = volume.slices(rotations, pixels) * weight_p * sample.ctf_ip[own]
            cc[row, own] = _correlation(image_ip, model_ip, sample.precision_p)
    return cc[0], cc[1]


def _correlation(
    a_ip: NDArray[np.complex64], b_ip: NDArray[np.complex64], precision_p: NDArray[np.float32]
) -> Float:
    pairs = ((a_ip, b_ip), (a_ip, a_ip), (b_ip, b_ip))
    product, power_a, power_b = ((x.real * y.real + x.imag * y.imag) @ precision_p for x, y in pairs)
    return np.asarray(product / np.maximum(np.sqrt(power_a * power_b), 1e-30), np.float64)


def _half_map(sample: _Sample, half: int, workers: Workers) -> NDArray[np.float32]:
    """Wiener-filter the images of one half into a small map."""
    own = sample.half_i == half
    centred = sample.image_ip[own] * shift_phases(sample.pixels, sample.shifts_px[own])
    ctf_ip = sample.ctf_ip[own]
    accumulator = Accumulator(sample.small_box, sample.pixels.radius)
    accumulator.insert(sample.matrices[own], sample.pixels, centred * ctf_ip, ctf_ip**2, workers)
    sums = HalfSums.from_accumulator(accumulator, sample.point_group, workers)
    return sums.solve(_REGULARISATION * sums.shell_weight() + 1e-6, workers.threads)


def _skewness(volume: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    values = volume[inside].astype(np.float64)
    values -= values.mean()
    return float(np.mean(values**3) / np.maximum(np.mean(values**2), 1e-30) ** 1.5)
