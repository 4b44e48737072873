"""Figures of a finished run, drawn from the files in its folder: FSC, one page, viewing directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from posterion.data.mrc import read_map
from posterion.data.particles import Particles
from posterion.mapping.fsc import read_fsc
from posterion.report.figures import angular_distribution_figure, fsc_figure, summary_figure

__all__ = ["draw_run"]

_FIGURES = ("fsc.png", "summary.png", "directions.png")


def draw_run(folder: Path, particles: Particles | None = None, redraw: bool = True) -> None:
    """Draw fsc.png, summary.png and, with poses, directions.png into the folder of a run.

    Parameters
    ----------
    folder : of a refinement or reconstruction: map.mrc, fsc.tsv and, if refined, particles.star
    particles : the set, if its images are to be shown and it is not in the folder
    redraw : also where all figures are there
    """
    if not redraw and all((folder / name).exists() for name in _FIGURES):
        return
    curves = read_fsc(folder / "fsc.tsv")
    volume, _ = read_map(folder / "map.mrc")
    refined = folder / "particles.star"
    shown = Particles.read(refined) if refined.exists() else particles
    title = f"{curves.resolution():.2f} Å at FSC 0.143"
    if shown is not None:
        title = f"{len(shown):,} particles, {title}"
    fsc_figure(curves, folder / "fsc.png", title)
    images = None
    if shown is not None and len(shown) >= 3:
        images = shown.images(np.linspace(0, len(shown) - 1, 5).astype(int)[1:4])
    summary_figure(volume, curves, folder / "summary.png", title, images)
    if shown is not None and shown.poses is not None:
        poses = shown.poses
        angular_distribution_figure(poses.rot_deg_i, poses.tilt_deg_i, folder / "directions.png")
