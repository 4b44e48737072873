"""Particle images with their CTF undone: phase flipped or Wiener filtered, in new stacks that say so."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterion.compute import NullProgress, Stage, StageProgress, Workers
from posterion.data.atomic import write_text
from posterion.data.mrc import open_stack, read_stack_header, write_stack_batches
from posterion.data.output_folder import OutputFolder, open_folder, remove_files
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

__all__ = [
    "METHODS",
    "NO_CTF",
    "SNR_TABLE",
    "Correction",
    "correct",
    "correction_folder",
    "measure_snr",
]

METHODS = ("phase-flip", "wiener")
_LOG = logging.getLogger("posterion")
_BATCH = 64
_SAMPLE = 2000
_ALGORITHM = 1  # raised when the same record gives other images than before
_RECORD = "correction.json"
SNR_TABLE = "snr.tsv"
_ORIGINAL = "rlnImageOriginalName"
_OF_IMAGES = (
    "stack_index_i",
    "image_index_i",
    "contrast_sign_i",
    "optics_index_i",
    "defocus_u_angstrom_i",
    "defocus_v_angstrom_i",
    "defocus_angle_deg_i",
    "phase_shift_deg_i",
    "ctf_bfactor_i",
    "ctf_scale_i",
)
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

    @property
    def snr_path(self) -> Path | None:
        """File that a given spectrum was read from, which no run may replace."""
        return None if self.snr is None else self.snr.path

    def describe(self) -> dict[str, Any]:
        """Give all that a record has to say of it."""
        described: dict[str, Any] = {"algorithm": _ALGORITHM, "how": self.how, "k": self.k}
        if self.snr is not None:
            described["frequency_per_angstrom"] = self.snr.frequency_s.tolist()
            described["snr"] = self.snr.snr_s.tolist()
        return described

    def filter_of(self, ctf: NDArray[np.float32], frequency: NDArray[np.float64]) -> NDArray[np.float32]:
        """Filter at the pixels of CTFs, (..., P) and their radial frequencies (P,), 1/Angstrom."""
        if self.how == "phase-flip":
            return phase_flip_filter(ctf)
        if self.k is not None:
            return wiener_filter(ctf, self.k)
        if self.snr is None:
            raise ValueError("the SNR has not been measured")
        return wiener_filter(ctf, 1 / self.snr.at(frequency))


def correction_folder(path: str | Path, of: str) -> OutputFolder:
    """Folder of corrected images: STAR file, spectrum and figures are one run's.

    Parameters
    ----------
    path : of the folder
    of : ``particles`` or ``micrographs``
    """
    results = (f"{of}.star", "correction.png", "snr.png", SNR_TABLE)
    return OutputFolder(Path(path), "correct", results, of, _RECORD if of == "particles" else "")


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
    A stack that an earlier, stopped call with the same images, CTFs and correction has written is kept.

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
        When the images are phase flipped already, the SNR cannot be measured, files cannot be written, or
        some that no such run wrote, or that this one reads, would be replaced.
    """
    folder = correction_folder(output, "particles")
    source = particles.table.path if particles.table is not None else None
    folder.claim([source, correction.snr_path])
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
            raise PosterionError(f"{target} is a stack to be corrected; give another output folder")
        targets[stack] = target
    return targets


def _begin(
    folder: OutputFolder, targets: Collection[Path], particles: Particles, correction: Correction
) -> bool:
    """Record what the folder is made from, and its stacks; whether those there are of the same making."""
    made_from = {**correction.describe(), **_images_of(particles)}  # before anything is removed
    path = folder.path / _RECORD
    names = {target: target.relative_to(folder.path).as_posix() for target in targets}
    there = _read_record(path)
    if there is None:
        ours = set[str]()
        folder.begin([path, *names])
    else:  # earlier versions listed none: all of these names were theirs
        ours = set(there.get("files", names.values()))
        folder.begin(target for target, name in names.items() if name not in ours)
    if correction.snr is not None:
        correction.snr.write(folder.path / SNR_TABLE)
    if there is not None and there.get("made_from") == json.loads(json.dumps(made_from)):
        return True
    remove_files(names)  # of another making, which the new record would claim
    files = sorted({*names.values(), *(name for name in ours if (folder.path / name).exists())})
    record = {"command": folder.command, "files": files, "made_from": made_from}
    write_text(path, json.dumps(record, indent=1) + "\n")
    return False


def _read_record(path: Path) -> dict[str, Any] | None:
    """Record of an earlier run; None where there is none, or a file of something else."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return there if isinstance(there, dict) and there.get("command") == "correct" else None


def _images_of(particles: Particles) -> dict[str, Any]:
    """Say which images the stacks are made from, and what their CTFs are: states of files, and a digest."""
    stacks = []
    for stack, row in zip(*np.unique(particles.stack_index_i, return_index=True), strict=True):
        path = particles.find_stack(int(stack), int(row))
        open_stack(path)  # raises where it cannot be read
        stacks.append([str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns])
    digest = hashlib.sha256(json.dumps([asdict(group) for group in particles.optics]).encode())
    for name in _OF_IMAGES:
        column = getattr(particles, name)
        digest.update(f"{name} {None if column is None else column.dtype}".encode())
        digest.update(b"" if column is None else np.ascontiguousarray(column).tobytes())
    return {"stacks": stacks, "images": digest.hexdigest()}


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
