"""What does not change during a refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.compute import Workers
from posterion.data.particles import Particles
from posterion.refine.state import RefineConfig

__all__ = ["RefineContext"]


@dataclass(frozen=True)
class RefineContext:
    """Particles, groups, mask, options and threads.

    Attributes
    ----------
    particles : the set
    half_i : (N,) int8, 1 or 2
    noise_group_i, scale_group_i : (N,) integers
    solvent_mask : (n, n, n) float32
    tight_mask : whether that mask is the user's, so that its FSC needs the phase-randomised correction
    config : options
    workers : threads
    observer : called with the number of particles after each batch
    """

    particles: Particles
    half_i: NDArray[np.int8]
    noise_group_i: NDArray[np.integer]
    scale_group_i: NDArray[np.integer]
    solvent_mask: NDArray[np.float32]
    config: RefineConfig
    workers: Workers
    observer: Callable[[int], None] | None = None
    tight_mask: bool = False

    @property
    def box(self) -> int:
        """Image box, pixels."""
        return self.particles.box_px

    @property
    def pixel_size(self) -> float:
        """Pixel size, Angstrom."""
        return self.particles.pixel_size_angstrom

    @property
    def diameter_px(self) -> float:
        """Particle diameter, pixels."""
        return self.config.diameter_angstrom / self.pixel_size

    def shell_of(self, resolution_angstrom: float) -> int:
        """Fourier pixel of a resolution in Angstrom."""
        return int(self.box * self.pixel_size / resolution_angstrom)
