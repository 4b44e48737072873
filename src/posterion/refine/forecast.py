"""How much memory and time a refinement will need, said before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from posterion.refine.state import RefineConfig

__all__ = ["Forecast", "forecast", "memory_available_bytes"]

_BASE_BYTES = 320e6  # the interpreter, its libraries and compiled kernels
_BYTES_PER_THREAD = 120e6  # a batch of images with its scores
_BYTES_PER_PARTICLE = 300.0
_BYTES_PER_VOXEL = 550.0  # both halves' sums, their solve and transform, at the last iteration's full radius
_START_SECONDS = 4.0
_SECONDS_PER_PARTICLE = 0.08  # CPU time of a whole run, a core of 2.5 GHz with AVX2; twice that at box 128
_SECONDS_PER_VOXEL = 1.4e-6  # CPU time of an iteration's transforms and solves
_TYPICAL_ITERATIONS = 9
_SPEEDUP = 0.9  # exponent: wall time falls as threads**0.9
_FILES = 5


@dataclass(frozen=True)
class Forecast:
    """What a run will need.

    Attributes
    ----------
    memory_bytes : peak of resident memory, reached in the last iteration, which uses all frequencies
    seconds : wall time of the whole run; good to a factor of two
    disk_bytes : of all files, the state between iterations among them
    """

    memory_bytes: float
    seconds: float
    disk_bytes: float


def forecast(n_particles: int, box_px: int, config: RefineConfig, threads: int) -> Forecast:
    """Forecast memory, time and disk from the sizes that matter; the constants were fitted to measured runs.

    ``memory = base + a threads + b N + c n^3``; CPU time grows with particles and the pixels of an image, and
    with the voxels of the map in each iteration.

    Parameters
    ----------
    n_particles : how many images
    box_px : of the images
    config : of the run
    threads : that work at a time
    """
    voxels = float(box_px) ** 3
    memory = _BASE_BYTES + threads * _BYTES_PER_THREAD + n_particles * _BYTES_PER_PARTICLE
    memory += voxels * _BYTES_PER_VOXEL
    iterations = min(_TYPICAL_ITERATIONS, config.max_iterations)
    of_images = n_particles * _SECONDS_PER_PARTICLE * (1 + (box_px / 128) ** 2) / _TYPICAL_ITERATIONS
    seconds = _START_SECONDS + iterations * (of_images + _SECONDS_PER_VOXEL * voxels) / threads**_SPEEDUP
    return Forecast(memory, seconds, (_FILES + 2) * 4 * voxels + 300 * n_particles)


def memory_available_bytes() -> float | None:
    """Memory that the machine can still give without swapping, bytes; None where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    return 1024.0 * kilobytes
