"""Counts of the dense pass by harmonics against sums over harmonics and rings, one by one."""

import runpy
from dataclasses import replace
from math import log2, pi
from pathlib import Path

import numpy as np
import pytest

from posterion.inference.images import ImageBatch, prepare_images
from posterion.inference.polar import PolarReference, PolarSums, expect_polar, polar_log_prob
from posterion.inference.search import SearchPlan
from posterion.physics.polar import PolarGrid
from posterion.report.bench_harmonics import HarmonicCounts, counted, harmonic_counts
from posterion.report.bench_operations import operation_counts

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
IMAGES, SHIFTS = 3, 5
DIRECTIONS, TURNS = 12 * 4**2, 24
BOX, SEEN = 16, 14.0
FFT_SIDE = {5: 30, 7: 30}
"""Two times the first product of twos, threes and fives that is not below the radius and eight shells."""
REAL, BOTH = 2, 4  # multiply-adds of a complex number with a real one, and with another


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[PolarReference, ImageBatch, SearchPlan]:
    problem = SMALL["make_problem"](tmp_path_factory.mktemp("set"), BOX, 11.0, n_particles=IMAGES, snr=2.0)
    plan = replace(SMALL["one_level_plan"](2, 5, 1.0), by_harmonics=True)
    grids = PolarGrid.of(BOX, 5, SEEN, SEEN), PolarGrid.of(BOX, 7, BOX, np.sqrt(2) * BOX)
    reference = counted(PolarReference.of(problem.truth, plan, *grids))
    everyone, nowhere = np.arange(IMAGES), np.zeros((IMAGES, 2))
    noise = SMALL["white_noise"](problem)
    polar = reference.grid, reference.collected
    batch = prepare_images(
        problem.particles, everyone, problem.images, 7, 3.0 * BOX, noise, nowhere, polar=polar
    )
    return reference, batch, plan


def rings_of(grid: PolarGrid, parity: int) -> list[int]:
    """Rings of each even or odd harmonic: all that have the lowest of the twelve with which it is summed."""
    own = range(parity, grid.count, 2)
    radii = [0.25 + 0.5 * ring for ring in range(2 * grid.radius)]
    lowest = [own[12 * (place // 12)] for place in range(len(own))]
    return [max(sum(pi * k * grid.extent_px / grid.box + 8 >= m for k in radii), 1) for m in lowest]


def products_of(grid: PolarGrid, moved: int, real: int) -> float:
    """Each harmonic over its rings, then over all turns: images at shifts, and powers of real samples."""
    total = 0
    for parity, columns in ((0, moved + real), (1, moved)):
        for rings in rings_of(grid, parity):
            total += columns * DIRECTIONS * (BOTH * rings + REAL * TURNS)
    return total


def analysis_of(grid: PolarGrid, moved: int, real: int) -> float:
    even, odd = (sum(REAL * grid.angles * rings for rings in rings_of(grid, parity)) for parity in (0, 1))
    return (even + odd) * moved + even * real


def sampling_of(grid: PolarGrid) -> float:
    side = FFT_SIDE[grid.radius]
    transforms = sum(1.25 * n**2 * log2(n**2) for n in (side, 2 * side))
    return IMAGES * (transforms + grid.angles * 2 * grid.radius * 16 * 2)


def test_counts_of_a_batch(compared: tuple[PolarReference, ImageBatch, SearchPlan]) -> None:
    """Scores at all shifts; expected references and the M-step's sums at those that have any weight."""
    prototype, batch, plan = compared
    reference = counted(prototype)
    posteriors, _, _, sums = expect_polar(batch, reference, plan, 0.999)
    kept = sum(len(own.shift_t) for own in posteriors)
    assert IMAGES <= kept < IMAGES * SHIFTS, "the test wants some shifts without weight"
    sampled = harmonic_counts(prototype)
    assert sampled.rings == pytest.approx(sum(sampling_of(g) for g in (prototype.grid, prototype.collected)))
    assert (sampled.pairs, sampled.scoring, sampled.insertion) == (0, 0, 0)
    counts = harmonic_counts(reference)
    pairs = IMAGES * DIRECTIONS * TURNS * SHIFTS
    grid, collected = reference.grid, reference.collected
    assert counts.pairs == pairs
    assert counts.scoring == products_of(grid, IMAGES * SHIFTS, IMAGES)
    assert counts.posterior == 4 * pairs + sum(products_of(g, kept, IMAGES) for g in (grid, collected))
    assert counts.rings == analysis_of(grid, IMAGES * SHIFTS, IMAGES) + analysis_of(collected, kept, IMAGES)
    assert counts.insertion == insertion_of(sums)


def insertion_of(sums: PolarSums) -> float:
    """Every sample of every direction: from its ring's harmonics, even ones for weights, to eight voxels."""
    samples = sums.frames.shape[0] * sums.grid.angles * 2 * sums.grid.radius
    return samples * (REAL * sums.numerator.shape[0] + REAL * sums.weight.shape[0] + 8 * 3)


def test_counting_changes_no_score(compared: tuple[PolarReference, ImageBatch, SearchPlan]) -> None:
    reference, batch, plan = compared
    plain = replace(
        reference,
        grid=PolarGrid.of(BOX, 5, SEEN, SEEN),
        collected=PolarGrid.of(BOX, 7, BOX, np.sqrt(2) * BOX),
    )
    rows = slice(0, IMAGES)
    for own, other in zip(
        polar_log_prob(batch, rows, counted(reference), plan),
        polar_log_prob(batch, rows, plain, plan),
        strict=True,
    ):
        np.testing.assert_array_equal(own, other)
    assert harmonic_counts(plain) == HarmonicCounts()


def test_images_share_what_is_counted() -> None:
    """Per image all but the insertion, which is one for all."""
    counts = operation_counts([], 4, harmonics=HarmonicCounts(8, 20, 40, 100, 7))
    assert (counts.pairs, counts.rings, counts.scoring, counts.posterior) == (2, 5, 10, 25)
    assert (counts.total, counts.once) == (40, 7)
