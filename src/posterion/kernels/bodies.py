"""One pixel's mathematics in plain Python, compiled into every loop that needs it.

A body takes and returns numbers and tuples of them, no arrays, so that the same source is compiled for the
CPU (here, wherever compiled code calls it) and for a GPU (`numba.cuda.jit(device=True)`, see
tests/kernels/cuda_launchers.py). The values that are interpolated may also be `posterion.kernels.lanes`.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable

from posterion.kernels.compiled import COMPILED

__all__ = [
    "add_pose_terms",
    "bilinear",
    "bilinear_slopes",
    "directional",
    "fold",
    "lerp",
    "locate",
    "product",
    "shares",
    "split_position",
    "turn_about_view",
]

# float32 in compiled code; what is interpolated may also be lanes of them.
Number = Any
Pair = tuple[Number, Number]
Triple = tuple[Number, Number, Number]


@register_jitable(**COMPILED)
def lerp(a: Number, b: Number, t: Number) -> Number:
    """Interpolate ``a + t (b - a)``."""
    return a + t * (b - a)


@register_jitable(**COMPILED)
def split_position(x: Number) -> Pair:
    """Split a non-negative position into its integer part and fraction."""
    i = np.int32(x)
    return i, x - np.float32(i)


@register_jitable(**COMPILED)
def product(a: Pair, b: Pair) -> Pair:
    """Multiply two complex numbers given as (real, imaginary)."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


@register_jitable(**COMPILED)
def shares(value: Number, t: Number) -> Pair:
    """Divide a value between its lower and upper neighbour: the transpose of `lerp`."""
    upper = t * value
    return value - upper, upper


@register_jitable(**COMPILED)
def bilinear(v00: Number, v10: Number, v01: Number, v11: Number, fy: Number, fz: Number) -> Number:
    """Interpolate along y, then z, between the neighbours ``v_(upper along y)(upper along z)``."""
    return lerp(lerp(v00, v10, fy), lerp(v01, v11, fy), fz)


@register_jitable(**COMPILED)
def bilinear_slopes(v00: Number, v10: Number, v01: Number, v11: Number, fy: Number, fz: Number) -> Triple:
    """Interpolate as `bilinear` does; also return the derivatives along y and z."""
    slope0, slope1 = v10 - v00, v11 - v01
    value0, value1 = v00 + fy * slope0, v01 + fy * slope1
    along_z = value1 - value0
    return value0 + fz * along_z, lerp(slope0, slope1, fz), along_z


@register_jitable(**COMPILED)
def fold(x: Number, y: Number, z: Number, origin: Number) -> tuple[Triple, Triple, Number]:
    """Find a position of a volume in its half ``x >= 0``, at -q if need be.

    Returns the lower of its neighbours, the fractions of the way to the upper ones, both (x, y, z), and the
    sign of x before folding. ``origin`` is the index of the zero frequency along y and z.
    """
    sign = np.float32(1.0) if x >= 0 else np.float32(-1.0)
    ix, fx = split_position(x * sign)
    iy, fy = split_position(y * sign + origin)
    iz, fz = split_position(z * sign + origin)
    return (ix, iy, iz), (fx, fy, fz), sign


@register_jitable(**COMPILED)
def locate(k: Pair, along_kx: Triple, along_ky: Triple, origin: Number) -> tuple[Triple, Triple, Number]:
    """Find pixel k of a slice in the volume: `fold` of ``kx along_kx + ky along_ky``."""
    kx, ky = k
    ax, ay, az = along_kx
    bx, by, bz = along_ky
    return fold(kx * ax + ky * bx, kx * ay + ky * by, kx * az + ky * bz, origin)


@register_jitable(**COMPILED)
def turn_about_view(kx: Number, ky: Number, along_kx: Triple, along_ky: Triple) -> Triple:
    """Say where pixel (kx, ky) moves when the model turns about the image's z, per radian: (x, y, z)."""
    ax, ay, az = along_kx
    bx, by, bz = along_ky
    return ky * ax - kx * bx, ky * ay - kx * by, ky * az - kx * bz


@register_jitable(**COMPILED)
def directional(direction: Triple, along_x: Pair, along_y: Pair, along_z: Pair, sign: Number) -> Pair:
    """Compute the derivative along a direction; ``sign`` is -1 where the transform was sampled at -q.

    ``V(q) = conj V(-q)``: the derivative of the real part is odd, that of the imaginary part even.
    """
    x, y, z = direction
    re = x * along_x[0] + y * along_y[0] + z * along_z[0]
    return re * sign, x * along_x[1] + y * along_y[1] + z * along_z[1]


@register_jitable(**COMPILED)
def add_pose_terms(
    sums: tuple[Number, ...], k: Pair, ctf2: Number, d: Pair, m: Pair, z: Pair, t: Pair
) -> tuple[Number, ...]:
    """Add a pixel to the 22 sums of `posterion.kernels.score_poses`, shifts in units of ``2 pi / box``.

    ``d`` is the image, ``m`` the slice, ``z`` its derivative along z of the image, ``t`` the one by a turn
    about z; complex numbers are pairs.
    """
    kx, ky = k
    n_re, n_im, u_re, u_im = ctf2 * m[0], ctf2 * m[1], ctf2 * z[0], ctf2 * z[1]
    e_re, e_im = d[0] - n_re, d[1] - n_im
    xx, xy, yy = kx * kx, kx * ky, ky * ky
    ze, te = z[0] * e_re + z[1] * e_im, t[0] * e_re + t[1] * e_im
    md = m[0] * d[1] - m[1] * d[0]
    mm, zz, zt = m[0] * n_re + m[1] * n_im, z[0] * u_re + z[1] * u_im, t[0] * u_re + t[1] * u_im
    zm, tm = z[1] * n_re - z[0] * n_im, t[1] * n_re - t[0] * n_im
    return (
        sums[0] + (m[0] * d[0] + m[1] * d[1]),
        sums[1] + mm,
        sums[2] - ky * ze,
        sums[3] + kx * ze,
        sums[4] + te,
        sums[5] + kx * md,
        sums[6] + ky * md,
        sums[7] + yy * zz,
        sums[8] - xy * zz,
        sums[9] - ky * zt,
        sums[10] - xy * zm,
        sums[11] - yy * zm,
        sums[12] + xx * zz,
        sums[13] + kx * zt,
        sums[14] + xx * zm,
        sums[15] + xy * zm,
        sums[16] + ctf2 * (t[0] * t[0] + t[1] * t[1]),
        sums[17] + kx * tm,
        sums[18] + ky * tm,
        sums[19] + xx * mm,
        sums[20] + xy * mm,
        sums[21] + yy * mm,
    )
