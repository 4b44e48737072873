"""Particle images with their CTF undone: phase flipped or Wiener filtered, in new stacks that say so."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterion.compute import NullProgress, Stage, StageProgress, Workers
from posterion.data.atomic import write_text
from posterion.data.mrc import read_stack_header, write_stack_batches
from posterion.data.output_folder import OutputFolder, open_folder
from posterion.data.particles import Particles
from posterion.data.unusable import usable_images
from posterion.errors import PosterionError
from posterion.physics.ctf import ctf_half_spectrum
from posterion.physics.ctf_correction import (
    SnrMeasurement,
    SnrSpectrum,
    filtered,
    half_spectrum_frequencies,
    phase_flip_filter,
    wiener_filter,
)

__all__ = ["METHODS", "Correction", "correct", "correction_folder", "measure_snr"]

METHODS = ("phase-flip", "wiener")
_LOG = logging.getLogger("posterion")
_BATCH = 64
_SAMPLE = 2000
_RECORD = "correction.json"
SNR_TABLE = "snr.tsv"
_ORIGINAL = "rlnImageOriginalName"
NO_CTF = {"spherical_aberration_mm": 0.0, "amplitude_contrast": 1.0, "phase_flipped": False}
"""Optics that, with a defocus of 0, describe a CTF of 1 everywhere: of images whose CTF is undone."""


@dataclass(frozen=True)
class Correction:
    """How to undo the CTF.

    Attributes
    ----------
    how : ``phase-flip``: A = sgn(C) X; ``wiener``: A = C X / (C^2 + k)
    k : the same at all frequencies; of a Wiener filter
    snr : spectral SNR of single images, ``k(s) = 1/SNR(s)``; where this and k are None it is measured
    """

    how: str
    k: float | None = None
    snr: SnrSpectrum | None = None

    def __post_init__(self) -> None:
        if self.how not in METHODS:
            raise PosterionError(f"correction '{self.how}' is unknown; choose one of {', '.join(METHODS)}")
        if self.how == "phase-flip" and (self.k is not None or self.snr is not None):
            raise PosterionError("phase flipping needs neither k nor an SNR; leave them out or choose wiener")
        if self.k is not None and self.snr is not None:
            raise PosterionError("give either k or an SNR spectrum, not both")
        if self.k is not None and not 0 < self.k < np.inf:
            raise PosterionError(f"k = {self.k:g} is no Wiener constant; a positive number is expected")

    @property
    def needs_snr(self) -> bool:
        """Whether the SNR has to be measured first."""
        return self.how == "wiener" and self.k is None and self.snr is None

    def filter_of(self, ctf: NDArray[np.float32], frequency: NDArray[np.float64]) -> NDArray[np.float32]:
        """Filter at the pixels of CTFs, (..., P) and their radial frequencies (P,), 1/Angstrom."""
        if self.how == "phase-flip":
            return phase_flip_filter(ctf)
        if self.k is not None:
            return wiener_filter(ctf, self.k)
        if self.snr is None:
            raise ValueError("the SNR has not been measured")
        return wiener_filter(ctf, 1 / self.snr.at(frequency))


def correction_folder(path: str | Path, correction: Correction, of: str) -> OutputFolder:
    """Folder of corrected images: STAR file, spectrum and figures are one run's.

    Parameters
    ----------
    path : of the folder
    correction : as the user asked for it; a spectrum of the user's may lie in the folder
    of : ``particles`` or ``micrographs``
    """
    spectrum = () if correction.snr is not None else (SNR_TABLE,)
    return OutputFolder(Path(path), "correct", (f"{of}.star", "correction.png", "snr.png", *spectrum), of)


def correct(
    particles: Particles,
    output: str | Path,
    correction: Correction,
    threads: int | None = None,
    progress: StageProgress = NullProgress,
) -> Particles:
    """Undo the CTF of all images, stack by stack, and write new stacks and particles.star.

    Phase-flipped sets carry ``rlnCtfDataArePhaseFlipped 1`` in their optics groups: what is left of the CTF
    is its absolute value. In Wiener-filtered sets nothing is left to correct, so their columns describe a
    CTF of 1: defocus 0, Cs 0, amplitude contrast 1. ``rlnImageOriginalName`` leads back to the source.
    A stack that an earlier, stopped call with the same inputs has written is kept.

    Parameters
    ----------
    particles : the set
    output : folder; gets particles.star, stacks/ and, of a Wiener filter with a spectrum, snr.tsv
    correction : how
    threads : None: all cores
    progress : shows how far it is

    Returns
    -------
    particles : as written

    Raises
    ------
    PosterionError
        When the images are phase flipped already, the SNR cannot be measured, or files cannot be written.
    """
    folder = correction_folder(output, correction, "particles")
    source = particles.table.path if particles.table is not None else None
    folder.claim([source])
    if correction.how == "phase-flip" and any(group.phase_flipped for group in particles.optics):
        raise PosterionError(
            f"{particles.place(0)}: the images are phase flipped already (rlnCtfDataArePhaseFlipped in their "
            "optics group); flipping them again would undo it"
        )
    targets = _targets(particles, folder.path / "stacks")
    with Workers(threads) as workers:
        if correction.needs_snr:
            correction = replace(correction, snr=measure_snr(particles, workers))
        with open_folder(folder.path):
            keep = _begin(folder, targets.values(), particles, correction)
            with progress("correction", len(particles)) as bar:
                corrected = _write_stacks(particles, targets, correction, workers, keep, bar)
            corrected.write_star(folder.path / "particles.star", extra_columns=_original_names(particles))
            folder.finish({"how": correction.how, "k": correction.k, "particles": len(corrected)})
    return corrected


def measure_snr(particles: Particles, workers: Workers) -> SnrSpectrum:
    """Measure the spectral SNR of single images, of up to 2,000 spread over the set; see `SnrMeasurement`."""
    box, finest = particles.box_px, min(group.pixel_size_angstrom for group in particles.optics)
    chosen = particles[
        np.unique(np.linspace(0, len(particles) - 1, min(_SAMPLE, len(particles))).astype(int))
    ]
    measurement = SnrMeasurement(box // 2, 0.5 / finest)

    def sums(batch: tuple[NDArray[np.int64], NDArray[np.float32]]) -> NDArray[np.float64]:
        part = SnrMeasurement(box // 2, 0.5 / finest)
        for group, rows in _by_optics(chosen, batch[0]):
            images = batch[1][rows]
            usable = usable_images(images)
            if not usable.any():
                continue
            ctf = ctf_half_spectrum(box, chosen, batch[0][rows][usable])
            part.add(images[usable], ctf.reshape(len(ctf), -1), _radial(box, group))
        return part.sums

    for part in workers.map_ordered(sums, chosen.batches(_BATCH)):
        measurement.sums += part
    return measurement.spectrum()


def _by_optics(particles: Particles, index: NDArray[np.int64]) -> Iterator[tuple[float, NDArray[np.int64]]]:
    """Pixel size of each optics group among some particles, and its positions among them."""
    group_i = particles.optics_index_i[index]
    for group in np.unique(group_i):
        yield particles.optics[group].pixel_size_angstrom, np.flatnonzero(group_i == group)


def _radial(box: int, pixel_size_angstrom: float) -> NDArray[np.float64]:
    return np.asarray(np.hypot(*half_spectrum_frequencies((box, box), pixel_size_angstrom)))


def _targets(particles: Particles, folder: Path) -> dict[int, Path]:
    """Give each stack in use a new file under its own name, numbered where two have the same."""
    targets: dict[int, Path] = {}
    sources = {path.resolve() for path in particles.stack_paths}
    for stack in np.unique(particles.stack_index_i).tolist():
        path = particles.stack_paths[stack]
        target = folder / f"{path.stem}.mrcs"
        number = 1
        while target in targets.values():
            number += 1
            target = folder / f"{path.stem}_{number}.mrcs"
        if target.resolve() in sources:
            raise PosterionError(f"{target} is a stack to be corrected; choose another folder with -o")
        targets[stack] = target
    return targets


def _begin(
    folder: OutputFolder, targets: Collection[Path], particles: Particles, correction: Correction
) -> bool:
    """Record what the folder is made from; whether stacks that are there are of the same making."""
    folder.begin(targets)
    source = particles.table.path if particles.table is not None else None
    stacks = [path.stat() for path in particles.stack_paths if path.exists()]
    record: dict[str, Any] = {
        "command": "correct",
        "how": correction.how,
        "k": correction.k,
        "snr": None if correction.snr is None else correction.snr.snr_s.tolist(),
        "particles": str(source and source.absolute()),
        "particles_modified_ns": source.stat().st_mtime_ns if source is not None else 0,
        "stacks": [[stat.st_size, stat.st_mtime_ns] for stat in stacks],
    }
    path, text = folder.path / _RECORD, json.dumps(record, indent=1) + "\n"
    if correction.snr is not None:
        correction.snr.write(folder.path / SNR_TABLE)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return source is not None
    for target in targets:  # of another making, which the new record would claim
        target.unlink(missing_ok=True)
    write_text(path, text)
    return False


def _write_stacks(
    particles: Particles,
    targets: dict[int, Path],
    correction: Correction,
    workers: Workers,
    keep: bool,
    bar: Stage,
) -> Particles:
    """Filter all images, and describe them as they are then."""
    stack_index_i, image_index_i = np.empty(len(particles), np.int32), np.empty(len(particles), np.int64)
    for new, (stack, target) in enumerate(targets.items()):
        rows = np.flatnonzero(particles.stack_index_i == stack)
        rows = rows[np.argsort(particles.image_index_i[rows], kind="stable")]
        stack_index_i[rows], image_index_i[rows] = new, np.arange(len(rows))
        _write_stack(particles, rows, target, correction, workers, keep, bar)
    return replace(
        _with_new_ctf(particles, correction.how),
        stack_paths=tuple(path.absolute() for path in targets.values()),
        stack_names=tuple(str(path) for path in targets.values()),
        stack_index_i=stack_index_i,
        image_index_i=image_index_i,
        contrast_sign_i=None,
    )


def _write_stack(
    particles: Particles,
    rows: NDArray[np.int64],
    target: Path,
    correction: Correction,
    workers: Workers,
    keep: bool,
    bar: Stage,
) -> None:
    """Filter the images of one stack, batch by batch; float16 stays float16, all else becomes float32."""
    box = particles.box_px
    if keep and target.exists() and read_stack_header(target).n_images == len(rows):
        bar.advance(len(rows))
        return

    def corrected(part: NDArray[np.int64]) -> NDArray[np.float32]:
        ctf = ctf_half_spectrum(box, particles, part)
        images = particles.images(part)
        for pixel_size, chosen in _by_optics(particles, part):
            frequency = _radial(box, pixel_size).reshape(ctf.shape[1:])
            images[chosen] = filtered(images[chosen], correction.filter_of(ctf[chosen], frequency))
        return images

    def batches() -> Iterator[NDArray[np.float32]]:
        parts = (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))
        for images in workers.map_ordered(corrected, parts):
            yield images
            bar.advance(len(images))

    stack = int(particles.stack_index_i[rows[0]])
    source = read_stack_header(particles.find_stack(stack, int(rows[0])))
    dtype = np.float16 if source.dtype == np.float16 else np.float32
    pixel_size = particles.optics[particles.optics_index_i[rows[0]]].pixel_size_angstrom
    write_stack_batches(target, batches(), (len(rows), box, box), pixel_size, dtype)


def _with_new_ctf(particles: Particles, how: str) -> Particles:
    """Let the table describe the corrected images."""
    if how == "phase-flip":
        flipped = tuple(replace(group, phase_flipped=True) for group in particles.optics)
        return replace(particles, optics=flipped)
    none = np.zeros(len(particles))
    return replace(
        particles,
        optics=tuple(replace(group, **NO_CTF) for group in particles.optics),  # type: ignore[arg-type]
        defocus_u_angstrom_i=none,
        defocus_v_angstrom_i=none,
        defocus_angle_deg_i=none,
        phase_shift_deg_i=none,
        ctf_bfactor_i=none,
        ctf_scale_i=none + 1,
    )


def _original_names(particles: Particles) -> dict[str, NDArray[np.str_]]:
    """Name of the uncorrected image of each particle, unless the table has one from before."""
    columns = getattr(particles.table, "columns", {})
    if _ORIGINAL in columns:
        return {}
    names = [
        f"{number + 1:06d}@{particles.stack_names[stack]}"
        for number, stack in zip(particles.image_index_i, particles.stack_index_i, strict=True)
    ]
    return {_ORIGINAL: np.array(names)}
