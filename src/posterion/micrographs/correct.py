"""Micrographs with their CTF undone: phase flipped or Wiener filtered, one CTF for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from posterion.compute import Workers
from posterion.data.mrc import write_map
from posterion.data.table import Table, TextColumn
from posterion.errors import PosterionError
from posterion.mapping.correct import NO_CTF, Correction
from posterion.micrographs.micrograph_set import MicrographCtf, MicrographSet, write_micrographs
from posterion.micrographs.reading import read_micrograph
from posterion.physics.ctf import contrast_transfer
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
    paths : corrected micrographs
    star_path : micrographs.star, which lists them
    failed : why others were left out, one sentence each
    """

    paths: tuple[Path, ...]
    star_path: Path
    failed: tuple[str, ...]


def correct_micrographs(
    micrographs: MicrographSet,
    output: str | Path,
    correction: Correction,
    threads: int | None = None,
    observer: Callable[[int], None] | None = None,
) -> CorrectedMicrographs:
    """Undo the CTF of whole micrographs and write them with a micrographs.star that says so.

    Phase-flipped ones carry ``rlnCtfDataArePhaseFlipped 1`` in their optics groups; of Wiener-filtered ones
    the columns describe a CTF of 1 (defocus 0, Cs 0, amplitude contrast 1). One that cannot be read is left
    out and named. A spectral SNR that is not given is measured on up to 30 of them together.

    Parameters
    ----------
    micrographs : with a CTF
    output : folder; gets micrographs/NAME.mrc, micrographs.star and, with a spectrum, snr.tsv
    correction : how
    threads : None: all cores
    observer : called with 1 after each micrograph

    Raises
    ------
    PosterionError
        When there is no CTF, they are flipped already, or none can be corrected.
    """
    folder, ctf = Path(output), _ctf_of(micrographs)
    if correction.how == "phase-flip":
        _refuse_flipped(micrographs)
    failures: dict[int, str] = {}
    with Workers(threads) as workers:
        if correction.needs_snr:
            correction = replace(correction, snr=_measure_snr(micrographs, ctf, workers))

        def work(index: int) -> tuple[int, Path | None]:
            path = folder / "micrographs" / f"{_stem(micrographs, index)}.mrc"
            try:
                return index, _correct_file(micrographs, ctf, index, correction, path)
            except PosterionError as error:
                failures[index] = str(error)
                return index, None

        made: dict[int, Path] = {}
        for index, path in workers.map_ordered(work, range(len(micrographs))):
            if path is not None:
                made[index] = path
            if observer is not None:
                observer(1)
    failed = tuple(failures[index] for index in sorted(failures))
    if not made:
        raise PosterionError(f"none of {len(micrographs)} micrographs can be corrected; {failed[0]}")
    if correction.snr is not None:
        correction.snr.write(folder / "snr.tsv")
    star = folder / "micrographs.star"
    _write_star(star, micrographs, made, correction.how)
    return CorrectedMicrographs(tuple(made.values()), star, failed)


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


def _ctf_of(micrographs: MicrographSet) -> MicrographCtf:
    if micrographs.ctf is None:
        source = micrographs.table.path if micrographs.table is not None else micrographs.names[0]
        raise PosterionError(
            f"{source}: the CTF of the micrographs is unknown (no rlnDefocusU); run 'posterion ctf' on them "
            "and give its micrographs.star"
        )
    return micrographs.ctf


def _refuse_flipped(micrographs: MicrographSet) -> None:
    optics = micrographs.optics_table
    if optics is not None and _PHASE_FLIPPED in optics.columns and optics.floats(_PHASE_FLIPPED).any():
        raise PosterionError(
            f"{optics.path}: the micrographs are phase flipped already ({_PHASE_FLIPPED} in data_optics)"
        )


def _stem(micrographs: MicrographSet, index: int) -> str:
    """Name of the new file; numbered where several have the same."""
    stems = [path.name.split(".mrc")[0].rsplit(".", 1)[0] for path in micrographs.paths[: index + 1]]
    before = stems[:-1].count(stems[-1])
    return stems[-1] if not before else f"{stems[-1]}_{before + 1}"


def _ctf_function(
    micrographs: MicrographSet, ctf: MicrographCtf, index: int
) -> Callable[[NDArray[np.float64], NDArray[np.float64]], Image]:
    optics = micrographs.optics_of(index)

    def ctf_at(fx: NDArray[np.float64], fy: NDArray[np.float64]) -> Image:
        values = contrast_transfer(
            fx,
            fy,
            ctf.defocus_u_angstrom_i[index],
            ctf.defocus_v_angstrom_i[index],
            ctf.defocus_angle_deg_i[index],
            voltage_kv=optics.voltage_kv,
            spherical_aberration_mm=optics.spherical_aberration_mm,
            amplitude_contrast=optics.amplitude_contrast,
            phase_shift_deg=ctf.phase_shift_deg_i[index],
        )[0]
        return np.asarray(np.abs(values)) if optics.phase_flipped else values

    return ctf_at


def _correct_file(
    micrographs: MicrographSet, ctf: MicrographCtf, index: int, correction: Correction, path: Path
) -> Path:
    source = micrographs.paths[index]
    if path.exists() and path.samefile(source):
        raise PosterionError(f"{path} is the micrograph to be corrected; choose another folder with -o")
    pixel_size = micrographs.optics_of(index).pixel_size_angstrom
    values = read_micrograph(source).values
    made = correct_micrograph(values, pixel_size, _ctf_function(micrographs, ctf, index), correction)
    write_map(path, made[None], pixel_size)
    return path


def _measure_snr(micrographs: MicrographSet, ctf: MicrographCtf, workers: Workers) -> SnrSpectrum:
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
        tile_ctf = _ctf_function(micrographs, ctf, index)(fx, fy)[None]
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
