"""Two settings of ``posterion refine`` on the same simulated sets, paired: quality and CPU time.

    python benchmarks/quality.py OUT --data ../shared/data --b "--method projection-matching"
    python benchmarks/quality.py OUT --data ../shared/data --b-source OTHER/src --sets ribosome@0.1

Cells: three particles (70S ribosome; apoferritin, O; beta-galactosidase, D2) at three noise levels, and
special sets (preferred views, coloured noise, two voltages, SNR 0.005). Both get the same images and the
same starting map. Maps are judged inside a mask made from the truth, after the one rotation and shift that
all poses share is taken off. Results stay in OUT/quality.jsonl: given again, it goes on where it stopped.
SNR is that of images of 128 pixels over the same edge, of which these are Fourier crops: at box 96 the images
have 1.8 times the number. Prints a table as Markdown; OUT/quality.tsv has one line per cell and setting.
"""

import argparse
import csv
import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from measured import Results, posterion_command
from posterion.data.mrc import read_map, write_map
from posterion.data.particles import Particles
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.physics.fourier import resample
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.sources import map_on_grid, read_source
from posterion.physics.symmetry import point_group_operators

SNR_BOX = 128


@dataclass(frozen=True)
class Specimen:
    """A particle of known structure: file below the data folder, and how it is simulated and refined."""

    name: str
    source: str
    symmetry: str
    diameter_angstrom: float
    edge_angstrom: float
    lowpass_angstrom: float


RIBOSOME = Specimen("ribosome", "ribo128/truth.mrc", "C1", 300.0, 358.4, 50.0)
APOFERRITIN = Specimen("apoferritin", "maps/7a4m.cif", "O", 150.0, 192.0, 30.0)
BETAGAL = Specimen("betagal", "maps/5a1a.cif.gz", "D2", 190.0, 230.4, 40.0)
SPECIMENS = {specimen.name: specimen for specimen in (RIBOSOME, APOFERRITIN, BETAGAL)}


@dataclass(frozen=True)
class Cell:
    """One simulated set; ``snr`` as at a box of 128."""

    specimen: str
    snr: float
    special: str = ""
    simulate: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the cell is called on the command line."""
        return f"{self.specimen}@{self.snr:g}" + (f"+{self.special}" if self.special else "")


CELLS = (
    *(Cell(specimen, snr) for specimen in SPECIMENS for snr in (0.1, 0.03, 0.01)),
    Cell("ribosome", 0.1, "preferred", ("--preferred", "3")),
    Cell("ribosome", 0.1, "coloured", ("--noise", "coloured")),
    Cell("ribosome", 0.1, "voltages", ("--optics", "300:2.7:0.1", "--optics", "200:2.0:0.07")),
    Cell("ribosome", 0.005),
    Cell("betagal", 0.005),
    Cell("ribosome", 0.01, "preferred", ("--preferred", "3")),
    Cell("ribosome", 0.01, "coloured", ("--noise", "coloured")),
    Cell("ribosome", 0.01, "voltages", ("--optics", "300:2.7:0.1", "--optics", "200:2.0:0.07")),
)


def make_truth(specimen: Specimen, box: int, data: Path, path: Path) -> None:
    """Write the specimen's map on the wanted grid, exactly symmetric."""
    pixel = specimen.edge_angstrom / box
    source = data / specimen.source
    if source.suffix == ".mrc":
        values, own = read_map(source)
        density = map_on_grid(values, own, box, pixel)
    else:
        density, _ = read_source(source, box, pixel)
    operators = point_group_operators(specimen.symmetry)
    turned = (
        [moved(density, operator, np.zeros(3)) for operator in operators] if len(operators) > 1 else [density]
    )
    write_map(path, np.mean(turned, axis=0).astype(np.float32), pixel)


def moved(volume: NDArray[np.float32], rotation: NDArray[np.float64], shift_px: NDArray[np.float64]) -> Any:
    """Volume V(R x + s), by cubic splines on a grid twice as fine; R and s in the order x, y, z."""
    n = volume.shape[0]
    fine = resample(volume, 2 * n)
    matrix = rotation[::-1, ::-1]
    centre = np.full(3, n)
    offset = centre - matrix @ centre + 2 * shift_px[::-1]
    return resample(ndimage.affine_transform(fine, matrix, offset, order=3), n)


