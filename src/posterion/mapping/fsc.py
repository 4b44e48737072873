"""Fourier shell correlation: the curve, its crossings, phase randomisation, correction for the mask.

All four curves a person needs to judge a map (unmasked, masked, phase-randomised, corrected) travel
together in `FscCurves`. Shells are integer Fourier pixels 0 .. n//2, each half-spectrum voxel counted with
its Hermitian multiplicity.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.data.atomic import write_text
from posterion.errors import PosterionError
from posterion.physics.fourier import (
    fourier_transform_2d,
    fourier_transform_3d,
    hermitian_weights,
    inverse_fourier_transform_3d,
    shell_index_3d,
    shell_mean,
)

__all__ = [
    "GOLD_STANDARD",
    "FscCurves",
    "corrected_fsc",
    "fourier_ring_correlation",
    "fourier_shell_correlation",
    "fsc_curves",
    "randomise_phases",
    "read_fsc",
    "resolution_at",
    "shell_frequencies",
    "write_fsc",
]

GOLD_STANDARD = 0.143
"""Threshold for two independent half maps: the full map then correlates 0.5 with the truth."""

_COLUMNS = ("fsc_unmasked", "fsc_masked", "fsc_randomised", "fsc_corrected")

Real = NDArray[np.float32]
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class FscCurves:
    """The Fourier shell correlations of one pair of maps.

    Attributes
    ----------
    box_px : box in pixels
    pixel_size_angstrom : voxel size
    unmasked_s : (n//2+1,) float64, of the maps as they are
    masked_s : (n//2+1,) float64, of both maps times the mask; None where there is no mask
    randomised_s : (n//2+1,) float64, the same after phases were randomised beyond ``randomised_from_shell``
    corrected_s : (n//2+1,) float64, masked curve freed from the mask's own correlation
    randomised_from_shell : first shell whose phases were randomised; None where there is no mask
    """

    box_px: int
    pixel_size_angstrom: float
    unmasked_s: Curve
    masked_s: Curve | None = None
    randomised_s: Curve | None = None
    corrected_s: Curve | None = None
    randomised_from_shell: int | None = None

    @property
    def frequency_s(self) -> Curve:
        """Spatial frequency of every shell, (n//2+1,) float64, 1/Angstrom."""
        return shell_frequencies(self.box_px, self.pixel_size_angstrom)

    @property
    def best_s(self) -> Curve:
        """The curve to quote: corrected where there is a mask, else unmasked."""
        return self.unmasked_s if self.corrected_s is None else self.corrected_s

    def named(self) -> dict[str, Curve]:
        """Give the curves there are by name, in the order unmasked, masked, randomised, corrected."""
        values = (self.unmasked_s, self.masked_s, self.randomised_s, self.corrected_s)
        names = (name.removeprefix("fsc_") for name in _COLUMNS)
        return {name: curve for name, curve in zip(names, values, strict=True) if curve is not None}

    def resolution(self, threshold: float = GOLD_STANDARD, curve: str | None = None) -> float:
        """Find where the named curve (by default the best) first falls below the threshold, in Angstrom."""
        fsc_s = self.best_s if curve is None else self.named()[curve]
        return resolution_at(fsc_s, threshold, self.pixel_size_angstrom, self.box_px)


def shell_frequencies(box_px: int, pixel_size_angstrom: float) -> Curve:
    """Spatial frequency ``s / (n * pixel size)`` of shells 0 .. n//2, (n//2+1,) float64, 1/Angstrom."""
    return np.arange(box_px // 2 + 1) / (box_px * pixel_size_angstrom)


def fourier_shell_correlation(map_a: Real, map_b: Real, workers: int = 1) -> Curve:
    """Correlate two maps shell by shell in Fourier space.

    ``FSC(s) = sum_{k in s} Re(A conj(B)) / sqrt(sum |A|^2 sum |B|^2)`` (Harauz & van Heel 1986), 0 where
    either map has no power. Transforms are float32, sums float64.

    Parameters
    ----------
    map_a, map_b : (n, n, n) float32, any unit
    workers : threads for the transforms; they do not change the result

    Returns
    -------
    (n//2+1,) float64, shells 0 .. n//2.

    Raises
    ------
    PosterionError
        If the maps are not cubes of the same box.
    """
    _same_cube(map_a, map_b)
    spectra = [fourier_transform_3d(np.asarray(m, np.float32), workers) for m in (map_a, map_b)]
    cross_s, power_a_s, power_b_s = _shell_products(spectra[0], spectra[1])
    norm_s = np.sqrt(power_a_s * power_b_s)
    fsc_s: Curve = np.divide(cross_s, norm_s, out=np.zeros_like(cross_s), where=norm_s > 0)
    return fsc_s


def fourier_ring_correlation(image_a: Real, image_b: Real) -> Curve:
    """Correlate two images ring by ring: the Fourier shell correlation in two dimensions.

    Parameters
    ----------
    image_a, image_b : (n, n) float32, any unit

    Returns
    -------
    (n//2+1,) float64, rings 0 .. n//2; 0 where either image has no power.
    """
    n = len(image_a)
    a, b = (fourier_transform_2d(np.asarray(image, np.float32)) for image in (image_a, image_b))
    products = (a.real * b.real + a.imag * b.imag, _power(a), _power(b))
    cross_s, power_a_s, power_b_s = (shell_mean(product.astype(np.float64), n) for product in products)
    norm_s = np.sqrt(power_a_s * power_b_s)
    return np.divide(cross_s, norm_s, out=np.zeros_like(cross_s), where=norm_s > 0)


def _shell_products(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> Curve:
    """Sum ``Re(A conj(B))``, ``|A|^2`` and ``|B|^2`` over shells 0 .. n//2, (3, n//2+1), plane by plane.

    Going by planes keeps the temporaries in cache: the shell of a plane is all the index memory there is.
    """
    n = a.shape[0]
    k = np.minimum(np.arange(n), n - np.arange(n))
    in_plane = k[:, None] ** 2 + np.arange(n // 2 + 1) ** 2
    weight = np.broadcast_to(hermitian_weights(n), in_plane.shape)
    sums = np.zeros((3, n))
    for z in range(n):
        shell = np.rint(np.sqrt(in_plane + k[z] ** 2)).astype(np.int64).ravel()
        products = (a[z].real * b[z].real + a[z].imag * b[z].imag, _power(a[z]), _power(b[z]))
        sums += [np.bincount(shell, (weight * product).ravel(), n) for product in products]
    return sums[:, : n // 2 + 1]


def _power(spectrum: NDArray[np.complex64]) -> Real:
    """``|F|^2`` without the square root of ``abs``."""
    return spectrum.real**2 + spectrum.imag**2


def _same_cube(map_a: NDArray[np.floating], map_b: NDArray[np.floating]) -> None:
    if map_a.shape != map_b.shape or len(set(map_a.shape)) != 1 or map_a.ndim != 3:
        raise PosterionError(
            f"the two maps have boxes {_box_text(map_a)} and {_box_text(map_b)}; a Fourier shell correlation "
            "needs two cubes of the same box: resample or crop one of them"
        )


def _box_text(volume: NDArray[np.floating]) -> str:
    return "x".join(str(size) for size in volume.shape)


def resolution_at(fsc_s: Curve, threshold: float, pixel_size: float, box: int) -> float:
    """Resolution where a curve first falls below a threshold, linear in frequency between shells.

    Parameters
    ----------
    fsc_s : (n//2+1,) or (n//2,) float64, shells from 0
    threshold : for instance 0.143 (half maps) or 0.5 (map against model)
    pixel_size : Angstrom
    box : pixels

    Returns ------- Angstrom; ``2 * pixel_size`` where the curve never falls below, ``box * pixel_size``
    where no shell reaches it.
    """
    below = np.flatnonzero(np.asarray(fsc_s)[1:] < threshold)
    if not len(below):
        return 2.0 * pixel_size
    last = int(below[0])
    high, low = float(fsc_s[last]), float(fsc_s[last + 1])
    if last == 0 and high <= threshold:
        return box * pixel_size
    return box * pixel_size / max(last + (high - threshold) / (high - low), 1.0)


def randomise_phases(volume: Real, from_shell: int, seed: int, workers: int = 1) -> Real:
    """Replace the phases of a map by random ones from a shell on, keeping every amplitude.

    ``F'(k) = |F(k)| N(k) / |N(k)|`` with ``N`` the transform of real white noise: its phases are uniform and
    Hermitian, so the result is real (Chen et al. 2013, Ultramicroscopy 135, 24-35).

    Parameters
    ----------
    volume : (n, n, n) float32
    from_shell : first shell to randomise
    seed : of the noise; the same seed gives the same map
    workers : threads for the transforms

    Returns
    -------
    (n, n, n) float32, in the unit of the map.
    """
    n = volume.shape[0]
    spectrum = fourier_transform_3d(np.asarray(volume, np.float32), workers)
    noise = np.random.default_rng(seed).standard_normal(volume.shape, np.float32)
    phasor = fourier_transform_3d(noise, workers)
    phasor /= np.maximum(np.abs(phasor), np.float32(1e-20))
    beyond = shell_index_3d(n) >= from_shell
    spectrum[beyond] = np.abs(spectrum[beyond]) * phasor[beyond]
    return inverse_fourier_transform_3d(spectrum, n, workers)


def corrected_fsc(masked_s: Curve, randomised_s: Curve, from_shell: int) -> Curve:
    """Take the correlation the mask itself brings out of a masked curve.

    ``FSC_true = (FSC_masked - FSC_rand) / (1 - FSC_rand)`` (Chen et al. 2013, eq. 4), from two shells
    beyond the start of randomisation, because the mask smears kept shells into the first randomised ones.
    Where the randomised maps correlate as well as the real ones, nothing is left: 0.

    Parameters
    ----------
    masked_s, randomised_s : (n//2+1,) float64
    from_shell : first randomised shell

    Returns
    -------
    (n//2+1,) float64
    """
    corrected_s = np.array(masked_s, np.float64)
    random_s, real_s = randomised_s[from_shell + 2 :], corrected_s[from_shell + 2 :]
    excess = np.maximum(real_s - random_s, 0.0)
    corrected_s[from_shell + 2 :] = np.divide(
        excess, 1 - random_s, out=np.zeros_like(excess), where=excess > 0
    )
    return corrected_s


def fsc_curves(
    map_a: Real,
    map_b: Real,
    pixel_size_angstrom: float,
    mask: Real | None = None,
    *,
    randomise_below: float = 0.8,
    seed: int = 0,
    workers: int = 1,
) -> FscCurves:
    """Compute the unmasked and, with a mask, the masked, phase-randomised and corrected curves of two maps.

    Parameters
    ----------
    map_a, map_b : (n, n, n) float32, unfiltered half maps, or a map and its model
    pixel_size_angstrom : voxel size
    mask : (n, n, n) float32 in [0, 1], or None
    randomise_below : phases are randomised from the first shell where the unmasked curve is below this
    seed : of the random phases
    workers : threads for the transforms

    Raises
    ------
    PosterionError
        If boxes differ or the pixel size is not positive.
    """
    if not pixel_size_angstrom > 0:
        raise PosterionError(
            f"the pixel size is {pixel_size_angstrom} A; give the right one with --pixel-size"
        )
    unmasked_s = fourier_shell_correlation(map_a, map_b, workers)
    curves = FscCurves(map_a.shape[0], pixel_size_angstrom, unmasked_s)
    if mask is None:
        return curves
    _same_cube(map_a, mask)
    masked_s = fourier_shell_correlation(map_a * mask, map_b * mask, workers)
    from_shell = _first_shell_below(unmasked_s, randomise_below)
    shuffled = [randomise_phases(m, from_shell, 2 * seed + i, workers) for i, m in enumerate((map_a, map_b))]
    randomised_s = fourier_shell_correlation(shuffled[0] * mask, shuffled[1] * mask, workers)
    corrected_s = corrected_fsc(masked_s, randomised_s, from_shell)
    return FscCurves(
        curves.box_px, pixel_size_angstrom, unmasked_s, masked_s, randomised_s, corrected_s, from_shell
    )


def _first_shell_below(fsc_s: Curve, threshold: float) -> int:
    """First shell from 1 on below the threshold; the last shell where there is none."""
    below = np.flatnonzero(fsc_s[1:] < threshold)
    return int(below[0]) + 1 if len(below) else len(fsc_s) - 1


def write_fsc(curves: FscCurves, path: str | Path) -> None:
    """Write the curves as tab-separated text (frequency in 1/A, resolution in A) and make its folder."""
    named = curves.named()
    header = [f"# box_px={curves.box_px}", f"pixel_size_angstrom={curves.pixel_size_angstrom!r}"]
    if curves.randomised_from_shell is not None:
        header.append(f"randomised_from_shell={curves.randomised_from_shell}")
    columns = ["shell", "frequency_per_angstrom", "resolution_angstrom", *(f"fsc_{name}" for name in named)]
    lines = [" ".join(header), "\t".join(columns)]
    for shell, frequency in enumerate(curves.frequency_s):
        resolution = f"{1 / frequency:.4f}" if shell else "inf"
        values = [f"{curve[shell]:.6f}" for curve in named.values()]
        lines.append("\t".join([str(shell), f"{frequency:.6f}", resolution, *values]))
    write_text(path, "\n".join(lines) + "\n")


def read_fsc(path: str | Path) -> FscCurves:
    """Read what `write_fsc` wrote.

    Raises
    ------
    PosterionError
        If the file is missing or is not such a table.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        header = dict(item.split("=", 1) for item in lines[0].lstrip("# ").split())
        rows = [line.split("\t") for line in lines[2:]]
        columns = dict(zip(lines[1].split("\t"), np.array(rows, np.float64).T, strict=True))
        box_px, pixel_size = int(header["box_px"]), float(header["pixel_size_angstrom"])
        from_shell = int(header["randomised_from_shell"]) if "randomised_from_shell" in header else None
        masked_s, randomised_s, corrected_s = (columns.get(name) for name in _COLUMNS[1:])
        unmasked_s = columns["fsc_unmasked"]
        return FscCurves(box_px, pixel_size, unmasked_s, masked_s, randomised_s, corrected_s, from_shell)
    except OSError as error:
        raise PosterionError(f"{path}: cannot read the FSC table ({error.strerror})") from error
    except (KeyError, IndexError, ValueError) as error:
        raise PosterionError(f"{path}: not an FSC table as 'posterion fsc' writes it ({error})") from error
