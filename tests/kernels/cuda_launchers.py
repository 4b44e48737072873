"""CUDA kernels around the bodies of `posterion.kernels.bodies`, simulated or compiled in their own process.

``python cuda_launchers.py simulate`` (with NUMBA_ENABLE_CUDASIM=1) prints the largest difference from the
CPU's kernels, relative to the largest value; ``python cuda_launchers.py compile 9.0`` (with
NUMBA_FORCE_CUDA_CC=9.0) prints the PTX. Neither needs a GPU. They show that the mathematics compiles and
agrees; kernels that make good use of a GPU are not these.
"""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
from numba import cuda, float32, float64, int32, int64
from scipy.spatial.transform import Rotation

from posterion.kernels import gather_slices, scatter_slices, score_poses
from posterion.kernels.bodies import (
    add_pose_terms,
    bilinear,
    bilinear_slopes,
    directional,
    lerp,
    locate,
    product,
    shares,
    turn_about_view,
)
from posterion.physics.fourier import disc

PADDING, BOX, RADIUS, N_IMAGES, N_POSES = 2, 17, 6, 2, 3
NOTHING = (np.float32(0.0),) * 22


@cuda.jit(device=True)
def axes_of(axes):
    return (
        (axes[0, 0], axes[0, 1], axes[0, 2]),
        (axes[1, 0], axes[1, 1], axes[1, 2]),
        (axes[2, 0], axes[2, 1], axes[2, 2]),
    )


@cuda.jit(device=True)
def neighbours(volume, x, y, z, part):
    return (
        volume[z, y, x, part],
        volume[z, y + 1, x, part],
        volume[z + 1, y, x, part],
        volume[z + 1, y + 1, x, part],
    )


@cuda.jit(device=True)
def with_slopes(volume, corner, fractions, part):
    """Value and derivatives along (x, y, z) of the grid of one part, real or imaginary."""
    x, y, z = corner
    fx, fy, fz = fractions
    v00, v10, v01, v11 = neighbours(volume, x, y, z, part)
    value0, y0, z0 = bilinear_slopes(v00, v10, v01, v11, fy, fz)
    v00, v10, v01, v11 = neighbours(volume, x + 1, y, z, part)
    value1, y1, z1 = bilinear_slopes(v00, v10, v01, v11, fy, fz)
    return lerp(value0, value1, fx), value1 - value0, lerp(y0, y1, fx), lerp(z0, z1, fx)


def gather(volume, centre, axes_r, k_p, slices_rp):
    """One thread for each pixel of each slice."""
    i = cuda.grid(1)
    n_pixels = k_p.shape[0]
    if i >= axes_r.shape[0] * n_pixels:
        return
    r, p = i // n_pixels, i % n_pixels
    along_kx, along_ky, _ = axes_of(axes_r[r])
    (x, y, z), (fx, fy, fz), sign = locate((k_p[p, 0], k_p[p, 1]), along_kx, along_ky, np.float32(centre))
    for part in range(2):
        v00, v10, v01, v11 = neighbours(volume, x, y, z, part)
        low = bilinear(v00, v10, v01, v11, fy, fz)
        v00, v10, v01, v11 = neighbours(volume, x + 1, y, z, part)
        value = lerp(low, bilinear(v00, v10, v01, v11, fy, fz), fx)
        slices_rp[r, p, part] = value if part == 0 else value * sign


def insert(volume, centre, axes_r, k_p, values_rp, weights_rp):
    """One thread for each pixel of each slice, additions to the eight neighbours atomic."""
    i = cuda.grid(1)
    n_pixels = k_p.shape[0]
    if i >= axes_r.shape[0] * n_pixels:
        return
    r, p = i // n_pixels, i % n_pixels
    along_kx, along_ky, _ = axes_of(axes_r[r])
    (x, y, z), (fx, fy, fz), sign = locate((k_p[p, 0], k_p[p, 1]), along_kx, along_ky, np.float32(centre))
    for part in range(3):
        value = (
            weights_rp[r, p]
            if part == 2
            else values_rp[r, p, part] * (sign if part == 1 else np.float32(1.0))
        )
        along_x = shares(value, fx)
        for dx in range(2):
            along_y = shares(along_x[dx], fy)
            for dy in range(2):
                along_z = shares(along_y[dy], fz)
                for dz in range(2):
                    cuda.atomic.add(volume, (z + dz, y + dy, x + dx, part), along_z[dz])


