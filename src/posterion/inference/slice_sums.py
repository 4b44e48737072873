"""What images add to the M-step along rotations, and how it is inserted: a few slices at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from posterion.compute import Workers
from posterion.inference.exhaustive import SharedGrid
from posterion.inference.images import ImageBatch
from posterion.inference.posterior import Posterior
from posterion.physics.fourier import Disc
from posterion.physics.projection import Accumulator
from posterion.physics.shift_interpolation import ShiftInterpolation
from posterion.physics.shifts import shifted

__all__ = ["SliceSums", "insert_slices"]

_BLOCK_BYTES = 2**25
_PIXELS_AT_A_TIME = 512


@dataclass(frozen=True)
class SliceSums:
    """Posteriors of images and these images moved, whose product is a slice for every rotation.

    ``numerator_rp = Gamma^T @ images`` and ``weight_rp = Gamma^T @ [C^2/sigma2]`` (docs/theory.md 5). Of one
    image on rotations of its own, or of a whole batch on a shared grid: there one insertion per rotation, not
    one per image. Broad posteriors give thousands of slices, gigabytes in all: they are made by
    `insert_slices`, a few at a time.

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
    def of_image(
        cls,
        batch: ImageBatch,
        row: int,
        matrices: NDArray[np.float64],
        gamma_rx: NDArray[np.float32],
        moved_xp: NDArray[np.complex64],
    ) -> SliceSums:
        """Add one image at rotations of its own; where these are fewer than its shifts, slices are kept.

        Parameters
        ----------
        batch : prepared images
        row : which of them
        matrices, gamma_rx, moved_xp : see above
        """
        gamma_ri, ctf2_ip = gamma_rx.sum(axis=1)[:, None], batch.inserted_ctf2([row])
        if len(matrices) < len(moved_xp):
            moved_xp = (gamma_rx @ moved_xp.view(np.float32)).view(np.complex64)
            gamma_rx = np.eye(len(matrices), dtype=np.float32)
        return cls(matrices, gamma_rx, moved_xp, gamma_ri, ctf2_ip)

    @classmethod
    def on_grid(
        cls,
        batch: ImageBatch,
        rows: list[int],
        posteriors: Sequence[Posterior],
        shared: SharedGrid,
        shifts_px: NDArray[np.float64],
        few: ShiftInterpolation | None = None,
    ) -> SliceSums:
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

    def make(
        self,
        rotations: slice,
        pixels: slice,
        numerator_rp: NDArray[np.complex64],
        weight_rp: NDArray[np.float32],
    ) -> None:
        """Make some pixels of the slices of some rotations, in memory that is given."""
        moved = self.moved_xp[:, pixels].view(np.float32)
        np.matmul(self.gamma_rx[rotations], moved, out=numerator_rp[:, pixels].view(np.float32))
        # A matrix product over one image takes nine times as long as the outer product that it is.
        product = np.multiply if len(self.ctf2_ip) == 1 else np.matmul
        product(self.gamma_ri[rotations], self.ctf2_ip[:, pixels], out=weight_rp[:, pixels])


_Piece = tuple[SliceSums, slice, slice]
"""Some rotations of a part, and the rows of a block that are their slices."""


def insert_slices(
    parts: Sequence[SliceSums], accumulator: Accumulator, pixels: Disc, workers: Workers | None = None
) -> None:
    """Insert all slices in order; they are made in one block of memory, which is used again and again.

    Threads share the pixels of a block, then the planes of the volume. Neither blocks nor shares of pixels
    depend on the number of threads, so the sums have the same bits for any.

    Parameters
    ----------
    parts : what to insert
    accumulator : where to
    pixels : the disc of the slices
    workers : threads; none where None
    """
    matrices = np.concatenate([np.empty((0, 3, 3)), *(own.matrices for own in parts)])
    size = min(len(matrices), max(1, _BLOCK_BYTES // (12 * len(pixels))))
    numerator_rp = np.empty((size, len(pixels)), np.complex64)
    weight_rp = np.empty((size, len(pixels)), np.float32)
    # Equal ones: for products with a few columns left over the BLAS has kernels that round differently.
    edges = np.linspace(0, len(pixels), 1 + -(-len(pixels) // _PIXELS_AT_A_TIME)).astype(int).tolist()
    shares = [slice(*edge) for edge in pairwise(edges)]
    for start in range(0, len(matrices), max(size, 1)):
        stop = min(start + size, len(matrices))
        made = numerator_rp[: stop - start], weight_rp[: stop - start]
        make = partial(_make, _pieces(parts, start, stop), *made)
        for _ in map(make, shares) if workers is None else workers.map_ordered(make, shares):
            pass
        accumulator.insert(matrices[start:stop], pixels, *made, workers)


def _pieces(parts: Sequence[SliceSums], start: int, stop: int) -> list[_Piece]:
    """Find which rotations of each part are slices ``start .. stop`` of all, and their rows from there."""
    pieces, first = [], 0
    for own in parts:
        low, high = max(start, first), min(stop, first + len(own.matrices))
        if low < high:
            pieces.append((own, slice(low - first, high - first), slice(low - start, high - start)))
        first += len(own.matrices)
    return pieces


def _make(
    pieces: list[_Piece], numerator_rp: NDArray[np.complex64], weight_rp: NDArray[np.float32], pixels: slice
) -> None:
    """Make some pixels of a block of slices."""
    for own, rotations, rows in pieces:
        own.make(rotations, pixels, numerator_rp[rows], weight_rp[rows])
