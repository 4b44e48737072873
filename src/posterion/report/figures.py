"""Figures: FSC, Guinier plot, one-page summary of a map, viewing directions, posterior of one image.

Each function draws on its own `matplotlib.figure.Figure` (no pyplot, no global state), writes one file
whole or not at all, and gives the same bytes for the same input.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from numpy.typing import NDArray

from posterion.data.atomic import replacing
from posterion.mapping.fsc import GOLD_STANDARD, FscCurves
from posterion.mapping.postprocess import Guinier
from posterion.report.sphere import count_directions, draw_peak, draw_sphere

__all__ = [
    "angular_distribution_figure",
    "draw_fsc",
    "draw_image",
    "draw_scale_bar",
    "fsc_figure",
    "guinier_figure",
    "posterior_figure",
    "save_figure",
    "summary_figure",
]

Image = NDArray[np.float32]
Array = NDArray[np.float64]

_DOTS_PER_INCH = 120
_INK = "#222222"
_FAINT = "#8a8a8a"
_STYLE = {
    "unmasked": ("#2c7fb8", "-", 1.4, "unmasked"),
    "masked": ("#e6872e", "-", 1.4, "masked"),
    "randomised": ("#9a9a9a", "--", 1.2, "phases randomised"),
    "corrected": ("#111111", "-", 2.2, "corrected for the mask"),
}


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as the suffix of the path says; the file holds no date and no version."""
    suffix = Path(path).suffix.lstrip(".") or "png"
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=_DOTS_PER_INCH, metadata=metadata)


def draw_fsc(axes: Axes, curves: FscCurves, threshold: float = GOLD_STANDARD) -> None:
    """Draw FSC curves over spatial frequency (1/A), with the resolution (A) along the top and the threshold.

    Shell 0, the mean of the map, is left out.
    """
    frequency_s = curves.frequency_s
    for name, fsc_s in curves.named().items():
        color, line, width, label = _STYLE[name]
        if name != "randomised":
            label = f"{label}: {curves.resolution(threshold, name):.2f} Å"
        axes.plot(frequency_s[1:], fsc_s[1:], line, color=color, linewidth=width, label=label)
    crossing = curves.resolution(threshold)
    axes.axhline(0, color=_FAINT, linewidth=0.8)
    axes.axhline(threshold, color="#c0392b", linewidth=1, linestyle=":")
    axes.text(
        frequency_s[-1],
        threshold + 0.015,
        f"{threshold:g} ",
        color="#c0392b",
        ha="right",
        va="bottom",
        fontsize=9,
    )
    if crossing > 2.001 * curves.pixel_size_angstrom:
        axes.plot([1 / crossing] * 2, [-0.1, threshold], color="#c0392b", linewidth=1, linestyle=":")
    lowest = min(float(fsc_s[1:].min()) for fsc_s in curves.named().values())
    axes.set(xlim=(0, frequency_s[-1]), ylim=(max(min(-0.08, lowest - 0.04), -1.05), 1.04))
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="Fourier shell correlation")
    axes.legend(loc="upper right", fontsize=9, frameon=True, framealpha=0.9, edgecolor="none")
    _resolution_axis(axes, frequency_s[-1])
    _plain(axes)


def _resolution_axis(axes: Axes, nyquist: float) -> None:
    """Mark resolutions in Angstrom along the top, as many round ones as fit without touching."""
    candidates = np.array(
        [100, 50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.5, 2.2, 2, 1.8, 1.5, 1.2, 1]
    )
    shown: list[float] = []
    for resolution in candidates[1 / candidates <= nyquist]:
        if not shown or 1 / resolution - 1 / shown[-1] > 0.075 * nyquist:
            shown.append(float(resolution))
    top = axes.secondary_xaxis("top")
    top.set_xticks([1 / resolution for resolution in shown], [f"{resolution:g}" for resolution in shown])
    top.set_xlabel("resolution (Å)")
    top.tick_params(labelsize=9, color=_FAINT)


def _plain(axes: Axes) -> None:
    """Thin grid, no frame on the right, small ticks."""
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines["right"].set_visible(False)
    axes.tick_params(labelsize=9, color=_FAINT)


def fsc_figure(
    curves: FscCurves, path: str | Path, title: str = "", threshold: float = GOLD_STANDARD
) -> None:
    """Draw the FSC curves into a file.

    Parameters
    ----------
    curves : as `posterion.mapping.fsc.fsc_curves` gives them
    path : the suffix chooses the format (.png, .svg, .pdf)
    title : above the plot
    threshold : 0.143 for half maps, 0.5 for a map and its model
    """
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    draw_fsc(axes, curves, threshold)
    if title:
        axes.set_title(title, fontsize=11, color=_INK)
    save_figure(figure, path)