def score(volume, centre, axes_r, shifts_px_r, image_r, k_p, box, whitened_ip, ctf2_ip, terms):
    """One thread for each pose."""
    r = cuda.grid(1)
    if r >= axes_r.shape[0]:
        return
    along_kx, along_ky, along_view = axes_of(axes_r[r])
    wave_number = np.float32(2 * math.pi / box)
    image = image_r[r]
    sums = NOTHING
    for p in range(k_p.shape[0]):
        k = k_p[p, 0], k_p[p, 1]
        corner, fractions, sign = locate(k, along_kx, along_ky, np.float32(centre))
        re, x_re, y_re, z_re = with_slopes(volume, corner, fractions, 0)
        im, x_im, y_im, z_im = with_slopes(volume, corner, fractions, 1)
        by_x, by_y, by_z = (x_re, x_im), (y_re, y_im), (z_re, z_im)
        turn = turn_about_view(k[0], k[1], along_kx, along_ky)
        angle = -wave_number * (k[0] * np.float32(shifts_px_r[r, 0]) + k[1] * np.float32(shifts_px_r[r, 1]))
        wave = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        sums = add_pose_terms(
            sums,
            k,
            ctf2_ip[image, p],
            product((whitened_ip[image, p, 0], whitened_ip[image, p, 1]), wave),
            (re, im * sign),
            directional(along_view, by_x, by_y, by_z, sign),
            directional(turn, by_x, by_y, by_z, sign),
        )
    for a in range(22):
        shifts = (a in (5, 6, 10, 11, 14, 15, 17, 18)) + 2 * (a >= 19)
        terms[r, a] = sums[a] * (
            wave_number if shifts == 1 else wave_number * wave_number if shifts == 2 else 1.0
        )


def problem():
    """Noise: (volume, centre, axes, shifts, images of poses, disc, whitened, ctf2)."""
    rng = np.random.default_rng(5)
    pixels = disc(BOX, RADIUS)
    centre = PADDING * RADIUS + 2
    volume = rng.normal(size=(2 * centre + 1, 2 * centre + 1, centre + 1, 2)).astype(np.float32)
    axes = (PADDING * Rotation.random(N_POSES, random_state=rng).as_matrix()).astype(np.float32)
    whitened = rng.normal(size=(N_IMAGES, len(pixels), 2)).astype(np.float32)
    ctf2 = rng.uniform(0, 2, (N_IMAGES, len(pixels))).astype(np.float32)
    image_r = np.arange(N_POSES, dtype=np.int32) % N_IMAGES
    return volume, centre, axes, rng.normal(0, 2, (N_POSES, 2)), image_r, pixels, whitened, ctf2


def difference(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def simulate():
    """Relative differences of the simulated GPU from the CPU, by kernel."""
    volume, centre, axes, shifts, image_r, pixels, whitened, ctf2 = problem()
    rows = pixels.row_ky, pixels.row_first_kx, pixels.row_start
    k_p = np.stack([pixels.kx_p, pixels.ky_p], -1).astype(np.float32)
    blocks = -(-N_POSES * len(pixels) // 32)
    slices = [np.zeros((N_POSES, len(pixels), 2), np.float32) for _ in range(2)]
    gather_slices(volume, centre, np.ascontiguousarray(axes[:, :2]), rows, slices[0])
    cuda.jit(gather)[blocks, 32](volume, centre, axes, k_p, slices[1])
    weights = ctf2[image_r]
    sums = [np.zeros((*volume.shape[:3], 4), np.float32) for _ in range(2)]
    planes = (0, len(volume))
    scatter_slices(sums[0], centre, np.ascontiguousarray(axes[:, :2]), rows, slices[0], weights, planes)
    cuda.jit(insert)[blocks, 32](sums[1], centre, axes, k_p, slices[0], weights)
    terms = [np.zeros((N_POSES, 22)) for _ in range(2)]
    spectra = whitened.view(np.complex64)[..., 0]
    score_poses(volume, centre, axes, shifts, image_r, rows, BOX, spectra, ctf2, terms[0])
    cuda.jit(score)[1, 4](volume, centre, axes, shifts, image_r, k_p, BOX, whitened, ctf2, terms[1])
    each = np.abs(terms[1] - terms[0]).max(axis=0) / np.abs(terms[0]).max(axis=0)
    return {
        "gather": difference(slices[1], slices[0]),
        "insert": difference(sums[1], sums[0]),
        "score": each.max(),
    }


def compiled(capability):
    """PTX of each kernel for a compute capability such as (9, 0)."""
    from numba.cuda import dispatcher

    # Functions called by a kernel are compiled for the GPU at hand; there may be none.
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    reals = {n: float32[(slice(None),) * (n - 1) + (slice(None, None, 1),)] for n in (2, 3, 4)}
    ints, doubles = int32[::1], float64[:, ::1]
    kernels = {
        gather: (reals[4], int64, reals[3], reals[2], reals[3]),
        insert: (reals[4], int64, reals[3], reals[2], reals[3], reals[2]),
        score: (reals[4], int64, reals[3], doubles, ints, reals[2], int64, reals[3], reals[2], doubles),
    }
    return {
        kernel.__name__: cuda.compile_ptx(kernel, signature, cc=capability)[0]
        for kernel, signature in kernels.items()
    }


if __name__ == "__main__":
    if sys.argv[1] == "simulate":
        print(json.dumps(simulate()))
    else:
        major, minor = sys.argv[2].split(".")
        print(json.dumps(compiled((int(major), int(minor)))))
