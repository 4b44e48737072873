"""Recall, precision and CPU time of picking on real micrographs, against picks made by hand.

    python benchmarks/picking.py ../shared/data [--figure docs/images/picking.png] [--threads 1]

Ten apoferritin micrographs (EMPIAR-10146), CTF of ctf_estimates.csv, template 7A4M with its operators in O. A
pick is right if it lies within 40 A of a hand-made one that no better pick has taken. One setting for all
micrographs; the curve comes from the same picks with a low threshold, cut at every score.
"""

import argparse
import csv
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from posterion.data.star import read_star
from posterion.micrographs.pick_run import Template, pick
from posterion.micrographs.picking import PickOptions
from posterion.report.figures import save_figure

PIXEL_ANGSTROM, DIAMETER_ANGSTROM, MATCH_ANGSTROM = 1.5, 130.0, 40.0
LOWEST_SCORE = 1.5
Points = dict[str, NDArray[np.float64]]


def micrographs_star(data: Path, folder: Path, with_ctf: bool) -> Path:
    """STAR file of the ten micrographs, with the CTF fitted at Cs 2.7 mm."""
    lines = ["data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n_rlnVoltage"]
    lines += ["_rlnSphericalAberration\n_rlnAmplitudeContrast\n1 1.5 300 2.7 0.1\n\ndata_micrographs\nloop_"]
    lines += ["_rlnMicrographName\n_rlnOpticsGroup"]
    names = ("DefocusU", "DefocusV", "DefocusAngle") if with_ctf else ()
    lines += [f"_rln{name}" for name in names]
    with (data / "apoferritin" / "ctf_estimates.csv").open() as stream:
        for row in csv.DictReader(stream):
            ctf = (
                [row[f"Cs2.7_{name}"] for name in ("defocusU_A", "defocusV_A", "angle_deg")] if names else []
            )
            lines.append(" ".join([str((data / "apoferritin" / row["micrograph"]).resolve()), "1", *ctf]))
    path = folder / "micrographs.star"
    path.write_text("\n".join(lines) + "\n")
    return path


def hand_picks(data: Path) -> Points:
    """Column and row of each hand-made pick, by micrograph."""
    points = defaultdict(list)
    with (data / "apoferritin" / "manual_picks.csv").open() as stream:
        for row in csv.DictReader(stream):
            points[row["micrograph"]].append((float(row["x_px"]), float(row["y_px"])))
    return {name: np.array(values) for name, values in points.items()}


def read_picks(path: Path) -> tuple[Points, Points]:
    """Positions and scores by micrograph, best first."""
    table = read_star(path)[1]
    names, code_i = table.column("rlnMicrographName").strings()
    xy = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], 1)
    score = table.floats("rlnAutopickFigureOfMerit")
    rows = {Path(name).name: np.flatnonzero(code_i == code) for code, name in enumerate(names)}
    return {name: xy[i] for name, i in rows.items()}, {name: score[i] for name, i in rows.items()}


def right_ones(picks: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which picks, best first, are within reach of a hand-made pick that is still free: the nearest one."""
    free, right = np.ones(len(truth), np.bool_), np.zeros(len(picks), np.bool_)
    near = cKDTree(truth).query_ball_point(picks, MATCH_ANGSTROM / PIXEL_ANGSTROM)
    for number, candidates in enumerate(near):
        open_ones = [index for index in candidates if free[index]]
        if open_ones:
            distance = np.linalg.norm(truth[open_ones] - picks[number], axis=1)
            free[open_ones[int(distance.argmin())]], right[number] = False, True
    return right


def judged(path: Path, truth: Points) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of all picks, highest first, and which are right."""
    positions, scores = read_picks(path)
    score = np.concatenate([scores[name] for name in sorted(truth)])
    right = np.concatenate([right_ones(positions[name], truth[name]) for name in sorted(truth)])
    order = np.argsort(-score, kind="stable")
    return score[order], right[order]


def main() -> None:
    """Pick with each setting, print the numbers, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    model = Template(options.data / "maps" / "7a4m.cif", "O")
    default = PickOptions(DIAMETER_ANGSTROM)
    at_30 = replace(default, lowpass_angstrom=30.0, false_positives=5.0)

    settings = {
        "7A4M at 30 Å, 5 false expected": (at_30, model, True),
        "7A4M, the command's defaults": (default, model, True),
        "7A4M, the defaults, CTF unknown": (default, model, False),
        "balls, the command's defaults": (default, None, True),
    }
    truth = hand_picks(options.data)
    total = sum(map(len, truth.values()))
    print("| setting | recall | precision | CPU-s per micrograph | recall where precision is 0.80 |")
    print("|---|---|---|---|---|")
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for label, (chosen, template, with_ctf) in settings.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            star = micrographs_star(options.data, folder, with_ctf)
            start = time.process_time()
            result = pick([star], folder / "picks", chosen, template, threads=options.threads)
            seconds = (time.process_time() - start) / len(truth)
            _, right = judged(result.picks_path, truth)
            low = replace(chosen, threshold=LOWEST_SCORE)
            path = pick([star], folder / "all", low, template, threads=options.threads).picks_path
            _, right_all = judged(path, truth)
        recall, precision = right.sum() / total, right.mean()
        found = np.cumsum(right_all)
        precision_all, recall_all = found / np.arange(1, len(found) + 1), found / total
        best = recall_all[precision_all >= 0.8].max()
        print(f"| {label} | {recall:.3f} | {precision:.3f} | {seconds:.2f} | {best:.3f} |")
        (line,) = axes.plot(recall_all[20:], precision_all[20:], label=label)
        axes.plot(recall, precision, "o", color=line.get_color())
    axes.axhline(0.8, color="0.7", linewidth=0.8)
    axes.axvline(0.9, color="0.7", linewidth=0.8)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0.5, 1.005))
    axes.set_title("10 real micrographs, 1,624 picks by hand; dots: the threshold from the noise", fontsize=9)
    axes.legend(loc="lower left", frameon=False, fontsize=9)
    if options.figure:
        save_figure(figure, options.figure)


if __name__ == "__main__":
    main()
