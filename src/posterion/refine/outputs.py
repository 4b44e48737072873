"""What lies in the output folder at the end: maps, curves, particle table, lists and summaries."""

from __future__ import annotations

import dataclasses
import json
import logging
import resource
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterion.data.atomic import write_text
from posterion.data.mrc import write_map
from posterion.data.outliers import scale_warnings, why_left_out
from posterion.data.output_folder import OutputFolder
from posterion.data.particles import Particles, Poses
from posterion.data.unread import with_text
from posterion.errors import PosterionError
from posterion.mapping.fsc import FscCurves, fsc_curves, write_fsc
from posterion.mapping.masks import MaskOptions, automatic_mask
from posterion.mapping.postprocess import fsc_warnings
from posterion.mapping.reconstruct import Reconstruction
from posterion.physics.soft_masks import soft_sphere
from posterion.refine.state import IterationInfo, ParticleEstimates

__all__ = [
    "ResultMaps",
    "judge",
    "peak_memory_bytes",
    "resolutions",
    "result_mask",
    "versions",
    "warn_of_left_out",
    "write_iterations",
    "write_maps",
    "write_particles",
    "write_quarantine",
    "write_reconstruction",
    "write_summary",
]

Map = NDArray[np.float32]

_LOG = logging.getLogger("posterion")


@dataclass(frozen=True)
class ResultMaps:
    """The maps of a finished run.

    Attributes
    ----------
    filtered : (n, n, n) float32, of all particles, regularised: the one to look at
    unfiltered : (n, n, n) float32, of all particles, without regularisation
    half1, half2 : (n, n, n) float32, of the halves, without regularisation
    mask : (n, n, n) float32 in [0, 1], for the FSC
    """

    filtered: Map
    unfiltered: Map
    half1: Map
    half2: Map
    mask: Map


def result_mask(filtered: Map, solvent: Map, pixel_size_angstrom: float) -> Map:
    """Make a mask for the FSC from the map, or take the solvent mask where the map has no density."""
    widest = max(15.0, 5 * pixel_size_angstrom)
    options = MaskOptions(lowpass_angstrom=widest, soft_edge_angstrom=widest)
    try:
        return automatic_mask(filtered * solvent, pixel_size_angstrom, options)
    except PosterionError:
        return solvent


def judge(
    maps: ResultMaps, pixel_size_angstrom: float, seed: int, workers: int
) -> tuple[FscCurves, tuple[str, ...]]:
    """Compute the four FSC curves of the halves, and in words what speaks against them."""
    halves = maps.half1, maps.half2
    curves = fsc_curves(*halves, pixel_size_angstrom, maps.mask, seed=seed, workers=workers)
    return curves, fsc_warnings(curves)


def write_maps(folder: Path, maps: ResultMaps, curves: FscCurves) -> None:
    """Write map.mrc, map_unfiltered.mrc, half1.mrc, half2.mrc, mask.mrc and fsc.tsv."""
    named = {
        "map.mrc": maps.filtered,
        "map_unfiltered.mrc": maps.unfiltered,
        "half1.mrc": maps.half1,
        "half2.mrc": maps.half2,
        "mask.mrc": maps.mask,
    }
    for name, values in named.items():
        write_map(folder / name, values, curves.pixel_size_angstrom)
    write_fsc(curves, folder / "fsc.tsv")


def write_particles(
    path: Path, particles: Particles, half_i: NDArray[np.int8], estimates: ParticleEstimates
) -> None:
    """Write the particle table: usable particles only, all columns of the source, and what was found.

    Poses and half ids replace the source's. ``rlnMaxValueProbDistribution`` is the largest posterior weight
    of one pose, ``rlnLogLikeliContribution`` the log-likelihood, ``posterionEffectiveOrientations`` how many
    orientations the posterior spreads over: the exponential of its entropy.

    Parameters
    ----------
    path : STAR file
    particles : the set
    half_i : (N,) int8, half ids as used
    estimates : of each particle
    """
    shifts = estimates.shifts_px.astype(np.float64) * particles.pixel_size_angstrom
    poses = Poses.from_matrices(estimates.matrices.astype(np.float64), shifts)
    kept = np.flatnonzero(estimates.usable)
    columns = {
        "rlnMaxValueProbDistribution": estimates.pmax[kept],
        "rlnLogLikeliContribution": estimates.log_likelihood[kept],
        "posterionEffectiveOrientations": estimates.effective_orientations[kept],
    }
    if particles.contrast_sign_i is not None and (particles.contrast_sign_i < 0).any():
        _LOG.warning(
            "particles are dark in the stacks and %s cannot say so: give --invert-contrast where it is read",
            path.name,
        )
    changed = dataclasses.replace(with_text(particles), half_i=half_i, poses=poses)
    changed[kept].write_star(path, extra_columns=columns)


