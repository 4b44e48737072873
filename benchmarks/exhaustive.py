"""The search that is meant to be fast against one that leaves nothing out, on small difficult sets.

    python benchmarks/exhaustive.py OUT --data ../shared/data

Sets, truth and judge are those of quality.py. A is ``posterion refine`` as it comes. B scores, for every
image, all poses of one grid of 7.5 degrees and 2/3 px, until posteriors are narrower than its cells or
neither resolution nor map changes (that is all where they stay broad); then, on a grid of 0.94 degrees and
1/3 px, all poses within 11 degrees of the last one and after that within 5.6, until nothing changes. Nothing
climbs or is pruned. What is not the search (methods, bands, noise, maps) is the program's. Prints a table as
Markdown.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from measured import Results
from posterion.compute import Workers
from posterion.data.mrc import write_map
from posterion.inference.search import Level, SearchPlan
from posterion.refine import auto_refine
from posterion.refine.context import RefineContext
from posterion.refine.inputs import prepare
from posterion.refine.options import RefineOptions
from posterion.refine.outputs import write_particles
from posterion.refine.plan import make_plan
from posterion.refine.start import init
from posterion.refine.state import IterationInfo, RefinementState
from quality import CELLS, SPECIMENS, Cell, judge, run_arm, simulated, table, write_tsv

UNCHANGED, NARROW, BROAD = 0.004, 2.5, 50.0
GLOBAL_ORDER, GLOBAL_SHIFT_STEP_PX = 3, 2 / 3
LOCAL_ORDER, LOCAL_SHIFT_STEP_PX, FIRST_RADIUS_DEG, LATER_RADIUS_DEG = 6, 1 / 3, 11.25, 5.6
Iteration = tuple[RefinementState, IterationInfo, auto_refine.MapSet]


@dataclass
class CompleteSearch:
    """One level in place of the program's; ``near_deg``: how far from the last poses, None: anywhere."""

    near_deg: float | None = None

    def plan(
        self, context: RefineContext, state: RefinementState, compared: int, collected: int | None = None
    ) -> SearchPlan:
        """All poses of one grid, or all near the last ones."""
        plan = make_plan(context, state, compared, collected)
        order, step = GLOBAL_ORDER, GLOBAL_SHIFT_STEP_PX
        if self.near_deg is not None:
            order, step = LOCAL_ORDER, LOCAL_SHIFT_STEP_PX
        level = Level(order, plan.radius, step)
        complete = replace(plan, levels=(level,), climb=False, by_harmonics=False, search="exhaustive")
        return replace(complete, local_radius_deg=self.near_deg)

    def step(self, context: RefineContext, state: RefinementState, final: bool = False) -> Iteration:
        """One iteration with such a plan."""
        here = replace(state, search=replace(state.search, local=self.near_deg is not None))
        with patch.object(auto_refine, "make_plan", self.plan):
            return auto_refine.step(context, here, final)

    def refinement(self, context: RefineContext, state: RefinementState, most: int) -> Iterator[Iteration]:
        """Iterate over all orientations, then near the last poses; the last of these joins the halves."""
        for _ in range(most):
            best = state.best_shell
            state, info, maps = self.step(context, state)
            yield state, info, maps
            unchanged = state.best_shell <= best and info.map_change < UNCHANGED
            if unchanged and (self.near_deg is not None or info.effective_orientations > BROAD):
                break
            if self.near_deg is not None:
                self.near_deg = LATER_RADIUS_DEG
            elif (info.effective_orientations < NARROW or unchanged) and not state.search.best_only:
                self.near_deg = FIRST_RADIUS_DEG
        yield self.step(context, state, final=True)


def run_complete(cell: Cell, options: argparse.Namespace) -> dict[str, float]:
    """Refine a cell by exhaustive search and judge it; a finished one is taken from the results."""
    results = Results(options.output / "exhaustive.jsonl")
    point = {"cell": cell.name, "box": options.box, "particles": options.particles, "seed": options.seed}
    point |= {"run": options.tag}
    known = results.get(point)
    if known is not None:
        return known
    folder = options.output / f"{cell.name}_{options.particles}x{options.box}_{options.seed}"
    specimen = SPECIMENS[cell.specimen]
    images, run = simulated(cell, folder, options), folder / "run_complete"
    run.mkdir(exist_ok=True)
    chosen = RefineOptions(
        symmetry=specimen.symmetry, initial_lowpass_angstrom=specimen.lowpass_angstrom, threads=1
    )
    start = time.process_time()
    inputs = prepare(images / "particles.star", images / "truth.mrc", specimen.diameter_angstrom, chosen)
    with Workers(1) as workers:
        context = inputs.context(workers)
        state, _ = init(context, inputs.reference)
        for done in CompleteSearch().refinement(context, state, options.iterations):
            print(f"{time.process_time() - start:.0f} CPU-s: {done[1]}", flush=True)
    state, _, maps = done
    seconds = time.process_time() - start
    for name, values in zip(("half1", "half2", "map"), (*maps.unfiltered, maps.joined), strict=True):
        write_map(run / f"{name}.mrc", values, context.pixel_size)
    write_particles(run / "particles.star", inputs.particles, inputs.half_i, state.particles)
    result = {"cpu_seconds": seconds, "wall_seconds": 0.0, "peak_bytes": 0, "iterations": state.iteration}
    result |= judge(run, images, specimen.symmetry)
    results.put(point, result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with ribo128/ and maps/")
    names = [cell.name for cell in CELLS]
    special = [name for name in names if "+" in name or name.endswith("@0.005")]
    parser.add_argument("--sets", nargs="+", choices=names, default=[*special, "betagal@0.1"])
    parser.add_argument("--particles", type=int, default=100)
    parser.add_argument("--box", type=int, default=48)
    parser.add_argument("--iterations", type=int, default=12, help="at most, of the exhaustive search")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tag", default="", help="a new tag computes anew what is there, say after a change")
    options = parser.parse_args(namespace=argparse.Namespace(a="", a_source=None, threads=1))
    rows = []
    for cell in (cell for cell in CELLS if cell.name in options.sets):
        rows.append((cell, run_arm(cell, "a", options), run_complete(cell, options)))
        write_tsv(options.output / "exhaustive.tsv", rows)
        print(
            f"{cell.name}: mean FSC to truth {rows[-1][1]['truth_mean']:.3f}, {rows[-1][2]['truth_mean']:.3f}"
        )
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
