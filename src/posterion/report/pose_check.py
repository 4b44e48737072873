"""Back-project a sample with the poses of the file: is it a structure, noise, or inverted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posterion.compute import Workers
from posterion.data.particles import Particles
from posterion.mapping.fsc import fourier_shell_correlation, resolution_at
from posterion.mapping.reconstruct import HalfSums
from posterion.physics.ctf import ctf_at
from posterion.physics.fourier import Disc, disc, fourier_transform_2d
from posterion.physics.projection import Accumulator
from posterion.physics.shifts import shift_phases
from posterion.physics.soft_masks import soft_sphere
from posterion.report.findings import Finding, Level
from posterion.report.progress import NullProgress

__all__ = ["PoseTrial", "check_poses", "pose_trials"]

Float = NDArray[np.float64]

_BOX = 64
"""Largest box back-projected: misplaced poses show at low resolution, and ten trials should take seconds."""
_BATCH = 64
_FIRST_SHELL = 2
"""The first shells hold the overall blob, which any set of centred images has."""
_BETTER = 0.05
"""Mean FSC by which one way of reading the poses has to beat another."""
_BLURRED = 0.25
"""Share of the best reading's gain over shuffled poses from which a worse one is still a structure."""
_FEWEST, _MANY = 8, 100
"""Images below which nothing is said of poses, and from which on noise is not for want of images."""
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
    point_group : symmetry
    """

    pixels: Disc
    image_ip: NDArray[np.complex64]
    ctf_ip: NDArray[np.float32]
    matrices: Float
    shifts_px: Float
    pixel_size_angstrom: float
    half_i: NDArray[np.int8]
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
    """One way of reading the poses, and how well the halves agree under it.

    Attributes
    ----------
    name : "as written", "shuffled", or what was changed
    score : mean FSC between half maps, shells 3 to 2/3 of the small box's Nyquist
    fsc_s : the whole curve
    skewness : of the low-resolution density; positive where the particle is brighter than its surround
    resolution_angstrom : FSC 0.143 between the halves inside a sphere, no finer than the small box
    is_limited_by_box : whether the halves agree to the very end
    """

    name: str
    score: float
    fsc_s: Float
    skewness: float
    resolution_angstrom: float
    is_limited_by_box: bool


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


def _shuffled(sample: _Sample) -> _Sample:
    """Hand the rotations to other images: what is left of the agreement needs none."""
    order = np.random.default_rng(0).permutation(len(sample.matrices))
    return replace(sample, matrices=sample.matrices[order])


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


def check_poses(
    particles: Particles,
    indices: NDArray[np.int64],
    point_group: str = "C1",
    progress: type[NullProgress] = NullProgress,
) -> list[Finding]:
    """Back-project images with their poses and say in words what comes out.

    The FSC of the halves is compared with that of the same images under shuffled poses (a centred blob,
    which also correlates), and with that of other readings of the poses.

    Parameters
    ----------
    particles : set with poses, one box and one pixel size
    indices : (n,) images to use
    point_group : symmetry
    progress : class that shows the progress
    """
    if len(indices) < _FEWEST:
        return [
            Finding("structure", "note", f"fewer than {_FEWEST} usable images: too few to judge their poses")
        ]
    written, shuffled, *others = pose_trials(particles, indices, point_group, progress)
    best = max(others, key=lambda trial: trial.score)
    values: dict[str, float | str] = {
        trial.name: round(trial.score, 4) for trial in (written, shuffled, *others)
    }
    values |= {
        "resolution_angstrom": round(written.resolution_angstrom, 2),
        "skewness": round(written.skewness, 3),
    }
    if best.score > max(written.score, shuffled.score) + _BETTER:
        level, message = _other_reading(written, shuffled, best)
    elif written.score < shuffled.score + _BETTER:
        level, message = _noise(written, shuffled, len(indices))
    else:
        level, message = _structure(written, len(indices))
    return [Finding("structure", level, message, values=values)]


def _other_reading(written: PoseTrial, shuffled: PoseTrial, best: PoseTrial) -> tuple[Level, str]:
    gained = (written.score - shuffled.score) / (best.score - shuffled.score)
    what = "a blurred structure" if gained > _BLURRED else "noise"
    return "problem", (
        f"the poses as written give {what} (halves agree {written.score:.2f}), but {best.name} give "
        f"{best.score:.2f}: the file was written in another convention than its columns' names say"
    )


def _noise(written: PoseTrial, shuffled: PoseTrial, n: int) -> tuple[Level, str]:
    text = (
        f"the halves of {n} images agree no better with the file's poses ({written.score:.2f}) than with "
        f"shuffled rotations ({shuffled.score:.2f})"
    )
    if n < _MANY:
        return "note", f"cannot tell: {text}, but these are few images"
    return "problem", f"noise: {text}; the poses are not those of these images, or in a convention not tried"


def _structure(written: PoseTrial, n: int) -> tuple[Level, str]:
    finest = written.resolution_angstrom
    limit = " or better" if written.is_limited_by_box else ""
    text = f"{n} images back-project to a structure: halves agree to {finest:.1f} A{limit}; hand unknown"
    if written.skewness < 0:
        return "problem", (
            f"inverted: {text}, but it is dark; multiply the images by -1, "
            "for instance with relion_image_handler --multiply_constant -1"
        )
    return "fine", text


def pose_trials(
    particles: Particles,
    indices: NDArray[np.int64],
    point_group: str = "C1",
    progress: type[NullProgress] = NullProgress,
) -> list[PoseTrial]:
    """Reconstruct small half maps under each reading of the poses: as written first, shuffled second.

    Parameters
    ----------
    particles, indices, point_group, progress : as for `check_poses`
    """
    sample = _sample(particles, indices, point_group, progress)
    readings = {"as written": sample, "shuffled": _shuffled(sample)}
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
    particles: Particles, indices: NDArray[np.int64], point_group: str, progress: type[NullProgress]
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
        point_group=point_group,
    )


def _halves(particles: Particles) -> NDArray[np.int8]:
    """Half sets of the file where both have images, else every other image."""
    if all(np.sum(particles.half_i == half) > len(particles) / 4 for half in (1, 2)):
        return particles.half_i
    return (1 + np.arange(len(particles)) % 2).astype(np.int8)


def _trial(name: str, sample: _Sample, workers: Workers) -> PoseTrial:
    box, pixel = sample.small_box, sample.small_pixel_size_angstrom
    sphere = soft_sphere(box, 0.42 * box, edge_px=4)
    maps = [_half_map(sample, half, workers) * sphere for half in (1, 2)]
    fsc_s = fourier_shell_correlation(maps[0], maps[1])
    return PoseTrial(
        name=name,
        score=float(np.mean(fsc_s[_FIRST_SHELL : box // 3 + 1])),
        fsc_s=fsc_s,
        skewness=_skewness(maps[0] + maps[1], sphere > 0.5),
        resolution_angstrom=float(resolution_at(fsc_s[:-1], 0.143, pixel, box)),
        is_limited_by_box=bool(np.all(fsc_s[1:-1] >= 0.143)),
    )


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
