"""The first state of a refinement: reference on the images' grey scale, noise from their background."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from posterion.inference.priors import PosePrior
from posterion.mapping.masks import low_pass
from posterion.refine.context import RefineContext
from posterion.refine.decisions import first_search
from posterion.refine.grey_scale import background_sigma2, fit_grey_scale
from posterion.refine.schedule import SearchState
from posterion.refine.state import ParticleEstimates, RefinementState

__all__ = ["init"]


def init(context: RefineContext, reference: NDArray[np.float32]) -> tuple[RefinementState, float]:
    """Make the first state: low-passed reference on the images' grey scale, noise from the background.

    Parameters
    ----------
    context : the run
    reference : (n, n, n) float32, starting map on the images' box and pixel size, any grey scale

    Returns
    -------
    state : before the first iteration
    grey_scale : the factor that the reference was multiplied by
    """
    config = context.config
    start = low_pass(reference, config.initial_lowpass_angstrom, context.pixel_size) * context.solvent_mask
    shell = max(context.shell_of(config.initial_lowpass_angstrom), 3)
    sigma2_gs = background_sigma2(context)
    state = RefinementState(
        iteration=0,
        half_maps=np.stack([start, start]),
        sigma2_gs=sigma2_gs,
        scale_g=np.ones(int(context.scale_group_i.max()) + 1),
        tau2_s=np.zeros(sigma2_gs.shape[1]),
        particles=ParticleEstimates.empty(len(context.particles)),
        resolution_shell=shell,
        best_shell=shell,
        stalled=0,
        search=SearchState(),
        log_direction_d=PosePrior.uniform(1.0).log_direction_d,
        offset_sigma_px=config.shift_range_angstrom / context.pixel_size / 2,
        converged=False,
    )
    factor, support_share = fit_grey_scale(context, state)
    scaled = state.half_maps * np.float32(factor)
    return replace(state, half_maps=scaled, search=first_search(context, support_share)), factor
