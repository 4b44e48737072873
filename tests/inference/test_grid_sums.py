"""Slices of a shared grid are made a few at a time, and are the sums that they are meant to be."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterion.compute import Workers
from posterion.inference import grid_sums
from posterion.inference.exhaustive import SharedGrid, dense_supports
from posterion.inference.grid_sums import GridSums
from posterion.inference.images import ImageBatch
from posterion.inference.posterior import Posterior, posterior_of
from posterion.inference.search import SearchPlan
from posterion.physics.projection import Accumulator, FourierVolume
from posterion.physics.shifts import shifted

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
BOX, RADIUS, PIXEL, COUNT = 20, 6, 9.0, 7
Sums = tuple[GridSums, list[Posterior], SearchPlan, SharedGrid]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = {"n_particles": COUNT, "snr": 0.2, "shift_sd_angstrom": 6.0, "seed": 5}
    made = SMALL["make_problem"](tmp_path_factory.mktemp("grid_sums"), BOX, PIXEL, **options)
    return SMALL["unmasked_batch"](made, RADIUS + 2), FourierVolume.from_map(made.truth, RADIUS)


def sums_of(made: tuple[ImageBatch, FourierVolume]) -> Sums:
    images, volume = made
    plan = SMALL["one_level_plan"](1, RADIUS, 1.0)
    shared = SharedGrid.of(volume, plan)
    supports = dense_supports(images, shared, plan)
    rows = [0, 1, 3, 4, 6]
    posteriors = [posterior_of(supports[row]) for row in rows]
    return GridSums.of(images, rows, posteriors, shared, supports[0].shifts_px), posteriors, plan, shared


def test_slices_are_sums_over_images_and_shifts(batch: tuple[ImageBatch, FourierVolume]) -> None:
    """One image, rotation and shift at a time, in double precision; images left out add nothing."""
    images, _ = batch
    sums, posteriors, plan, shared = sums_of(batch)
    shifts_px = dense_supports(images, shared, plan)[0].shifts_px
    numerator = np.zeros((len(shared.cell), len(images.pixels)), complex)
    weight = np.zeros((len(shared.cell), len(images.pixels)))
    for row, posterior in zip([0, 1, 3, 4, 6], posteriors, strict=True):
        for t, shift in enumerate(posterior.shift_t):
            gamma_r = posterior.weight_rt[:, t].astype(float)
            moved_p = shifted(images.data_ip[row], images.pixels, shifts_px[[shift]])[0]
            numerator[posterior.rotation_r] += np.outer(gamma_r, moved_p)
            weight[posterior.rotation_r] += np.outer(gamma_r, images.inserted_ctf2(row))
    used = np.flatnonzero(weight.any(axis=1))
    matrices, found, found_weight = sums.slices()
    np.testing.assert_array_equal(matrices, shared.matrices[used])
    np.testing.assert_allclose(found, numerator[used], atol=1e-5 * np.abs(numerator).max())
    np.testing.assert_allclose(found_weight, weight[used], rtol=1e-4, atol=1e-6 * weight.max())
    assert sums.samples == np.count_nonzero(found_weight > 0)


def test_blocks_and_threads_do_not_matter(
    batch: tuple[ImageBatch, FourierVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than a block is made at a time; the sums have the same bits on any number of threads."""
    images, _ = batch
    sums = sums_of(batch)[0]
    whole = Accumulator(BOX, RADIUS + 2)
    sums.insert(whole, images.pixels)
    monkeypatch.setattr(grid_sums, "_BLOCK_BYTES", 12 * len(images.pixels) * 10)
    made, plain = [], GridSums.slices

    def counted(self: GridSums, rotations: slice) -> Any:
        made.append(plain(self, rotations))
        return made[-1]

    monkeypatch.setattr(GridSums, "slices", counted)
    values = []
    for threads in (1, 3):
        accumulator = Accumulator(BOX, RADIUS + 2)
        with Workers(threads) as workers:
            sums.insert(accumulator, images.pixels, workers)
        values.append(accumulator.values)
    assert max(len(matrices) for matrices, _, _ in made) == 10
    assert len(made) == 2 * -(-len(sums.matrices) // 10)
    np.testing.assert_array_equal(*values)
    np.testing.assert_allclose(values[0], whole.values, atol=1e-5 * np.abs(whole.values).max())


def test_nothing_is_inserted_without_images(batch: tuple[ImageBatch, FourierVolume]) -> None:
    images, volume = batch
    plan = SMALL["one_level_plan"](1, RADIUS, 1.0)
    none = GridSums.of(images, [], [], SharedGrid.of(volume, plan), np.zeros((1, 2)))
    accumulator = Accumulator(BOX, RADIUS + 2)
    none.insert(accumulator, images.pixels)
    assert none.samples == 0
    assert not accumulator.values.any()
