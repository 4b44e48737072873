"""Roofline of the kernels: what each achieves of this machine's multiply-adds and memory, in one run.

    python benchmarks/kernels.py [--orientations 1152] [--repeats 5]

One thread, CPU seconds, best of some rounds in which all candidates take turns, so that other load on the
machine hits all alike. The peak is a float32 matrix product of the E-step's shape, the bandwidth a copy
between arrays too large for the caches. Operations are those of the mathematics (additions, subtractions,
multiplications; a multiply-add is two). Bytes are the distinct cache lines that a slice touches, as if
nothing were left of the slice before: above 100 % the caches served them.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from posterion.inference.likelihood import cross_and_norm
from posterion.kernels import (
    SCORE_TERMS,
    gather_slices,
    scatter_slices,
    score_poses,
    shift_spectrum,
    sum_unshifted,
)
from posterion.physics.fourier import Disc, disc
from posterion.physics.sampling import RotationGrid

BOX, PADDING, LINE, SHIFTS, IMAGES = 130, 2, 64, 21, 16
# Operations a sample: where it lies 18, one trilinear value 21; see kernels/bodies.py.
OPERATIONS = {"gather": 60, "scatter": 104, "score": 210, "shift": 12, "unshift": 14}


@dataclass
class Task:
    """One kernel on one problem.

    Attributes
    ----------
    label : kernel, radius and order
    run : does it once
    samples : samples of one run
    operations : additions and multiplications of one run
    line_bytes : bytes of cache lines that one run touches
    """

    label: str
    run: Callable[[], object]
    samples: int
    operations: float
    line_bytes: float


def best_seconds(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Shortest CPU time of each, taking turns; the first round compiles."""
    best = [np.inf] * len(runs)
    for turn in range(repeats + 1):
        for i, run in enumerate(runs):
            start = time.process_time()
            run()
            if turn > 0:
                best[i] = min(best[i], time.process_time() - start)
    return best


def orientations(count: int, order: str) -> NDArray[np.float64]:
    """Neighbouring views of a 7.5-degree grid, all in-plane angles of a view together, or any at random."""
    grid = RotationGrid(3, np.eye(3))
    cells = grid.all_cells()
    if order == "random":
        cells = np.random.default_rng(0).permutation(cells)
    return grid.matrices(cells[:count])


