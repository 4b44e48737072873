"""Micrographs with their CTF undone: phase flipped or Wiener filtered, one CTF for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from posterion.compute import NullProgress, StageProgress, Workers
from posterion.data.mrc import write_map
from posterion.data.output_folder import open_folder
from posterion.data.table import Table, TextColumn
from posterion.errors import PosterionError
from posterion.mapping.correct import NO_CTF, SNR_TABLE, Correction, correction_folder
from posterion.micrographs.micrograph_set import MicrographSet, write_micrographs
from posterion.micrographs.reading import read_micrograph
from posterion.micrographs.streaming import Failure, Job, output_stems, process_all, require_one
from posterion.physics.ctf_correction import SnrMeasurement, SnrSpectrum, half_spectrum_frequencies

__all__ = ["CorrectedMicrographs", "correct_micrograph", "correct_micrographs"]

_TILE_PX = 512
_SHELLS = 128
_ROWS = 256
_INDEPENDENT = 0.2  # tiles overlap by half in both directions, and the window joins neighbouring pixels
_SAMPLE = 30
_PHASE_FLIPPED = "rlnCtfDataArePhaseFlipped"

Image = NDArray[np.float32]


@dataclass(frozen=True)
class CorrectedMicrographs:
    """What came of a set.

    Attributes
    ----------
    paths : corrected micrographs, by index in the set
    star_path : micrographs.star, which lists them
    failures : those that were left out, and why
    """

    paths: Mapping[int, Path]
    star_path: Path
    failures: tuple[Failure, ...]


def correct_micrographs(
    micrographs: MicrographSet,
    output: str | Path,
    correction: Correction,
    threads: int | None = None,
    progress: StageProgress = NullProgress,
) -> CorrectedMicrographs:
    """Undo the CTF of whole micrographs and write them with a micrographs.star that says so.

    Phase-flipped ones carry ``rlnCtfDataArePhaseFlipped 1`` in their optics groups; of Wiener-filtered ones
    the columns describe a CTF of 1 (defocus 0, Cs 0, amplitude contrast 1). One that cannot be read is left
    out and named. A spectral SNR that is not given is measured on up to 30 of them together. The same call
    goes on where a stopped one was.

    Parameters
    ----------
    micrographs : with a CTF
    output : folder; gets micrographs/NAME.mrc, micrographs.star and, with a spectrum, snr.tsv
    correction : how
    threads : micrographs at a time; all cores where None
    progress : shows how far it is

    Raises
    ------
    PosterionError
        When there is no CTF, they are flipped already, or none can be corrected.
    """
    folder = correction_folder(output, "micrographs")
    folder.claim([micrographs.star_path, correction.snr_path])
    _require_ctf(micrographs)
    if correction.how == "phase-flip":
        _refuse_flipped(micrographs)
    if correction.needs_snr:
        with Workers(threads) as workers:
            correction = replace(correction, snr=_measure_snr(micrographs, workers))
    jobs = [
        _job(micrographs, index, stem, folder.path, correction)
        for index, stem in enumerate(output_stems(micrographs))
    ]

    def work(index: int) -> dict[str, Any]:
        _correct_file(micrographs, index, correction, jobs[index].products[0])
        return {}

    with open_folder(folder.path):
        outcome = process_all(folder, jobs, work, stage="correction", progress=progress, threads=threads)
        require_one(folder, outcome, f"none of {len(micrographs)} micrographs can be corrected")
        if correction.snr is not None:
            correction.snr.write(folder.path / SNR_TABLE)
        made = {i: job.products[0] for i, job in enumerate(jobs) if outcome.records[i] is not None}
        _write_star(folder.path / "micrographs.star", micrographs, made, correction.how)
        folder.finish(
            {"how": correction.how, "k": correction.k, "micrographs": len(made), "failures": outcome.reasons}
        )
    return CorrectedMicrographs(made, folder.path / "micrographs.star", outcome.failures)


def _job(micrographs: MicrographSet, index: int, stem: str, folder: Path, correction: Correction) -> Job:
    """Say all that a corrected micrograph depends on."""
    ctf = micrographs.ctf
    settings = {
        **correction.describe(),
        "optics": asdict(micrographs.optics_of(index)),
        "ctf": None if ctf is None else [float(column[index]) for column in vars(ctf).values()],
    }
    path = folder / "micrographs" / f"{stem}.mrc"
    record = folder / "records" / f"{stem}.json"
    return Job(micrographs.names[index], micrographs.paths[index], settings, record, (path,))


def correct_micrograph(
    values: Image,
    pixel_size_angstrom: float,
    ctf_at: Callable[[NDArray[np.float64], NDArray[np.float64]], Image],
    correction: Correction,
) -> Image:
    """Undo the CTF of one micrograph; its mean stays.

    The transform is periodic: within the reach of the CTF's ripples, the edges see what is across.

    Parameters
    ----------
    values : (ny, nx) float32
    pixel_size_angstrom : Angstrom
    ctf_at : CTF (p,) at frequencies (p,), (p,) in 1/Angstrom
    correction : how

    Returns
    -------
    (ny, nx) float32
    """
    mean = float(values.mean(dtype=np.float64))
    spectrum = scipy.fft.rfft2(values - np.float32(mean))
    fx, fy = half_spectrum_frequencies(values.shape, pixel_size_angstrom)
    fx, fy = fx.reshape(spectrum.shape), fy.reshape(spectrum.shape)
    for start in range(0, len(spectrum), _ROWS):  # by rows, as the frequencies take more room than the image
        rows = slice(start, start + _ROWS)
        x, y = fx[rows].ravel(), fy[rows].ravel()
        wanted = correction.filter_of(ctf_at(x, y), np.hypot(x, y))
        spectrum[rows] *= wanted.reshape(fx[rows].shape)
    return np.asarray(scipy.fft.irfft2(spectrum, s=values.shape) + mean, np.float32)


def _require_ctf(micrographs: MicrographSet) -> None:
    if micrographs.ctf is None:
        source = micrographs.star_path or micrographs.names[0]
        raise PosterionError(
            f"{source}: the CTF of the micrographs is unknown (no rlnDefocusU); run 'posterion ctf' on them "
            "and give its micrographs.star"
        )


def _refuse_flipped(micrographs: MicrographSet) -> None:
    if any(group.phase_flipped for group in micrographs.optics):
        source = micrographs.star_path or micrographs.names[0]
        raise PosterionError(
            f"{source}: the micrographs are phase flipped already ({_PHASE_FLIPPED} in data_optics)"
        )


def _correct_file(micrographs: MicrographSet, index: int, correction: Correction, path: Path) -> None:
    pixel_size = micrographs.optics_of(index).pixel_size_angstrom
    values = read_micrograph(micrographs.paths[index]).values
    made = correct_micrograph(values, pixel_size, partial(micrographs.ctf_at, index), correction)
    write_map(path, made[None], pixel_size)


def _measure_snr(micrographs: MicrographSet, workers: Workers) -> SnrSpectrum:
    """Spectral SNR of micrographs from tiles under a Hann window, each micrograph scaled to variance 1."""
    finest = min(micrographs.optics_of(index).pixel_size_angstrom for index in range(len(micrographs)))
    total = SnrMeasurement(_SHELLS, 0.5 / finest, _INDEPENDENT)

    def sums(index: int) -> NDArray[np.float64]:
        part = SnrMeasurement(_SHELLS, 0.5 / finest)
        try:
            values = read_micrograph(micrographs.paths[index]).values
        except PosterionError:
            return part.sums
        n = min(_TILE_PX, *values.shape)
        window = np.hanning(n + 2)[1:-1].astype(np.float32)
        fx, fy = half_spectrum_frequencies((n, n), micrographs.optics_of(index).pixel_size_angstrom)
        tile_ctf = micrographs.ctf_at(index, fx, fy)[None]
        for tile in _tiles((values - values.mean()) / values.std(), n):
            part.add(((tile - tile.mean()) * np.outer(window, window))[None], tile_ctf, np.hypot(fx, fy))
        return part.sums

    spread = np.linspace(0, len(micrographs) - 1, min(_SAMPLE, len(micrographs))).astype(int)
    for part in workers.map_ordered(sums, np.unique(spread).tolist()):
        total.sums += part
    return total.spectrum()


def _tiles(values: Image, n: int) -> list[Image]:
    """Square tiles that cover an image, overlapping by half."""
    starts = [
        np.unique(np.linspace(0, size - n, max(1, round(2 * size / n) - 1)).astype(int))
        for size in values.shape
    ]
    return [values[y : y + n, x : x + n] for y in starts[0] for x in starts[1]]


def _write_star(path: Path, micrographs: MicrographSet, made: dict[int, Path], how: str) -> None:
    """List the corrected micrographs, with the optics and CTF columns that describe them now."""
    columns = {"rlnMicrographName": [str(file) for file in made.values()]}
    count = len(micrographs.optics)
    if how == "phase-flip":
        optics = {_PHASE_FLIPPED: ["1"] * count}
    else:
        optics = {
            "rlnSphericalAberration": [f"{NO_CTF['spherical_aberration_mm']:.6f}"] * count,
            "rlnAmplitudeContrast": [f"{NO_CTF['amplitude_contrast']:.6f}"] * count,
            _PHASE_FLIPPED: ["0"] * count,
        }
        zeros = dict.fromkeys(("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"), ["0.000000"] * len(made))
        if micrographs.table is not None and "rlnPhaseShift" in micrographs.table.columns:
            zeros["rlnPhaseShift"] = ["0.000000"] * len(made)
        columns |= zeros
    texts = {name: TextColumn.of(values) for name, values in optics.items()}
    source = micrographs.optics_table
    if source is not None and source.name == "optics":
        texts = {**source.columns, **texts}
    described = Table("optics", texts, np.arange(count, dtype=np.int64))
    write_micrographs(path, replace(micrographs, optics_table=described), list(made), columns)
