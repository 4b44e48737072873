"""From two half maps to a map one may look at: FSC curves, B-factor sharpening, low-pass, and what to doubt.

The halves are averaged, weighted by ``sqrt(2 FSC / (1 + FSC))``, sharpened by ``exp(-B s^2 / 4)`` with B
from the Guinier plot, and low-passed where the corrected FSC crosses 0.143 (Rosenthal & Henderson 2003, J.
Mol. Biol. 333, 721-745). B is negative where it sharpens, as in RELION.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterion.data.atomic import write_text
from posterion.data.mrc import write_map
from posterion.errors import PosterionError
from posterion.mapping.fsc import GOLD_STANDARD, FscCurves, fsc_curves, write_fsc
from posterion.mapping.masks import check_mask, low_pass
from posterion.physics.fourier import (
    fourier_transform_3d,
    inverse_fourier_transform_3d,
    shell_index_3d,
    shell_mean,
)

__all__ = [
    "Guinier",
    "Postprocessed",
    "fit_guinier",
    "fsc_warnings",
    "fsc_weight",
    "postprocess",
    "sharpen",
    "write_postprocessed",
]

Real = NDArray[np.float32]
Curve = NDArray[np.float64]
_FEW_SHELLS = 8


@dataclass(frozen=True)
class Guinier:
    """A Guinier plot ``ln <|F|>(s^2)`` and the straight line fitted to part of it.

    Attributes
    ----------
    inverse_square_s : (n//2+1,) float64, squared frequency, 1/Angstrom^2
    log_amplitude_s : (n//2+1,) float64, natural logarithm of the shell's mean FSC-weighted amplitude; NaN
        for none
    fitted_s : (n//2+1,) bool, shells in the fit
    bfactor_angstrom2 : 4 times the slope; negative where amplitudes fall off, Angstrom^2
    intercept : of the line, at zero frequency
    """

    inverse_square_s: Curve
    log_amplitude_s: Curve
    fitted_s: NDArray[np.bool_]
    bfactor_angstrom2: float
    intercept: float


@dataclass(frozen=True)
class Postprocessed:
    """A sharpened map with all it was judged by.

    Attributes
    ----------
    sharpened : (n, n, n) float32, weighted, sharpened, low-passed
    mask : (n, n, n) float32 in [0, 1], or None
    curves : the FSC curves of the halves
    guinier : the plot and fit, inside the mask if there is one; None where the resolution leaves nothing to
        fit
    guinier_whole_box : the same of the unmasked map, RELION's way
    resolution_angstrom : where the best curve crosses 0.143
    bfactor_angstrom2 : the one applied, Angstrom^2
    warnings : reasons to doubt the result, one sentence each
    """

    sharpened: Real
    mask: Real | None
    curves: FscCurves
    guinier: Guinier | None
    guinier_whole_box: Guinier | None
    resolution_angstrom: float
    bfactor_angstrom2: float
    warnings: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Give the numbers of the result as JSON-ready values, lengths in Angstrom."""
        named = [name for name in self.curves.named() if name != "randomised"]
        return {
            "box_px": self.curves.box_px,
            "pixel_size_angstrom": self.curves.pixel_size_angstrom,
            "resolution_angstrom": self.resolution_angstrom,
            "resolution_at_0.143": {name: self.curves.resolution(0.143, name) for name in named},
            "resolution_at_0.5": {name: self.curves.resolution(0.5, name) for name in named},
            "bfactor_angstrom2": self.bfactor_angstrom2,
            "bfactor_inside_mask_angstrom2": self.guinier and self.guinier.bfactor_angstrom2,
            "bfactor_whole_box_angstrom2": self.guinier_whole_box
            and self.guinier_whole_box.bfactor_angstrom2,
            "phases_randomised_from_shell": self.curves.randomised_from_shell,
            "mask_fraction_of_box": None if self.mask is None else float(self.mask.mean()),
            "warnings": list(self.warnings),
        }


def fsc_weight(fsc_s: Curve) -> Curve:
    """Weight each shell by the expected correlation of the averaged halves with the truth.

    ``C_ref = sqrt(2 FSC / (1 + FSC))`` (Rosenthal & Henderson 2003, eq. 13), 0 from the first shell on
    whose FSC is not positive.

    Parameters
    ----------
    fsc_s : (n//2+1,) float64

    Returns
    -------
    (n//2+1,) float64 in [0, 1]; shell 0 counts as fully known
    """
    positive_s = np.clip(fsc_s, 0, 1)
    positive_s[0] = 1.0
    known_s = np.cumprod(positive_s > 0)
    return np.asarray(known_s * np.sqrt(2 * positive_s / (1 + positive_s)), np.float64)


def fit_guinier(
    amplitude_s: Curve, box_px: int, pixel_size_angstrom: float, from_angstrom: float, to_angstrom: float
) -> Guinier:
    """Fit ``ln <|F|> = a + B/4 s^2`` between two resolutions (Rosenthal & Henderson 2003, fig. 6).

    Parameters
    ----------
    amplitude_s : (n//2+1,) float64, mean amplitude of each shell
    box_px : pixels
    pixel_size_angstrom : voxel size
    from_angstrom, to_angstrom : resolution range of the fit, both ends included

    Raises
    ------
    PosterionError
        If fewer than three shells with power lie in the range.
    """
    inverse_square_s = (np.arange(len(amplitude_s)) / (box_px * pixel_size_angstrom)) ** 2
    log_s = np.log(amplitude_s, out=np.full_like(amplitude_s, np.nan), where=amplitude_s > 0)
    tolerance = 1 + 1e-9
    fitted_s = (inverse_square_s * tolerance >= from_angstrom**-2) & np.isfinite(log_s)
    fitted_s &= inverse_square_s <= to_angstrom**-2 * tolerance
    if np.count_nonzero(fitted_s) < 3:
        raise PosterionError(
            f"a B-factor cannot be fitted between {from_angstrom:.1f} and {to_angstrom:.1f} A: fewer than "
            "three shells lie there; give one with --bfactor or widen the range"
        )
    slope, intercept = np.polyfit(inverse_square_s[fitted_s], log_s[fitted_s], 1)
    return Guinier(inverse_square_s, log_s, fitted_s, 4 * float(slope), float(intercept))


def sharpen(
    volume: Real, weight_s: Curve, bfactor_angstrom2: float, pixel_size_angstrom: float, workers: int = 1
) -> Real:
    """Multiply a map's shells by weights and its spectrum by ``exp(-B s^2 / 4)``; a negative B sharpens.

    Parameters
    ----------
    volume : (n, n, n) float32
    weight_s : (n//2+1,) float64; frequencies beyond the last shell (the corners) become 0
    bfactor_angstrom2 : B, Angstrom^2
    pixel_size_angstrom : voxel size
    workers : threads for the transforms

    Returns
    -------
    (n, n, n) float32, in the unit of the map.
    """
    n = volume.shape[0]
    frequency_s = np.arange(len(weight_s)) / (n * pixel_size_angstrom)
    factor_s = np.zeros(n, np.float32)
    factor_s[: len(weight_s)] = weight_s * np.exp(-bfactor_angstrom2 / 4 * frequency_s**2)
    spectrum = fourier_transform_3d(volume, workers)
    spectrum *= factor_s[shell_index_3d(n)]
    return inverse_fourier_transform_3d(spectrum, n, workers)


def postprocess(
    half1: Real,
    half2: Real,
    pixel_size_angstrom: float,
    mask: Real | None = None,
    *,
    bfactor_angstrom2: float | None = None,
    fit_from_angstrom: float = 10.0,
    fit_whole_box: bool = False,
    seed: int = 0,
    workers: int = 1,
) -> Postprocessed:
    """Turn two unfiltered half maps into one sharpened map with its FSC curves and warnings.

    Parameters
    ----------
    half1, half2 : (n, n, n) float32, from independent halves of the particles, unfiltered
    pixel_size_angstrom : voxel size
    mask : (n, n, n) float32 in [0, 1]; None makes no masked curves
        (`posterion.mapping.masks.automatic_mask` makes one)
    bfactor_angstrom2 : to apply, negative sharpens; None takes it from the Guinier plot
    fit_from_angstrom : low-resolution end of the Guinier fit, which ends at the resolution
    fit_whole_box : apply the B of the whole box's amplitudes, as RELION does; they hold the solvent's noise,
        which the masked FSC does not weigh down, so that B comes out too small where the noise is strong
    seed : of the random phases
    workers : threads for the transforms

    Raises
    ------
    PosterionError
        If boxes differ, the pixel size is not positive or the mask cannot be used.
    """
    average = np.asarray(0.5 * (half1 + half2), np.float32)
    warnings: tuple[str, ...] = ()
    if mask is not None:
        warnings = check_mask(mask, len(half1), "mask", average, pixel_size_angstrom)
    curves = fsc_curves(half1, half2, pixel_size_angstrom, mask, seed=seed, workers=workers)
    resolution = curves.resolution()
    warnings += _half_map_warnings(half1, half2, pixel_size_angstrom) + fsc_warnings(curves)
    weight_s = fsc_weight(curves.best_s)
    inside = average if mask is None else average * mask
    guinier, whole = (_weighted_guinier(v, weight_s, curves, fit_from_angstrom) for v in (inside, average))
    if bfactor_angstrom2 is None:
        fit = whole if fit_whole_box else guinier
        bfactor_angstrom2 = fit.bfactor_angstrom2 if fit else 0.0
        warnings += _fit_warnings(fit, fit_from_angstrom, resolution)
    sharp = sharpen(average, weight_s, bfactor_angstrom2, pixel_size_angstrom, workers)
    sharp = low_pass(sharp, resolution, pixel_size_angstrom, workers)
    return Postprocessed(sharp, mask, curves, guinier, whole, resolution, bfactor_angstrom2, warnings)


def _fit_warnings(fit: Guinier | None, fit_from_angstrom: float, resolution: float) -> tuple[str, ...]:
    """Say where a B-factor could not be fitted, or only to a few shells."""
    between = f"between {fit_from_angstrom:g} A and the resolution, {resolution:.1f} A"
    if fit is None:
        return (
            f"no B-factor can be fitted {between}: the map was not sharpened; give one or widen the range of "
            "the fit",
        )
    shells = int(np.count_nonzero(fit.fitted_s))
    if shells < _FEW_SHELLS:
        return (
            f"only {shells} shells lie {between}: the B-factor fitted to them, "
            f"{fit.bfactor_angstrom2:.0f} A^2, may be far off; look at the Guinier plot, or give one",
        )
    return ()


def _weighted_guinier(
    volume: Real, weight_s: Curve, curves: FscCurves, fit_from_angstrom: float
) -> Guinier | None:
    """Fit the FSC-weighted amplitudes of a map up to its resolution; None where too few shells lie there."""
    amplitude_s = weight_s * shell_mean(np.abs(fourier_transform_3d(volume)), len(volume))
    box, pixel_size = curves.box_px, curves.pixel_size_angstrom
    try:
        return fit_guinier(amplitude_s, box, pixel_size, fit_from_angstrom, curves.resolution())
    except PosterionError:
        return None


def _half_map_warnings(half1: Real, half2: Real, pixel_size_angstrom: float) -> tuple[str, ...]:
    """Say whether the halves are one map, or have been masked or filtered already."""
    if np.array_equal(half1, half2):
        return ("the two half maps are identical: give the maps of two independent halves of the particles",)
    zero = min(float(np.mean(half == 0)) for half in (half1, half2))
    if zero > 0.2:
        return (
            f"{100 * zero:.0f} % of the voxels of the half maps are exactly 0: they look masked already, so "
            "no curve here is free of a mask; give the unfiltered, unmasked halves",
        )
    filtered = _filtered_at(half1, pixel_size_angstrom)
    if filtered > 0:
        return (
            f"the half maps hold nothing beyond {filtered:.1f} A: they look low-pass filtered, and a mask "
            "makes them correlate beyond the filter; give the unfiltered halves",
        )
    return ()


def _filtered_at(half: Real, pixel_size_angstrom: float) -> float:
    """Resolution beyond which a map has no power but rounding errors, Angstrom; 0 where there is none."""
    n = len(half)
    power_s = shell_mean(np.abs(fourier_transform_3d(half)) ** 2, n)[1 : n // 2 - 1]
    empty = np.flatnonzero(power_s < 1e-10 * power_s.max())
    return n * pixel_size_angstrom / (int(empty[0]) + 1) if len(empty) else 0.0


def fsc_warnings(curves: FscCurves) -> tuple[str, ...]:
    """Say in words what in the FSC curves speaks against the resolution they give.

    Looked for: halves that are nearly one map; curves that never fall below 0.143; a masked curve well
    above the corrected one; a mask that lowers the resolution; curves that rise again beyond their
    crossing; curves that dip at low resolution.
    """
    if curves.unmasked_s[1:].min() > 0.95:
        return ("the half maps are nearly identical (FSC above 0.95 everywhere): they are not independent",)
    found = (_never_below(curves), *_mask_effect(curves), _rises_again(curves), _dips(curves))
    return tuple(warning for warning in found if warning)


def _crossing_shell(fsc_s: Curve) -> int:
    """First shell from 1 on below 0.143; one past the last where there is none."""
    below = np.flatnonzero(fsc_s[1:] < GOLD_STANDARD)
    return int(below[0]) + 1 if len(below) else len(fsc_s)


def _resolution_of(curves: FscCurves, shell: int) -> float:
    return curves.box_px * curves.pixel_size_angstrom / shell


def _never_below(curves: FscCurves) -> str:
    if _crossing_shell(curves.best_s) < len(curves.best_s):
        return ""
    return (
        f"the FSC never falls below 0.143 (at Nyquist, {2 * curves.pixel_size_angstrom:.2f} A, it is "
        f"{curves.best_s[-1]:.2f}): the pixel size limits the resolution, or the halves share something "
        "(duplicate particles, one filter or mask, overfitting)"
    )


def _mask_effect(curves: FscCurves) -> tuple[str, ...]:
    """Compare masked with corrected and unmasked curves; nothing to say without a mask."""
    masked_s, corrected_s, from_shell = curves.masked_s, curves.corrected_s, curves.randomised_from_shell
    if masked_s is None or corrected_s is None or from_shell is None:
        return ()
    found = []
    masked, corrected = curves.resolution(curve="masked"), curves.resolution(curve="corrected")
    unmasked = curves.resolution(curve="unmasked")
    between = slice(from_shell + 2, max(_crossing_shell(masked_s), from_shell + 5))
    excess_s = (masked_s - corrected_s)[between]
    if corrected > 1.1 * masked or (len(excess_s) and excess_s.mean() > 0.05):
        found.append(
            f"the mask itself makes the halves correlate: {masked:.2f} A by the masked curve, "
            f"{corrected:.2f} A corrected for it; the mask is too tight or its edge too sharp"
        )
    if corrected > 1.05 * unmasked:
        found.append(
            f"the mask makes the resolution worse ({corrected:.2f} A, without it {unmasked:.2f} A): it is "
            "misplaced or cuts density"
        )
    return tuple(found)


def _rises_again(curves: FscCurves) -> str:
    """Look beyond the crossing for three shells that average above 0.143 and 0.1 above the lowest before."""
    first = _crossing_shell(curves.best_s)
    if first > len(curves.best_s) - 4:
        return ""
    smooth_s = np.convolve(curves.best_s[first:], np.ones(3) / 3, mode="valid")
    rise_s = smooth_s - np.minimum.accumulate(smooth_s)
    suspicious_s = np.where(rise_s > 0.1, smooth_s, 0)
    shell = int(suspicious_s.argmax())
    if suspicious_s[shell] < GOLD_STANDARD:
        return ""
    return (
        f"the FSC rises again to {suspicious_s[shell]:.2f} at "
        f"{_resolution_of(curves, first + shell + 1):.1f} A after falling below 0.143: duplicate particles, "
        "overfitting, or the edge of a mask or filter both halves share"
    )


def _dips(curves: FscCurves) -> str:
    """Look before the crossing for a shell more than 0.1 below a later one; shell 1 has too few voxels."""
    before_s = curves.best_s[: _crossing_shell(curves.best_s)]
    if len(before_s) < 4:
        return ""
    later_s = np.maximum.accumulate(before_s[::-1])[::-1]
    depth_s = (later_s - before_s)[2:]
    shell = int(depth_s.argmax()) + 2
    if depth_s[shell - 2] < 0.1:
        return ""
    return (
        f"the FSC dips to {before_s[shell]:.2f} at {_resolution_of(curves, shell):.1f} A before rising to "
        f"{later_s[shell]:.2f}: a wrong mask or normalisation, too few defocus values, or wrong CTFs"
    )


def write_postprocessed(result: Postprocessed, folder: str | Path) -> dict[str, Path]:
    """Write maps, curves and numbers of a result, each file whole or not at all.

    Returns ------- paths by name: ``postprocessed.mrc``, ``postprocessed_masked.mrc`` and ``mask.mrc``
    (with a mask), ``fsc.tsv``, ``postprocess.json``.
    """
    folder = Path(folder)
    maps = {"postprocessed.mrc": result.sharpened}
    if result.mask is not None:
        maps |= {"postprocessed_masked.mrc": result.sharpened * result.mask, "mask.mrc": result.mask}
    write_fsc(result.curves, folder / "fsc.tsv")
    for name, volume in maps.items():
        write_map(folder / name, volume, result.curves.pixel_size_angstrom)
    write_text(folder / "postprocess.json", json.dumps(result.summary(), indent=1) + "\n")
    return {name: folder / name for name in (*maps, "fsc.tsv", "postprocess.json")}