def guinier_figure(guinier: Guinier, path: str | Path) -> None:
    """Draw the Guinier plot, the straight line fitted to it and its B-factor into a file."""
    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    axes = figure.add_subplot()
    x_s, y_s, fitted_s = guinier.inverse_square_s, guinier.log_amplitude_s, guinier.fitted_s
    axes.plot(x_s[1:], y_s[1:], color="#2c7fb8", linewidth=1.4, label="amplitudes, weighted by the FSC")
    ends = x_s[fitted_s][[0, -1]]
    line = guinier.intercept + guinier.bfactor_angstrom2 / 4 * ends
    axes.plot(ends, line, color="#c0392b", linewidth=2, label=f"fit: B = {guinier.bfactor_angstrom2:.1f} Å²")
    seen = y_s[1 : np.flatnonzero(fitted_s)[-1] + 1]
    margin = 0.1 * float(np.ptp(seen)) + 0.1
    axes.set(xlim=(0, min(1.3 * ends[1], x_s[-1])), ylim=(seen.min() - margin, seen.max() + margin))
    axes.set(xlabel="squared spatial frequency (1/Å²)", ylabel="ln of the mean amplitude")
    axes.legend(fontsize=9, frameon=False)
    _plain(axes)
    save_figure(figure, path)


def summary_figure(
    volume: Image,
    curves: FscCurves,
    path: str | Path,
    title: str = "",
    particle_images: Image | None = None,
) -> None:
    """Show a map on one page: central slices, projections and FSC, with particle images above if given.

    Parameters
    ----------
    volume : (n, n, n) float32, [z, y, x]
    curves : FSC curves of its halves; they give the pixel size
    path : of the figure
    title : above it
    particle_images : (at least 3, m, m) float32, the first three are shown
    """
    slices, projections = _three_views(volume)
    rows: list[tuple[str, Sequence[Image]]] = [
        ("central slice", slices),
        ("projection", projections),
    ]
    if particle_images is not None:
        rows.insert(0, ("particle image", list(particle_images[:3])))
    figure = Figure(figsize=(12.5, 2.5 * len(rows) + 0.5), layout="constrained")
    outer = figure.add_gridspec(1, 2, width_ratios=(3, 2.5), wspace=0.06)
    inner = GridSpecFromSubplotSpec(len(rows), 3, outer[0], wspace=0.03, hspace=0.03)
    for row, (name, images) in enumerate(rows):
        for column, image in enumerate(images):
            axes = figure.add_subplot(inner[row, column])
            label = f"{name} {column + 1}" if name.startswith("particle") else f"{name} {'xyz'[2 - column]}"
            draw_image(axes, image, label)
            if row == len(rows) - 1 and column == 0:
                draw_scale_bar(axes, volume.shape[0], curves.pixel_size_angstrom)
    draw_fsc(figure.add_subplot(outer[1]), curves)
    if title:
        figure.suptitle(title, fontsize=13, color=_INK)
    save_figure(figure, path)


def _three_views(
    volume: Image,
) -> tuple[list[Image], list[Image]]:
    """Central slices across, and projections along, z, y and x."""
    middle = volume.shape[0] // 2
    return [volume.take(middle, axis) for axis in range(3)], [volume.sum(axis) for axis in range(3)]


