"""Gamma over poses of one particle, with its marginals: the lecture's "remarkably sharp" figure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from posterion.data.particles import Particles
from posterion.data.unusable import usable_images, why_unusable
from posterion.errors import PosterionError
from posterion.inference.adaptive import LevelImages, refine
from posterion.inference.branch_and_bound import BranchAndBound
from posterion.inference.exhaustive import SharedGrid, dense_candidates, dense_log_prob
from posterion.inference.images import ImageBatch, NoiseModel, background_power, prepare_images
from posterion.inference.priors import PosePrior
from posterion.inference.search import (
    Level,
    SearchPlan,
    band_of_order,
    loss_of_cell,
    margin_rule,
    require_search,
)
from posterion.physics.projection import FourierVolume
from posterion.physics.sampling import shift_lattice

__all__ = ["PosePosterior", "posterior"]

_DIAMETER_SHARE = 0.8
_SHIFT_RANGE_PX = 4.0
_FIRST_ORDER = 1
_MARGIN_NATS, _MAX_ROTATIONS = 15.0, 200


@dataclass(frozen=True)
class PosePosterior:
    """Gamma(phi) of one particle on a complete grid of rotations and shifts.

    Attributes
    ----------
    weight_dqt : (directions, in-plane angles, shifts) float32, sums to one; directions are nested HEALPix
        pixels
    matrices : (directions * in-plane angles, 3, 3) float64, rotations in the order of the first two axes
    shifts_px : (T, 2) float64, origin offsets (x, y), pixels
    log_evidence : log of the summed likelihood times prior, up to the image's own constant
    """

    weight_dqt: NDArray[np.float32]
    matrices: NDArray[np.float64]
    shifts_px: NDArray[np.float64]
    log_evidence: float

    @property
    def direction_weights(self) -> NDArray[np.float64]:
        """Marginal over viewing directions, (directions,), sums to one."""
        return np.asarray(self.weight_dqt.sum(axis=(1, 2), dtype=np.float64))

    @property
    def in_plane_weights(self) -> NDArray[np.float64]:
        """Marginal over in-plane angles, (in-plane angles,), sums to one."""
        return np.asarray(self.weight_dqt.sum(axis=(0, 2), dtype=np.float64))

    @property
    def shift_weights(self) -> NDArray[np.float64]:
        """Marginal over shifts, (T,), sums to one."""
        return np.asarray(self.weight_dqt.sum(axis=(0, 1), dtype=np.float64))

    @property
    def effective_orientations(self) -> float:
        """exp(entropy) of the marginal over rotations: how many rotations the image cannot tell apart."""
        weight_r = self.weight_dqt.sum(axis=2, dtype=np.float64).ravel()
        return float(np.exp(-np.sum(weight_r * np.log(np.maximum(weight_r, 1e-300)))))

    @property
    def best(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Most probable rotation (3, 3) and origin offset (2,) in pixels."""
        rotation, shift = divmod(int(self.weight_dqt.argmax()), len(self.shifts_px))
        return self.matrices[rotation], self.shifts_px[shift]


def posterior(
    particle: Particles,
    volume: FourierVolume,
    *,
    order: int = 3,
    diameter_angstrom: float | None = None,
    sigma2_s: NDArray[np.float64] | None = None,
    shift_range_px: float = _SHIFT_RANGE_PX,
    resolution_angstrom: float | None = None,
    search: str = "exhaustive",
) -> PosePosterior:
    """Compute ``Gamma(phi) = P(X|V,phi) / int P(X|V,phi) dphi`` (L) of one particle on a complete grid.

    Parameters
    ----------
    particle : a set of one particle, for example ``particles[7]``
    volume : reference on the images' grey scale, box and pixel size
    order : HEALPix order of the rotations; the step is 60 degrees / 2**order
    diameter_angstrom : diameter of the particle's mask, Angstrom; four fifths of the box where None
    sigma2_s : (n//2+1,) noise variance per shell; from the image's background where None
    shift_range_px : radius of the shifts around the particle's own offset (none where it has no pose), pixels
    resolution_angstrom : finest resolution compared; what the grid resolves where None, see `band_of_order`
    search : ``exhaustive`` scores every pose; ``adaptive`` and ``branch-and-bound`` reach the same Gamma
        through coarser levels, poses that they prune having weight zero; ``auto`` is adaptive

    Raises
    ------
    PosterionError
        When ``particle`` is not exactly one or its image cannot be used, the volume has another box, or the
        search is unknown.
    """
    require_search(search)
    if len(particle) != 1:
        count = len(particle)
        raise PosterionError(
            f"posterior() takes one particle, for example particles[7]; this set has {count}"
        )
    if volume.box != particle.box_px:
        raise PosterionError(
            f"the volume's box is {volume.box} px, the image's {particle.box_px} px: resample the map first"
        )
    box, pixel = particle.box_px, particle.pixel_size_angstrom
    diameter_px = (diameter_angstrom or _DIAMETER_SHARE * box * pixel) / pixel
    band = (
        band_of_order(order, box, diameter_px)
        if resolution_angstrom is None
        else box * pixel / resolution_angstrom
    )
    radius = int(np.clip(band, 3, volume.radius))
    batch = _prepared(particle, radius, diameter_px, sigma2_s)
    plan = _complete_plan(order, radius, box, shift_range_px)
    # The coarsest grid has no coarser level.
    if search == "exhaustive" or order == 0:
        log_prob_rt = _complete(batch, volume, plan)
    else:
        small = search == "branch-and-bound"
        log_prob_rt = _searched(batch, volume, _divided(plan, box, diameter_px, small), small)
    log_evidence = float(logsumexp(log_prob_rt))
    grid, shifts_px = plan.grid(0), shift_lattice(shift_range_px, plan.levels[0].shift_step_px)
    shape = (grid.n_directions, grid.n_psi, len(shifts_px))
    weight_dqt = np.exp(log_prob_rt - log_evidence).astype(np.float32).reshape(shape)
    matrices = grid.matrices(grid.all_cells())
    return PosePosterior(
        weight_dqt, matrices, shifts_px + batch.shift0_px, log_evidence + plan.log_rotation_cell
    )


