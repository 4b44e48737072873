"""How much memory and time a refinement will need, said before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from posterion.refine.state import RefineConfig

__all__ = ["Forecast", "forecast", "memory_available_bytes"]

_BASE_BYTES = 330e6  # the interpreter, its libraries and compiled kernels
_BYTES_PER_PARTICLE = 300.0
_BYTES_PER_VOXEL = 480.0  # both halves' sums, their solve and transform, at the last iteration's full radius
_BYTES_PER_PIXEL = 32 * 400.0  # of one thread: 32 images, shifted copies and posterior-weighted sums
_START_SECONDS = 3.0
_SECONDS_PER_PARTICLE = 0.20  # CPU time of a whole run at box 128 and 300 A, a core of 2.5 GHz with AVX2
_SECONDS_PER_VOXEL = 3e-6  # CPU time of solving both halves, once
_TYPICAL_ITERATIONS = 12
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

    ``memory = base + a N + b n^3 + threads c n^2``; CPU time grows with particles times pixels per image, and
    with the padded volume in each iteration.

    Parameters
    ----------
    n_particles : how many images
    box_px : of the images
    config : of the run
    threads : that work at a time
    """
    voxels, pixels = float(box_px) ** 3, float(box_px) ** 2
    memory = _BASE_BYTES + _BYTES_PER_PARTICLE * n_particles + _BYTES_PER_VOXEL * voxels
    memory += threads * _BYTES_PER_PIXEL * pixels
    iterations = min(_TYPICAL_ITERATIONS, config.max_iterations)
    of_images = n_particles * _SECONDS_PER_PARTICLE * pixels / 128**2 / _TYPICAL_ITERATIONS
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
