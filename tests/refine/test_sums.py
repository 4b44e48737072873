"""Sums over a whole set: noise and intensity groups, and groups of which nothing was seen."""

import importlib
import logging
import runpy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import posterion
from posterion.compute import Workers
from posterion.inference.expectation import BatchExpectation
from posterion.inference.images import ImageBatch
from posterion.mapping.masks import low_pass
from posterion.physics.fourier import disc
from posterion.refine.auto_refine import expect_half
from posterion.refine.inputs import Inputs, prepare
from posterion.refine.plan import make_plan
from posterion.refine.start import init
from posterion.refine.state import RefinementState
from posterion.refine.sums import ExpectationSums

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
BOX = 24


@pytest.fixture(scope="module")
def inputs(tiny_set: Path, tiny_options: posterion.RefineOptions) -> Inputs:
    return prepare(tiny_set / "particles.star", tiny_set / "reference.mrc", 150.0, tiny_options)


@pytest.fixture(scope="module")
def state(inputs: Inputs) -> RefinementState:
    with Workers(1) as workers:
        return init(inputs.context(workers), low_pass(inputs.reference, 25.0, 7.5))[0]


def inserted(parts: list[BatchExpectation]) -> list[NDArray[Any]]:
    """Numerators and weights that batches add on their shared grid."""
    return list(SMALL["slices_of"](own for part in parts for own in part.sums)[1:])


def sums_of(
    inputs: Inputs, state: RefinementState, radius: int | None = 8, **changed: Any
) -> ExpectationSums:
    with Workers(1) as workers:
        context = replace(inputs.context(workers), **changed)
        plan = make_plan(context, state, 5)
        sums = ExpectationSums(context, state, plan, radius)
        for half in (0, 1):
            for part in expect_half(context, state, plan, half, 8):
                sums.add(part, half)
    return sums


def test_groups_add_up_to_one_group(inputs: Inputs, state: RefinementState) -> None:
    """The same images in one noise group or in two: counts and residuals add."""
    two = np.arange(32, dtype=np.int32) % 2
    one = sums_of(inputs, state)
    state_of_two = replace(state, sigma2_gs=np.repeat(state.sigma2_gs, 2, axis=0))
    split = sums_of(inputs, state_of_two, noise_group_i=two)
    assert one.count_g.tolist() == [32]
    assert split.count_g.tolist() == [16, 16]
    np.testing.assert_allclose(split.noise_gs.sum(axis=0), one.noise_gs[0], rtol=1e-5)
    np.testing.assert_allclose(split.sigma2_gs().mean(axis=0), one.sigma2_gs()[0], rtol=1e-5)


def test_a_group_without_images_keeps_its_noise_and_intensity(inputs: Inputs, state: RefinementState) -> None:
    lone = replace(
        state, sigma2_gs=np.concatenate([state.sigma2_gs, 7 * state.sigma2_gs]), scale_g=np.ones(3)
    )
    sums = sums_of(inputs, lone, scale_group_i=np.zeros(32, np.int32))
    np.testing.assert_array_equal(sums.sigma2_gs()[1], 7 * state.sigma2_gs[0])
    scale = sums.scale_g(lone.scale_g)
    assert scale[1] == scale[2]
    assert scale.mean() == pytest.approx(1)


def test_noise_that_is_cut_where_images_are_compared_is_warned_of_once(
    inputs: Inputs, state: RefinementState, caplog: pytest.LogCaptureFixture
) -> None:
    """Shells 0 to 5 of two groups are compared; a group without images has nothing to be cut."""
    optics = tuple(replace(inputs.particles.optics[0], name=name) for name in ("early", "late", "none"))
    index_i = np.arange(32, dtype=np.int32) % 2
    particles = replace(inputs.particles, optics=optics, optics_index_i=index_i)
    state = replace(state, sigma2_gs=np.repeat(state.sigma2_gs, 3, axis=0))
    sums = sums_of(inputs, state, noise_group_i=index_i, particles=particles)
    below = 0.9e-3 * state.sigma2_gs * sums.count_g[:, None]
    with caplog.at_level(logging.WARNING, logger="posterion"):
        sums.noise_gs[0, [0, 6]] = below[0, [0, 6]]
        sums.noise_gs[1, 4] = 1.1e-3 / 0.9e-3 * below[1, 4]
        sums.sigma2_gs()
        assert not caplog.records
        sums.noise_gs[0, 3], sums.noise_gs[1, [2, 5]] = below[0, 3], -1.0
        sums.noise_gs[2] = -1.0
        found = sums.sigma2_gs()
    (record,) = caplog.records
    words = "taken for noise: optics group 'early', shells 3; optics group 'late', shells 2, 5"
    assert record.getMessage().endswith(words)
    cut_to = 1e-3 * state.sigma2_gs
    np.testing.assert_array_equal(found[0, [0, 3, 6]], cut_to[0, [0, 3, 6]])
    np.testing.assert_array_equal(found[1, [2, 5]], cut_to[1, [2, 5]])
    np.testing.assert_array_equal(found[2], state.sigma2_gs[2])


def test_without_a_maximisation_step_only_its_sums_are_missing(
    inputs: Inputs, state: RefinementState
) -> None:
    usual, lone = sums_of(inputs, state), sums_of(inputs, state, radius=None)
    assert lone.accumulators == []
    for field in fields(usual.estimates):
        mine, theirs = (getattr(each.estimates, field.name) for each in (usual, lone))
        np.testing.assert_array_equal(mine, theirs)
    assert (lone.scored, lone.counts, lone.gaussian) == (usual.scored, usual.counts, usual.gaussian)