def write_quarantine(path: Path, particles: Particles, usable: NDArray[np.bool_]) -> tuple[str, ...]:
    """List images that were left out, one a line with its place and the reason; no file where there are none.

    Parameters
    ----------
    path : text file
    particles : the set
    usable : (N,) bool, False for images that were read and found bad

    Returns
    -------
    the lines
    """
    if usable.all():
        return ()
    particles = with_text(particles)
    lines = tuple(why_left_out(particles, int(row)) for row in np.flatnonzero(~usable))
    write_text(path, "\n".join(lines) + "\n")
    return lines


def warn_of_left_out(lines: tuple[str, ...], count: int) -> None:
    """Say how many images of those read were left out, and why the first of them was.

    Parameters
    ----------
    lines : as from `write_quarantine`; at least one
    count : how many images were read
    """
    share = f"{len(lines):,} of {count:,} images ({100 * len(lines) / count:.3g} %)"
    _LOG.warning("left out, see quarantine.txt: %s, the first: %s", share, lines[0])


def write_reconstruction(
    folder: OutputFolder, made: Reconstruction, particles: Particles, options: dict[str, Any]
) -> dict[str, Any]:
    """Write the maps, curves and summary.json of a reconstruction, in place of an earlier one's.

    Returns
    -------
    what summary.json says
    """
    pixel_size = particles.pixel_size_angstrom
    sphere = soft_sphere(particles.box_px, 0.45 * particles.box_px, edge_px=5)
    mask = result_mask(made.map, sphere, pixel_size)
    maps = ResultMaps(made.map, made.map_unfiltered, made.half1, made.half2, mask)
    curves, warnings = judge(maps, pixel_size, options["seed"], workers=1)
    folder.begin()
    write_maps(folder.path, maps, curves)
    usable = np.ones(len(particles), bool)
    usable[made.left_out_i] = False
    left_out = write_quarantine(folder.path / "quarantine.txt", made.particles, usable)
    if left_out:
        warn_of_left_out(left_out, len(particles))
    summary = {
        **resolutions(curves),
        "particles": len(particles),
        "quarantined": list(left_out),
        **options,
        "peak_memory_bytes": peak_memory_bytes(),
        "warnings": [*scale_warnings(made.particles), *warnings],
        "versions": versions(),
    }
    folder.finish(summary)
    return summary


def write_iterations(path: Path, history: tuple[IterationInfo, ...]) -> None:
    """Write iterations.jsonl: one JSON object per finished iteration."""
    write_text(path, "".join(json.dumps(dataclasses.asdict(info)) + "\n" for info in history))


def resolutions(curves: FscCurves) -> dict[str, Any]:
    """Resolutions in Angstrom, with what they were measured on."""
    return {
        "resolution_angstrom": curves.resolution(),
        "resolution_masked_angstrom": curves.resolution(curve="masked"),
        "resolution_unmasked_angstrom": curves.resolution(curve="unmasked"),
        "box_px": curves.box_px,
        "pixel_size_angstrom": curves.pixel_size_angstrom,
    }


def versions() -> dict[str, str]:
    """Versions of what computed a result."""
    return {name: version(name) for name in ("posterion", "numpy", "scipy", "numba")}


def write_summary(path: Path, values: dict[str, Any]) -> None:
    """Write summary.json; the last file of a run, so where it is the run is finished."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
