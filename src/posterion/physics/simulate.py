"""Particle sets with known answers: projections of maps with CTF, shifts and noise, written as STAR and MRCS.

The model is y = C S P_R V + n (docs/theory.md). Images are made and written in blocks, each from its
own random stream, so memory does not grow with their number and the same seed gives the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from posterion.data.atomic import replacing
from posterion.data.mrc import write_map
from posterion.data.particles import OpticsGroup, Particles, Poses
from posterion.errors import PosterionError
from posterion.physics.ctf import ctf_half_spectrum
from posterion.physics.fourier import (
    fourier_transform_2d,
    frequencies_2d,
    hermitian_weights,
    inverse_fourier_transform_2d,
    phase_shift,
)
from posterion.physics.projection import FourierVolume

__all__ = [
    "COLOURED_NOISE",
    "Microscope",
    "NoiseSpectrum",
    "SimulatedSet",
    "SimulationOptions",
    "draw_particles",
    "noise_free_images",
    "noise_images",
    "simulate",
]

_BLOCK = 64
_PILOT_IMAGES = 256
_STACK_NAME = "particles.mrcs"
_HEIGHT_SD_ANGSTROM = 150.0  # particles of one micrograph lie at different heights in the ice


@dataclass(frozen=True)
class Microscope:
    """Optics of one group: acceleration voltage (kV), Cs (mm) and amplitude contrast (fraction)."""

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1


@dataclass(frozen=True)
class NoiseSpectrum:
    """Shape of a radial noise spectrum: relative power (m,) at rising frequencies (m,), 1/Angstrom."""

    frequency_per_angstrom: tuple[float, ...]
    power: tuple[float, ...]

    @classmethod
    def read(cls, path: str | Path) -> NoiseSpectrum:
        """Read two columns of text: frequency in 1/Angstrom, rising, and relative power."""
        try:
            table = np.loadtxt(path, ndmin=2)
        except (OSError, ValueError) as error:
            raise PosterionError(f"{path}: cannot be read as two columns of numbers ({error})") from error
        if table.shape[1] != 2 or (np.diff(table[:, 0]) <= 0).any() or not (table[:, 1] > 0).all():
            raise PosterionError(f"{path}: expected two columns, rising frequency in 1/A and positive power")
        return cls(tuple(table[:, 0]), tuple(table[:, 1]))


_S = np.linspace(0, 0.5, 101)
COLOURED_NOISE = NoiseSpectrum(tuple(_S), tuple(0.2 + 1 / (1 + (40 * _S) ** 2)))
"""Noise of ice in a usual micrograph: six times stronger at low frequency than at high, half-way at 40 A."""


@dataclass(frozen=True)
class SimulationOptions:
    """What a simulated particle set is like.

    Attributes
    ----------
    n_particles : int
        How many images.
    snr : float
        Variance of the noise-free images over that of the noise, both over whole images; ``inf``: no noise.
    noise : NoiseSpectrum or None
        Shape of the noise spectrum; white where None.
    defocus_range_angstrom : (float, float)
        Mean defocus of a micrograph, uniform between these, Angstrom.
    astigmatism_angstrom : float
        Largest U - V of a micrograph, Angstrom.
    phase_shift_deg : float
        Phase-plate shift of all images, degrees.
    bfactor_angstrom2 : float
        B of the envelope exp(-B s^2 / 4), Angstrom^2.
    microscopes : tuple of Microscope
        One optics group each; micrographs take turns.
    shift_sd_angstrom : float
        Standard deviation of the origin offsets along x and along y, Angstrom.
    direction_concentration : float
        kappa of a von Mises-Fisher distribution of viewing directions about the volume's z; 0 is uniform.
    fractions : tuple of float
        Share of each map; equal where empty.
    particles_per_micrograph : int
        How many successive images share a micrograph, its defocus and its astigmatism.
    write_poses : bool
        Whether particles.star shows the true poses too.
    dtype : str
        ``float16`` or ``float32``, of the stack.
    seed : int
        Same seed, same files.
    """

    n_particles: int = 1000
    snr: float = 0.1
    noise: NoiseSpectrum | None = None
    defocus_range_angstrom: tuple[float, float] = (10000.0, 25000.0)
    astigmatism_angstrom: float = 500.0
    phase_shift_deg: float = 0.0
    bfactor_angstrom2: float = 0.0
    microscopes: tuple[Microscope, ...] = (Microscope(),)
    shift_sd_angstrom: float = 5.0
    direction_concentration: float = 0.0
    fractions: tuple[float, ...] = ()
    particles_per_micrograph: int = 25
    write_poses: bool = False
    dtype: str = "float16"
    seed: int = 0


@dataclass(frozen=True)
class SimulatedSet:
    """Where a simulated set is, and the factor applied to the maps to bring the noise to variance 1."""

    particles_path: Path
    truth_path: Path
    stack_path: Path
    map_paths: tuple[Path, ...]
    scale: float


def simulate(
    maps: Sequence[NDArray[np.floating]],
    pixel_size_angstrom: float,
    output: str | Path,
    options: SimulationOptions | None = None,
    observer: Callable[[int], None] | None = None,
) -> SimulatedSet:
    """Write a particle set made from maps: particles.star, particles.mrcs, truth.star and truth maps.

    y = C S P_R V + n. Images, and with them the truth maps, are scaled to a noise of variance 1 (left alone
    where there is no noise), so truth.mrc is on the grey scale of the images.

    Parameters
    ----------
    maps : sequence of (n, n, n) float
        One map per class, all of one box; protein positive.
    pixel_size_angstrom : float
        Of all maps, Angstrom.
    output : str or Path
        Folder; made where needed. Files of an earlier simulation are not overwritten.
    options : SimulationOptions, optional
        What the set is like.
    observer : callable, optional
        Called with the number of images written since the last call.

    Raises
    ------
    PosterionError
        When an option is out of range, the maps differ in box or are flat, or the folder cannot be written.
    """
    options = options or SimulationOptions()
    folder = Path(output)
    _check(maps, folder, options)
    particles, class_i = draw_particles(maps[0].shape[0], pixel_size_angstrom, options, folder)
    volumes = [FourierVolume.from_map(values) for values in maps]
    scale = _scale_to_unit_noise(volumes, particles, class_i, options.snr)

    stack_path = folder / _STACK_NAME
    with replacing(stack_path) as temporary, temporary.open("wb") as stream:
        stream.write(_stack_header(particles, options.dtype))
        for block in _noisy_blocks(volumes, particles, class_i, scale, options):
            stream.write(block.astype(np.dtype(options.dtype).newbyteorder("<")).tobytes())
            if observer is not None:
                observer(len(block))
    names = ["truth.mrc"] if len(maps) == 1 else [f"truth_class{k}.mrc" for k in range(1, len(maps) + 1)]
    for name, values in zip(names, maps, strict=True):
        write_map(folder / name, values * np.float32(scale), pixel_size_angstrom)
    columns = {"rlnClassNumber": class_i + 1}
    particles.write_star(folder / "truth.star", poses=particles.poses, extra_columns=columns)
    hidden = replace(particles, poses=None)
    hidden.write_star(folder / "particles.star", poses=particles.poses if options.write_poses else None)
    map_paths = tuple(folder / name for name in names)
    return SimulatedSet(folder / "particles.star", folder / "truth.star", stack_path, map_paths, scale)


def draw_particles(
    box_px: int, pixel_size_angstrom: float, options: SimulationOptions, folder: Path
) -> tuple[Particles, NDArray[np.int32]]:
    """Draw poses, defoci, half sets and classes of a set whose stack is ``folder/particles.mrcs``.

    Parameters
    ----------
    box_px : int
        Box, pixels.
    pixel_size_angstrom : float
        Pixel size, Angstrom.
    options : SimulationOptions
        What the set is like.
    folder : Path
        Where the stack is or will be.

    Returns
    -------
    particles : Particles
        With poses.
    class_i : (n,) int32
        0-based index of the map each image shows.
    """
    rng, n = np.random.default_rng([options.seed, 0]), options.n_particles
    micrograph_i = (np.arange(n) // options.particles_per_micrograph).astype(np.int32)
    n_micrographs = int(micrograph_i[-1]) + 1
    defocus = rng.uniform(*options.defocus_range_angstrom, n_micrographs)[micrograph_i]
    defocus += rng.normal(0, _HEIGHT_SD_ANGSTROM, n) if np.ptp(options.defocus_range_angstrom) > 0 else 0.0
    half_astigmatism = rng.uniform(0, options.astigmatism_angstrom / 2, n_micrographs)[micrograph_i]
    angle = rng.uniform(0, 180, n_micrographs)[micrograph_i]
    poses = _draw_poses(n, options, rng)
    fractions = np.array(options.fractions or (1.0,))
    particles = Particles(
        optics=tuple(
            OpticsGroup(
                name=f"opticsGroup{number}",
                voltage_kv=m.voltage_kv,
                spherical_aberration_mm=m.spherical_aberration_mm,
                amplitude_contrast=m.amplitude_contrast,
                pixel_size_angstrom=pixel_size_angstrom,
                box_px=box_px,
            )
            for number, m in enumerate(options.microscopes, start=1)
        ),
        optics_index_i=(micrograph_i % len(options.microscopes)).astype(np.int32),
        stack_paths=(folder / _STACK_NAME,),
        stack_names=(_STACK_NAME,),
        stack_index_i=np.zeros(n, np.int32),
        image_index_i=np.arange(n),
        defocus_u_angstrom_i=(defocus + half_astigmatism).round(2),
        defocus_v_angstrom_i=(defocus - half_astigmatism).round(2),
        defocus_angle_deg_i=angle.round(3),
        phase_shift_deg_i=np.full(n, options.phase_shift_deg),
        ctf_bfactor_i=np.full(n, options.bfactor_angstrom2),
        ctf_scale_i=np.ones(n),
        micrograph_names=tuple(f"mic{number:04d}.mrc" for number in range(1, n_micrographs + 1)),
        micrograph_index_i=micrograph_i,
        half_i=(rng.permutation(n) % 2 + 1).astype(np.int8),
        poses=poses,
    )
    return particles, rng.choice(len(fractions), n, p=fractions / fractions.sum()).astype(np.int32)


def noise_free_images(
    volumes: Sequence[FourierVolume],
    class_i: NDArray[np.integer],
    particles: Particles,
    indices: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Images of particles without noise, the inverse transform of C S P_R V.

    Parameters
    ----------
    volumes : sequence of FourierVolume
        One per class.
    class_i : (n_particles,) int
        0-based class of every particle.
    particles : Particles
        With poses.
    indices : (n,) int
        Which particles.

    Returns
    -------
    images : (n, box, box) float32
    """
    if particles.poses is None:
        raise ValueError("particles have no poses to project along")
    poses = particles.poses[indices]
    matrices, box = poses.matrices(), volumes[0].box
    spectra = np.empty((len(indices), box, box // 2 + 1), np.complex64)
    for k, volume in enumerate(volumes):
        members = class_i[indices] == k
        spectra[members] = volume.project(matrices[members])
    pixel = np.array([group.pixel_size_angstrom for group in particles.optics])
    origin_px = np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], axis=1)
    origin_px /= pixel[particles.optics_index_i[indices], None]
    spectra = phase_shift(spectra, -origin_px) * ctf_half_spectrum(box, particles, indices)
    return inverse_fourier_transform_2d(spectra, box)


