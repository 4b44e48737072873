"""What each search of poses costs, keeps and loses, on images simulated from a map.

    python benchmarks/searches.py MAP.mrc --diameter 300 [--box 128] [--snr 0.05] [--images 200] [--radius 40]

Every rule searches the same images with the true map: ``margin`` is the adaptive search, ``posterior:F`` and
``full-band:F`` branch and bound with a stated failure rate F. Prints, per rule, CPU milliseconds per image
(with the slices of the shared grid), the mean and median share of the poses that survives each level, and
the share of images whose best pose was lost: the best that any rule found, or a search around the true pose.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from posterion.data.mrc import read_map
from posterion.data.particles import Particles
from posterion.inference.adaptive import LevelImages, refine, score, survivors_divided
from posterion.inference.branch_and_bound import BranchAndBound
from posterion.inference.exhaustive import SharedGrid, complete_candidates, dense_log_prob
from posterion.inference.images import ImageBatch, NoiseModel, prepare_images
from posterion.inference.posterior import Support
from posterion.inference.priors import PosePrior
from posterion.inference.search import Candidates, SearchPlan, margin_rule
from posterion.physics.fourier import resample
from posterion.physics.projection import FourierVolume
from posterion.physics.simulate import SimulationOptions, simulate
from posterion.refine.schedule import SearchGeometry, SearchState, search_levels

SHIFT_RANGE_PX = 3.0
CHUNK = 4


def plan_of(args: argparse.Namespace, pixel: float, small_cells: bool) -> SearchPlan:
    """Levels as the schedule makes them, the last grid twice as fine as the band needs."""
    fine = SearchState(fineness=2.0)
    geometry = SearchGeometry(args.radius, args.radius, args.box, args.diameter / pixel, SHIFT_RANGE_PX, 1)
    levels, _ = search_levels(geometry, fine, small_cells=small_cells)
    prior = PosePrior.uniform(1.5)
    return SearchPlan(levels, SHIFT_RANGE_PX, 15.0, 200, "C1", np.eye(3), prior)


def batches(particles: Particles, args: argparse.Namespace) -> list[ImageBatch]:
    """Images prepared a few at a time, with white noise of variance 1 known."""
    none = np.zeros(len(particles), np.int32)
    noise = NoiseModel(np.full((1, args.box // 2 + 1), float(args.box**2)), none, np.ones(1), none)
    made = []
    for start in range(0, len(particles), CHUNK):
        index_i = np.arange(start, min(start + CHUNK, len(particles)))
        images, zero = particles.images(index_i), np.zeros((len(index_i), 2))
        made.append(prepare_images(particles, index_i, images, args.radius, 0.85 * args.box, noise, zero))
    return made


def search(name: str, volume: FourierVolume, plan: SearchPlan, images: list[ImageBatch]) -> list[Support]:
    """Search all images by one rule."""
    kind, _, failure = name.partition(":")
    shared, found = SharedGrid.of(volume, plan), []
    bounds = None if kind == "margin" else BranchAndBound.of(volume, plan, kind, float(failure))  # type: ignore[arg-type]
    for batch in images:
        levels = [LevelImages.of(batch, level.radius) for level in plan.levels]
        rules = [margin_rule(plan)] * len(batch) if bounds is None else bounds.rules(batch, levels)
        scores_itr, shifts_px = dense_log_prob(batch, shared, plan)
        everything = Candidates(0, shared.cell, shifts_px)
        for row, rule in enumerate(rules):
            start = survivors_divided(everything, scores_itr[row].T, plan, rule)
            found.append(refine(batch, row, levels, volume, plan, start, rule))
    return found


def best_near_truth(
    particles: Particles, volume: FourierVolume, plan: SearchPlan, images: list[ImageBatch]
) -> np.ndarray:
    """Best score on the last grid within two steps of each true pose, all shifts."""
    assert particles.poses is not None
    last, best = len(plan.levels) - 1, []
    shifts_px = complete_candidates(plan).shifts_px
    for batch in images:
        level = LevelImages.of(batch, plan.radius)
        for row, matrix in enumerate(particles.poses.matrices()[batch.index_i]):
            cell = plan.grid(last).near(matrix, 2 * plan.grid(last).step_deg)
            support = score(batch, row, level, volume, plan, Candidates(last, cell, shifts_px))
            best.append(support.log_prob_rt.max())
    return np.array(best)


def _mean_and_median(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(axis=0), np.median(values, axis=0)


def main() -> None:
    """Simulate, search by every rule, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("map", type=Path)
    parser.add_argument("--diameter", type=float, required=True)
    for name, value in (("box", 128), ("images", 200), ("radius", 40)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--rules", nargs="+", default=["margin", "posterior:0.01", "posterior:0.1"])
    args = parser.parse_args()
    density, pixel = read_map(args.map)
    pixel *= density.shape[0] / args.box
    options = SimulationOptions(args.images, args.snr, dtype="float32", shift_sd_angstrom=pixel, seed=3)
    with tempfile.TemporaryDirectory() as folder:
        made = simulate([resample(density, args.box)], pixel, Path(folder), options)
        particles = Particles.read(made.truth_path)
        volume = FourierVolume.from_map(read_map(made.map_paths[0])[0], args.radius)
        images = batches(particles, args)
        small = plan_of(args, pixel, small_cells=True)
        best_i, scores = [best_near_truth(particles, volume, small, images)], {}
        for name in args.rules:
            plan = small if name != "margin" else plan_of(args, pixel, small_cells=False)
            start = time.process_time()
            found = search(name, volume, plan, images)
            milliseconds = 1e3 * (time.process_time() - start) / args.images
            scores[name] = np.array([support.log_prob_rt.max() for support in found])
            best_i.append(scores[name])
            kept = np.array([[c.kept / c.scored for c in support.counts[:-1]] for support in found])
            shares = [f"{mean:.2g} ({mid:.2g})" for mean, mid in zip(*_mean_and_median(kept), strict=True)]
            bands = ", ".join(f"order {v.order} to {v.radius}" for v in plan.levels)
            print(f"{name:15s} {milliseconds:7.1f} ms per image; kept {' '.join(shares)}; {bands}")
        for name, score_i in scores.items():
            lost_i = score_i < np.max(best_i, axis=0) - 0.01
            print(f"{name:15s} best pose lost {lost_i.mean():.3f}")


if __name__ == "__main__":
    main()
