"""The contrast transfer function as the lecture writes it, in float64 and polar form: slow, independent."""

import numpy as np
from numpy.typing import NDArray


def ctf_reference(
    fx: NDArray[np.float64],
    fy: NDArray[np.float64],
    parameters: NDArray[np.float64],
    optics: NDArray[np.float64],
) -> NDArray[np.float64]:
    """CTF of one image; parameters U, V, angle, phase shift, B, scale; optics voltage, Cs, Q0."""
    u, v, angle, plate, b, scale = parameters
    voltage, cs, q0 = optics
    volts = 1e3 * voltage
    wavelength = 12.2643247 / np.sqrt(volts + 0.978466e-6 * volts**2)
    f, theta = np.hypot(fx, fy), np.arctan2(fy, fx)
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (theta - np.radians(angle)))
    aberration = -np.pi * wavelength * defocus * f**2 + np.pi / 2 * cs * 1e7 * wavelength**3 * f**4
    alpha = np.arctan(q0 / np.sqrt(1 - q0**2)) + np.radians(plate)
    return -scale * np.exp(-b * f**2 / 4) * np.sin(aberration - alpha)
