"""The reference's grey scale and the first noise spectra, which a likelihood cannot do without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from posterion.data.outliers import LEFT_OUT
from posterion.data.unusable import usable_images
from posterion.errors import PosterionError
from posterion.inference.expectation import BatchExpectation
from posterion.inference.images import background_power
from posterion.refine.auto_refine import expect_half
from posterion.refine.context import RefineContext
from posterion.refine.plan import make_plan
from posterion.refine.state import ParticleEstimates, RefinementState

__all__ = ["SCALE_IMAGES", "SCALE_SEARCHES", "background_sigma2", "fit_grey_scale"]

_NOISE_IMAGES, _BLOCK = 1000, 64
_SIGNS, _EM_ROUNDS = (1.0, -1.0), 3
SCALE_IMAGES, SCALE_SEARCHES = 100, len(_SIGNS) + _EM_ROUNDS
"""Images to which the reference's grey scale is fitted, and how often each of them is searched."""

_CLEAR_ERRORS = 5.0


def _spread(candidates: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most ``count`` of the candidates, evenly spread."""
    chosen = np.linspace(0, len(candidates) - 1, min(count, len(candidates)))
    return np.asarray(candidates[np.unique(chosen.astype(int))])


def background_sigma2(context: RefineContext) -> NDArray[np.float64]:
    """Noise variance per group and shell from the images' background, outside the particle's diameter.

    ``sigma2(s) = <|F[(1 - m) y]|^2> / <(1 - m)^2>`` with m the soft disc, over up to 1,000 images of each
    group.

    Returns
    -------
    (groups, box//2+1) float64
    """
    spectra: list[NDArray[np.float64]] = []
    for group in range(int(context.noise_group_i.max()) + 1):
        chosen = _spread(np.flatnonzero(context.noise_group_i == group), _NOISE_IMAGES)
        parts = []
        for start in range(0, len(chosen), _BLOCK):
            images = context.particles.images(chosen[start : start + _BLOCK])
            parts.append(background_power(images[usable_images(images)], context.diameter_px))
        power_is = np.concatenate(parts)
        spectra.append(power_is[power_is.sum(axis=1) > 0])
    # A group of which no image can be used weighs nothing, whatever its noise: it gets that of all.
    of_all_s = np.concatenate(spectra).mean(axis=0)
    return np.array([power_is.mean(axis=0) if len(power_is) else of_all_s for power_is in spectra])


def fit_grey_scale(context: RefineContext, state: RefinementState) -> tuple[float, float]:
    """Fit the factor that brings the reference to the images' grey scale, by maximum likelihood.

    First ``sum X.R / sum |R|^2`` at the poses of best correlation, which do not depend on the scale, of the
    reference or of its negative, whichever explains the images better; then the same sums under the posterior
    at that scale, a few rounds of expectation-maximisation: the noise that best poses pick up averages out.

    Parameters
    ----------
    context : the run
    state : first state with the unscaled reference

    Returns
    -------
    factor : scale of the reference; negative where it has the images' contrast inverted
    support_share : mean effective number of rotations of the posteriors over the number of cells of their
        grid

    Raises
    ------
    PosterionError
        When none of the images chosen can be used.
    """
    chosen = _spread(np.arange(len(context.particles)), SCALE_IMAGES)
    few = replace(
        context,
        particles=context.particles[chosen],
        half_i=np.ones(len(chosen), np.int8),
        noise_group_i=context.noise_group_i[chosen],
        scale_group_i=context.scale_group_i[chosen],
        observer=None,
    )
    trial = replace(state, particles=ParticleEstimates.empty(len(chosen)))
    parts, negative = (_expected(few, trial, "projection-matching", sign)[0] for sign in _SIGNS)
    if not any(len(part.index_i) for part in parts):
        raise PosterionError(
            f"none of {len(chosen)} images spread over the set can be used: all {LEFT_OUT}; 'posterion "
            "doctor' says more"
        )
    factor, share = _ratio(parts), 0.0
    if _explain_better(negative, parts):
        factor = -_ratio(negative)
    for _ in range(_EM_ROUNDS):
        parts, cells = _expected(few, trial, "em", factor)
        factor *= _ratio(parts)
        effective = np.concatenate([part.effective_orientations_i for part in parts])
        share = float(effective.mean() / cells)
    return factor, share


def _expected(
    context: RefineContext, state: RefinementState, method: str, factor: float
) -> tuple[list[BatchExpectation], float]:
    """Run the expectation step with the reference times a factor, and the number of cells of its grid."""
    as_method = replace(context, config=replace(context.config, method=method))
    plan = make_plan(as_method, state, state.resolution_shell)
    scaled = replace(state, half_maps=state.half_maps * np.float32(factor))
    return list(expect_half(as_method, scaled, plan, 0, plan.radius)), plan.cell_count


def _explain_better(these: list[BatchExpectation], those: list[BatchExpectation]) -> bool:
    """Tell whether the log-likelihoods of the same images are higher by five standard errors of the mean.

    Best poses of an inverted reference correlate with the images too, so the sign of their correlation does
    not tell.
    """
    first_i, second_i = (np.concatenate([p.log_likelihood_i for p in parts]) for parts in (these, those))
    gain_i = first_i - second_i
    return bool(gain_i.mean() > _CLEAR_ERRORS * gain_i.std() / np.sqrt(len(gain_i)))


def _ratio(parts: list[BatchExpectation]) -> float:
    """Regression of images on expected references over all shells."""
    cross = sum(float(part.cross_is.sum()) for part in parts)
    square = sum(float(part.square_is.sum()) for part in parts)
    return cross / max(square, 1e-30)
