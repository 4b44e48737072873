"""The contrast transfer function: by how much, and with which sign, the microscope passes each frequency.

The sign is that of inverted stacks (protein white): positive at low resolution, as RELION applies it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from posterion.physics.fourier import frequencies_2d

if TYPE_CHECKING:
    from posterion.data.particles import OpticsGroup, Particles

__all__ = ["contrast_transfer", "ctf_at", "ctf_half_spectrum", "wavelength_angstrom"]


def wavelength_angstrom(voltage_kv: ArrayLike) -> NDArray[np.float64]:
    """Relativistic wavelength of the electron, 12.2643247 / sqrt(V (1 + 0.978466e-6 V)) Angstrom, V in volts.

    Parameters
    ----------
    voltage_kv : (...) float
        Acceleration voltage, kV.

    Returns
    -------
    wavelength : (...) float64
        Angstrom.

    Notes
    -----
    These digits are the field's, shared by RELION and its relatives; CODATA's constants give a value smaller
    by 6.4e-6 of itself, which at 5 um defocus and 2 A turns the phase by 0.005 rad.
    """
    volts = 1e3 * np.asarray(voltage_kv, np.float64)
    return np.asarray(12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts)))


def contrast_transfer(
    frequency_x: ArrayLike,
    frequency_y: ArrayLike,
    defocus_u_angstrom: ArrayLike,
    defocus_v_angstrom: ArrayLike,
    defocus_angle_deg: ArrayLike,
    *,
    voltage_kv: float,
    spherical_aberration_mm: float,
    amplitude_contrast: float,
    phase_shift_deg: ArrayLike = 0.0,
    bfactor_angstrom2: ArrayLike = 0.0,
    scale: ArrayLike = 1.0,
) -> NDArray[np.float32]:
    """Contrast transfer function of n images at p spatial frequencies.

    C(f) = -s exp(-B f^2 / 4) sin(-pi lambda df f^2 + pi/2 Cs lambda^3 f^4 - asin(Q0) - phase shift), where
    the defocus along the azimuth theta of f is df = (U+V)/2 + (U-V)/2 cos 2(theta - theta_ast).

    Parameters
    ----------
    frequency_x, frequency_y : (p,) float
        Spatial frequency along the columns and the rows of the image, 1/Angstrom.
    defocus_u_angstrom, defocus_v_angstrom : (n,) float
        Largest and smallest defocus, Angstrom, positive for underfocus.
    defocus_angle_deg : (n,) float
        Azimuth theta_ast of U, degrees from x towards y.
    voltage_kv : float
        Acceleration voltage, kV.
    spherical_aberration_mm : float
        Cs, mm.
    amplitude_contrast : float
        Q0, fraction between -1 and 1.
    phase_shift_deg : (n,) float
        Shift of the phase plate, degrees.
    bfactor_angstrom2 : (n,) float
        B of the envelope, Angstrom^2, positive for a fall-off.
    scale : (n,) float
        Factor s on the whole function.

    Returns
    -------
    ctf : (n, p) float32
        Within 1e-6 of the equation: the phase is kept in float64.

    Notes
    -----
    The lecture's CTF with the sign of an inverted stack; Wade 1992, Ultramicroscopy 46, 145.
    """
    phase_in = (defocus_u_angstrom, defocus_v_angstrom, defocus_angle_deg, phase_shift_deg)
    u, v, angle, plate, b, s = (
        np.atleast_1d(np.asarray(a, np.float64)) for a in (*phase_in, bfactor_angstrom2, scale)
    )
    wavelength = float(wavelength_angstrom(voltage_kv))
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    columns = (  # the phase in turns is xx fx^2 + xy fx fy + yy fy^2 + spherical (fx^2 + fy^2)^2 + constant
        -0.5 * wavelength * (u * cosine**2 + v * sine**2),
        -wavelength * (u - v) * cosine * sine,
        -0.5 * wavelength * (u * sine**2 + v * cosine**2),
        0.25 * spherical_aberration_mm * 1e7 * wavelength**3,
        -(np.arcsin(amplitude_contrast) + np.deg2rad(plate)) / (2 * np.pi),
        -0.25 * b,
        -s,
    )
    coefficients = np.stack(np.broadcast_arrays(*columns), axis=1)
    fx, fy = np.ascontiguousarray(frequency_x, np.float64), np.ascontiguousarray(frequency_y, np.float64)
    ctf = np.empty((len(coefficients), fx.size), np.float32)
    _evaluate(fx, fy, coefficients, ctf)
    return ctf


def ctf_at(
    kx_p: NDArray[np.integer | np.floating],
    ky_p: NDArray[np.integer | np.floating],
    box_px: int,
    particles: Particles,
    indices: NDArray[np.integer] | None = None,
) -> NDArray[np.float32]:
    """Contrast transfer functions of particles at given Fourier pixels.

    f = k / (box_px * pixel size of the particle's optics group). Of images that were phase flipped it is the
    absolute value: the function by which they still differ from the specimen.

    Parameters
    ----------
    kx_p, ky_p : (p,) int or float
        Fourier pixels of an image of ``box_px`` pixels: column, and signed row; or places between.
    box_px : int
        Edge of the images that the Fourier pixels refer to, pixels.
    particles : Particles
        Table with the optics and defoci.
    indices : (n,) int, optional
        Which particles; all where None.

    Returns
    -------
    ctf : (n, p) float32
    """
    chosen = np.arange(len(particles)) if indices is None else np.asarray(indices)
    group_i = particles.optics_index_i[chosen]
    ctf = np.empty((len(chosen), len(kx_p)), np.float32)
    for group in np.unique(group_i):
        rows = np.flatnonzero(group_i == group)
        optics = particles.optics[group]
        edge_angstrom = box_px * optics.pixel_size_angstrom
        block = _ctf_of_group(kx_p / edge_angstrom, ky_p / edge_angstrom, optics, particles, chosen[rows])
        if len(rows) == len(chosen):
            return block
        ctf[rows] = block
    return ctf


def ctf_half_spectrum(
    n: int, particles: Particles, indices: NDArray[np.integer] | None = None
) -> NDArray[np.float32]:
    """Contrast transfer functions of particles on the whole half spectrum.

    Parameters
    ----------
    n : int
        Edge of the images, pixels.
    particles : Particles
        Table with the optics and defoci.
    indices : (m,) int, optional
        Which particles; all where None.

    Returns
    -------
    ctf : (m, n, n // 2 + 1) float32
        Rows in FFT order, DC at [0, 0].
    """
    kx, ky = np.broadcast_arrays(*frequencies_2d(n))
    return ctf_at(kx.ravel(), ky.ravel(), n, particles, indices).reshape(-1, *kx.shape)


def _ctf_of_group(
    fx: NDArray[np.float64],
    fy: NDArray[np.float64],
    optics: OpticsGroup,
    particles: Particles,
    indices: NDArray[np.integer],
) -> NDArray[np.float32]:
    ctf = contrast_transfer(
        fx,
        fy,
        particles.defocus_u_angstrom_i[indices],
        particles.defocus_v_angstrom_i[indices],
        particles.defocus_angle_deg_i[indices],
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
        amplitude_contrast=optics.amplitude_contrast,
        phase_shift_deg=particles.phase_shift_deg_i[indices],
        bfactor_angstrom2=particles.ctf_bfactor_i[indices],
        scale=particles.ctf_scale_i[indices],
    )
    return np.abs(ctf, out=ctf) if optics.phase_flipped else ctf


@njit(cache=True, nogil=True, fastmath={"contract"})
def _evaluate(
    fx: NDArray[np.float64],
    fy: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    ctf: NDArray[np.float32],
) -> None:
    """Fill ctf_ip from phase coefficients; free of calls, so that the compiler makes vector code of it.

    With the phase reduced to r in [-1/2, 1/2] turns and folded to |r| <= 1/4, sin(2 pi r) is its Taylor
    polynomial of degree 13, whose error stays below 7e-10.
    """
    for i in range(coefficients.shape[0]):
        xx, xy, yy, spherical, constant, decay, scale = coefficients[i]
        for p in range(fx.size):
            x, y = fx[p], fy[p]
            f2 = x * x + y * y
            turns = x * (xx * x + xy * y) + yy * y * y + spherical * f2 * f2 + constant
            r = turns - np.floor(turns + 0.5)
            r = 2 * np.pi * (np.copysign(0.5, r) - r if abs(r) > 0.25 else r)
            q = r * r
            poly = -1 / 39916800 + q / 6227020800
            poly = -1 / 5040 + q * (1 / 362880 + q * poly)
            ctf[i, p] = scale * r * (1 + q * (-1 / 6 + q * (1 / 120 + q * poly)))
        if decay != 0.0:
            for p in range(fx.size):
                ctf[i, p] *= np.exp(decay * (fx[p] * fx[p] + fy[p] * fy[p]))
