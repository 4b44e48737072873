"""What comes next, from what was measured: how many particles, where to search, how finely, or the end."""

from __future__ import annotations

from dataclasses import replace

from posterion.refine.context import RefineContext
from posterion.refine.schedule import SearchState
from posterion.refine.state import IterationInfo, RefinementState
from posterion.refine.subsets import first_subset, larger_subset, largest_half

__all__ = ["decide", "first_search", "mostly_peaks"]

_SHARP_POSTERIOR = 2.5
_BROAD_POSTERIOR, _WORTH_REFINING = 200.0, 10.0
_COARSEST, _FINE_ENOUGH, _FINEST = 0.5, 4.0, 16.0
_GRIDS_UNCHANGED, _PEAKS_UNCHANGED = 0.02, 0.002
_MOSTLY, _SETTLED_DEG = 0.5, 1.0
_FEW_MOVED = 0.005
_NOTHING_KNOWN, _BEST_ONLY_ITERATIONS = 0.3, 3


def first_search(context: RefineContext, support_share: float) -> SearchState:
    """Decide how the first iteration searches.

    Parameters
    ----------
    context : the run
    support_share : mean effective number of rotations of a posterior over the number of cells of its grid
    """
    best_only = support_share > _NOTHING_KNOWN
    subset = 0 if best_only else _sample(context)
    return SearchState(support_share=support_share, best_only=best_only, subset=subset)


def _sample(context: RefineContext) -> int:
    """Particles of each half that stand for all of them; 0 where only all do."""
    return 0 if context.config.subset == "all" else first_subset(largest_half(context.half_i))


def decide(
    context: RefineContext, measured: RefinementState, old: RefinementState, info: IterationInfo
) -> RefinementState:
    """Decide what comes next.

    Parameters
    ----------
    context : the run
    measured : what the iteration found, with the decisions that it was made under
    old : what it started from
    info : its numbers
    """
    if old.search.look:
        return _decide_after_look(measured, old, info)
    best_only = measured.search.best_only and measured.iteration < _BEST_ONLY_ITERATIONS
    search = replace(measured.search, support_share=info.support_share, best_only=best_only, newcomers=False)
    if measured.search.best_only:
        return replace(measured, stalled=0, search=search)
    peaks = mostly_peaks(info)
    unchanged = _PEAKS_UNCHANGED if peaks else _GRIDS_UNCHANGED
    improving = measured.best_shell > old.best_shell or info.map_change > unchanged
    measured = replace(measured, search=search)
    if not peaks:
        fitted = _fit_grid(search, info)
        if fitted != search:
            return replace(measured, stalled=0, search=fitted)
    if search.subset:
        return _decide_on_subset(context, measured, old, info)
    if peaks:
        return _decide_on_peaks(context, measured, info, improving)
    return _decide_on_grids(measured, info, improving)


def mostly_peaks(info: IterationInfo) -> bool:
    """Tell whether most posteriors are sums of Gaussians about peaks: the schedule then goes by peaks."""
    return info.gaussian_share > _MOSTLY


def _fit_grid(search: SearchState, info: IterationInfo) -> SearchState:
    """Refine the grid where posteriors are narrower than its cells, coarsen it where they are very broad."""
    if info.effective_orientations < _SHARP_POSTERIOR and search.fineness < _FINEST:
        return replace(search, fineness=2 * search.fineness)
    if info.effective_orientations > _BROAD_POSTERIOR and search.fineness > _COARSEST:
        return replace(search, fineness=search.fineness / 2)
    return search


def _decide_on_subset(
    context: RefineContext, measured: RefinementState, old: RefinementState, info: IterationInfo
) -> RefinementState:
    """Search the same part of the particles again while better poses raise the resolution, else a larger one.

    Where poses have settled the number of images is what limits the map. Newcomers have no pose yet, so all
    orientations are searched until everything has been searched once. Maps that show less than their
    references do are of too few images, and are not used.
    """
    rose = measured.best_shell > old.best_shell
    if measured.resolution_shell < old.resolution_shell:
        measured = replace(
            measured, half_maps=old.half_maps, tau2_s=old.tau2_s, resolution_shell=old.resolution_shell
        )
    if rose and not _settled(info):
        return replace(measured, stalled=0)
    subset = larger_subset(measured.search.subset, largest_half(context.half_i))
    return replace(measured, stalled=0, search=replace(measured.search, subset=subset, newcomers=True))


def _settled(info: IterationInfo) -> bool:
    return info.angle_change_deg is not None and info.angle_change_deg < _SETTLED_DEG


def _decide_on_peaks(
    context: RefineContext, measured: RefinementState, info: IterationInfo, improving: bool
) -> RefinementState:
    """Posteriors are peaks: they climb from where they are once poses have settled.

    When neither the resolution rises nor the map changes, all orientations are searched once more, of large
    sets at first those of a part; if that changes nothing either, the refinement has converged.
    """
    search = measured.search
    if improving:
        return replace(measured, stalled=0, search=replace(search, local=_settled(info)))
    stalled = measured.stalled + 1
    if search.local:
        sample = _sample(context)
        search = replace(search, local=False, subset=sample, look=sample > 0)
        return replace(measured, stalled=stalled, search=search)
    return replace(measured, stalled=stalled, search=replace(search, local=True), converged=True)


def _decide_after_look(
    measured: RefinementState, old: RefinementState, info: IterationInfo
) -> RefinementState:
    """End where nearly all of a part that was searched everywhere stayed on their peaks, else search all.

    Maps and poses stay those of all particles.
    """
    stayed = info.moved_share is not None and info.moved_share < _FEW_MOVED
    search = replace(old.search, subset=0, look=False, local=stayed)
    return replace(old, iteration=measured.iteration, search=search, converged=stayed)


def _decide_on_grids(measured: RefinementState, info: IterationInfo, improving: bool) -> RefinementState:
    """Posteriors are grids that fit them.

    When neither the resolution rises nor the map changes by more than a turn of the grid does, the search
    becomes local, then finer where posteriors cover only a few cells, and then has converged.
    """
    search = measured.search
    if improving:
        return replace(measured, stalled=0)
    if not search.local:
        return replace(measured, stalled=0, search=replace(search, local=True))
    if search.fineness < _FINE_ENOUGH and info.effective_orientations < _WORTH_REFINING:
        return replace(measured, stalled=0, search=replace(search, fineness=2 * search.fineness))
    stalled = measured.stalled + 1
    return replace(measured, stalled=stalled, converged=stalled >= 2)
