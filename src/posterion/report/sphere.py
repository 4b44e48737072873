"""The sphere of viewing directions as a Mollweide map (equal areas), and the surroundings of one direction.

rot runs along the equator, tilt from 0 at the top to 180 degrees at the bottom. Values live on HEALPix
pixels in nested order, as the pose grids do.
"""

from typing import Any

import hpgeom
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from numpy.typing import NDArray

__all__ = ["count_directions", "draw_peak", "draw_sphere"]

Array = NDArray[np.float64]

_INK = "#222222"
_RASTER = 1000
_GRATICULE: dict[str, Any] = {"color": "#ffffff", "linewidth": 0.5, "alpha": 0.45}


def count_directions(rot_deg: Array, tilt_deg: Array, order: int) -> Array:
    """Count poses per HEALPix pixel of their viewing direction, (12 * 4**order,) float64, nested order."""
    theta = np.radians(np.asarray(tilt_deg, np.float64)) % (2 * np.pi)
    turned = theta > np.pi
    theta = np.where(turned, 2 * np.pi - theta, theta)
    phi = (np.radians(np.asarray(rot_deg, np.float64)) + np.pi * turned) % (2 * np.pi)
    pixel = hpgeom.angle_to_pixel(2**order, theta, phi, nest=True, lonlat=False)
    return np.bincount(pixel, minlength=12 * 4**order).astype(np.float64)


def draw_sphere(axes: Axes, value_d: Array, norm: Normalize) -> AxesImage:
    """Draw HEALPix values as a Mollweide map with a graticule every 30 degrees of tilt and 60 of rot.

    Parameters
    ----------
    axes : to draw on
    value_d : (12 * 4**order,) float64, nested order
    norm : from values to colours

    Returns
    -------
    the drawn image, for a colour bar
    """
    x, y = np.meshgrid(np.linspace(-2, 2, 2 * _RASTER), np.linspace(-1, 1, _RASTER))
    auxiliary = np.arcsin(y)
    latitude = np.arcsin((2 * auxiliary + np.sin(2 * auxiliary)) / np.pi)
    longitude = np.pi * x / np.maximum(2 * np.cos(auxiliary), 1e-9)
    inside = np.abs(longitude) <= np.pi
    nside = int(np.sqrt(len(value_d) / 12))
    angles = (np.pi / 2 - latitude)[inside], longitude[inside] % (2 * np.pi)
    raster = np.full(x.shape, np.nan)
    raster[inside] = value_d[hpgeom.angle_to_pixel(nside, *angles, nest=True, lonlat=False)]
    drawn = axes.imshow(
        raster, cmap="magma", origin="lower", extent=(-2, 2, -1, 1), norm=norm, interpolation="nearest"
    )
    _draw_graticule(axes)
    return drawn


def _draw_graticule(axes: Axes) -> None:
    run = np.linspace(-np.pi, np.pi, 181)
    for rot in (-120, -60, 0, 60, 120):
        axes.plot(*_mollweide(np.full(181, np.radians(rot)), run / 2), **_GRATICULE)
        axes.text(
            *_mollweide(np.radians(rot), 0.03), f"{rot}°", color="white", fontsize=7, ha="center", alpha=0.8
        )
    for tilt in (30, 60, 90, 120, 150):
        latitude = np.radians(90.0 - tilt)
        axes.plot(*_mollweide(run, np.full(181, latitude)), **_GRATICULE)
        x, y = _mollweide(-np.pi, latitude)
        axes.text(float(x) - 0.04, float(y), f"{tilt}°", color=_INK, fontsize=8, ha="right", va="center")
    outline = np.linspace(0, 2 * np.pi, 361)
    axes.plot(2 * np.cos(outline), np.sin(outline), color=_INK, linewidth=0.8)
    axes.set(xlim=(-2.3, 2.05), ylim=(-1.25, 1.05))
    axes.set_axis_off()
    axes.text(
        0, -1.08, "tilt down the left, rot along the equator", fontsize=8, color=_INK, ha="center", va="top"
    )


def _mollweide(longitude: Any, latitude: Any) -> tuple[Any, Any]:
    """Project radians onto the plane (|x| <= 2, |y| <= 1) by solving ``2 t + sin 2t = pi sin(latitude)``."""
    longitude, latitude = np.broadcast_arrays(np.asarray(longitude, float), np.asarray(latitude, float))
    auxiliary = latitude.copy()
    for _ in range(30):
        slope = np.maximum(2 + 2 * np.cos(2 * auxiliary), 1e-6)
        auxiliary = auxiliary - (2 * auxiliary + np.sin(2 * auxiliary) - np.pi * np.sin(latitude)) / slope
    return 2 / np.pi * longitude * np.cos(auxiliary), np.sin(auxiliary)


def draw_peak(axes: Axes, weight_d: Array) -> None:
    """Draw the surroundings of the heaviest direction on its tangent plane, degrees, linear scale.

    Parameters
    ----------
    axes : to draw on
    weight_d : (12 * 4**order,) float64, sums to 1, nested order
    """
    nside = int(np.sqrt(len(weight_d) / 12))
    theta, phi = hpgeom.pixel_to_angle(nside, np.arange(len(weight_d)), nest=True, lonlat=False)
    direction_d = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    peak = direction_d[weight_d.argmax()]
    half_width = np.radians(np.clip(5 * 60 / nside, 4, 60))
    t, p = theta[weight_d.argmax()], phi[weight_d.argmax()]
    east = np.array([-np.sin(p), np.cos(p), 0.0])
    south = np.array([np.cos(t) * np.cos(p), np.cos(t) * np.sin(p), -np.sin(t)])
    across = np.tan(np.linspace(-half_width, half_width, 300))
    ray = peak + across[:, None, None] * -south + across[None, :, None] * east
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    ray_phi = np.arctan2(ray[..., 1], ray[..., 0]) % (2 * np.pi)
    pixel = hpgeom.angle_to_pixel(
        nside, np.arccos(np.clip(ray[..., 2], -1, 1)), ray_phi, nest=True, lonlat=False
    )
    reach = np.degrees(half_width)
    axes.imshow(weight_d[pixel], cmap="magma", origin="lower", extent=(-reach, reach, -reach, reach), vmin=0)
    axes.set_title(f"about the peak: rot {np.degrees(p):.1f}°, tilt {np.degrees(t):.1f}°", fontsize=10)
    axes.set_xlabel(f"degrees from the peak; it holds {100 * weight_d.max():.0f} %", fontsize=9)
    axes.tick_params(labelsize=8)
