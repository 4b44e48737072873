"""What a refinement is: its options, its state between iterations, and what each iteration reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterion.inference.expectation import BatchExpectation
from posterion.refine.schedule import SearchState

__all__ = ["IterationInfo", "ParticleEstimates", "RefineConfig", "RefinementState"]


@dataclass(frozen=True)
class RefineConfig:
    """Options of a refinement, resolved once.

    Attributes
    ----------
    diameter_angstrom : diameter of the particle's mask, Angstrom
    point_group : symmetry, RELION's names and axes
    method : ``em`` weighs all poses by their posterior; ``projection-matching`` takes the best (FREALIGN)
    search : which poses are scored, one of `posterion.inference.search.SEARCHES`
    initial_lowpass_angstrom : resolution to which the starting map is cut, Angstrom
    join_halves_angstrom : the half maps share what is coarser than this, Angstrom
    shift_range_angstrom : radius of the shifts searched at first, Angstrom
    margin_nats : poses within this of the best survive a level of the search
    max_rotations : at most this many rotations survive a level
    max_iterations : stop here even if not converged
    seed : of all random choices
    subset : whether early iterations search a part, one of `posterion.refine.subsets.SUBSETS`
    """

    diameter_angstrom: float
    point_group: str = "C1"
    method: str = "em"
    search: str = "auto"
    initial_lowpass_angstrom: float = 40.0
    join_halves_angstrom: float = 40.0
    shift_range_angstrom: float = 14.0
    margin_nats: float = 15.0
    max_rotations: int = 200
    max_iterations: int = 30
    seed: int = 1
    subset: str = "auto"


@dataclass(frozen=True)
class ParticleEstimates:
    """What is known of each particle after an iteration: 61 bytes each, for memory holds two of them.

    Attributes
    ----------
    matrices : (N, 3, 3) float32, rotations
    shifts_px : (N, 2) float32, origin offsets (x, y)
    log_likelihood : (N,) float32
    correlation : (N,) float32, correlation coefficient with the expected reference
    pmax : (N,) float32, largest posterior weight of one pose
    effective_orientations : (N,) float32
    usable : (N,) bool, False for quarantined images and for those that no iteration has searched
    """

    matrices: NDArray[np.float32]
    shifts_px: NDArray[np.float32]
    log_likelihood: NDArray[np.float32]
    correlation: NDArray[np.float32]
    pmax: NDArray[np.float32]
    effective_orientations: NDArray[np.float32]
    usable: NDArray[np.bool_]

    @classmethod
    def empty(cls, count: int) -> ParticleEstimates:
        """Nothing known yet."""
        identity = np.tile(np.eye(3, dtype=np.float32), (count, 1, 1))
        likelihood, correlation, pmax, effective = (np.zeros(count, np.float32) for _ in range(4))
        shifts_px, usable = np.zeros((count, 2), np.float32), np.zeros(count, bool)
        return cls(identity, shifts_px, likelihood, correlation, pmax, effective, usable)

    def put(self, part: BatchExpectation) -> None:
        """Write one batch's estimates in place."""
        index = part.index_i
        self.matrices[index], self.shifts_px[index] = part.matrices_i, part.shifts_px_i
        self.usable[index] = True
        self.log_likelihood[index], self.correlation[index] = part.log_likelihood_i, part.correlation_i
        self.pmax[index] = part.pmax_i
        self.effective_orientations[index] = part.effective_orientations_i


@dataclass(frozen=True)
class RefinementState:
    """All that the next iteration needs; saved after each.

    Attributes
    ----------
    iteration : iterations done
    half_maps : (2, n, n, n) float32, regularised references of the two halves
    sigma2_gs : (groups, n//2+1) float64, noise variance
    scale_g : (scale groups,) float64, intensity scales
    tau2_s : (n//2+1,) float64, prior variance of the map's coefficients
    particles : estimates of each particle
    resolution_shell : last shell with FSC above 0.143
    best_shell : highest ``resolution_shell`` so far
    stalled : iterations since anything last improved
    search : what the schedule has decided and measured
    log_direction_d, offset_sigma_px : pose prior
    converged : whether another iteration would change nothing
    """

    iteration: int
    half_maps: NDArray[np.float32]
    sigma2_gs: NDArray[np.float64]
    scale_g: NDArray[np.float64]
    tau2_s: NDArray[np.float64]
    particles: ParticleEstimates
    resolution_shell: int
    best_shell: int
    stalled: int
    search: SearchState
    log_direction_d: NDArray[np.float64]
    offset_sigma_px: float
    converged: bool


@dataclass(frozen=True)
class IterationInfo:
    """What one iteration reports; a line of iterations.jsonl.

    Means, medians and shares are over the particles that were searched, without the quarantined ones; those
    of changes of poses over the ones among them that had been searched before.

    Attributes
    ----------
    particles : how many were searched, quarantined ones among them
    resolution_angstrom : last shell at which the FSC inside the mask is above 0.143; of a look, which makes
        no map, what was reached before it
    compared_to_angstrom : finest resolution at which images were compared
    angular_step_deg, shift_step_px : of the last level's grid
    search : ``local``, about the last poses; ``look``, at all orientations of a part, without a new map; else
        all orientations: ``harmonic``, all turns in the plane at once, ``dense``, all on one grid, or
        ``global``, from a coarse grid on
    pmax, log_likelihood : means
    effective_orientations : median
    support_share : mean effective number of orientations over the number of cells of the grid
    angle_change_deg, shift_change_px : median changes; None where no particle had been searched before
    moved_share : share that turned by more than two steps of the grid, to another peak; None likewise
    map_change : 1 - mean correlation per shell of the new map with the old, up to the resolution; 0 of a look
    scored_rotations : mean number of slices compared at the last level, or while climbing
    poses_scored, poses_kept : mean number at each level of the grid search, coarse to fine; images that climb
        count none
    gaussian_share : share whose posterior is a sum of Gaussians, not a grid
    diverged : particles that kept a grid because their optimiser found no peak
    quarantined : particles whose image is not of `usable_images`
    seconds : wall seconds per phase: ``expectation`` and, but for a look, ``maximisation``
    """

    iteration: int
    particles: int
    resolution_angstrom: float
    compared_to_angstrom: float
    angular_step_deg: float
    shift_step_px: float
    search: str
    pmax: float
    log_likelihood: float
    effective_orientations: float
    support_share: float
    angle_change_deg: float | None
    shift_change_px: float | None
    moved_share: float | None
    map_change: float
    scored_rotations: float
    poses_scored: list[float]
    poses_kept: list[float]
    gaussian_share: float
    diverged: int
    quarantined: int
    seconds: dict[str, float]
