"""Everything a refinement starts from, read, checked and brought together before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterion.compute import Workers
from posterion.data.outliers import screened
from posterion.data.particles import Particles
from posterion.data.unread import without_text
from posterion.data.unusable import UNUSABLE, usable_images
from posterion.errors import PosterionError
from posterion.mapping.reconstruct import half_ids
from posterion.physics.symmetry import point_group_operators
from posterion.refine.checkpoint import fingerprint
from posterion.refine.context import RefineContext
from posterion.refine.options import RefineOptions, require_diameter, resolve
from posterion.refine.reference import prepare_mask, prepare_reference
from posterion.refine.state import RefineConfig

__all__ = ["Inputs", "check_for_reconstruction", "check_images", "inverted", "prepare"]

_SAMPLE = 32


@dataclass(frozen=True)
class Inputs:
    """What a run is computed from.

    Attributes
    ----------
    particles : the set
    particles_path, reference_path : files it came from; None for objects in memory
    half_i : (N,) int8, 1 or 2
    reference : (n, n, n) float32, on the images' grid
    mask : (n, n, n) float32, for solvent flattening
    options : as the user gave them
    config : for the engine
    notes, warnings : what has to be said, one sentence each
    """

    particles: Particles
    particles_path: Path | None
    reference_path: Path | None
    half_i: NDArray[np.int8]
    reference: NDArray[np.float32]
    mask: NDArray[np.float32]
    options: RefineOptions
    config: RefineConfig
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def fingerprint(self) -> dict[str, Any]:
        """Name all that the result depends on."""
        return fingerprint(self.particles, self.half_i, self.reference, self.mask, self.config)

    def context(self, workers: Workers) -> RefineContext:
        """Engine's view: noise per optics group, intensity scale per micrograph, no image that is an outlier.

        Raises
        ------
        PosterionError
            When a stack cannot be read.
        """
        micrograph_i = self.particles.micrograph_index_i
        return RefineContext(
            particles=screened(self.particles),
            half_i=self.half_i,
            noise_group_i=_dense(self.particles.optics_index_i),
            scale_group_i=_dense(micrograph_i),
            solvent_mask=self.mask,
            config=self.config,
            workers=workers,
            tight_mask=self.options.mask is not None,
        )


def _dense(group_i: NDArray[np.int32]) -> NDArray[np.integer]:
    """Renumber groups 0, 1, ... without gaps, in the smallest type that holds them."""
    groups, dense_i = np.unique(group_i, return_inverse=True)
    return dense_i.astype(np.min_scalar_type(max(len(groups) - 1, 0)))


def prepare(
    particles: str | Path | Particles,
    reference: str | Path | NDArray[np.floating],
    diameter_angstrom: float,
    options: RefineOptions,
) -> Inputs:
    """Read and check particles, reference and mask; nothing is written.

    Raises
    ------
    PosterionError
        For anything that would make the run fail or its result meaningless.
    """
    path = None if isinstance(particles, Particles) else Path(particles)
    chosen = particles if isinstance(particles, Particles) else Particles.read(particles, options.supplement)
    file_halves = bool((chosen.half_i > 0).all())
    if path is not None:
        chosen = without_text(chosen, path, options.supplement)
    if options.invert_contrast:
        chosen = inverted(chosen)
    if path is None and chosen.table is not None:
        path = chosen.table.path
    if not len(chosen):
        raise PosterionError(f"{path or 'the particle set'} holds no particles; there is nothing to refine")
    box, pixel = chosen.box_px, chosen.pixel_size_angstrom
    config = resolve(options, diameter_angstrom, box, pixel)
    half_i = half_ids(chosen, options.seed)
    values, notes = prepare_reference(reference, box, pixel, options.reference_pixel_size_angstrom)
    mask, warnings = prepare_mask(options.mask, box, pixel, diameter_angstrom)
    check_images(chosen, half_i)
    if not file_halves:
        notes += (
            f"half sets drawn at random with seed {options.seed}; they are written into particles.star",
        )
    return Inputs(
        particles=replace(chosen, half_i=half_i),
        particles_path=path,
        reference_path=None if isinstance(reference, np.ndarray) else Path(reference),
        half_i=half_i,
        reference=values,
        mask=mask,
        options=options,
        config=config,
        notes=notes,
        warnings=warnings,
    )


def inverted(particles: Particles) -> Particles:
    """Multiply images by -1 as they are read: for stacks in which particles are dark."""
    sign_i = particles.contrast_sign_i
    negative_i = -np.ones(len(particles), np.int8) if sign_i is None else -sign_i
    return replace(particles, contrast_sign_i=negative_i)


def check_for_reconstruction(
    particles: Particles, point_group: str, diameter_angstrom: float | None, seed: int
) -> None:
    """Check all that a reconstruction from known poses needs, before anything is computed or written.

    Raises
    ------
    PosterionError
        When poses, a half set or images are missing, or an option cannot be used.
    """
    particles.require_poses()
    point_group_operators(point_group)
    if diameter_angstrom is not None:
        require_diameter(diameter_angstrom, particles.box_px, particles.pixel_size_angstrom)
    check_images(particles, half_ids(particles, seed))


def check_images(particles: Particles, half_i: NDArray[np.int8]) -> None:
    """Read the last image asked for of every stack, and see that each half has an image that can be used.

    Raises
    ------
    PosterionError
        When a stack is missing, truncated, of another box or has too few images, or when none of 32 images
        spread over a half is finite and varies.
    """
    order = np.lexsort((particles.image_index_i, particles.stack_index_i))
    stack = particles.stack_index_i[order]
    last = order[np.flatnonzero(np.append(stack[1:] != stack[:-1], True))]
    for start in range(0, len(last), _SAMPLE):
        particles.images(last[start : start + _SAMPLE])
    for half in (1, 2):
        members = np.flatnonzero(half_i == half)
        sample = members[np.unique(np.linspace(0, len(members) - 1, min(_SAMPLE, len(members))).astype(int))]
        images = particles.images(sample)
        if not usable_images(images).any():
            raise PosterionError(
                f"none of {len(sample)} images of half set {half} can be used: they {UNUSABLE}; "
                "'posterion doctor' says more"
            )
