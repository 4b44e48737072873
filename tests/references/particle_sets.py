"""Particle sets for tests from arrays: columns as make_relion_fixtures.py draws them, one image stack."""

from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from posterion.data.particles import OpticsGroup, Particles, Poses
from posterion.physics.projection import FourierVolume
from posterion.physics.simulate import noise_free_images


def particle_set(
    columns: dict[str, NDArray[np.floating]], pixel: float, box: int, stack: Path = Path("images.mrcs")
) -> Particles:
    """Particles of one stack, half sets alternating.

    Parameters
    ----------
    columns : ``optics`` (g, 3) voltage, Cs, Q0; ``parameters`` (n, 6) defocus U, V, angle, phase shift, B and
        scale; ``group`` (n,); ``poses`` (n, 5) rot, tilt, psi, origin x, origin y in Angstrom
    pixel, box : Angstrom, pixels
    stack : where the images are
    """
    parameters, n = columns["parameters"], len(columns["parameters"])
    return Particles(
        optics=tuple(
            OpticsGroup(f"og{i}", *map(float, row), pixel, box) for i, row in enumerate(columns["optics"])
        ),
        optics_index_i=columns["group"].astype(np.int32),
        stack_paths=(stack,),
        stack_names=(stack.name,),
        stack_index_i=np.zeros(n, np.int32),
        image_index_i=np.arange(n),
        defocus_u_angstrom_i=parameters[:, 0].copy(),
        defocus_v_angstrom_i=parameters[:, 1].copy(),
        defocus_angle_deg_i=parameters[:, 2].copy(),
        phase_shift_deg_i=parameters[:, 3].copy(),
        ctf_bfactor_i=parameters[:, 4].copy(),
        ctf_scale_i=parameters[:, 5].copy(),
        micrograph_names=(),
        micrograph_index_i=np.full(n, -1, np.int32),
        half_i=(1 + np.arange(n) % 2).astype(np.int8),
        poses=Poses(*columns["poses"].T.astype(float).copy()),
    )


def write_stack(path: Path, images: NDArray[np.floating], pixel: float) -> None:
    """Write images (n, box, box) as float32 .mrcs."""
    with mrcfile.new(path, overwrite=True) as stack:
        stack.set_data(np.asarray(images, np.float32))
        stack.set_image_stack()
        stack.voxel_size = pixel


def projections(volume: NDArray[np.floating], particles: Particles) -> NDArray[np.float32]:
    """Noise-free images (n, box, box) of a map at the particles' poses, with their CTFs."""
    n = len(particles)
    return noise_free_images([FourierVolume.from_map(volume)], np.zeros(n, int), particles, np.arange(n))