def test_every_particle_is_estimated_once(inputs: Inputs, state: RefinementState) -> None:
    sums = sums_of(inputs, state)
    assert sums.estimates.usable.all()
    weights = [a.values[..., 2].sum(dtype=float) for a in sums.accumulators]
    assert min(weights) > 0.3 * max(weights)


def test_projection_matching_weighs_images_by_their_score(inputs: Inputs, state: RefinementState) -> None:
    """w(f) = exp(B/4 (score - mean score) f^2), score = 100 CC, B = 5 A^2, on numerator and weight alike."""
    matching = replace(inputs.config, method="projection-matching")
    correlation = np.linspace(0.1, 0.5, 32)
    scored = replace(state.particles, correlation=correlation, usable=np.ones(32, bool))
    with Workers(1) as workers:
        lone = np.where(np.arange(32) == 5, 1, 2).astype(np.int8)
        context = replace(inputs.context(workers), config=matching, half_i=lone)
        plan = make_plan(context, state, 5)
        plain = list(expect_half(context, state, plan, 0, 8))
        weighed = list(expect_half(context, replace(state, particles=scored), plan, 0, 8))
    excess = 100 * (correlation[5] - correlation.mean())
    pixels = disc(BOX, 8)
    frequency2_p = (pixels.kx_p.astype(float) ** 2 + pixels.ky_p.astype(float) ** 2) / (BOX * 7.5) ** 2
    expected_p = np.exp(np.clip(5.0 / 4 * excess * frequency2_p, -8, 2))
    assert expected_p.min() < 0.97
    for before, after in zip(inserted(plain), inserted(weighed), strict=True):
        np.testing.assert_allclose(after, before * expected_p, rtol=1e-4, atol=1e-6 * np.abs(before).max())


def test_correlation_is_that_of_image_and_reference(inputs: Inputs, state: RefinementState) -> None:
    """Scores lie between -1 and 1, do not depend on the reference's scale, and are high for these images."""
    doubled = replace(state, half_maps=2 * state.half_maps)
    first, second = sums_of(inputs, state), sums_of(inputs, doubled)
    assert np.abs(first.estimates.correlation).max() < 1
    assert np.median(first.estimates.correlation) > 0.1
    assert np.median(second.estimates.correlation) == pytest.approx(
        np.median(first.estimates.correlation), rel=0.3
    )


def test_every_search_gives_the_same_sums(
    inputs: Inputs, state: RefinementState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numerators, noise and likelihoods of four images; measured 4e-5 and 2e-5, adaptive 1e-2 and 0.015 nats.

    A margin drops a little of the broadest posterior; a bound holds what is within log(1/epsilon). All slices
    are inserted, not a few that stand for many, which searches of less than everything take.
    """
    monkeypatch.setattr(importlib.import_module("posterion.refine.plan"), "_ADDED_NOISE", 0.0)
    tolerance = {"adaptive": 0.02, "branch-and-bound": 5e-4}
    fine = replace(state, search=replace(state.search, fineness=8.0, support_share=0.0))
    few = np.where(np.arange(32) < 4, 1 + np.arange(32) % 2, 0).astype(np.int8)
    sums = {
        search: sums_of(replace(inputs, config=replace(inputs.config, search=search)), fine, half_i=few)
        for search in ("exhaustive", "adaptive", "branch-and-bound")
    }
    complete = sums.pop("exhaustive")
    assert len(complete.counts) == 1
    for search, found in sums.items():
        assert len(found.counts) > 1
        assert found.counts[-1].scored < 0.2 * complete.counts[-1].scored
        close = tolerance[search]
        for mine, theirs in zip(found.accumulators, complete.accumulators, strict=True):
            difference = np.linalg.norm(mine.values - theirs.values)
            assert difference < close * np.linalg.norm(theirs.values)
        likelihoods = (each.estimates.log_likelihood for each in (found, complete))
        np.testing.assert_allclose(*likelihoods, rtol=0, atol=close)
        np.testing.assert_allclose(found.sigma2_gs(), complete.sigma2_gs(), rtol=close)


def test_batches_that_memory_is_too_small_for_are_halved(
    inputs: Inputs, state: RefinementState, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Five images at most fit: the same estimates, a line in the log; one that does not fit ends the run."""
    module = importlib.import_module("posterion.refine.auto_refine")
    whole = sums_of(inputs, state)
    original, limit = module.expect_batch, 5

    def small_memory(batch: ImageBatch, *others: Any) -> BatchExpectation:
        if len(batch) > limit:
            raise MemoryError
        return original(batch, *others)

    monkeypatch.setattr(module, "expect_batch", small_memory)
    with caplog.at_level(logging.WARNING, logger="posterion"):
        parts = sums_of(inputs, state)
    assert "memory is too small for a batch of 16 images: halved" in caplog.text
    np.testing.assert_allclose(parts.estimates.log_likelihood, whole.estimates.log_likelihood, rtol=1e-5)
    for mine, theirs in zip(parts.accumulators, whole.accumulators, strict=True):
        scale = np.abs(theirs.values).max()
        np.testing.assert_allclose(mine.values, theirs.values, atol=1e-5 * scale)
    limit = 0
    with pytest.raises(MemoryError):
        sums_of(inputs, state)
