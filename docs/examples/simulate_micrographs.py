"""Simulated micrographs to try the tutorial with: python simulate_micrographs.py FOLDER.

Six micrographs of 1536 x 1536 pixels of 2.4 Angstrom with 150 particles each of the embedded assembly, in
ice, at 1.0 to 2.3 um defocus, and reference.mrc, the assembly low-passed to 30 Angstrom.
"""

import sys
from pathlib import Path

import numpy as np

from posterion import FourierVolume, OpticsGroup, phantom_map, write_map
from posterion.mapping.masks import low_pass
from posterion.micrographs.simulation import simulate_micrograph
from posterion.physics.fourier import inverse_fourier_transform_2d
from posterion.physics.rotations import matrices_from_euler

MICROGRAPHS, PARTICLES = 6, 150
EDGE_PX, BOX_PX, PIXEL_ANGSTROM = 1536, 80, 2.4
NEAREST_ANGSTROM = 170.0
SIGNAL = 0.9  # standard deviation of a projection over its box, in units of the noise's (about 0.6)


def centres(rng):
    """Places for particles, none near another or the edge."""
    found = np.empty((0, 2), int)
    while len(found) < PARTICLES:
        place = rng.integers(BOX_PX // 2, EDGE_PX - BOX_PX // 2, 2)
        if not len(found) or np.hypot(*(found - place).T).min() > NEAREST_ANGSTROM / PIXEL_ANGSTROM:
            found = np.vstack([found, place])
    return found


def main(folder):
    """Write the micrographs and the reference."""
    density = phantom_map(BOX_PX, PIXEL_ANGSTROM)
    write_map(folder / "reference.mrc", low_pass(density, 30.0, PIXEL_ANGSTROM), PIXEL_ANGSTROM)
    volume = FourierVolume.from_map(density)
    optics = OpticsGroup("ice", 300.0, 2.7, 0.1, PIXEL_ANGSTROM, 0)
    for number in range(1, MICROGRAPHS + 1):
        rng = np.random.default_rng(number)
        rot, psi = rng.uniform(-180, 180, (2, PARTICLES))
        tilt = np.degrees(np.arccos(rng.uniform(-1, 1, PARTICLES)))
        images = inverse_fourier_transform_2d(volume.project(matrices_from_euler(rot, tilt, psi)), BOX_PX)
        field = np.zeros((EDGE_PX, EDGE_PX), np.float32)
        for (x, y), image in zip(centres(rng) - BOX_PX // 2, images, strict=True):
            field[y : y + BOX_PX, x : x + BOX_PX] += image
        defocus = 8000.0 + 2500.0 * number, 7800.0 + 2500.0 * number, 30.0 * number
        shape = EDGE_PX, EDGE_PX
        values = simulate_micrograph(
            shape, optics, defocus, density=SIGNAL * 0.6 * field / images.std(), seed=number
        )
        write_map(folder / f"micrographs/mic{number:02d}.mrc", values[None], PIXEL_ANGSTROM)
        print(f"mic{number:02d}.mrc: {PARTICLES} particles, defocus {defocus[0]:.0f} A")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
