"""CPU time and quality of a whole refinement of the simulated ribosome, beside this machine's GEMM speed.

    python benchmarks/ribosome.py ../shared/data/ribo128 [--all] [--threads 2]

Prints one line of Markdown for the record table in docs/log.md. CPU seconds are this process's, all threads.
The ratio is against RELION 5.0.1's 3.5 CPU-s per particle on the same 500 images (data README), taken on a
machine of the same kind: trust it to a factor of 1.4. The float32 GEMM rate says how fast the machine was.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import posterion

RELION_CPU_SECONDS = 3.5


def gemm_gflops() -> float:
    """Rate of one core's float32 matrix product of the E-step's shape, by CPU time."""
    a, b = np.ones((1344, 1256), np.float32), np.ones((1256, 4608), np.float32)
    with threadpool_limits(1):
        times = []
        for _ in range(5):
            start = time.process_time()
            a @ b
            times.append(time.process_time() - start)
    return float(2 * a.shape[0] * b.shape[0] * b.shape[1] / min(times) / 1e9)


def main() -> None:
    """Run, judge with the independent evaluator, print the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--all", action="store_true", help="all 2,000 particles instead of 500")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    particles = options.data / ("particles.star" if options.all else "particles_500.star")
    count = len(posterion.Particles.read(particles))
    before = gemm_gflops()
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = time.process_time(), time.perf_counter()
        posterion.refine(
            particles,
            options.data / "reference_50A.mrc",
            Path(folder) / "run",
            300.0,
            posterion.RefineOptions(initial_lowpass_angstrom=50.0, threads=options.threads),
        )
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        run = Path(folder) / "run"
        verdict = subprocess.run(
            [
                *(sys.executable, options.data.parents[1] / "tools" / "evaluate.py"),
                *("--truth-map", options.data / "truth.mrc", "--truth-star", options.data / "truth.star"),
                *("--poses", run / "particles.star", "--map", run / "map.mrc"),
                *("--half1", run / "half1.mrc", "--half2", run / "half2.mrc"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(verdict.stdout)
    print(verdict.stdout)
    halves, truth = found["fsc_halves_0143"]["masked"], found["fsc_truth_mean_masked"]
    print(
        f"| {count} particles | {cpu / count:.3f} CPU-s per particle "
        f"({RELION_CPU_SECONDS * count / cpu:.0f}x less than RELION 5) | wall {wall:.0f} s "
        f"| median angle {found['poses']['angle_median']:.2f} deg | masked FSC 0.143 {halves:.2f} A "
        f"| mean masked FSC against truth {truth:.3f} | GEMM {before:.0f} GFLOP/s per core |"
    )


if __name__ == "__main__":
    main()
