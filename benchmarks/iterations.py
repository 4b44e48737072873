"""CPU time of every iteration of a refinement: per particle, and what it costs however many there are.

    python benchmarks/iterations.py OUT ../shared/data/ribo128/truth.mrc -d 300 --box 128 -n 1000 --lowpass 50

Simulates a set from a map or model (SNR as of 128 px images over the same edge, of which others are Fourier
crops) and refines it on one thread, batches strictly one after the other. ``ms per particle`` is read,
compare, insert: from the second batch of each half on. What the first batch takes more are the references'
transforms and shared slices; what follows the last batch are four maps, the FSC and the decision. Neither
grows with the number of particles. Prints Markdown; OUT/iterations.tsv has the same numbers.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from measured import posterion_command
from posterion.compute import Workers
from posterion.data.particles import Particles
from posterion.refine.auto_refine import step
from posterion.refine.context import RefineContext
from posterion.refine.inputs import prepare
from posterion.refine.options import RefineOptions
from posterion.refine.start import init
from posterion.refine.state import IterationInfo, RefinementState
from posterion.refine.subsets import members
from ribosome import gemm_gflops

SNR_BOX = 128
WARM_PARTICLES = 70


class OneAfterTheOther(Workers):
    """One thread on which nothing overlaps, so that the clock between batches is the batch's own."""

    def __init__(self) -> None:
        super().__init__(1)

    def map_ordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Apply the function to one item when its result is asked for."""
        return map(function, items)


@dataclass(frozen=True)
class Cost:
    """One iteration in CPU seconds; a search around the last poses is late, any other early."""

    stage: str
    iteration: int
    search: str
    resolution_angstrom: float
    compared_to_angstrom: float
    particles: int
    per_particle: float
    references: float
    maps: float


class BatchClock:
    """CPU seconds at the end of each batch: an observer of ``step``; the first half has so many particles."""

    def __init__(self, first_half: int) -> None:
        self._first_half = first_half
        self.times = [time.process_time()]
        self.counts = [0]

    def __call__(self, count: int) -> None:
        """Note that a batch has ended."""
        self.times.append(time.process_time())
        self.counts.append(count)

    def per_particle(self) -> float:
        """Seconds per particle of all batches but the first of each half."""
        before = np.cumsum(self.counts)[:-1]
        later = ~np.isin(before, [0, self._first_half])
        return float(np.diff(self.times)[later].sum() / np.array(self.counts[1:])[later].sum())

    def references(self) -> float:
        """Seconds that did not depend on the number of particles, over both halves."""
        whole = self.times[-1] - self.times[0]
        return whole - self.per_particle() * sum(self.counts)


def measured_step(
    context: RefineContext, state: RefinementState, final: bool
) -> tuple[RefinementState, IterationInfo, Cost]:
    """One iteration and what it cost."""
    subset = 0 if final else state.search.subset
    clock = BatchClock(len(members(context.half_i, 0, subset, context.config.seed)))
    state, info, _ = step(replace(context, observer=clock), state, final)
    maps = time.process_time() - clock.times[-1]
    stage = "last" if final else "late" if info.search == "local" else "early"
    where = info.iteration, info.search, info.resolution_angstrom, info.compared_to_angstrom
    each = clock.per_particle(), clock.references(), maps
    return state, info, Cost(stage, *where, sum(clock.counts), *each)


def refined(context: RefineContext, reference: np.ndarray) -> Iterator[Cost]:
    """Refine until converged, and yield what each iteration cost."""
    state, _ = init(context, reference)
    while not state.converged and state.iteration < context.config.max_iterations:
        state, _, cost = measured_step(context, state, final=False)
        yield cost
    yield measured_step(context, state, final=True)[2]


def make_images(options: argparse.Namespace) -> Path:
    """Simulate the set, unless it is there."""
    images = options.output / f"images_{options.box}_{options.particles}"
    if not (images / "particles.star").exists():
        box, edge = options.box, options.edge
        posterion_command(
            [
                *("simulate", options.source, "-o", images, "-n", options.particles),
                *("--box", box, "--pixel-size", edge / box, "--shift", 2 * edge / SNR_BOX),
                *("--snr", options.snr * (SNR_BOX / box) ** 2, "--seed", 1),
            ],
            options.output / "simulate.log",
        )
    return images


def table(costs: Sequence[Cost], particles: int) -> Iterator[str]:
    """Yield lines of Markdown: iterations, then what each stage costs on average."""
    yield (
        "| iteration | search | resolution, A | compared to, A | particles | ms per particle | references, s "
        f"| maps, s | all, ms per particle of {particles} |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for c in costs:
        everything = (c.particles * c.per_particle + c.references + c.maps) / particles
        yield (
            f"| {c.iteration}{' (last)' * (c.stage == 'last')} | {c.search} | {c.resolution_angstrom:.2f} "
            f"| {c.compared_to_angstrom:.2f} | {c.particles} | {1e3 * c.per_particle:.2f} "
            f"| {c.references:.2f} | {c.maps:.2f} | {1e3 * everything:.2f} |"
        )
    yield ""
    for stage in ("early", "late", "last"):
        own = [c for c in costs if c.stage == stage]
        if own:
            each = [1e3 * c.per_particle for c in own]
            fixed = np.mean([c.references + c.maps for c in own])
            yield (
                f"{stage}: {np.mean(each):.2f} ms per particle ({min(each):.2f} to {max(each):.2f}) over "
                f"{len(own)} iterations, and {fixed:.2f} s an iteration however many there are"
            )


def main() -> None:
    """Simulate, warm up, refine, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("source", type=Path, help="map or atomic model")
    parser.add_argument("-d", "--diameter", type=float, required=True)
    parser.add_argument("--edge", type=float, help="of the box, A; 1.2 diameters if absent")
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("-n", "--particles", type=int, default=1000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--lowpass", type=float, help="of the starting map, A")
    parser.add_argument("--symmetry", default="C1")
    options = parser.parse_args()
    options.edge = options.edge or 1.2 * options.diameter
    images = make_images(options)
    chosen = RefineOptions(symmetry=options.symmetry, initial_lowpass_angstrom=options.lowpass, threads=1)
    rate = gemm_gflops()
    with OneAfterTheOther() as workers:
        few = Particles.read(images / "particles.star")[np.arange(WARM_PARTICLES)]
        warm = prepare(few, images / "truth.mrc", options.diameter, replace(chosen, max_iterations=1))
        for _ in refined(warm.context(workers), warm.reference):
            pass
        inputs = prepare(images / "particles.star", images / "truth.mrc", options.diameter, chosen)
        costs = []
        for cost in refined(inputs.context(workers), inputs.reference):
            costs.append(cost)
            print(cost, flush=True)
    with (options.output / "iterations.tsv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(asdict(costs[0])), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, costs))
    print("\n".join(table(costs, options.particles)))
    print(f"GEMM {rate:.0f} GFLOP/s per core")


if __name__ == "__main__":
    main()
