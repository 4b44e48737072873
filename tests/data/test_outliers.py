"""Images that are set aside beside others of their optics group, and the limits that decide it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posterion.data import outliers
from posterion.data.mrc import write_stack
from posterion.data.outliers import LARGEST_RATIO, largest_spreads, screened, why_left_out
from posterion.data.particles import Particles

COUNT = 32


def groups_of(particles: Particles, index_i: np.ndarray) -> Particles:
    """The same particles in as many optics groups as the indices name."""
    optics = tuple(replace(particles.optics[0], name=f"g{g}") for g in range(int(index_i.max()) + 1))
    return replace(particles, optics=optics, optics_index_i=index_i.astype(np.int32))


@pytest.fixture
def bright(tiny_set: Path, tmp_path: Path) -> Particles:
    """The tiny set; image 5 is a million times as strong, 8 hundred times, 11 ten times, 20 holds NaN."""
    images = Particles.read(tiny_set / "particles.star").images()
    images[5] *= 1e6
    images[8] *= 100
    images[11] *= 10
    images[20, 3, 3] = np.nan
    write_stack(tmp_path / "particles.mrcs", images, 7.5)
    (tmp_path / "particles.star").write_text((tiny_set / "particles.star").read_text())
    return Particles.read(tmp_path / "particles.star")


def blank(images: np.ndarray) -> list[int]:
    """Positions of images without a finite pixel."""
    return np.flatnonzero(np.isnan(images).all(axis=(1, 2))).tolist()


def test_outliers_read_as_nan_and_all_others_as_they_are(bright: Particles) -> None:
    found, plain = screened(bright).images(), bright.images()
    assert blank(found) == [5, 8]
    others = np.delete(np.arange(COUNT), [5, 8])
    np.testing.assert_array_equal(found[others], plain[others])
    mask = np.arange(COUNT) > 4
    assert blank(screened(bright).images(mask)) == [0, 3]
    assert blank(screened(bright)[[9, 8, 5]].images()) == [1, 2]


def test_limits_of_a_sound_set_are_fifteen_times_its_median(tiny_set: Path) -> None:
    particles = Particles.read(tiny_set / "particles.star")
    spread_i = np.sort([image.astype(float).std() for image in particles.images()])
    assert screened(particles).largest_spread_g == pytest.approx((15 * spread_i[15],), rel=1e-12)
    np.testing.assert_array_equal(screened(particles).images(), particles.images())


@given(st.permutations(range(COUNT)), st.integers(1, COUNT))
def test_neither_order_nor_batches_matter(order: list[int], size: int) -> None:
    """Of sets in memory: three groups, one of two images; what is set aside follows the images."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(COUNT, 8, 8)).astype(np.float32) * np.where(np.arange(COUNT) < 16, 1, 5)[
        :, None, None
    ].astype(np.float32)
    images[[3, 17, 30]] *= 1e3
    group_i = np.where(np.arange(COUNT) < 16, 0, np.where(np.arange(COUNT) < 30, 1, 2))
    spread_i = images.std(axis=(1, 2), dtype=np.float64)
    limit_g = largest_spreads(spread_i[order], group_i[order], 3)
    bad = sorted(row for row in order if spread_i[row] > limit_g[group_i[row]])
    assert bad == [3, 17, 30]
    np.testing.assert_array_equal(limit_g, largest_spreads(spread_i, group_i, 3))
    parts = [order[start : start + size] for start in range(0, COUNT, size)]
    assert sorted(r for part in parts for r in part if spread_i[r] > limit_g[group_i[r]]) == bad


@pytest.mark.parametrize("size", [1, 5, 32])
def test_what_is_read_does_not_depend_on_what_it_is_read_with(bright: Particles, size: int) -> None:
    rng = np.random.default_rng(size)
    order = rng.permutation(COUNT)
    shuffled = screened(bright[order])
    parts = [np.arange(COUNT)[start : start + size] for start in range(0, COUNT, size)]
    read = np.concatenate([shuffled.images(part) for part in parts])
    assert sorted(order[blank(read)].tolist()) == [5, 8]


def test_a_group_of_brighter_images_has_its_own_limit(bright: Particles) -> None:
    """A group whose images are all a thousand times as strong is none of outliers; one among them is."""
    images = bright.images()
    images[16:] *= 1e3
    images[25] *= 1e3
    write_stack(bright.stack_paths[0], images, 7.5)
    found = screened(groups_of(bright, np.arange(COUNT) // 16))
    assert blank(found.images()) == [5, 8, 25]
    first, second = found.largest_spread_g
    assert second == pytest.approx(1e3 * first, rel=0.2)


@pytest.mark.parametrize("members", [1, 2])
def test_groups_of_one_or_two_are_compared_with_the_set(bright: Particles, members: int) -> None:
    group_i = np.zeros(COUNT)
    group_i[5 : 5 + members] = 1
    found = screened(groups_of(bright, group_i))
    assert blank(found.images()) == [5, 8]
    assert found.largest_spread_g[1] == pytest.approx(found.largest_spread_g[0], rel=0.2)


def test_what_cannot_be_used_says_nothing_of_the_others() -> None:
    spread_i = np.array([np.nan, 0, 0, 2, 1, 1e9, np.nan, 1e9])
    assert largest_spreads(spread_i, np.zeros(8, int), 2).tolist() == [2 * LARGEST_RATIO] * 2
    assert largest_spreads(np.array([np.nan, 0]), np.zeros(2, int), 1).tolist() == [np.inf]


def test_only_some_images_of_a_large_group_are_read(
    bright: Particles, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, images = [], Particles.images
    monkeypatch.setattr(Particles, "images", lambda self, rows: read.extend(rows) or images(self, rows))
    monkeypatch.setattr(outliers, "_SAMPLE", 10)
    monkeypatch.setattr(outliers, "_BLOCK", 4)
    limits = screened(groups_of(bright, np.arange(COUNT) // 16)).largest_spread_g
    assert len(set(read)) == len(read) == 20
    assert np.isfinite(limits).all()


def test_why_an_image_was_left_out(bright: Particles) -> None:
    found = screened(bright)
    said = why_left_out(found, 5)
    assert "particles.star" in said
    assert "image 6 of particles.mrcs has a standard deviation of 1." in said
    assert "e+06, where images of its optics group have about 1." in said
    assert "holds NaN" in why_left_out(found, 20)
    assert "holds NaN" in why_left_out(bright, 20)
