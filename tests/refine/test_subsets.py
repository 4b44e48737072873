"""Subsets of the particles: nested, random, of both halves alike, and all of them for small sets."""

import numpy as np
import pytest

from posterion.errors import PosterionError
from posterion.refine.subsets import (
    first_subset,
    larger_subset,
    largest_half,
    members,
    require_subset,
    searched,
    searched_count,
)


def halves(first: int, second: int) -> np.ndarray:
    ids = np.repeat(np.array([1, 2], np.int8), (first, second))
    return np.random.default_rng(0).permutation(ids)


@pytest.mark.parametrize("half", [0, 1])
def test_a_larger_subset_holds_the_smaller_one(half: int) -> None:
    half_i = halves(500, 700)
    some, more, everyone = (members(half_i, half, subset, 1) for subset in (40, 160, 0))
    for chosen, count in ((some, 40), (more, 160), (everyone, (500, 700)[half])):
        assert len(chosen) == count
        assert (np.diff(chosen) > 0).all(), "file order, each once"
        assert (half_i[chosen] == half + 1).all()
    assert set(some) < set(more) < set(everyone)


def test_the_newest_are_those_that_a_small_subset_leaves_out() -> None:
    half_i = halves(500, 700)
    first, newest = (members(half_i, 0, 40, 1, newest=choice) for choice in (False, True))
    assert len(newest) == 40
    assert (np.diff(newest) > 0).all()
    assert not set(first) & set(newest)
    np.testing.assert_array_equal(members(half_i, 0, 0, 1, newest=True), members(half_i, 0, 0, 1))


def test_a_subset_is_spread_over_the_file_and_follows_the_seed() -> None:
    half_i = halves(5000, 5000)
    chosen = members(half_i, 0, 1000, 1)
    assert np.histogram(chosen, bins=10, range=(0, 10_000))[0].min() > 60
    np.testing.assert_array_equal(chosen, members(half_i, 0, 1000, 1))
    assert len(np.intersect1d(chosen, members(half_i, 0, 1000, 2))) < 400


def test_more_than_there_are_is_all() -> None:
    half_i = halves(30, 90)
    assert len(members(half_i, 0, 50, 1)) == 30
    assert len(members(half_i, 1, 50, 1)) == 50


@pytest.mark.parametrize("subset", [0, 1, 50, 100])
def test_count_and_mask_agree_with_members(subset: int) -> None:
    half_i = halves(30, 90)
    chosen = np.concatenate([members(half_i, half, subset, 4) for half in (0, 1)])
    np.testing.assert_array_equal(np.flatnonzero(searched(half_i, subset, 4)), np.sort(chosen))
    assert searched_count(half_i, subset) == len(chosen)


def test_small_sets_are_searched_whole() -> None:
    for first, second, subset in ((1000, 1000, 0), (1999, 1500, 0), (1900, 2000, 1000)):
        assert first_subset(largest_half(halves(first, second))) == subset


def test_subsets_grow_until_little_would_be_saved() -> None:
    for largest, expected in ((4000, [1000]), (50_000, [1000, 4000]), (64_000, [1000, 4000, 16_000])):
        subset, sizes = first_subset(largest), []
        while subset:
            sizes.append(subset)
            subset = larger_subset(subset, largest)
        assert sizes == expected


def test_an_unknown_choice_is_refused() -> None:
    require_subset("all")
    with pytest.raises(PosterionError, match="subset 'some' is unknown; choose one of auto, all"):
        require_subset("some")
