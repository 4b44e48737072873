"""What a batch adds to the M-step along the rotations of a grid that all its images share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.compute import Workers
from posterion.inference.contributions import Slices
from posterion.inference.exhaustive import SharedGrid
from posterion.inference.images import ImageBatch
from posterion.inference.posterior import Posterior
from posterion.physics.fourier import Disc
from posterion.physics.projection import Accumulator
from posterion.physics.shift_interpolation import ShiftInterpolation
from posterion.physics.shifts import shifted

__all__ = ["GridSums"]

_BLOCK_BYTES = 2**25


@dataclass(frozen=True)
class GridSums:
    """Posteriors of a batch and its moved images, whose product is a slice for every rotation.

    ``numerator_rp = Gamma^T @ images`` and ``weight_rp = Gamma^T @ [C^2/sigma2]`` (docs/theory.md 4): one
    insertion per rotation, not one per image. Broad posteriors give nearly every rotation a slice, up to
    gigabytes of them: they are made a few at a time, when they are inserted.

    Attributes
    ----------
    matrices : (R, 3, 3) float64, rotations with any weight
    gamma_rx : (R, X) float32, weight of each moved image
    moved_xp : (X, P) complex64, ``C y / sigma2`` of each image at each of its shifts
    gamma_ri : (R, n) float32, weight of each image
    ctf2_ip : (n, P) float32, ``C^2 / sigma2``
    """

    matrices: NDArray[np.float64]
    gamma_rx: NDArray[np.float32]
    moved_xp: NDArray[np.complex64]
    gamma_ri: NDArray[np.float32]
    ctf2_ip: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        batch: ImageBatch,
        rows: list[int],
        posteriors: Sequence[Posterior],
        shared: SharedGrid,
        shifts_px: NDArray[np.float64],
        few: ShiftInterpolation | None = None,
    ) -> GridSums:
        """Move images by the shifts that their posteriors keep, or by few where these come cheaper.

        Parameters
        ----------
        batch : prepared images
        rows : those that are used
        posteriors : of each of these, on all rotations of the grid
        shared : the grid
        shifts_px : (T, 2) shifts of the posteriors
        few : shifts that all of these follow from, where there are such
        """
        # Filled in place: a list of what each image gives, joined afterwards, would hold all of it twice.
        moved_by = [
            few.kept_s if few is not None and few.saves(len(own.shift_t)) else own.shift_t
            for own in posteriors
        ]
        first = np.cumsum([0, *map(len, moved_by)])
        gamma_ri = np.empty((len(shared.cell), len(rows)), np.float32)
        gamma_rx = np.empty((len(shared.cell), first[-1]), np.float32)
        moved_xp = np.empty((first[-1], len(batch.pixels)), np.complex64)
        for i, (row, posterior) in enumerate(zip(rows, posteriors, strict=True)):
            full = np.zeros((len(shared.cell), posterior.weight_rt.shape[1]), np.float32)
            full[posterior.rotation_r] = posterior.weight_rt
            gamma_ri[:, i] = full.sum(axis=1)
            if few is not None and moved_by[i] is few.kept_s:
                full = few.onto_few(full, posterior.shift_t)
            own_x = slice(first[i], first[i + 1])
            gamma_rx[:, own_x] = full
            moved_xp[own_x] = shifted(batch.data_ip[row], batch.pixels, shifts_px[moved_by[i]])
        used = np.flatnonzero(gamma_ri.any(axis=1))
        ctf2_ip = batch.inserted_ctf2(rows)
        return cls(shared.matrices[used], gamma_rx[used], moved_xp, gamma_ri[used], ctf2_ip)

    @property
    def samples(self) -> int:
        """Number of coefficients that are inserted."""
        return len(self.matrices) * int(np.count_nonzero(self.ctf2_ip.any(axis=0)))

    def slices(self, rotations: slice = slice(None)) -> Slices:
        """Make the slices of some of the rotations."""
        numerator = self.gamma_rx[rotations] @ self.moved_xp.view(np.float32)
        weight = self.gamma_ri[rotations] @ self.ctf2_ip
        return self.matrices[rotations], numerator.view(np.complex64), weight

    def insert(self, accumulator: Accumulator, pixels: Disc, workers: Workers | None = None) -> None:
        """Make all slices, a block of rotations on each thread, and insert them in order."""
        size = max(1, _BLOCK_BYTES // (12 * len(pixels)))
        blocks = [slice(first, first + size) for first in range(0, len(self.matrices), size)]
        made = map(self.slices, blocks) if workers is None else workers.map_ordered(self.slices, blocks)
        for matrices, numerator_rp, weight_rp in made:
            accumulator.insert(matrices, pixels, numerator_rp, weight_rp, workers)