def _prepared(
    particle: Particles, radius: int, diameter_px: float, sigma2_s: NDArray[np.float64] | None
) -> ImageBatch:
    """Read the image and prepare it, with the noise of its background where none is given."""
    images = particle.images()
    if not usable_images(images).all():
        raise PosterionError(
            f"{particle.place(0)}: the image {why_unusable(images[0])}; take another particle"
        )
    sigma2 = background_power(images, diameter_px) if sigma2_s is None else np.atleast_2d(sigma2_s)
    noise = NoiseModel(sigma2, np.zeros(1, np.int32), np.ones(1), np.zeros(1, np.int32))
    first = np.zeros(1, np.int64)
    return prepare_images(particle, first, images, radius, diameter_px, noise, _offset_px(particle))


def _complete(batch: ImageBatch, volume: FourierVolume, plan: SearchPlan) -> NDArray[np.float64]:
    """Log-probability of every pose, (R, T)."""
    log_prob_itr, _ = dense_log_prob(batch, SharedGrid.of(volume, plan), plan)
    return np.asarray(log_prob_itr[0].T, np.float64)


def _searched(
    batch: ImageBatch, volume: FourierVolume, plan: SearchPlan, bounded: bool
) -> NDArray[np.float64]:
    """Log-probability of the poses that a search keeps, (R, T); minus infinity elsewhere."""
    levels = [LevelImages.of(batch, level.radius) for level in plan.levels]
    rules = BranchAndBound.of(volume, plan).rules(batch, levels) if bounded else [margin_rule(plan)]
    start = dense_candidates(batch, SharedGrid.of(volume, plan), plan, rules)[0]
    support = refine(batch, 0, levels, volume, plan, start, rules[0])
    # No level divides the shifts, so those that are left are of the first level's lattice.
    step = plan.levels[0].shift_step_px
    lattice = shift_lattice(plan.shift_range_px, step)
    apart = np.linalg.norm(support.shifts_px[:, None] - lattice, axis=-1)
    full = np.full((len(plan.grid(len(levels) - 1).all_cells()), len(lattice)), -np.inf)
    full[np.ix_(np.asarray(support.cell), apart.argmin(axis=1))] = support.log_prob_rt
    return full


def _divided(plan: SearchPlan, box: int, diameter_px: float, small_cells: bool) -> SearchPlan:
    """Put coarser levels before the level of a complete plan, where there are any."""
    (last,) = plan.levels
    coarse = []
    for order in range(min(_FIRST_ORDER + small_cells, last.order - 1), last.order):
        resolved = band_of_order(order, box, diameter_px)
        band = int(np.clip(resolved * (0.5 if small_cells else 1.0), 3, last.radius))
        coarse.append(replace(last, order=order, radius=band, cell_loss=loss_of_cell(band, resolved)))
    return replace(
        plan,
        levels=(*coarse, last),
        margin_nats=_MARGIN_NATS,
        max_rotations=_MAX_ROTATIONS,
        search="branch-and-bound" if small_cells else "adaptive",
    )


def _offset_px(particle: Particles) -> NDArray[np.float64]:
    """Whole-pixel origin offset of the particle's own pose, (1, 2); zero where it has none."""
    if particle.poses is None:
        return np.zeros((1, 2))
    offset = np.stack([particle.poses.shift_x_angstrom_i, particle.poses.shift_y_angstrom_i], axis=-1)
    return np.asarray(np.rint(offset / particle.pixel_size_angstrom))


def _complete_plan(order: int, radius: int, box: int, shift_range_px: float) -> SearchPlan:
    """One level: every rotation of an order, shifts at a sixth of the finest period, no preferred pose."""
    step = float(2.0 ** np.floor(np.log2(max(box / (6.0 * radius), 0.25))))
    return SearchPlan(
        levels=(Level(order, radius, min(step, max(shift_range_px, 0.25))),),
        shift_range_px=shift_range_px,
        margin_nats=np.inf,
        max_rotations=0,
        point_group="C1",
        grid_offset=np.eye(3),
        prior=PosePrior.uniform(offset_sigma_px=max(shift_range_px, 1.0)),
        search="exhaustive",
    )