def mask_of(truth: NDArray[np.float32], pixel: float) -> NDArray[np.float32]:
    """Soft mask: truth blurred to 15 A (three pixels at least), thresholded, 3 px wider, edge of 5 px."""
    low = ndimage.gaussian_filter(truth, max(15.0, 3 * pixel) / pixel / 2.355)
    distance = ndimage.distance_transform_edt(low <= 0.08 * low.max())
    return (0.5 * (1 + np.cos(np.pi * np.clip((distance - 3) / 5, 0, 1)))).astype(np.float32)


def common_frame(
    found: Particles, truth: Particles, point_group: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Rotation and 3D shift (pixels) that the result's poses have in common, and the median angle besides."""
    row = np.argsort(truth.image_index_i)[np.searchsorted(np.sort(truth.image_index_i), found.image_index_i)]
    ours, theirs = found.require_poses().matrices(), truth.require_poses().matrices()[row]
    operators, turn = point_group_operators(point_group), np.eye(3)
    for _ in range(5):
        distance = np.stack([angular_distance_deg(ours, theirs @ op @ turn) for op in operators])
        nearest = theirs @ operators[distance.argmin(axis=0)]
        good = distance.min(axis=0) <= np.median(distance.min(axis=0))
        u, _, vt = np.linalg.svd((nearest.transpose(0, 2, 1) @ ours)[good].mean(axis=0))
        turn = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    error = np.min([angular_distance_deg(ours, theirs @ op @ turn) for op in operators], axis=0)
    offsets = [
        np.stack([p.shift_x_angstrom_i, p.shift_y_angstrom_i], axis=-1)
        for p in (found.require_poses(), truth.require_poses())
    ]
    residual = (offsets[0] - offsets[1][row])[good] / found.pixel_size_angstrom
    shift = np.linalg.lstsq(ours[good][:, :2].reshape(-1, 3), residual.ravel(), rcond=None)[0]
    return turn, shift, float(np.median(error))


def crossing(fsc_s: NDArray[np.float64], threshold: float) -> float:
    """Shell, interpolated, at which a curve first falls below a threshold; its last where it never does."""
    below = np.flatnonzero(fsc_s[1:] < threshold)
    if not len(below):
        return float(len(fsc_s) - 1)
    k = int(below[0]) + 1
    return float(k - 1 + (fsc_s[k - 1] - threshold) / (fsc_s[k - 1] - fsc_s[k]))


def judge(run: Path, images: Path, point_group: str) -> dict[str, float]:
    """Shells and mean FSC of a finished run against the truth and between its halves."""
    truth, pixel = read_map(images / "truth.mrc")
    mask = mask_of(truth, pixel)
    half1, half2, result = (read_map(run / name)[0] for name in ("half1.mrc", "half2.mrc", "map.mrc"))
    found, known = Particles.read(run / "particles.star"), Particles.read(images / "truth.star")
    turn, shift, angle = common_frame(found, known, point_group)
    frames = [moved(result, turn.T, sign * shift) for sign in (0, 1, -1)]
    curves = [fourier_shell_correlation(frame * mask, truth * mask) for frame in (result, *frames)]
    against = max(curves, key=lambda curve: float(curve[1:-1].mean()))
    between = fourier_shell_correlation(half1 * mask, half2 * mask)
    return {
        "truth_05": crossing(against, 0.5),
        "truth_0143": crossing(against, 0.143),
        "truth_mean": float(against[1:-1].mean()),
        "halves_05": crossing(between, 0.5),
        "halves_0143": crossing(between, 0.143),
        "halves_mean": float(between[1:-1].mean()),
        "angle_deg": angle,
    }


def simulated(cell: Cell, folder: Path, options: argparse.Namespace) -> Path:
    """Make the cell's images, unless they are there."""
    images, specimen = folder / "images", SPECIMENS[cell.specimen]
    if (images / "particles.star").exists():
        return images
    shutil.rmtree(images, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    make_truth(specimen, options.box, options.data, folder / "density.mrc")
    posterion_command(
        [
            *("simulate", folder / "density.mrc", "-o", images, "-n", options.particles),
            *("--snr", cell.snr * (SNR_BOX / options.box) ** 2),
            *("--shift", 1.5 * specimen.edge_angstrom / options.box, "--seed", options.seed, *cell.simulate),
        ],
        folder / "simulate.log",
    )
    return images


def run_arm(cell: Cell, arm: str, options: argparse.Namespace) -> dict[str, float]:
    """Refine a cell with one setting and judge it; a finished one is taken from the results."""
    extra, source = (getattr(options, name) for name in (arm, f"{arm}_source"))
    point = {"cell": cell.name, "box": options.box, "particles": options.particles, "seed": options.seed}
    point |= {"options": extra, "source": str(source), "run": options.tag}
    results = Results(options.output / "quality.jsonl")
    done = results.get(point)
    if done is not None:
        return done
    folder = options.output / f"{cell.name}_{options.particles}x{options.box}_{options.seed}"
    specimen = SPECIMENS[cell.specimen]
    images, run = simulated(cell, folder, options), folder / f"run_{arm}"
    shutil.rmtree(run, ignore_errors=True)
    cost = posterion_command(
        [
            *("refine", images / "particles.star", "-r", images / "truth.mrc", "-o", run),
            *("-d", specimen.diameter_angstrom, "--initial-lowpass", specimen.lowpass_angstrom),
            *("--symmetry", specimen.symmetry, "--threads", options.threads, *shlex.split(extra)),
        ],
        folder / f"run_{arm}.log",
        source,
    )
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    judged = judge(run, images, specimen.symmetry)
    result = asdict(cost) | {"iterations": summary["iterations"]} | judged
    results.put(point, result)
    return result


def table(rows: Sequence[tuple[Cell, dict[str, float], dict[str, float]]]) -> Iterator[str]:
    """Yield lines of Markdown: both settings and their difference, B less A."""
    yield (
        "| set | truth 0.5, shell: A, B | truth 0.143: A, B | mean FSC to truth: A, B | B - A "
        "| halves 0.143: A, B | mean between halves, B - A | angle, deg: A, B | CPU-s: A, B |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for cell, a, b in rows:
        yield (
            f"| {cell.name} | {a['truth_05']:.1f}, {b['truth_05']:.1f} "
            f"| {a['truth_0143']:.1f}, {b['truth_0143']:.1f} | {a['truth_mean']:.3f}, {b['truth_mean']:.3f} "
            f"| {b['truth_mean'] - a['truth_mean']:+.4f} | {a['halves_0143']:.1f}, {b['halves_0143']:.1f} "
            f"| {b['halves_mean'] - a['halves_mean']:+.4f} | {a['angle_deg']:.2f}, {b['angle_deg']:.2f} "
            f"| {a['cpu_seconds']:.0f}, {b['cpu_seconds']:.0f} |"
        )
    for name in ("truth_mean", "truth_05", "halves_mean"):
        difference = np.array([b[name] - a[name] for _, a, b in rows])
        error = difference.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else float("nan")
        yield f"\n{name}: B - A = {difference.mean():+.4f} +- {error:.4f} over {len(rows)} sets"
    ratio = sum(a["cpu_seconds"] for _, a, _ in rows) / sum(b["cpu_seconds"] for _, _, b in rows)
    yield f"\nCPU time of A over B: {ratio:.2f}"


def write_tsv(path: Path, rows: Sequence[tuple[Cell, dict[str, float], dict[str, float]]]) -> None:
    """Write one line per cell and setting."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["set", "setting", *rows[0][1]])
        for cell, *arms in rows:
            writer.writerows([cell.name, name, *arm.values()] for name, arm in zip("AB", arms, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [cell.name for cell in CELLS]
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with ribo128/ and maps/")
    parser.add_argument("--a", default="", help="options of setting A, one string")
    parser.add_argument("--b", default="", help="options of setting B")
    parser.add_argument("--a-source", type=Path, help="folder of the package that A runs; the installed one")
    parser.add_argument("--b-source", type=Path, help="the same for B")
    parser.add_argument("--sets", nargs="+", choices=names, default=names[:9], help="the nine if absent")
    parser.add_argument("--special", action="store_true", help="the special sets in place of the nine")
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--box", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tag", default="", help="a new tag computes anew what is there, say after a change")
    options = parser.parse_args()
    wanted = names[9:] if options.special else options.sets
    rows = []
    for cell in (cell for cell in CELLS if cell.name in wanted):
        arms = [run_arm(cell, arm, options) for arm in ("a", "b")]
        rows.append((cell, *arms))
        costs = ", ".join(f"{arm['cpu_seconds']:.0f} CPU-s, mean {arm['truth_mean']:.3f}" for arm in arms)
        print(f"{cell.name}: {costs}", flush=True)
        write_tsv(options.output / "quality.tsv", rows)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
