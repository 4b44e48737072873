"""All turns in the plane by harmonics against matrix products over pixels: what the dense pass costs.

    python benchmarks/harmonics.py MAP.mrc --diameter 300 [--box 128] [--snr 0.01] [--images 32] [--shifts]

Images simulated from the map are compared with it on whole grids of orientations, by pixels
(`SharedGrid`) and by harmonics (`PolarReference`), in turn, best of three. "scores" is the cost of all
log-probabilities of an image, "step" that of the expectation step, with posterior, expected reference and
what the M-step sums, without its one insertion. Errors are the standard deviation of the scores of all poses
against those of pixels with a volume padded fourfold, beside the spread of the scores themselves.

--shifts measures instead what wide ranges of shifts cost on pixels, one by one and from few, where that is
done; errors are those of the latter: standard deviation over all poses, and the largest within 10 nats of
each image's best.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from posterion.data.mrc import read_map
from posterion.data.particles import Particles
from posterion.inference import exhaustive
from posterion.inference.exhaustive import SharedGrid, dense_log_prob
from posterion.inference.expectation import expect_batch
from posterion.inference.images import ImageBatch, NoiseModel, prepare_images
from posterion.inference.polar import PolarReference, polar_log_prob
from posterion.inference.priors import PosePrior
from posterion.inference.search import Level, SearchPlan
from posterion.physics.fourier import resample
from posterion.physics.polar import PolarGrid
from posterion.physics.projection import FourierVolume
from posterion.physics.shift_interpolation import ShiftInterpolation, interpolation
from posterion.physics.simulate import SimulationOptions, simulate

GRIDS = ((2, 12, 4.0, 2.0), (2, 20, 2.5, 1.0), (3, 20, 2.5, 1.0), (3, 32, 2.5, 1.0))
"""HEALPix order, shells, range and step of the shifts."""
WIDE_GRIDS = (
    (2, 12, 10.0, 2.0),
    (2, 12, 20.0, 2.0),
    (2, 12, 10.0, 1.0),
    (2, 20, 5.0, 1.0),
    (2, 20, 10.0, 1.0),
)
TOGETHER = 8
HEAD = (
    "| step | shells | directions x turns | shifts | scores: pixels, ms | harmonics | step: pixels | "
    "harmonics | ratio | error: pixels, harmonics |"
)
WIDE_HEAD = (
    "| shells | range, px | step | shifts | few | scores: all, few, ms | ratio | step: all, few | ratio | "
    "error |"
)


def plan_of(order: int, radius: int, range_px: float, step_px: float) -> SearchPlan:
    """One level, nothing known."""
    level = Level(order, radius, step_px)
    return SearchPlan((level,), range_px, 15.0, 200, "C1", np.eye(3), PosePrior.uniform(2.0))


def reduced(args: argparse.Namespace) -> tuple[NDArray[np.float32], float]:
    """Map on the box of the images, and its pixel size."""
    volume, pixel = read_map(args.map)
    return np.asarray(resample(volume, args.box), np.float32), pixel * len(volume) / args.box


def prepared(args: argparse.Namespace, folder: Path, radius: int) -> tuple[ImageBatch, tuple[PolarGrid, ...]]:
    """Noisy images of the map, with the grids on which they are sampled."""
    density, pixel = reduced(args)
    options = SimulationOptions(args.images, args.snr, dtype="float32", shift_sd_angstrom=pixel, seed=3)
    particles = Particles.read(simulate([density], pixel, folder, options).truth_path)
    diameter_px = args.diameter / pixel
    grids = (
        PolarGrid.of(args.box, radius, diameter_px + 10, diameter_px + 10),
        PolarGrid.of(args.box, radius, args.box, 1.42 * args.box),
    )
    none = np.zeros(args.images, np.int32)
    noise = NoiseModel(np.full((1, args.box // 2 + 1), float(args.box**2)), none, np.ones(1), none)
    index_i = np.arange(args.images)
    images, zero = particles.images(index_i), np.zeros((args.images, 2))
    return prepare_images(particles, index_i, images, radius, diameter_px, noise, zero, polar=grids), grids


def milliseconds(runs: list[Callable[[], object]], images: int) -> list[float]:
    """CPU milliseconds per image of each, the best of three rounds in which they take turns."""
    best = [np.inf] * len(runs)
    for turn in range(4):
        for i, run in enumerate(runs):
            start = time.process_time()
            run()
            if turn:
                best[i] = min(best[i], 1e3 * (time.process_time() - start) / images)
    return best


def harmonic_scores(batch: ImageBatch, reference: PolarReference, plan: SearchPlan) -> NDArray[np.float32]:
    """Scores as `dense_log_prob` lays them out, (n, T, R)."""
    parts = []
    for first in range(0, len(batch), TOGETHER):
        rows = slice(first, min(first + TOGETHER, len(batch)))
        log_prob, _, _ = polar_log_prob(batch, rows, reference, plan)
        parts.append(log_prob.transpose(2, 3, 1, 0).reshape(log_prob.shape[2], log_prob.shape[3], -1))
    return np.concatenate(parts)


def measure(args: argparse.Namespace, folder: Path, grid: tuple[int, int, float, float]) -> str:
    """One row of the table."""
    plan, radius = plan_of(*grid), grid[1]
    batch, grids = prepared(args, folder, radius)
    truth, _ = reduced(args)
    shared = SharedGrid.of(FourierVolume.from_map(truth, radius), plan)
    exact = SharedGrid.of(FourierVolume.from_map(truth, radius, padding=4), plan)
    reference = PolarReference.of(truth, plan, *grids)
    times = milliseconds(
        [
            lambda: dense_log_prob(batch, shared, plan),
            lambda: [
                polar_log_prob(batch, slice(i, min(i + TOGETHER, len(batch))), reference, plan)
                for i in range(0, len(batch), TOGETHER)
            ],
            lambda: expect_batch(batch, FourierVolume.from_map(truth, radius), plan, shared, None),
            lambda: expect_batch(batch, FourierVolume.from_map(truth, radius), plan, reference, None),
        ],
        len(batch),
    )
    scores, _ = dense_log_prob(batch, exact, plan)
    errors = [
        float((found - scores).std())
        for found in (dense_log_prob(batch, shared, plan)[0], harmonic_scores(batch, reference, plan))
    ]
    cells = (
        f"{60 / 2 ** grid[0]:g} | {radius} | {len(reference.frames)} x {reference.turns} | {scores.shape[1]}"
    )
    cost = f"{times[0]:.2f} | {times[1]:.2f} | {times[2]:.2f} | {times[3]:.2f} | {times[2] / times[3]:.1f}"
    return f"| {cells} | {cost} | {errors[0]:.2f}, {errors[1]:.2f} of {scores.std():.1f} |"


def one_by_one(*_: object) -> ShiftInterpolation | None:
    """In place of `interpolation`: none."""
    return None


def by(rule: Callable[..., ShiftInterpolation | None], run: Callable[[], Any]) -> Callable[[], Any]:
    """Do something with shifts by a rule."""

    def ruled() -> Any:
        with patch.object(exhaustive, "interpolation", rule):
            return run()

    return ruled


def measure_shifts(args: argparse.Namespace, folder: Path, grid: tuple[int, int, float, float]) -> str:
    """One row of the table of wide ranges."""
    plan, radius = plan_of(*grid), grid[1]
    batch, _ = prepared(args, folder, radius)
    volume = FourierVolume.from_map(reduced(args)[0], radius)
    shared = SharedGrid.of(volume, plan)
    scores = [by(rule, lambda: dense_log_prob(batch, shared, plan)) for rule in (one_by_one, interpolation)]
    steps = [
        by(rule, lambda: expect_batch(batch, volume, plan, shared, None))
        for rule in (one_by_one, interpolation)
    ]
    times = milliseconds([*scores, *steps], len(batch))
    (every, shifts_px), (found, _) = (run() for run in scores)
    few = interpolation(shifts_px, shared.pixels)
    near = every > every.max(axis=(1, 2), keepdims=True) - 10
    error = f"{(found - every).std():.3f}, {np.abs(found - every)[near].max():.3f}"
    kept = "-" if few is None else len(few.kept_s)
    cells = f"{radius} | {grid[2]:g} | {grid[3]:g} | {len(shifts_px)} | {kept}"
    cost = " | ".join(f"{a:.2f}, {b:.2f} | {a / b:.2f}" for a, b in (times[:2], times[2:]))
    return f"| {cells} | {cost} | {error} |"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map", type=Path)
    parser.add_argument("--diameter", type=float, required=True, help="Angstrom")
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--snr", type=float, default=0.01)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--tiny", action="store_true", help="one small grid: to try the script")
    parser.add_argument("--shifts", action="store_true", help="wide ranges of shifts instead")
    args = parser.parse_args()
    print(WIDE_HEAD if args.shifts else HEAD, "|---|---|---|---|---|---|---|---|---|---|", sep="\n")
    grids = WIDE_GRIDS if args.shifts else GRIDS
    row = measure_shifts if args.shifts else measure
    for grid in ((1, 5, 1.0, 1.0),) if args.tiny else grids:
        with tempfile.TemporaryDirectory() as folder:
            print(row(args, Path(folder), grid), flush=True)


if __name__ == "__main__":
    main()
