"""Slices that images add to the map are the sums that they are meant to be, and made a few at a time."""

import runpy
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.compute import Workers
from posterion.inference import slice_sums
from posterion.inference.exhaustive import SharedGrid, dense_supports
from posterion.inference.images import ImageBatch
from posterion.inference.posterior import Posterior, posterior_of
from posterion.inference.search import SearchPlan
from posterion.inference.slice_sums import SliceSums, insert_slices
from posterion.physics.projection import Accumulator, FourierVolume
from posterion.physics.shifts import shifted

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
BOX, RADIUS, PIXEL, COUNT = 20, 6, 9.0, 7
Sums = tuple[SliceSums, list[Posterior], SearchPlan, SharedGrid]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = {"n_particles": COUNT, "snr": 0.2, "shift_sd_angstrom": 6.0, "seed": 5}
    made = SMALL["make_problem"](tmp_path_factory.mktemp("slice_sums"), BOX, PIXEL, **options)
    return SMALL["unmasked_batch"](made, RADIUS + 2), FourierVolume.from_map(made.truth, RADIUS)


def sums_of(made: tuple[ImageBatch, FourierVolume]) -> Sums:
    images, volume = made
    plan = SMALL["one_level_plan"](1, RADIUS, 1.0)
    shared = SharedGrid.of(volume, plan)
    supports = dense_supports(images, shared, plan)
    rows = [0, 1, 3, 4, 6]
    posteriors = [posterior_of(supports[row]) for row in rows]
    sums = SliceSums.on_grid(images, rows, posteriors, shared, supports[0].shifts_px)
    return sums, posteriors, plan, shared


def listed(images: ImageBatch, counts: list[tuple[int, int]]) -> list[SliceSums]:
    """Sums of each image at rotations and shifts of its own, as many as are given, weighted by chance."""
    rng = np.random.default_rng(2)
    sums = []
    for row, (rotations, shifts) in enumerate(counts):
        matrices = Rotation.random(rotations, random_state=row).as_matrix()
        moved_tp = shifted(images.data_ip[row], images.pixels, rng.normal(size=(shifts, 2)))
        gamma_rt = rng.random((rotations, shifts)).astype(np.float32)
        sums.append(SliceSums.of_image(images, row, matrices, gamma_rt, moved_tp))
    return sums


def inserted(
    parts: list[SliceSums], images: ImageBatch, workers: Workers | None = None
) -> NDArray[np.float32]:
    accumulator = Accumulator(BOX, RADIUS + 2)
    insert_slices(parts, accumulator, images.pixels, workers)
    return accumulator.values


def test_slices_on_a_grid_are_sums_over_images_and_shifts(batch: tuple[ImageBatch, FourierVolume]) -> None:
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
    matrices, found, found_weight = SMALL["slices_of"]([sums])
    np.testing.assert_array_equal(matrices, shared.matrices[used])
    np.testing.assert_allclose(found, numerator[used], atol=1e-5 * np.abs(numerator).max())
    np.testing.assert_allclose(found_weight, weight[used], rtol=1e-4, atol=1e-6 * weight.max())
    assert sums.samples == np.count_nonzero(found_weight > 0)


@pytest.mark.parametrize(("rotations", "shifts"), [(9, 4), (4, 9), (3, 3)])
def test_slices_of_an_image_are_sums_over_its_shifts(
    batch: tuple[ImageBatch, FourierVolume], rotations: int, shifts: int
) -> None:
    """In double precision; what is kept is no more than the slices are, or the moved images."""
    images, rng = batch[0], np.random.default_rng(1)
    moved_tp = shifted(images.data_ip[2], images.pixels, rng.normal(size=(shifts, 2)))
    gamma_rt = rng.random((rotations, shifts)).astype(np.float32)
    matrices = Rotation.random(rotations, random_state=0).as_matrix()
    sums = SliceSums.of_image(images, 2, matrices, gamma_rt, moved_tp)
    assert len(sums.moved_xp) == min(rotations, shifts)
    found_matrices, numerator, weight = SMALL["slices_of"]([sums])
    np.testing.assert_array_equal(found_matrices, matrices)
    expected = np.einsum("rt,tp->rp", gamma_rt.astype(float), moved_tp.astype(complex))
    np.testing.assert_allclose(numerator, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(weight, np.outer(gamma_rt.sum(axis=1), images.inserted_ctf2(2)), rtol=1e-5)


def test_blocks_and_threads_do_not_matter(
    batch: tuple[ImageBatch, FourierVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of which some end within a block: what one insertion of all slices adds, in the same bits."""
    images, _ = batch
    parts = [*listed(images, [(7, 2), (1, 3), (23, 4), (2, 2)]), sums_of(batch)[0]]
    whole = Accumulator(BOX, RADIUS + 2)
    matrices, numerator_rp, weight_rp = SMALL["slices_of"](parts)
    whole.insert(matrices, images.pixels, numerator_rp, weight_rp)
    np.testing.assert_array_equal(inserted(parts, images), whole.values)
    monkeypatch.setattr(slice_sums, "_BLOCK_BYTES", 12 * len(images.pixels) * 10)
    monkeypatch.setattr(slice_sums, "_PIXELS_AT_A_TIME", 16)
    values = []
    for threads in (1, 3):
        with Workers(threads) as workers:
            values.append(inserted(parts, images, workers))
    np.testing.assert_array_equal(*values)
    np.testing.assert_allclose(values[0], whole.values, atol=1e-5 * np.abs(whole.values).max())


def test_slices_are_made_in_one_block_of_memory(
    batch: tuple[ImageBatch, FourierVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 or of 4,000 slices, on one thread or four, ten exist at a time."""
    images, _ = batch
    monkeypatch.setattr(slice_sums, "_BLOCK_BYTES", 12 * len(images.pixels) * 10)
    counts, places = [], set()

    def insert(self: Accumulator, matrices: Any, _pixels: Any, values: Any, weights: Any, _: Any) -> None:
        counts.append(len(matrices))
        places.add((values.ctypes.data, weights.ctypes.data))

    monkeypatch.setattr(Accumulator, "insert", insert)
    accumulator, peaks = Accumulator(BOX, RADIUS + 2), []
    for rotations, threads in ((20, 1), (2000, 1), (2000, 4)):
        parts = listed(images, [(rotations, 3)] * 2)
        with Workers(threads) as workers:
            counts.clear()
            places.clear()
            tracemalloc.start()
            insert_slices(parts, accumulator, images.pixels, workers)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert counts == [10] * (2 * rotations // 10)
        assert len(places) == 1
    slices = 12 * len(images.pixels) * 4000
    assert max(peaks[1:]) - peaks[0] < 9 * 8 * 4000 + 0.02 * slices, "beside the rotations' matrices"


def test_nothing_is_inserted_without_images(batch: tuple[ImageBatch, FourierVolume]) -> None:
    images, volume = batch
    plan = SMALL["one_level_plan"](1, RADIUS, 1.0)
    none = SliceSums.on_grid(images, [], [], SharedGrid.of(volume, plan), np.zeros((1, 2)))
    assert none.samples == 0
    assert not inserted([none], images).any()
    assert not inserted([], images).any()
