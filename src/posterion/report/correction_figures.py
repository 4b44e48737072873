"""Figures of CTF correction: images before and after, and spectral signal-to-noise ratios."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from posterion.mapping.average import ClassAverage
from posterion.physics.ctf_correction import LOWEST_SNR, SnrSpectrum
from posterion.report.figures import draw_image, draw_scale_bar, save_figure

__all__ = ["average_figure", "before_after_figure", "snr_figure", "ssnr_figure"]

Image = NDArray[np.float32]

_MOST_CLASSES = 8


def before_after_figure(
    pairs: Sequence[tuple[str, Image, str, Image]], path: str | Path, pixel_size_angstrom: float, title: str
) -> None:
    """Draw pairs of images in columns, each before it was changed above what became of it; one side by side.

    Parameters
    ----------
    pairs : label and image before, label and image after; (ny, nx) float32
    path : of the figure
    pixel_size_angstrom : for the scale bar
    title : above all
    """
    if len(pairs) == 1:  # side by side
        figure = Figure(figsize=(9.6, 5.2), layout="constrained")
        axes = figure.subplots(1, 2).reshape(2, 1)
    else:
        figure = Figure(figsize=(2.6 * len(pairs), 6.0), layout="constrained")
        axes = figure.subplots(2, len(pairs))
    figure.suptitle(title, fontsize=11)
    for column, (label_before, before, label_after, after) in enumerate(pairs):
        draw_image(axes[0, column], before, label_before)
        draw_image(axes[1, column], after, label_after)
    draw_scale_bar(axes[0, 0], pairs[0][1].shape[1], pixel_size_angstrom)
    save_figure(figure, path)


def average_figure(averages: Sequence[ClassAverage], path: str | Path, pixel_size_angstrom: float) -> None:
    """Draw up to eight of the largest classes: mean of the aligned images, and Wiener average below it."""
    largest = sorted(averages, key=lambda made: (-made.n_images, made.number))[:_MOST_CLASSES]
    one = len(averages) == 1
    pairs = [
        (
            ("" if one else f"class {made.number}, ") + f"mean of {made.n_images:,} images",
            made.plain,
            "CTFs undone together",
            made.image,
        )
        for made in largest
    ]
    before_after_figure(pairs, path, pixel_size_angstrom, "Average of aligned images: before and after")


def ssnr_figure(averages: Sequence[ClassAverage], path: str | Path, pixel_size_angstrom: float) -> None:
    """Draw the spectral SNR of the averages of up to eight largest classes, and of their single images."""
    largest = sorted(averages, key=lambda made: (-made.n_images, made.number))[:_MOST_CLASSES]
    frequency_s = np.arange(len(largest[0].frc_s)) / len(largest[0].image) / pixel_size_angstrom
    curves = []
    for made in largest:
        name = "" if len(averages) == 1 else f" of class {made.number}"
        curves.append((f"average{name}: 2 FRC / (1 - FRC)", made.ssnr_s, "-"))
        curves.append((f"one image{name}: $1/k_w$", 1 / made.k_s, "--"))
    _draw_curves(frequency_s, curves, path, "Spectral signal-to-noise ratio")


def snr_figure(snr: SnrSpectrum, path: str | Path) -> None:
    """Draw the spectral SNR of single images."""
    curve = (r"one image: $|A|^2 / |N|^2$", snr.snr_s, "-")
    _draw_curves(snr.frequency_s, [curve], path, "Spectral signal-to-noise ratio of single images")


def _draw_curves(
    frequency_s: NDArray[np.float64],
    curves: Sequence[tuple[str, NDArray[np.float64], str]],
    path: str | Path,
    title: str,
) -> None:
    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for number, (label, values_s, line) in enumerate(curves):
        colour = f"C{number // 2 % 10}" if len(curves) > 1 else "C0"
        axes.plot(frequency_s[1:], np.maximum(values_s[1:], LOWEST_SNR), line, color=colour, label=label)
    axes.axhline(1, color="#8a8a8a", linewidth=0.8)
    axes.set(yscale="log", xlim=(0, frequency_s[-1]), xlabel="spatial frequency (1/Å)", ylabel="SNR")
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(title, fontsize=11)
    save_figure(figure, path)
