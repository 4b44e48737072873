"""What a search looks for: projections of a map, class averages or blobs, as combinations of a few images.

A low-passed image of a particle has about (pi^2 / 4) (diameter / low-pass)^2 degrees of freedom, however
many directions and in-plane angles are wanted. So all templates are combinations of that many orthonormal
images, found once; only these meet the micrograph, by FFT (van Heel & Frank's eigenimages, for picking).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.micrographs.reduced import frequency_grid
from posterion.physics.fourier import inverse_fourier_transform_2d
from posterion.physics.projection import FourierVolume
from posterion.physics.rotations import euler_from_matrices
from posterion.physics.sampling import RotationGrid
from posterion.physics.sources import map_on_grid

__all__ = ["TemplateBank", "angular_order", "blob_templates", "class_templates", "map_templates"]

Real = NDArray[np.float32]

_BOX_OVER_DIAMETER = 1.5
_MASK_OVER_DIAMETER = 1.1  # the low-passed particle is a little larger than the particle
_KEPT_VARIANCE = 0.999
_BLOB_SCALES = (0.85, 1.0, 1.18)
_COARSEST_ORDER, _FINEST_ORDER = 1, 2  # HEALPix: 30 and 15 degrees


@dataclass(frozen=True)
class TemplateBank:
    """K templates t_k = sum_r weights_kr images_r on one pixel size, protein positive.

    Attributes
    ----------
    images_r : (R, box, box) float32
        Orthonormal images, origin at box // 2.
    weights_kr : (K, R) float32
    class_k : (K,) int32
        Number from 1 of the direction, class average or blob size.
    psi_deg_k : (K,) float64
        In-plane angle, RELION's; 0 for blobs.
    has_shape : bool
        The templates are the particle's shape, so that its own power may count as local noise; a blob only
        has its contrast, and would lose it.
    """

    images_r: Real
    weights_kr: Real
    class_k: NDArray[np.int32]
    psi_deg_k: NDArray[np.float64]
    has_shape: bool = True

    def __len__(self) -> int:
        return len(self.class_k)

    @property
    def box_px(self) -> int:
        """Edge of the images, pixels."""
        return int(self.images_r.shape[-1])


def angular_order(diameter_angstrom: float, lowpass_angstrom: float) -> int:
    """HEALPix order whose step is at most pi / 2 low-pass over diameter (radian), 30 to 15 degrees.

    With half a step's turn the particle's rim then moves by less than half the low-pass resolution.
    """
    wanted_deg = np.degrees(np.pi / 2 * lowpass_angstrom / diameter_angstrom)
    order = int(np.ceil(np.log2(60.0 / wanted_deg) - 1e-6))
    return min(max(order, _COARSEST_ORDER), _FINEST_ORDER)


def map_templates(
    density: Real,
    density_pixel_angstrom: float,
    pixel_size_angstrom: float,
    diameter_angstrom: float,
    lowpass_angstrom: float,
    *,
    symmetry: str = "C1",
) -> TemplateBank:
    """Projections of a map over the directions of one asymmetric unit and all in-plane angles.

    Parameters
    ----------
    density : (n, n, n) float32
        Map, protein positive.
    density_pixel_angstrom, pixel_size_angstrom : float
        Of the map, and of the templates, Angstrom.
    diameter_angstrom : float
        Of the particle; the map is masked to 1.1 of it.
    lowpass_angstrom : float
        Resolution that the templates are cut off at.
    symmetry : str
        Point group of the map.

    Raises
    ------
    PosterionError
        When nothing of the map is left inside the mask.
    """
    box = _box(diameter_angstrom, pixel_size_angstrom)
    volume = map_on_grid(density, density_pixel_angstrom, box, pixel_size_angstrom)
    volume = _inside_sphere(volume, diameter_angstrom / pixel_size_angstrom)
    grid = RotationGrid(angular_order(diameter_angstrom, lowpass_angstrom), np.eye(3))
    cells = grid.all_cells(symmetry)
    matrices = grid.matrices(cells)
    spectra = FourierVolume.from_map(volume).project(matrices)
    images = inverse_fourier_transform_2d(spectra, box)
    direction = np.unique(cells // grid.n_psi, return_inverse=True)[1]
    psi_deg = np.asarray(euler_from_matrices(matrices)[2], np.float64)
    return _bank(images, direction + 1, psi_deg, pixel_size_angstrom, diameter_angstrom, lowpass_angstrom)


def class_templates(
    averages: Real,
    averages_pixel_angstrom: float,
    pixel_size_angstrom: float,
    diameter_angstrom: float,
    lowpass_angstrom: float,
) -> TemplateBank:
    """Class averages, protein white, in all in-plane angles.

    Parameters
    ----------
    averages : (n, m, m) float32
        Centred class averages; empty ones are left out.
    averages_pixel_angstrom, pixel_size_angstrom, diameter_angstrom, lowpass_angstrom : float
        As for `map_templates`.
    """
    used = np.flatnonzero(averages.std(axis=(1, 2)) > 0)
    if not len(used):
        raise PosterionError("all class averages are constant images; give averages with particles")
    box = _box(diameter_angstrom, pixel_size_angstrom)
    n_psi = 6 * 2 ** angular_order(diameter_angstrom, lowpass_angstrom)
    psi_deg = np.arange(n_psi) * (360.0 / n_psi)
    zoom = pixel_size_angstrom / averages_pixel_angstrom
    rim = _rim(averages.shape[-1], diameter_angstrom / averages_pixel_angstrom)
    images = np.stack(
        [
            _turned(np.asarray(average - average[rim].mean(), np.float32), psi, zoom, box)
            for average in averages[used]
            for psi in psi_deg
        ]
    )
    classes, angles = np.repeat(used + 1, n_psi), np.tile(psi_deg, len(used))
    return _bank(images, classes, angles, pixel_size_angstrom, diameter_angstrom, lowpass_angstrom)


def blob_templates(
    pixel_size_angstrom: float, diameter_angstrom: float, lowpass_angstrom: float
) -> TemplateBank:
    """Projections of solid balls of 0.85, 1 and 1.18 diameters, for particles whose shape is not known.

    t(x) = sqrt((d / 2)^2 - |x|^2) inside the ball. Unlike a Laplacian of Gaussian, whose one band lies where
    the CTF is near zero, a ball has a rim, which is what defocused micrographs show of any compact particle.
    """
    box = _box(diameter_angstrom * max(_BLOB_SCALES), pixel_size_angstrom)
    squared = (_distance(box) * pixel_size_angstrom) ** 2
    radii = np.array(_BLOB_SCALES)[:, None, None] * diameter_angstrom / 2
    images = np.sqrt(np.maximum(radii**2 - squared, 0)).astype(np.float32)
    numbers, zero = np.arange(1, len(images) + 1), np.zeros(len(images))
    widest = diameter_angstrom * max(_BLOB_SCALES)
    bank = _bank(images, numbers, zero, pixel_size_angstrom, widest, lowpass_angstrom)
    return replace(bank, has_shape=False)


def _bank(
    images: Real,
    class_k: NDArray[np.integer],
    psi_deg_k: NDArray[np.float64],
    pixel_size_angstrom: float,
    diameter_angstrom: float,
    lowpass_angstrom: float,
) -> TemplateBank:
    """Low-pass and mask images, then find the few orthonormal images that 99.9 % of them are made of."""
    box = images.shape[-1]
    f = frequency_grid((box, box), pixel_size_angstrom)[2]
    band = 1 / np.sqrt(1 + (f * lowpass_angstrom) ** 16)
    smooth = scipy.fft.irfft2(scipy.fft.rfft2(images) * band, s=(box, box))
    edge_px = diameter_angstrom * _MASK_OVER_DIAMETER / (2 * pixel_size_angstrom)
    mask = np.clip((edge_px - _distance(box)) / 2 + 1, 0, 1)
    inside = mask > 0
    flat = np.asarray((smooth * mask)[:, inside], np.float32)
    if not flat.any():
        raise PosterionError(
            "the template is empty inside the particle's diameter; is it centred in its box?"
        )
    directions = _principal_directions(flat)
    basis = np.zeros((len(directions), box, box), np.float32)
    basis[:, inside] = directions
    return TemplateBank(
        basis,
        flat @ basis[:, inside].T,
        np.asarray(class_k, np.int32),
        np.asarray(psi_deg_k, np.float64),
    )


def _principal_directions(flat: Real) -> Real:
    """Orthonormal rows (R, p), as few as hold 99.9 % of the sum of squares of K rows (K, p)."""
    is_wide = flat.shape[0] < flat.shape[1]
    gram = flat @ flat.T if is_wide else flat.T @ flat
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    kept = int(np.searchsorted(np.cumsum(values[::-1]) / values.sum(), _KEPT_VARIANCE)) + 1
    largest, vectors = values[::-1][:kept], vectors[:, ::-1][:, :kept]
    if is_wide:
        vectors = flat.T.astype(np.float64) @ vectors / np.sqrt(largest)
    return np.ascontiguousarray(vectors.T, np.float32)


def _box(diameter_angstrom: float, pixel_size_angstrom: float) -> int:
    return 2 * int(np.ceil(_BOX_OVER_DIAMETER * diameter_angstrom / pixel_size_angstrom / 2))


def _distance(box: int) -> NDArray[np.float64]:
    axis = np.arange(box) - box // 2
    return np.asarray(np.hypot(axis[:, None], axis[None, :]))


def _rim(box: int, diameter_px: float) -> NDArray[np.bool_]:
    """Pixels outside the particle; the corners where it fills the box."""
    distance = _distance(box)
    return distance > min(diameter_px / 2, 0.5 * box)


def _inside_sphere(volume: Real, diameter_px: float) -> Real:
    """Solvent level subtracted, and nothing left outside a soft sphere."""
    axis = np.arange(volume.shape[0]) - volume.shape[0] // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2)
    edge = diameter_px * _MASK_OVER_DIAMETER / 2
    solvent = volume[distance > edge]
    level = np.float32(np.median(solvent)) if solvent.size else np.float32(0)
    return np.asarray((volume - level) * np.clip((edge - distance) / 2 + 1, 0, 1), np.float32)


def _turned(image: Real, psi_deg: float, zoom: float, box: int) -> Real:
    """Image on another pixel size, turned as a projection with RELION's in-plane angle psi."""
    c, s = np.cos(np.radians(psi_deg)), np.sin(np.radians(psi_deg))
    to_source = zoom * np.array([[c, s], [-s, c]])  # rows (y, x) of the source for (y, x) of the template
    offset = image.shape[0] // 2 - to_source @ np.full(2, box // 2)
    blurred = scipy.ndimage.gaussian_filter(image, 0.4 * max(zoom, 1.0)) if zoom > 1 else image
    return np.asarray(
        scipy.ndimage.affine_transform(blurred, to_source, offset, (box, box), order=1), np.float32
    )