def draw_image(axes: Axes, image: Image, label: str) -> None:
    """Draw an image, low values black, with y upwards and without ticks; its grey range leaves out 0.2 %.

    Parameters
    ----------
    axes : to draw on
    image : (m, n) real, any unit
    label : above it
    """
    low, high = (float(v) for v in np.percentile(image, (0.2, 99.8)))
    axes.imshow(image, cmap="gray", vmin=low, vmax=high if high > low else low + 1, origin="lower")
    axes.set(xticks=[], yticks=[])
    axes.set_title(label, fontsize=9, color=_INK, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_scale_bar(axes: Axes, box_px: int, pixel_size_angstrom: float) -> None:
    """Draw a bar of a round length, about a quarter of the box, at the lower left.

    Parameters
    ----------
    axes : that an image was drawn on
    box_px : its width, pixels
    pixel_size_angstrom : Angstrom
    """
    quarter = box_px * pixel_size_angstrom / 4
    length = max((v for v in (5, 10, 20, 50, 100, 200, 500, 1000) if v <= quarter), default=1)
    start, end = 0.05 * box_px, 0.05 * box_px + length / pixel_size_angstrom
    axes.plot([start, end], [0.05 * box_px] * 2, color="white", linewidth=3, solid_capstyle="butt")
    axes.text(
        (start + end) / 2, 0.075 * box_px, f"{length} Å", color="white", ha="center", va="bottom", fontsize=8
    )


def angular_distribution_figure(
    rot_deg: Array, tilt_deg: Array, path: str | Path, title: str = "Viewing directions"
) -> None:
    """Draw how often each viewing direction was assigned, relative to an even spread.

    Parameters
    ----------
    rot_deg, tilt_deg : (n,) float64, degrees
    path : of the figure
    title : above it
    """
    count = max(len(np.atleast_1d(rot_deg)), 1)
    order = int(np.clip(np.log2(max(count / 12 / 6, 1)) / 2, 0, 4))
    seen_d = count_directions(rot_deg, tilt_deg, order)
    relative_d = seen_d * len(seen_d) / count
    figure = Figure(figsize=(8.0, 4.9), layout="constrained")
    axes = figure.add_subplot()
    drawn = draw_sphere(axes, relative_d, PowerNorm(0.5, vmin=0, vmax=max(4.0, float(relative_d.max()))))
    bar = figure.colorbar(drawn, ax=axes, shrink=0.62, pad=0.02)
    bar.set_label("images per direction / even spread", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    empty = 100 * float(np.mean(seen_d == 0))
    axes.set_title(f"{title}: {count} images, {empty:.0f} % of {len(seen_d)} directions unseen", fontsize=11)
    save_figure(figure, path)


def posterior_figure(
    weight_d: Array,
    path: str | Path,
    image: Image | None = None,
    psi_weight: Array | None = None,
    title: str = "Posterior of one image's viewing direction",
) -> None:
    """Draw one image's posterior over viewing directions: log scale on the sphere, linear about the peak.

    ``P(direction | X, V) = sum over in-plane angle and shift of Gamma``; the lecture's "remarkably sharp"
    figure.

    Parameters
    ----------
    weight_d : (12 * 4**order,) float64, sums to 1, HEALPix nested order
    path : of the figure
    image : (n, n) float32, the particle image, drawn on the left
    psi_weight : (n_psi,) float64, marginal over in-plane angles from 0 degrees on, drawn below the peak
    title : above it
    """
    weight_d = np.asarray(weight_d, np.float64)
    figure = Figure(figsize=(12.5, 5.4), layout="constrained")
    figure.suptitle(title, fontsize=12, color=_INK)
    widths = (1.1, 2.4, 1.3) if image is not None else (2.4, 1.3)
    grid = figure.add_gridspec(2, len(widths), width_ratios=widths, height_ratios=(2.2, 1))
    rows = slice(0, 1) if psi_weight is not None else slice(0, 2)
    if image is not None:
        draw_image(figure.add_subplot(grid[:, 0]), image, "image")
    sphere = figure.add_subplot(grid[:, -2])
    nats_d = np.log(np.maximum(weight_d, 1e-300) / weight_d.max())
    drawn = draw_sphere(sphere, np.maximum(nats_d, -40), Normalize(-40, 0))
    bar = figure.colorbar(drawn, ax=sphere, orientation="horizontal", shrink=0.6, pad=0.03, aspect=30)
    bar.set_label("ln P below its peak (nats)", fontsize=9)
    effective = np.exp(-np.sum(weight_d * np.log(np.maximum(weight_d, 1e-300))))
    sphere.set_title(f"{len(weight_d)} directions, {effective:.1f} of them in effect", fontsize=10)
    draw_peak(figure.add_subplot(grid[rows, -1]), weight_d)
    if psi_weight is not None:
        _draw_psi(figure.add_subplot(grid[1, -1]), np.asarray(psi_weight, np.float64))
    save_figure(figure, path)


def _draw_psi(axes: Axes, psi_weight: Array) -> None:
    step = 360.0 / len(psi_weight)
    axes.bar(np.arange(len(psi_weight)) * step, psi_weight, width=step, color="#2c7fb8")
    axes.set(xlim=(-step / 2, 360 - step / 2), xticks=[0, 90, 180, 270, 360], yticks=[])
    axes.set_xlabel("in-plane angle psi (degrees)", fontsize=9)
    axes.tick_params(labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