def lines_per_slice(axes_r: NDArray[np.float32], pixels: Disc, centre: int, bytes_a_voxel: int) -> float:
    """Distinct cache lines of the eight neighbours of a slice's samples, mean over a few slices."""
    found = []
    size, width = 2 * centre + 1, centre + 1
    for axes in axes_r[:: max(len(axes_r) // 8, 1)]:
        q = pixels.kx_p[:, None] * axes[0] + pixels.ky_p[:, None] * axes[1]
        q *= np.where(q[:, :1] < 0, -1, 1)
        x, y, z = np.floor(q).astype(np.int64).T + np.array([[0], [centre], [centre]])
        voxels = [
            ((z + dz) * size + y + dy) * width + x + dx for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)
        ]
        found.append(len(np.unique(np.stack(voxels) * bytes_a_voxel // LINE)))
    return float(np.mean(found))


def slice_tasks(radius: int, order: str, count: int) -> list[Task]:
    """Gather, scatter and the scores of poses, on one set of orientations."""
    rng = np.random.default_rng(1)
    pixels = disc(BOX, radius)
    n, rows = len(pixels), (pixels.row_ky, pixels.row_first_kx, pixels.row_start)
    centre = PADDING * radius + 2
    shape = (2 * centre + 1, 2 * centre + 1, centre + 1)
    volume, sums = rng.normal(size=(*shape, 2)).astype(np.float32), np.zeros((*shape, 4), np.float32)
    axes = (PADDING * orientations(count, order)).astype(np.float32)
    two = np.ascontiguousarray(axes[:, :2])
    slices, weights = np.zeros((count, n, 2), np.float32), rng.uniform(0.5, 1, (count, n)).astype(np.float32)
    whitened = (rng.normal(size=(IMAGES, n)) + 1j * rng.normal(size=(IMAGES, n))).astype(np.complex64)
    ctf2, image_r = weights[:IMAGES].copy(), (np.arange(count) * IMAGES // count).astype(np.int32)
    shifts, terms = rng.normal(0, 2, (count, 2)), np.zeros((count, SCORE_TERMS))
    whole = (0, shape[0])
    scored = volume, centre, axes, shifts, image_r, rows, BOX, whitened, ctf2
    runs: dict[str, tuple[Callable[[], object], float]] = {
        "gather": (lambda: gather_slices(volume, centre, two, rows, slices), 8),
        "scatter": (lambda: scatter_slices(sums, centre, two, rows, slices, weights, whole), 16),
        "score": (lambda: score_poses(*scored, terms), 8),
    }
    tasks = []
    for kernel, (run, voxel) in runs.items():
        moved = (
            lines_per_slice(axes, pixels, centre, int(voxel))
            * LINE
            * count
            * (2 if kernel == "scatter" else 1)
        )
        label = f"{kernel} | {radius} | {order}"
        tasks.append(Task(label, run, count * n, OPERATIONS[kernel] * count * n, moved))
    return tasks


def dense_tasks(radius: int) -> list[Task]:
    """Shifts of one image, and the two matrix products of the dense E-step with their operands' squares."""
    rng = np.random.default_rng(2)
    pixels = disc(BOX, radius)
    n, rows = len(pixels), (pixels.row_ky, pixels.row_first_kx, pixels.row_start)
    shifts = rng.normal(0, 2, (SHIFTS, 2))
    image, moved = np.ones(n, np.complex64), np.zeros((SHIFTS, n), np.complex64)
    n_slices, moves = 1152, IMAGES * SHIFTS * n
    slices = (rng.normal(size=(n_slices, n)) + 1j).astype(np.complex64)
    spectra, ctf2 = np.tile(moved, (64, 1)), np.ones((64, n), np.float32)
    product = 4 * len(spectra) * n_slices * n + 2 * len(ctf2) * n_slices * n
    products = len(spectra) * n_slices * n
    return [
        Task(
            f"shift | {radius} | -",
            lambda: [shift_spectrum(image, BOX, rows, shifts, moved) for _ in range(IMAGES)],
            moves,
            OPERATIONS["shift"] * moves,
            16 * moves,
        ),
        Task(
            f"unshift | {radius} | -",
            lambda: [sum_unshifted(moved, BOX, rows, shifts, image) for _ in range(IMAGES)],
            moves,
            OPERATIONS["unshift"] * moves,
            16 * moves,
        ),
        Task(
            f"dense pair | {radius} | -",
            lambda: cross_and_norm(slices, spectra, ctf2),
            products,
            product,
            8 * n * (len(spectra) + n_slices),
        ),
    ]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orientations", type=int, default=1152)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    a, b = np.ones((1344, 1256), np.float32), np.ones((1256, 4608), np.float32)
    source = np.ones(2**26, np.float32)
    target = source.copy()
    with threadpool_limits(1):
        tasks = []
        for radius in (32, 64):
            for order in ("random", "sorted"):
                tasks += slice_tasks(radius, order, options.orientations)
            tasks += dense_tasks(radius)
        runs = [lambda: a @ b, lambda: np.copyto(target, source), *(task.run for task in tasks)]
        seconds = best_seconds(runs, options.repeats)
    peak, bandwidth = 2 * a.size * b.shape[1] / seconds[0], 2 * source.nbytes / seconds[1]
    print(f"float32 matrix product {peak / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s, one thread\n")
    print("| kernel | r | order | Msamples/s | GFLOP/s | of the peak | GB/s of lines | of the bandwidth |")
    print("|---|---|---|---|---|---|---|---|")
    for task, t in zip(tasks, seconds[2:], strict=True):
        flops, moved = task.operations / t, task.line_bytes / t
        print(
            f"| {task.label} | {task.samples / t / 1e6:.0f} | {flops / 1e9:.1f} | {flops / peak:.0%} "
            f"| {moved / 1e9:.1f} | {moved / bandwidth:.0%} |"
        )


if __name__ == "__main__":
    main()
