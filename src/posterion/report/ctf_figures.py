"""Picture of a CTF estimate: measured and fitted spectrum side by side, and the curves over frequency."""

from pathlib import Path

import numpy as np
import scipy.ndimage
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from posterion.micrographs.ctf_estimation import CtfEstimate
from posterion.micrographs.ctf_profile import CtfProfile
from posterion.micrographs.sector_spectrum import sector_spectrum
from posterion.report.figures import save_figure

__all__ = ["ctf_figure", "spectrum_halves"]

Array = NDArray[np.float64]

_INK, _FAINT = "#222222", "#8a8a8a"
_MEASURED, _FITTED, _CORRELATION = "#2c7fb8", "#e6872e", "#3a8f5c"
_SPECKLE_PX = 1.0


def ctf_figure(estimate: CtfEstimate, path: str | Path, title: str = "") -> None:
    """Draw a CTF estimate into a file.

    Above the spectrum, its left half measured and its right half fitted, and the numbers; below the
    equiphase average, the fit and their correlation over frequency.

    Parameters
    ----------
    estimate : of one micrograph
    path : the suffix chooses the format
    title : above it, usually the micrograph's name
    """
    figure = Figure(figsize=(8.6, 8.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(2.1, 1), width_ratios=(2.1, 1))
    _draw_spectrum(figure.add_subplot(grid[0, 0]), estimate)
    _write_numbers(figure.add_subplot(grid[0, 1]), estimate)
    _draw_curves(figure.add_subplot(grid[1, :]), estimate.profile)
    if title:
        figure.suptitle(title, fontsize=11, color=_INK)
    save_figure(figure, path)


def spectrum_halves(estimate: CtfEstimate) -> tuple[NDArray[np.float32], float]:
    """Spectrum (m, m) whose left half is measured and whose right half is the fit, and its edge frequency.

    Measured is the logarithm of the power less its mean about each frequency and over its standard deviation
    there, so that weak outer rings show as well as strong inner ones: above (ky > 0) pixel by pixel, smoothed
    a little, below averaged along the rings over 15 degrees. The fit is 2 C^2 - 1. All run from -1 to 1, with
    0 in the corners; kx is along the columns, ky along the rows.
    """
    n, edge = estimate.power.shape[0], _edge(estimate.profile)
    step = 1 / (n * estimate.pixel_size_angstrom)
    half = int(edge / step)
    rows, columns = np.arange(-half, half + 1)[:, None], np.arange(half + 1)[None, :]
    spectrum = sector_spectrum(
        estimate.power.astype(np.float64), estimate.pixel_size_angstrom, 3 * step, edge
    )
    radius, first = np.hypot(rows, columns), round(spectrum.frequency_s[0] / step)
    # shown at (-kx, ky) is the half spectrum's (kx, -ky), its Friedel mate
    log_power = scipy.ndimage.gaussian_filter(np.log(estimate.power[-rows, columns]), _SPECKLE_PX)
    smoothed = scipy.ndimage.uniform_filter1d(spectrum.log_power_as, 3, axis=0, mode="wrap")
    azimuth = np.degrees(np.arctan2(-rows, columns)) % 180 / 5 - 0.5
    inner = np.clip(radius - first, 0, smoothed.shape[1] - 1)
    along = scipy.ndimage.map_coordinates(smoothed, [azimuth, inner], order=1, mode="grid-wrap")
    measured = np.where(rows > 0, _flattened(log_power, radius), _flattened(along, radius))[:, :0:-1]
    fy, fx = np.broadcast_arrays(rows * step, columns * step)
    fitted = 2 * estimate.optics.ctf(fx, fy, estimate.parameters) ** 2 - 1
    whole = np.concatenate([np.clip(measured, -1, 1), fitted], axis=1)
    shown = np.concatenate([radius[:, :0:-1], radius], axis=1) <= half
    return np.where(shown, whole, 0).astype(np.float32), half * step


def _edge(profile: CtfProfile) -> float:
    """Frequency to show to: a third further than rings fit."""
    limit = profile.fit_resolution_angstrom or 1 / profile.frequency_s[-1]
    return float(min(1.35 / limit, profile.frequency_s[-1]))


def _flattened(values: Array, radius: Array) -> Array:
    """Values less their mean in a wide ring about each radius (pixels), over their standard deviation."""
    shell = np.rint(radius).astype(np.int64).ravel()
    count = np.bincount(shell)
    width = max(5, count.size // 6)
    mean_s, square_s = (
        scipy.ndimage.uniform_filter1d(np.bincount(shell, v.ravel()) / count, width, mode="nearest")
        for v in (values, values**2)
    )
    deviation_s = np.sqrt(np.maximum(square_s - mean_s**2, 1e-12))
    return np.asarray(
        (values - mean_s[shell].reshape(values.shape)) / (1.5 * deviation_s[shell].reshape(values.shape))
    )


def _draw_spectrum(axes: Axes, estimate: CtfEstimate) -> None:
    whole, edge = spectrum_halves(estimate)
    axes.imshow(whole, cmap="gray", vmin=-1.1, vmax=1.1, origin="lower", extent=(-edge, edge, -edge, edge))
    axes.set_title("measured (below: averaged along the rings)  |  fitted", fontsize=10, color=_INK)
    axes.set_xlabel("spatial frequency (1/Å)", fontsize=9)
    axes.tick_params(labelsize=8, color=_FAINT)
    angle = np.radians(estimate.parameters.defocus_angle_deg)
    along = 0.97 * edge * np.array([np.cos(angle), np.sin(angle)])
    axes.plot(*np.stack([-along, along], 1), color=_FITTED, linewidth=1, linestyle="--")
    limit = estimate.profile.fit_resolution_angstrom
    if limit:
        turn = np.linspace(0, 2 * np.pi, 200)
        axes.plot(np.cos(turn) / limit, np.sin(turn) / limit, color=_CORRELATION, linewidth=1, linestyle=":")


def _write_numbers(axes: Axes, estimate: CtfEstimate) -> None:
    fit, optics = estimate.parameters, estimate.optics
    limit = estimate.profile.fit_resolution_angstrom
    lines = [
        ("defocus U", f"{fit.defocus_u_angstrom:,.0f} Å"),
        ("defocus V", f"{fit.defocus_v_angstrom:,.0f} Å"),
        ("angle of U", f"{fit.defocus_angle_deg:.1f}°"),
        ("phase shift", f"{fit.phase_shift_deg:.1f}°"),
        ("score", f"{estimate.score:.3f}"),
        ("above noise", f"{estimate.significance:.0f} x"),
        ("rings fit to", f"{limit:.2f} Å" if limit else "nowhere"),
        ("", ""),
        ("voltage", f"{optics.voltage_kv:g} kV"),
        ("Cs", f"{optics.spherical_aberration_mm:g} mm"),
        ("amplitude contrast", f"{optics.amplitude_contrast:g}"),
        ("pixel size", f"{estimate.pixel_size_angstrom:g} Å"),
    ]
    axes.set_axis_off()
    for row, (name, value) in enumerate(lines):
        axes.text(0.0, 0.97 - 0.066 * row, name, fontsize=9, color=_FAINT, transform=axes.transAxes)
        axes.text(
            1.0, 0.97 - 0.066 * row, value, fontsize=9, color=_INK, ha="right", transform=axes.transAxes
        )


def _draw_curves(axes: Axes, profile: CtfProfile) -> None:
    frequency_s = profile.frequency_s
    axes.plot(
        frequency_s, np.clip(profile.measured_s, -0.6, 1.6), color=_MEASURED, linewidth=1.0, label="measured"
    )
    axes.plot(frequency_s, profile.squared_ctf_s, color=_FITTED, linewidth=1.0, label="fit, C²")
    axes.plot(frequency_s, profile.correlation_s, color=_CORRELATION, linewidth=1.6, label="correlation")
    axes.axhline(0.5, color=_FAINT, linewidth=0.8, linestyle=":")
    limit = profile.fit_resolution_angstrom
    if limit:
        axes.axvline(1 / limit, color=_CORRELATION, linewidth=1, linestyle=":")
        axes.text(1 / limit, 1.52, f" {limit:.2f} Å", color=_CORRELATION, fontsize=9, va="top")
    axes.set(xlim=(frequency_s[0], frequency_s[-1]), ylim=(-0.6, 1.6))
    axes.set_xlabel("spatial frequency (1/Å), equiphase average", fontsize=9)
    axes.tick_params(labelsize=8, color=_FAINT)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=True, framealpha=0.9, edgecolor="none", loc="lower left", ncols=3)
