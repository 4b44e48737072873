"""Images that are set aside beside others of their optics group, and the limits that decide it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posterion.data import outliers
from posterion.data.mrc import write_stack
from posterion.data.outliers import (
    LARGEST_RATIO,
    largest_spreads,
    scale_warnings,
    screened,
    two_scales,
    why_left_out,
)
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


@pytest.fixture(scope="module")
def three_groups(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Particles:
    """Noise in groups of 16, 14 and 2, the second five times as strong; of each one a thousandfold."""
    rng, row = np.random.default_rng(1), np.arange(COUNT)
    images = rng.normal(size=(COUNT, 24, 24)) * np.where(row < 16, 1, 5)[:, None, None]
    images *= rng.uniform(0.5, 2, COUNT)[:, None, None]
    images[[3, 17, 30]] *= 1e3
    folder = tmp_path_factory.mktemp("three-groups")
    write_stack(folder / "particles.mrcs", images.astype(np.float32), 7.5)
    (folder / "particles.star").write_text((tiny_set / "particles.star").read_text())
    return groups_of(Particles.read(folder / "particles.star"), (row >= 16).astype(int) + (row >= 30))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(COUNT)), size=st.integers(1, COUNT))
def test_neither_order_nor_batches_matter(
    three_groups: Particles, monkeypatch: pytest.MonkeyPatch, order: list[int], size: int
) -> None:
    """Of sets of which seven images of a group are read: limits, and what is set aside, follow the images."""
    monkeypatch.setattr(outliers, "_SAMPLE", 7)
    shuffled = screened(three_groups[order])
    assert shuffled.largest_spread_g == screened(three_groups).largest_spread_g
    parts = [range(start, min(start + size, COUNT)) for start in range(0, COUNT, size)]
    assert sorted(order[part[row]] for part in parts for row in blank(shuffled.images(part))) == [3, 17, 30]


def test_a_repeated_image_is_read_once(bright: Particles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets expanded by a symmetry hold each image many times: the limit is that of the plain set."""
    monkeypatch.setattr(outliers, "_SAMPLE", 9)
    repeated = screened(bright[np.repeat(np.arange(COUNT), np.arange(COUNT) + 1)])
    assert repeated.largest_spread_g == screened(bright).largest_spread_g


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
    assert largest_spreads(spread_i, np.zeros(8, int), 2)[0].tolist() == [2 * LARGEST_RATIO] * 2
    assert largest_spreads(np.array([np.nan, 0]), np.zeros(2, int), 1)[0].tolist() == [np.inf]


@pytest.mark.parametrize(
    ("count", "strong", "share"),
    [
        (100, 10, 0),
        (100, 11, 0.11),
        (20, 2, 0),
        (20, 3, 0.15),
        (4, 2, 0),
        (6, 3, 0.5),
        (30, 3, 0),
        (29, 3, 3 / 29),
    ],
)
def test_more_than_a_tenth_are_a_second_grey_scale(count: int, strong: int, share: float) -> None:
    """And three at least; the other group has its own limit."""
    spread_i = np.ones(count + 5)
    spread_i[:strong] = 100
    limit_g, second_g = largest_spreads(spread_i, np.repeat([0, 1], [count, 5]), 2)
    assert second_g.tolist() == pytest.approx([share, 0])
    assert limit_g.tolist() == [np.inf if share else LARGEST_RATIO, LARGEST_RATIO]


def test_small_groups_of_another_grey_scale_are_judged_together() -> None:
    """Thirty groups of one image, a third of them of another scale, beside a large one."""
    spread_i, group_i = np.ones(130), np.repeat(np.arange(31), [100] + [1] * 30)
    spread_i[100::3] = 100
    limit_g, second_g = largest_spreads(spread_i, group_i, 31)
    assert second_g.tolist() == pytest.approx([0] + [1 / 3] * 30)
    assert limit_g.tolist() == [LARGEST_RATIO] + [np.inf] * 30


def test_a_second_grey_scale_is_kept_and_named(bright: Particles, caplog: pytest.LogCaptureFixture) -> None:
    images = bright.images()
    images[16:20] *= 1e3
    write_stack(bright.stack_paths[0], images, 7.5)
    found = screened(groups_of(bright, (np.arange(COUNT) < 12).astype(int)))
    assert blank(found.images()) == [5, 8]
    (warning,) = scale_warnings(found)
    assert "about 21 % of the images of optics group 'g0' have" in warning  # of 19: image 20 holds NaN
    assert "normalise" in warning
    assert "an optics group of its own" in warning
    assert [record.getMessage() for record in caplog.records] == [warning]


def test_a_sound_set_is_not_warned_of(bright: Particles, caplog: pytest.LogCaptureFixture) -> None:
    assert scale_warnings(screened(bright)) == scale_warnings(bright) == ()
    assert not caplog.records


def test_of_many_groups_the_worst_is_named(bright: Particles) -> None:
    optics = groups_of(bright, np.arange(COUNT) % 4).optics
    (warning,) = two_scales(optics, np.array([0.2, 0, 0.6, 0.3]))
    assert "60 % of the images of optics group 'g2', and many of 2 other groups, have" in warning
    assert two_scales(optics, np.zeros(4)) == ()


@pytest.mark.parametrize(
    ("sample", "everything", "expected"), [(10, 100, 20), (10, 12, 12), (10, 2, 6), (20, 100, 32)]
)
def test_only_some_images_are_read(
    bright: Particles, monkeypatch: pytest.MonkeyPatch, sample: int, everything: int, expected: int
) -> None:
    """Of two groups of 16 up to ``sample`` each, ``everything`` in all, but three of each."""
    read, images = [], Particles.images
    monkeypatch.setattr(Particles, "images", lambda self, rows: read.extend(rows) or images(self, rows))
    monkeypatch.setattr(outliers, "_SAMPLE", sample)
    monkeypatch.setattr(outliers, "_ALL_SAMPLES", everything)
    monkeypatch.setattr(outliers, "_BLOCK", 4)
    limits = screened(groups_of(bright, np.arange(COUNT) // 16)).largest_spread_g
    assert len(set(read)) == len(read) == expected
    assert np.count_nonzero(np.array(read) < 16) == expected // 2
    assert read == sorted(read)
    assert np.isfinite(limits).all()


@pytest.mark.parametrize("rows", [3, 5, -1, [], [4, 5], np.array([8, 5]), np.arange(COUNT) == 5])
def test_whatever_a_plain_set_reads_a_screened_one_does(bright: Particles, rows: Any) -> None:
    plain, found = bright.images(rows), screened(bright).images(rows)
    outlying = np.isin(np.arange(COUNT)[np.atleast_1d(rows) if np.size(rows) else slice(0)], [5, 8])
    assert blank(found) == np.flatnonzero(outlying).tolist()
    np.testing.assert_array_equal(found[~outlying], plain[~outlying])


def test_why_an_image_was_left_out(bright: Particles) -> None:
    found = screened(bright)
    said = why_left_out(found, 5)
    assert "particles.star" in said
    assert "image 6 of particles.mrcs has a standard deviation of 1." in said
    assert "e+06, where images of its optics group have about 1." in said
    assert "holds NaN" in why_left_out(found, 20)
    assert "holds NaN" in why_left_out(bright, 20)
