"""Averages of aligned images: the many-image Wiener filter in two dimensions, and the SNR it rests on.

The plane's counterpart of `posterion.mapping.reconstruct`: the same sums, halves and regularisation, with
in-plane rotations in place of slices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from posterion.compute import NullProgress, StageProgress, Workers
from posterion.data.atomic import write_text
from posterion.data.mrc import write_stack
from posterion.data.outliers import LEFT_OUT, screened
from posterion.data.output_folder import OutputFolder
from posterion.data.particles import Particles, Poses
from posterion.data.table import Table
from posterion.data.unusable import usable_images
from posterion.errors import PosterionError
from posterion.mapping.fsc import fourier_ring_correlation
from posterion.mapping.reconstruct import FLAT_PRIOR, half_ids, ssnr_from_fsc
from posterion.physics.ctf import ctf_half_spectrum
from posterion.physics.fourier import (
    fourier_crop,
    fourier_transform_2d,
    inverse_fourier_transform_2d,
    phase_shift,
    shell_index_2d,
    shell_mean,
)
from posterion.physics.rotations import matrices_from_euler
from posterion.physics.soft_masks import soft_disc

__all__ = [
    "ClassAverage",
    "average",
    "average_folder",
    "check_for_average",
    "class_numbers",
    "rotated",
    "write_averages",
]

_BATCH = 32
_OVERSAMPLING = 2
_EDGE_PX = 5.0
_COLUMN = "rlnClassNumber"
_CLASS_TABLE = re.compile(r"ssnr_class\d{3,}\.tsv")
_FILES = ("averages.mrcs", "plain.mrcs", "ssnr.tsv", "ssnr.png", "average.png")

Image = NDArray[np.float32]
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class ClassAverage:
    """The average of one class.

    Attributes
    ----------
    number : of the class
    n_images : that went into it
    image : (n, n) float32, ``A = sum C_i X_i / (k_w(s) + sum C_i^2)``
    plain : (n, n) float32, the mean of the aligned images, their CTFs left as they are
    half1, half2 : (n, n) float32, of half the images each, k a fixed share of ``sum C_i^2``
    frc_s : (n//2+1,) float64, of the halves inside the disc of the particle's diameter
    ssnr_s : (n//2+1,) float64, spectral SNR of the average, ``2 FRC / (1 - FRC)``
    ctf2_s : (n//2+1,) float64, mean of ``sum C_i^2`` in the shell
    """

    number: int
    n_images: int
    image: Image
    plain: Image
    half1: Image
    half2: Image
    frc_s: Curve
    ssnr_s: Curve
    ctf2_s: Curve

    @property
    def k_s(self) -> Curve:
        """``k_w(s) = |N|^2 / |A|^2`` = mean ``sum C_i^2`` / SSNR, (n//2+1,) float64."""
        return self.ctf2_s / self.ssnr_s


def average(
    particles: Particles,
    diameter_angstrom: float | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: StageProgress = NullProgress,
) -> tuple[ClassAverage, ...]:
    """Average aligned images, class by class, and undo their CTFs together.

    ``A(k) = sum_i C_i X_i / (k_w(s) + sum_i C_i^2)`` (L, "Wiener from multiple images"), where ``X_i`` is the
    image with its shift and in-plane angle psi undone. Two half averages give the ring correlation FRC, and
    ``SSNR = 2 FRC / (1 - FRC)`` of the average: its signal power over its noise power, which is
    ``<sum C_i^2> |A|^2 / |N|^2``. So ``k_w(s) = |N|^2 / |A|^2 = <sum C_i^2>_s / SSNR(s)``.

    Parameters
    ----------
    particles : set with poses; a column rlnClassNumber divides it, else it is one class
    diameter_angstrom : of the disc inside which the FRC is measured; 90 % of the box where None
    threads : None: all cores; the result does not depend on it
    seed : of the half sets where the file has none, or leaves a class without one
    progress : shows how far it is

    Raises
    ------
    PosterionError
        When poses are missing, no image of a class can be used, or the diameter does not fit.
    """
    check_for_average(particles, diameter_angstrom)
    box, pixel, poses = particles.box_px, particles.pixel_size_angstrom, particles.require_poses()
    radius_px = (0.9 * box if diameter_angstrom is None else diameter_angstrom / pixel) / 2
    class_i = class_numbers(particles)
    sums = {int(number): _Sums(box) for number in np.unique(class_i)}
    half_i = _halves_of_classes(particles, class_i, seed)
    images = screened(particles)
    with progress("average", len(particles)) as bar, Workers(threads) as workers:
        for index, parts in workers.map_ordered(
            lambda batch: (batch[0], _aligned(particles, poses, *batch)), images.batches(_BATCH)
        ):
            for row, plain, numerator, weight in parts:
                sums[int(class_i[row])].add(int(half_i[row]), plain, numerator, weight)
            bar.advance(len(index))
    return tuple(made.finish(number, radius_px) for number, made in sums.items())


def check_for_average(particles: Particles, diameter_angstrom: float | None) -> None:
    """Raise what `average` would at once; reads no images.

    Raises
    ------
    PosterionError
        When poses are missing or the diameter does not fit.
    """
    particles.require_poses()
    side = particles.box_px * particles.pixel_size_angstrom
    if diameter_angstrom is not None and not 0 < diameter_angstrom <= side:
        raise PosterionError(f"the diameter, {diameter_angstrom:g} A, does not fit the box of {side:.1f} A")


def class_numbers(particles: Particles) -> NDArray[np.int64]:
    """Class of every particle, (N,) int64: rlnClassNumber, or 1 for all where there is no such column."""
    table = particles.table
    if isinstance(table, Table) and _COLUMN in table.columns:
        return table.integers(_COLUMN)
    return np.ones(len(particles), np.int64)


def _halves_of_classes(particles: Particles, class_i: NDArray[np.int64], seed: int) -> NDArray[np.int8]:
    """Half-set ids; a class that has images in one half only is divided anew, if it has two images."""
    half_i = half_ids(particles, seed) if len(particles) > 1 else np.ones(1, np.int8)
    rng = np.random.default_rng(seed)
    chosen = half_i.copy()
    for number in np.unique(class_i):
        rows = np.flatnonzero(class_i == number)
        if len(np.unique(half_i[rows])) < 2:
            chosen[rows] = rng.permutation(1 + np.arange(len(rows)) % 2)
    return chosen


def _aligned(
    particles: Particles, poses: Poses, index: NDArray[np.int64], images: Image
) -> list[tuple[int, Image, NDArray[np.complex64], Image]]:
    """Row, aligned image, spectrum of C X aligned, and C^2 in the aligned frame, of every usable image.

    C X is made before the rotation, which brings what the CTF spread towards the corners back inside. C^2
    is not interpolated: turning an image by delta turns the azimuth of its astigmatism with it.
    """
    usable = usable_images(images)
    index, images = index[usable], images[usable]
    box, pixel = particles.box_px, particles.pixel_size_angstrom
    shift_px = np.stack([poses.shift_x_angstrom_i[index], poses.shift_y_angstrom_i[index]], -1) / pixel
    spectra = phase_shift(fourier_transform_2d(images), shift_px)
    turns = matrices_from_euler(np.zeros(len(index)), np.zeros(len(index)), poses.psi_deg_i[index])[:, :2, :2]
    weighted = rotated(spectra * ctf_half_spectrum(box, particles, index), turns, box)
    chosen = particles[index]
    delta_deg = np.rad2deg(np.arctan2(turns[:, 1, 0], turns[:, 0, 0]))
    turned = replace(chosen, defocus_angle_deg_i=chosen.defocus_angle_deg_i - delta_deg)
    ctf2 = ctf_half_spectrum(box, turned) ** 2
    numerators = fourier_transform_2d(weighted)
    return list(zip(index.tolist(), rotated(spectra, turns, box), numerators, ctf2, strict=True))


def rotated(spectra: NDArray[np.complex64], matrices: NDArray[np.floating], n: int) -> Image:
    """Sample images at turned positions: ``g(x) = f(M x)`` about the origin ``n//2``.

    The spectrum is padded to twice the box; cubic splines between these finer pixels are exact to about
    1 % at the original Nyquist frequency and to 0.1 % at half of it.

    Parameters
    ----------
    spectra : (m, n, n//2+1) complex64, of the images f
    matrices : (m, 2, 2) float64, acting on (x, y)
    n : box, pixels

    Returns
    -------
    (m, n, n) float32; 0 where M x lies outside the image
    """
    fine = _OVERSAMPLING * n
    images = inverse_fourier_transform_2d(fourier_crop(spectra, fine, 2), fine) * np.float32(_OVERSAMPLING**2)
    out = np.empty((len(images), n, n), np.float32)
    for image, matrix, target in zip(images, matrices, out, strict=True):
        in_rows = _OVERSAMPLING * matrix[::-1, ::-1]  # (y, x)
        offset = fine // 2 - in_rows @ np.full(2, n // 2)
        ndimage.affine_transform(image, in_rows, offset, (n, n), target, order=3, mode="constant")
    return out


class _Sums:
    """Sums over the images of one class, by half set; sums of sums only add."""

    def __init__(self, box: int) -> None:
        shape = (2, box, box // 2 + 1)
        self.numerator = np.zeros(shape, np.complex128)
        self.weight = np.zeros(shape)
        self.plain = np.zeros((box, box))
        self.count = [0, 0]

    def add(self, half: int, plain: Image, numerator: NDArray[np.complex64], weight: Image) -> None:
        """Add one aligned image."""
        self.numerator[half - 1] += numerator
        self.weight[half - 1] += weight
        self.plain += plain
        self.count[half - 1] += 1

    def finish(self, number: int, radius_px: float) -> ClassAverage:
        """Solve: halves, their correlation, k_w, average."""
        box, count = len(self.plain), sum(self.count)
        if not count:
            raise PosterionError(f"no image of class {number} can be used: all {LEFT_OUT}")
        flat = [FLAT_PRIOR * shell_mean(weight, box) for weight in self.weight]
        half1, half2 = (
            self._solved(*half) * np.float32(1 + FLAT_PRIOR)
            for half in zip(self.numerator, self.weight, flat, strict=True)
        )
        disc = soft_disc(box, radius_px, _EDGE_PX)
        frc_s = fourier_ring_correlation(half1 * disc, half2 * disc)
        weight, ssnr_s = self.weight.sum(0), 2 * ssnr_from_fsc(frc_s)
        if min(self.count) == 0:  # one image has no halves: an SNR of 1
            ssnr_s = np.ones_like(ssnr_s)
        ctf2_s = shell_mean(weight, box)
        image = self._solved(self.numerator.sum(0), weight, ctf2_s / ssnr_s)
        plain = (self.plain / count).astype(np.float32)
        return ClassAverage(number, count, image, plain, half1, half2, frc_s, ssnr_s, ctf2_s)

    @staticmethod
    def _solved(numerator: NDArray[np.complex128], weight: Curve, k_s: Curve) -> Image:
        """Compute ``numerator / (weight + k(s))`` and its image; 0 beyond Nyquist."""
        box = len(weight)
        shell = shell_index_2d(box)
        inside = shell <= box // 2
        k = np.maximum(k_s, 1e-30)[np.minimum(shell, box // 2)]
        spectrum = np.where(inside, numerator / (weight + k), 0)
        return inverse_fourier_transform_2d(spectrum.astype(np.complex64), box)


def average_folder(path: str | Path) -> OutputFolder:
    """Folder of averages: images, figures and tables, also those of an earlier run's classes."""
    tables = sorted(
        path.name for path in Path(path).glob("ssnr_class*.tsv") if _CLASS_TABLE.fullmatch(path.name)
    )
    return OutputFolder(Path(path), "average", (*_FILES, *tables))


def write_averages(
    folder: str | Path, averages: Sequence[ClassAverage], pixel_size_angstrom: float
) -> dict[str, Path]:
    """Write averages.mrcs and plain.mrcs, one image per class in order of number, and a table for each class.

    ssnr.tsv (ssnr_class002.tsv where there are several classes) has the columns ring,
    frequency_per_angstrom, frc, ssnr (of the average), mean_ctf2 (sum over images), k_w and snr (of one
    image, 1/k_w).

    Returns
    -------
    files : by name
    """
    folder = Path(folder)
    files = {"averages": folder / "averages.mrcs", "plain means": folder / "plain.mrcs"}
    write_stack(files["averages"], np.stack([made.image for made in averages]), pixel_size_angstrom)
    write_stack(files["plain means"], np.stack([made.plain for made in averages]), pixel_size_angstrom)
    for made in averages:
        suffix = "" if len(averages) == 1 else f"_class{made.number:03d}"
        files[f"SSNR{suffix}"] = folder / f"ssnr{suffix}.tsv"
        rows = ["ring\tfrequency_per_angstrom\tfrc\tssnr\tmean_ctf2\tk_w\tsnr"]
        frequency_s = np.arange(len(made.frc_s)) / (len(made.image) * pixel_size_angstrom)
        columns = (frequency_s, made.frc_s, made.ssnr_s, made.ctf2_s, made.k_s, 1 / made.k_s)
        for ring, values in enumerate(zip(*columns, strict=True)):
            rows.append("\t".join([str(ring), *(f"{value:.6g}" for value in values)]))
        write_text(files[f"SSNR{suffix}"], "\n".join(rows) + "\n")
    return files
