"""Particle images out of one micrograph: cut, rescaled, contrast inverted, background normalised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.physics.fourier import fourier_crop, fourier_transform_2d, inverse_fourier_transform_2d

__all__ = ["ExtractOptions", "Windows", "cut_windows", "nearest_pixel", "normalise_background", "rescale"]

Real = NDArray[np.float32]

_SMALLEST_VARIATION = 1e-6  # of a background, over its grey values: below is rounding
_BACKGROUND_FROM = 0.75  # of half the box, RELION's default where the diameter is not known


@dataclass(frozen=True)
class ExtractOptions:
    """How particles are cut out.

    Attributes
    ----------
    box_px
        Edge of the window, pixels of the micrograph; even.
    bin_to_angstrom
        Wanted pixel size of the particles, met as well as an even box allows; the micrograph's where None.
    diameter_angstrom
        The background is what lies outside this circle; 75 % of the box where None.
    keep_contrast
        Do not invert: for micrographs with white protein, or programs that want it dark.
    remove_ramp
        Fit a plane to the background and subtract it, as RELION does; else its mean only.
    float16
        Half the space; RELION before 5 does not read it.
    """

    box_px: int
    bin_to_angstrom: float | None = None
    diameter_angstrom: float | None = None
    keep_contrast: bool = False
    remove_ramp: bool = True
    float16: bool = False

    def __post_init__(self) -> None:
        if self.box_px < 8 or self.box_px % 2:
            raise PosterionError(f"--box {self.box_px}: an even number of pixels from 8 on was expected")
        for name, value in (("--bin-to", self.bin_to_angstrom), ("--diameter", self.diameter_angstrom)):
            if value is not None and not (np.isfinite(value) and value > 0):
                raise PosterionError(f"{name} {value:g}: a number of Angstrom above 0 was expected")

    def new_box_px(self, pixel_size_angstrom: float) -> int:
        """Box after rescaling, even.

        Raises
        ------
        PosterionError
            Where the wanted pixel is finer than the micrograph's, or leaves fewer than eight pixels.
        """
        if self.bin_to_angstrom is None:
            return self.box_px
        if self.bin_to_angstrom < pixel_size_angstrom * (1 - 1e-3):
            raise PosterionError(
                f"--bin-to {self.bin_to_angstrom:g} A is finer than the micrograph's pixel of "
                f"{pixel_size_angstrom:g} A; give a coarser one"
            )
        new_box = 2 * round(self.box_px * pixel_size_angstrom / self.bin_to_angstrom / 2)
        if new_box < 8:
            raise PosterionError(f"--bin-to {self.bin_to_angstrom:g} A leaves a box of {new_box} pixels")
        return min(new_box, self.box_px)

    def background_radius_px(self, pixel_size_angstrom: float, new_box_px: int) -> float:
        """Radius of the particle's circle in rescaled pixels.

        Raises
        ------
        PosterionError
            Where the diameter leaves no background inside the box.
        """
        if self.diameter_angstrom is None:
            return _BACKGROUND_FROM * new_box_px / 2
        new_pixel = pixel_size_angstrom * self.box_px / new_box_px
        radius = self.diameter_angstrom / (2 * new_pixel)
        if radius >= new_box_px / 2:
            raise PosterionError(
                f"--diameter {self.diameter_angstrom:g} A fills the box of {self.box_px} pixels of "
                f"{pixel_size_angstrom:g} A; give a larger --box, 1.5 to 2 diameters"
            )
        return radius


@dataclass(frozen=True)
class Windows:
    """Windows cut from a micrograph.

    Attributes
    ----------
    images_i : (n, box, box) float32
        Grey values of those that lie inside.
    kept : (n,) int64
        Their indices among the coordinates.
    at_edge : int
        Particles inside the micrograph whose window is not.
    outside : int
        Coordinates outside the micrograph.
    """

    images_i: Real
    kept: NDArray[np.int64]
    at_edge: int
    outside: int


def nearest_pixel(coordinate_px: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pixel nearest to a coordinate, halves away from zero, as RELION rounds."""
    return np.asarray(np.sign(coordinate_px) * np.floor(np.abs(coordinate_px) + 0.5), np.int64)


def cut_windows(
    values_yx: Real, x_px_i: NDArray[np.float64], y_px_i: NDArray[np.float64], box_px: int
) -> Windows:
    """Cut windows whose pixel box // 2 is the pixel nearest to each coordinate; none that crosses the edge.

    Parameters
    ----------
    values_yx : (ny, nx) float32
    x_px_i, y_px_i : (m,) float64
        Column and row, the centre of the first pixel at 0.
    box_px : int

    Raises
    ------
    PosterionError
        Where the box is larger than the micrograph.
    """
    ny, nx = values_yx.shape
    if box_px > min(ny, nx):
        raise PosterionError(f"a box of {box_px} pixels is larger than the micrograph of {nx} x {ny} pixels")
    x, y = nearest_pixel(x_px_i), nearest_pixel(y_px_i)
    first_x, first_y = x - box_px // 2, y - box_px // 2
    fits = (first_x >= 0) & (first_y >= 0) & (first_x + box_px <= nx) & (first_y + box_px <= ny)
    outside = (x < 0) | (y < 0) | (x >= nx) | (y >= ny)
    kept = np.flatnonzero(fits)
    images = np.empty((len(kept), box_px, box_px), np.float32)
    for image, row, column in zip(images, first_y[kept], first_x[kept], strict=True):
        image[:] = values_yx[row : row + box_px, column : column + box_px]
    return Windows(images, kept, int((~fits & ~outside).sum()), int(outside.sum()))


def rescale(images_i: Real, new_box_px: int) -> Real:
    """Fourier-crop images (n, box, box) to (n, new_box, new_box); grey values keep their scale."""
    box = images_i.shape[-1]
    if new_box_px == box:
        return images_i
    spectra = fourier_crop(fourier_transform_2d(images_i), new_box_px, 2)
    return inverse_fourier_transform_2d(spectra, new_box_px) * np.float32((new_box_px / box) ** 2)


def normalise_background(images_i: Real, radius_px: float, *, remove_ramp: bool = True) -> Real:
    """Subtract the background's plane or mean, divide by its standard deviation: mean 0 and sd 1 out there.

    Parameters
    ----------
    images_i : (n, box, box) float32
    radius_px : float
        The background is what lies farther than this from the origin box // 2.
    remove_ramp : bool
        Subtract the plane a + b x + c y of least squares over the background, not only its mean.

    Notes
    -----
    A background without variation (one grey value) is divided by 1.
    """
    box = images_i.shape[-1]
    axis = np.arange(box) - box // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    background = np.hypot(x, y) > radius_px
    design = np.stack([np.ones(x.shape), x, y] if remove_ramp else [np.ones(x.shape)])
    outside = images_i[:, background].astype(np.float64)
    coefficients = outside @ np.linalg.pinv(design[:, background])
    planes = np.tensordot(coefficients, design, 1)
    level = images_i - planes
    sd = level[:, background].std(axis=1)
    varies = sd > _SMALLEST_VARIATION * np.abs(outside).max(axis=1)
    return np.asarray(level / np.where(varies, sd, 1)[:, None, None], np.float32)
