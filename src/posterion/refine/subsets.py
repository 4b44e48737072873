"""Early iterations search a random part of the particles: which, and how many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posterion.errors import PosterionError

__all__ = [
    "SUBSETS",
    "first_subset",
    "larger_subset",
    "largest_half",
    "members",
    "require_subset",
    "searched",
    "searched_count",
]

SUBSETS = ("auto", "all")
"""A part that grows to the full set, or every particle in every iteration."""

_FEWEST = 1000
_STREAM = 3
_GROWTH = 4
_FIRST_SHARE, _GROWN_SHARE = 0.5, 0.25


def require_subset(subset: str) -> None:
    """Refuse what is none of `SUBSETS`."""
    if subset not in SUBSETS:
        raise PosterionError(f"subset '{subset}' is unknown; choose one of {', '.join(SUBSETS)}")


def largest_half(half_i: NDArray[np.int8]) -> int:
    """Count the particles of the larger half set."""
    return max(_sizes(half_i))


def _sizes(half_i: NDArray[np.int8]) -> list[int]:
    return [int(np.count_nonzero(half_i == half)) for half in (1, 2)]


def first_subset(largest: int) -> int:
    """Particles of each half that the first iteration searches; 0 for all.

    Parameters
    ----------
    largest : particles of the larger half
    """
    return _FEWEST if _FIRST_SHARE * largest >= _FEWEST else 0


def larger_subset(subset: int, largest: int) -> int:
    """Four times as many particles of each half as ``subset``; 0 for all where that is more than a quarter.

    What a larger part costs, a search of it over all orientations, has to be less than the local iteration of
    all that the better map saves.
    """
    grown = _GROWTH * subset
    return grown if grown <= _GROWN_SHARE * largest else 0


def members(
    half_i: NDArray[np.int8], half: int, subset: int, seed: int, newest: bool = False
) -> NDArray[np.int64]:
    """Particles of a half that a subset holds, in file order: the first of one random order of that half.

    A larger subset holds every smaller one, so what was searched once is searched in each later iteration.

    Parameters
    ----------
    half_i : (N,) int8, 1 or 2
    half : 0 or 1
    subset : how many; 0 for all
    seed : of the random order
    newest : the last of that order instead, which were searched for the first time when all were
    """
    everyone = np.flatnonzero(half_i == half + 1)
    if not 0 < subset < len(everyone):
        return everyone
    shuffled = np.random.default_rng((seed, _STREAM, half)).permutation(everyone)
    return np.sort(shuffled[-subset:] if newest else shuffled[:subset])


def searched(half_i: NDArray[np.int8], subset: int, seed: int) -> NDArray[np.bool_]:
    """Tell which particles a subset of both halves holds: (N,) bool."""
    chosen_i = np.zeros(len(half_i), bool)
    for half in (0, 1):
        chosen_i[members(half_i, half, subset, seed)] = True
    return chosen_i


def searched_count(half_i: NDArray[np.int8], subset: int) -> int:
    """Count the particles that a subset of both halves holds."""
    return sum(min(size, subset) if subset else size for size in _sizes(half_i))
