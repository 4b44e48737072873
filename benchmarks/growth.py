"""How CPU time and memory of a whole refinement grow with particles, box, shifts and resolution.

    python benchmarks/growth.py OUT [--series particles ...] [--source MAP.mrc --diameter 300]

Simulates each set, runs ``posterion refine`` in a process of its own, and keeps the result in
OUT/growth.jsonl: given again, it goes on where it stopped. Prints a table, and exponents p of cost ~ x^p
fitted to CPU seconds per particle and to peak memory; OUT/growth.json holds the same. The command's CPU
seconds include its start, its figures and all threads. ``--tiny`` tries the benchmark and measures nothing.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from measured import Results, posterion_command
from posterion.data.mrc import write_map
from posterion.physics.sources import read_source

EDGE_OVER_DIAMETER = 1.2
LOWPASS_OVER_DIAMETER = 1 / 6
EMBEDDED_DIAMETER = 150.0
REFERENCE_BOX = 128


@dataclass(frozen=True)
class Point:
    """One simulated set and its refinement; ``x`` is what the series varies."""

    series: str
    x: float
    box: int
    particles: int
    snr: float = 0.1
    shift_range_px: float = 5.0
    bfactor_angstrom2: float = 0.0
    shift_sd_px: float = 2.0


def series_points(name: str, tiny: bool) -> list[Point]:
    """Points of a series, the cheapest first."""
    box = 32 if tiny else REFERENCE_BOX
    some = 60 if tiny else 200
    if name == "particles":
        return [Point(name, n, box, n) for n in ((40, 80, 160) if tiny else (500, 2000, 8000))]
    if name == "box":
        return [Point(name, b, b, some) for b in ((24, 32, 48) if tiny else (64, 128, 192, 256))]
    if name == "shifts":
        # The same images, their shifts within the smallest range.
        ranges = (2.0, 4.0) if tiny else (3.0, 6.0, 12.0, 24.0)
        return [Point(name, r, box, 2 * some, shift_range_px=r, shift_sd_px=1.2) for r in ranges]
    edge = EDGE_OVER_DIAMETER * EMBEDDED_DIAMETER
    # A map blurred by exp(-B s^2/4) that is exp(-1) at a share of Nyquist's frequency has no more to give.
    cuts = (0.3, 0.6) if tiny else (0.2, 0.35, 0.6, 1.0)
    return [
        Point(name, cut, box, 2 * some, bfactor_angstrom2=round(4 * (2 * edge / box / cut) ** 2, 1))
        for cut in cuts
    ]


def measure(point: Point, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Simulate and refine one point."""
    edge = EDGE_OVER_DIAMETER * options.diameter
    pixel = edge / point.box
    images, run = folder / "images", folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    density, _ = read_source(options.source, point.box, pixel)
    blur_px = (point.bfactor_angstrom2 / 8) ** 0.5 / np.pi / pixel
    folder.mkdir(parents=True)
    write_map(folder / "density.mrc", gaussian_filter(density, blur_px) if blur_px else density, pixel)
    posterion_command(
        [
            *("simulate", folder / "density.mrc", "-o", images, "-n", point.particles, "--snr", point.snr),
            *("--shift", point.shift_sd_px * pixel, "--seed", options.seed),
        ],
        folder / "simulate.log",
    )
    cost = posterion_command(
        [
            *("refine", images / "particles.star", "-r", images / "truth.mrc", "-d", options.diameter),
            *("-o", run, "--initial-lowpass", max(options.diameter * LOWPASS_OVER_DIAMETER, 20.0, 4 * pixel)),
            *("--shift-range", point.shift_range_px * pixel, "--threads", options.threads),
        ],
        folder / "refine.log",
    )
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    if not options.keep:
        shutil.rmtree(images)
    resolution = summary["resolution_angstrom"]
    return asdict(cost) | {
        "iterations": summary["iterations"],
        "resolution_angstrom": resolution,
        "resolution_shell": edge / resolution,
    }


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of log y over log x by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fitted(name: str, found: Sequence[tuple[Point, dict[str, Any]]]) -> dict[str, float]:
    """Exponents of a series; resolution is measured by the shell that the run reached."""
    x = [r["resolution_shell"] if name == "resolution" else point.x for point, r in found]
    if len(set(x)) < 2:
        return {}
    per_particle = [r["cpu_seconds"] / point.particles for point, r in found]
    return {
        "cpu_per_particle": exponent(x, per_particle),
        "peak_memory": exponent(x, [r["peak_bytes"] for _, r in found]),
    }


def table(found: Sequence[tuple[Point, dict[str, Any]]], fits: dict[str, dict[str, float]]) -> Iterator[str]:
    """Yield lines of Markdown."""
    yield "| series | particles | box | shifts, px | shell reached | rounds | CPU-s a particle | peak, GB |"
    yield "|---|---|---|---|---|---|---|---|"
    for point, r in found:
        yield (
            f"| {point.series} | {point.particles} | {point.box} | {point.shift_range_px:g} | "
            f"{r['resolution_shell']:.1f} | {r['iterations']} | {r['cpu_seconds'] / point.particles:.3f} | "
            f"{r['peak_bytes'] / 1e9:.2f} |"
        )
    yield ""
    yield "| series | CPU time per particle grows as | peak memory grows as |"
    yield "|---|---|---|"
    for name, fit in fits.items():
        yield f"| {name} | x^{fit['cpu_per_particle']:.2f} | x^{fit['peak_memory']:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("box", "shifts", "resolution", "particles")
    parser.add_argument("output", type=Path)
    parser.add_argument("--series", nargs="+", choices=names, default=names)
    parser.add_argument("--source", type=Path, help="map or model; the embedded assembly if absent")
    parser.add_argument("--diameter", type=float, default=EMBEDDED_DIAMETER, help="of the source, A")
    parser.add_argument("--most", type=int, default=10**9, help="leave points of more particles out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the simulated images")
    parser.add_argument(
        "--tiny", action="store_true", help="toy sizes: tries the benchmark, measures nothing"
    )
    options = parser.parse_args()
    results = Results(options.output / "growth.jsonl")
    found: list[tuple[Point, dict[str, Any]]] = []
    for point in (p for name in options.series for p in series_points(name, options.tiny)):
        if point.particles > options.most:
            continue
        key = asdict(point) | {
            "source": str(options.source),
            "threads": options.threads,
            "seed": options.seed,
        }
        result = results.get(key)
        if result is None:
            result = measure(point, options.output / f"{point.series}_{point.x:g}", options)
            results.put(key, result)
        found.append((point, result))
        print(f"{point.series} {point.x:g}: {result}", flush=True)
    members = {name: [f for f in found if f[0].series == name] for name in options.series}
    fits = {name: fit for name, own in members.items() if (fit := fitted(name, own))}
    print("\n".join(table(found, fits)))
    record = {"points": [asdict(point) | result for point, result in found], "exponents": fits}
    (options.output / "growth.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
