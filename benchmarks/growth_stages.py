"""How the expectation step grows with the number of shifts, and with the band that is compared.

    python benchmarks/growth_stages.py [--box 128] [--images 48]

A whole run hides both: shifts are many in its first iteration only, and much of it are maps. Here single
stages run, by the same code as in ``posterion bench``, on simulated images of the embedded assembly: the
first iteration with growing shift ranges, then late iterations, over all orientations and about the last
poses, with references of growing resolution. CPU milliseconds per image of each stage, and exponents p of
cost ~ x^p, x the number of shifts of the first level or the highest shell compared.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

from growth import EDGE_OVER_DIAMETER, EMBEDDED_DIAMETER, exponent
from posterion.physics.sampling import shift_lattice
from posterion.refine.context import RefineContext
from posterion.refine.plan import make_plan
from posterion.refine.schedule import COMPARE_MARGIN_SHELLS
from posterion.refine.state import RefinementState
from posterion.report.bench_stages import SearchTimes, bench_problem, time_search

SHIFT_RANGES_PX = (4.0, 8.0, 16.0, 24.0, 32.0)
SHARES_OF_NYQUIST = (0.15, 0.25, 0.4, 0.6, 0.9)
PARTS = ("prepare", "dense", "harmonic", "ragged", "insert")


def shifts_of(context: RefineContext, state: RefinementState) -> int:
    """How many shifts the first level of a plan has."""
    plan = make_plan(context, state, state.resolution_shell + COMPARE_MARGIN_SHELLS)
    return len(shift_lattice(plan.shift_range_px, plan.levels[0].shift_step_px))


def table(name: str, x: Sequence[float], found: Sequence[SearchTimes]) -> Iterator[str]:
    """Yield lines of Markdown: milliseconds per image, and the exponent of each part that grows."""
    yield f"| {name} | compared up to | " + " | ".join(f"{part}, ms" for part in PARTS) + " | together, ms |"
    yield "|---" * (len(PARTS) + 3) + "|"
    parts = {part: [1e3 * getattr(times, part) for times in found] for part in PARTS}
    parts["together"] = [sum(values) for values in zip(*parts.values(), strict=True)]
    for row, (value, times) in enumerate(zip(x, found, strict=True)):
        cells = " | ".join(f"{values[row]:.2f}" for values in parts.values())
        yield f"| {value:g} | {times.radius} | {cells} |"
    powers = [f"x^{exponent(x, own):.2f}" if min(own) > 0 else "-" for own in parts.values()]
    yield "| grows as | | " + " | ".join(powers) + " |\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--images", type=int, default=48)
    options = parser.parse_args()
    pixel = EDGE_OVER_DIAMETER * EMBEDDED_DIAMETER / options.box
    shells = [round(share * options.box / 2) for share in SHARES_OF_NYQUIST]
    late, local = [], []
    for shell in shells:
        resolution = options.box * pixel / (shell + 0.5)
        with bench_problem(
            options.box, pixel, EMBEDDED_DIAMETER, "C1", resolution, options.images
        ) as problem:
            if shell == shells[0]:
                time_search(problem.context, problem.first, 16)
                time_search(problem.context, problem.local, 16)
                config = problem.context.config
                contexts = [
                    replace(problem.context, config=replace(config, shift_range_angstrom=pixel * range_px))
                    for range_px in SHIFT_RANGES_PX
                ]
                counts = [shifts_of(context, problem.first) for context in contexts]
                first = [time_search(context, problem.first) for context in contexts]
                print(*table("first iteration: shifts", counts, first), sep="\n", flush=True)
            late.append(time_search(problem.context, problem.late))
            local.append(time_search(problem.context, problem.local))
    print(*table("late, all orientations: shell", [times.radius for times in late], late), sep="\n")
    print(*table("late, about the last poses: shell", [times.radius for times in local], local), sep="\n")


if __name__ == "__main__":
    main()