def noise_images(
    n: int, box_px: int, pixel_size_angstrom: float, spectrum: NoiseSpectrum | None, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gaussian noise of variance 1 whose power follows a radial spectrum.

    Parameters
    ----------
    n : int
        How many images.
    box_px : int
        Box, pixels.
    pixel_size_angstrom : float
        Pixel size, Angstrom.
    spectrum : NoiseSpectrum or None
        Shape of the power; white where None.
    rng : numpy.random.Generator

    Returns
    -------
    noise : (n, box_px, box_px) float32
    """
    white = rng.standard_normal((n, box_px, box_px), dtype=np.float32)
    if spectrum is None:
        return white
    kx, ky = frequencies_2d(box_px)
    frequency = np.hypot(kx, ky) / (box_px * pixel_size_angstrom)
    power = np.interp(frequency, spectrum.frequency_per_angstrom, spectrum.power)
    power *= box_px**2 / (power @ hermitian_weights(box_px)).sum()
    filtered = fourier_transform_2d(white) * np.sqrt(power).astype(np.float32)
    return inverse_fourier_transform_2d(filtered, box_px)


def _draw_poses(n: int, options: SimulationOptions, rng: np.random.Generator) -> Poses:
    rot, psi = rng.uniform(-180, 180, (2, n))
    share, kappa = rng.uniform(0, 1, n), options.direction_concentration
    cosine = 2 * share - 1
    if kappa > 0:  # inverse of the cumulative distribution of cos(tilt), density exp(kappa cos(tilt))
        cosine = 1 + np.log(share + (1 - share) * np.exp(-2 * kappa)) / kappa
    tilt = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    shift = rng.normal(0, options.shift_sd_angstrom, (2, n))
    return Poses(*(values.round(4) for values in (rot, tilt, psi, *shift)))


def _scale_to_unit_noise(
    volumes: Sequence[FourierVolume], particles: Particles, class_i: NDArray[np.integer], snr: float
) -> float:
    """Factor that gives noise-free images the variance ``snr``; from 256 images at most, spread evenly."""
    n_pilot = min(len(particles), _PILOT_IMAGES)
    pilot = np.linspace(0, len(particles) - 1, n_pilot).astype(np.int64)
    variances = [
        noise_free_images(volumes, class_i, particles, part).var(axis=(1, 2))
        for part in np.array_split(pilot, -(-n_pilot // _BLOCK))
    ]
    signal = float(np.concatenate(variances).mean())
    if not np.isfinite(signal) or signal <= 0:
        raise PosterionError("the map is flat or holds values that are not numbers; simulate needs a density")
    return 1.0 if np.isinf(snr) else float(np.sqrt(snr / signal))


def _noisy_blocks(
    volumes: Sequence[FourierVolume],
    particles: Particles,
    class_i: NDArray[np.integer],
    scale: float,
    options: SimulationOptions,
) -> Iterator[NDArray[np.float32]]:
    """Yield the images in order, 64 at a time, each block's noise from a random stream of its own."""
    n, optics = len(particles), particles.optics[0]
    for number, start in enumerate(range(0, n, _BLOCK)):
        indices = np.arange(start, min(start + _BLOCK, n))
        images = noise_free_images(volumes, class_i, particles, indices) * np.float32(scale)
        if np.isfinite(options.snr):
            rng = np.random.default_rng([options.seed, 1, number])
            grid = (optics.box_px, optics.pixel_size_angstrom)
            images += noise_images(len(indices), *grid, options.noise, rng)
        yield images


def _stack_header(particles: Particles, dtype: str) -> bytes:
    """MRC2014 header of an image stack (Cheng et al. 2015, J. Struct. Biol. 192, 146); no statistics."""
    optics = particles.optics[0]
    header = np.zeros((), mrcfile.dtypes.HEADER_DTYPE)
    header["nx"] = header["ny"] = header["mx"] = header["my"] = optics.box_px
    header["nz"], header["mz"] = len(particles), 1
    header["mode"] = mrcfile.utils.mode_from_dtype(np.dtype(dtype))
    edge = optics.box_px * optics.pixel_size_angstrom
    header["cella"], header["cellb"] = (edge, edge, optics.pixel_size_angstrom), (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = 0, -1, -2, -1
    header["map"], header["nversion"] = mrcfile.constants.MAP_ID, 20141
    header["machst"] = mrcfile.utils.machine_stamp_from_byte_order("<")
    return header.tobytes()


def _check(maps: Sequence[NDArray[np.floating]], folder: Path, options: SimulationOptions) -> None:
    """Refuse what cannot be simulated, before anything is written."""
    shapes = {values.shape for values in maps}
    shape = next(iter(shapes), ())
    if len(shapes) != 1 or len(shape) != 3 or len(set(shape)) != 1:
        raise PosterionError(f"simulate needs cubic maps of one box, got {sorted(shapes)}")
    low, high = options.defocus_range_angstrom
    positive = options.n_particles >= 1 and options.particles_per_micrograph >= 1 and options.snr > 0
    fractions = options.fractions
    complaints = {
        "the numbers of particles and of particles per micrograph and the SNR must be positive": not positive,
        f"defocus range {low:g} {high:g} must rise": low > high,
        f"{len(fractions)} fractions do not go with {len(maps)} maps": len(fractions) not in {0, len(maps)},
        "fractions must be positive": any(fraction <= 0 for fraction in fractions),
        "stack type must be float16 or float32": options.dtype not in {"float16", "float32"},
        "amplitude contrast must lie between 0 and 1": any(
            not 0 <= m.amplitude_contrast <= 1 for m in options.microscopes
        ),
        "at least one microscope with a positive voltage is needed": not options.microscopes
        or any(m.voltage_kv <= 0 for m in options.microscopes),
        f"{folder} already holds a particle set; choose another folder": (folder / "particles.star").exists(),
    }
    for sentence, wrong in complaints.items():
        if wrong:
            raise PosterionError(sentence)
