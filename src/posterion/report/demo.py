"""The main job on data that the package makes itself: simulate, refine, and compare with the known truth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.compute import NullProgress, StageProgress
from posterion.data.mrc import read_map, write_map
from posterion.data.particles import Particles
from posterion.mapping.fsc import fourier_shell_correlation, resolution_at
from posterion.mapping.masks import low_pass
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.simulate import SimulationOptions, simulate
from posterion.physics.sources import read_source
from posterion.refine.options import RefineOptions
from posterion.refine.run import RefineResult, refine
from posterion.report.run_figures import draw_run

__all__ = ["DemoResult", "demo", "pose_errors_deg"]

_BOX_PX, _PIXEL_SIZE_ANGSTROM = 64, 2.8
_DIAMETER_ANGSTROM = 150.0
_REFERENCE_ANGSTROM = 40.0
_IMAGES = SimulationOptions(n_particles=500, snr=0.1, shift_sd_angstrom=6.0, seed=1)


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made and how near the truth it came.

    Attributes
    ----------
    images : folder of the simulated set: particles.star, particles.mrcs, truth.star, truth.mrc, reference.mrc
    refined : the refinement
    truth_resolution_angstrom : where the FSC of map and truth inside the mask falls below 0.5
    median_error_deg : median angle between refined and true poses
    seconds : wall time of each stage
    """

    images: Path
    refined: RefineResult
    truth_resolution_angstrom: float
    median_error_deg: float
    seconds: dict[str, float] = field(default_factory=dict)


def demo(
    output: str | Path, threads: int | None = None, progress: StageProgress = NullProgress
) -> DemoResult:
    """Simulate 500 noisy images of the embedded assembly, refine them from a 40 A map, compare with it.

    Run again in the same folder, it goes on where it stopped.

    Parameters
    ----------
    output : folder; made where needed
    threads : all cores where None
    progress : shows how far it is
    """
    folder, seconds = Path(output), dict[str, float]()
    images = folder / "images"
    with _timed(seconds, "simulate"):
        if not (images / "particles.star").exists():
            _make_images(images, progress)
    with _timed(seconds, "refine"):
        refined = refine(
            images / "particles.star",
            images / "reference.mrc",
            folder / "refined",
            _DIAMETER_ANGSTROM,
            RefineOptions(threads=threads),
            progress,
        )
    with _timed(seconds, "figures"):
        draw_run(refined.folder)
    truth_resolution = _resolution_against(images / "truth.mrc", refined.folder)
    error = pose_errors_deg(refined.folder / "particles.star", images / "truth.star")
    return DemoResult(images, refined, truth_resolution, float(np.median(error)), seconds)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def _make_images(folder: Path, progress: StageProgress) -> None:
    """Write the particle set, its truth, and a starting map: the truth without anything finer than 40 A."""
    density, pixel_size = read_source(None, _BOX_PX, _PIXEL_SIZE_ANGSTROM)
    start = low_pass(density, _REFERENCE_ANGSTROM, pixel_size)
    write_map(folder / "reference.mrc", start, pixel_size)
    with progress("simulation", _IMAGES.n_particles, "images") as stage:
        simulate([density], pixel_size, folder, _IMAGES, stage.advance)


def _resolution_against(truth_path: Path, folder: Path) -> float:
    truth, pixel_size = read_map(truth_path)
    mask, _ = read_map(folder / "mask.mrc")
    found, _ = read_map(folder / "map.mrc")
    return resolution_at(fourier_shell_correlation(found * mask, truth * mask), 0.5, pixel_size, len(truth))


def pose_errors_deg(found_path: Path, truth_path: Path) -> NDArray[np.float64]:
    """Angles between the poses of two tables of the same images, up to one rotation of the whole frame.

    That rotation is the mean of ``R_true^T R_found`` over the better half of the images.

    Parameters
    ----------
    found_path, truth_path : particle files; images are matched by number within their stack

    Returns
    -------
    (n,) float64, degrees
    """
    found, truth = Particles.read(found_path), Particles.read(truth_path)
    row = np.argsort(truth.image_index_i)[np.searchsorted(np.sort(truth.image_index_i), found.image_index_i)]
    ours, theirs = found.require_poses().matrices(), truth.require_poses().matrices()[row]
    turn_i = theirs.transpose(0, 2, 1) @ ours
    error_i = angular_distance_deg(ours, theirs)
    turn = Rotation.from_matrix(turn_i[error_i <= np.median(error_i)]).mean().as_matrix()
    return np.asarray(angular_distance_deg(ours, theirs @ turn))
