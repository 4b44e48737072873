"""Fewer slices for the M-step: of the improbable rotations of a posterior a few stand for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from posterion.inference.posterior import Posterior

__all__ = ["thinned"]

_GOLDEN = (np.sqrt(5.0) - 1) / 2


def thinned(posterior: Posterior, index: int, added: float) -> Posterior:
    """Keep the probable rotations of a posterior and a few of the others with the weight of all of these.

    Tails of broad posteriors hold little weight on many rotations, each of which costs a slice. Those that
    hold ``W`` together are replaced by ``K = ceil(W / c)`` of them, ``W / K`` each, drawn at equal distances
    along their cumulated weight in the order of the grid, where all are below ``c = added S / W``,
    ``S = sum_r Gamma_r^2``; the heaviest may be drawn twice. Over where the first is drawn, the sums over
    rotations expect what they were, and the sum of squares, to which the variance of the noise in a map is
    proportional, grows by less than ``c W = added S`` on average; the total weight stays (docs/theory.md 5).

    Parameters
    ----------
    posterior : of an image, rotations in the order of their grid
    index : of the particle, from which follows where along the weights the first is drawn
    added : share by which the variance may grow; 0: all rotations stay

    Notes
    -----
    Resampling that keeps heavy weights: Fearnhead & Clifford, J. R. Stat. Soc. B 65, 887 (2003).
    """
    gamma_r = posterior.weight_rt.sum(axis=1, dtype=np.float64)
    order = np.argsort(-gamma_r, kind="stable")[: np.count_nonzero(gamma_r)]
    left_r = np.cumsum(gamma_r[order][::-1])[::-1]
    allowed = added * np.sum(gamma_r**2)
    below = np.flatnonzero(gamma_r[order] * left_r <= allowed)
    if not len(below):
        return posterior
    rest, weight = np.sort(order[below[0] :]), left_r[below[0]]
    drawn = int(np.ceil(weight**2 / allowed))
    if drawn >= len(rest):
        return posterior
    comb = weight / drawn * (np.arange(drawn) + index * _GOLDEN % 1)
    hits = np.minimum(np.searchsorted(np.cumsum(gamma_r[rest]), comb, side="right"), len(rest) - 1)
    scale_r = (gamma_r > 0).astype(np.float64)
    scale_r[rest] = np.bincount(hits, minlength=len(rest)) * (weight / drawn) / gamma_r[rest]
    kept = np.flatnonzero(scale_r)
    weight_rt = posterior.weight_rt[kept] * scale_r[kept, None].astype(np.float32)
    return replace(posterior, rotation_r=posterior.rotation_r[kept], weight_rt=weight_rt)
