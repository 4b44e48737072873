"""The factor between the reference's grey scale and the images', and its sign."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import posterion
from posterion.compute import Workers
from posterion.data.mrc import read_map, write_stack
from posterion.data.particles import Particles
from posterion.errors import PosterionError
from posterion.refine import grey_scale
from posterion.refine.auto_refine import expect_half
from posterion.refine.grey_scale import background_sigma2
from posterion.refine.inputs import prepare
from posterion.refine.start import init


@pytest.mark.parametrize("lowpass", [16.0, 40.0])
@pytest.mark.parametrize("method", ["em", "projection-matching"])
def test_factor_and_its_sign(
    tiny_set: Path, tiny_options: posterion.RefineOptions, lowpass: float, method: str
) -> None:
    """An inverted reference correlates positively with images at some pose, and is told all the same."""
    truth = read_map(tiny_set / "truth.mrc")[0]
    options = replace(tiny_options, initial_lowpass_angstrom=lowpass, method=method)
    factors = []
    with Workers(1) as workers:
        for scale in (1.0, -0.5):
            inputs = prepare(tiny_set / "particles.star", truth * np.float32(scale), 150.0, options)
            factors.append(init(inputs.context(workers), inputs.reference)[1])
    assert factors[0] == pytest.approx(1, rel=0.2)
    assert factors[1] == pytest.approx(-2 * factors[0], rel=1e-3)


def test_so_many_images_are_searched_as_often_as_the_forecast_says(
    tiny_set: Path, tiny_options: posterion.RefineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def counted(*arguments: Any) -> Iterator[Any]:
        parts = list(expect_half(*arguments))
        counts.append(sum(len(part.index_i) for part in parts))
        return iter(parts)

    monkeypatch.setattr(grey_scale, "expect_half", counted)
    monkeypatch.setattr(grey_scale, "SCALE_IMAGES", 10)
    inputs = prepare(tiny_set / "particles.star", tiny_set / "reference.mrc", 150.0, tiny_options)
    with Workers(1) as workers:
        init(inputs.context(workers), inputs.reference)
    assert counts == [10] * grey_scale.SCALE_SEARCHES


def test_images_none_of_which_can_be_used_are_not_said_to_be_inverted(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images but those that the grey scale is fitted to are sound."""
    images = Particles.read(tiny_set / "particles.star").images()
    images[np.linspace(0, len(images) - 1, 10).astype(int), 4, 4] = 1e9
    write_stack(tmp_path / "particles.mrcs", images, 7.5)
    (tmp_path / "particles.star").write_text((tiny_set / "particles.star").read_text())
    inputs = prepare(tmp_path / "particles.star", tiny_set / "reference.mrc", 150.0, tiny_options)
    monkeypatch.setattr(grey_scale, "SCALE_IMAGES", 10)
    with (
        Workers(1) as workers,
        pytest.raises(PosterionError, match="none of 10 images spread over the set can be used"),
    ):
        init(inputs.context(workers), inputs.reference)


def test_noise_from_the_background(tiny_set: Path, tiny_options: posterion.RefineOptions) -> None:
    """White noise of variance 1 has n^2 in every shell; the particle's tails raise the first ones."""
    inputs = prepare(tiny_set / "particles.star", tiny_set / "reference.mrc", 150.0, tiny_options)
    with Workers(1) as workers:
        sigma2_gs = background_sigma2(inputs.context(workers))
    box = inputs.particles.box_px
    assert sigma2_gs.shape == (1, box // 2 + 1)
    np.testing.assert_allclose(sigma2_gs[0, 3:] / box**2, 1, atol=0.35)


@pytest.mark.parametrize("good", [0, 5])
def test_noise_of_groups_and_blocks_without_an_image_that_can_be_used(
    tiny_set: Path, tiny_options: posterion.RefineOptions, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    """The second group, read last, is blank but for some: theirs is its noise, or that of all others."""
    inputs = prepare(tiny_set / "particles.star", tiny_set / "reference.mrc", 150.0, tiny_options)
    count = len(inputs.particles)
    monkeypatch.setattr(grey_scale, "_BLOCK", 5)
    with Workers(1) as workers:
        context = inputs.context(workers)
        group_i = (np.arange(count) >= count // 2).astype(np.int32)
        whole = background_sigma2(replace(context, noise_group_i=group_i))
        images = inputs.particles.images(np.arange(count)).copy()
        images[count // 2 + good :] = 3.0
        monkeypatch.setattr(type(inputs.particles), "images", lambda self, rows: images[rows])
        found = background_sigma2(replace(context, noise_group_i=group_i))
    np.testing.assert_array_equal(found[0], whole[0])
    if good == 0:
        np.testing.assert_array_equal(found[1], whole[0])
    np.testing.assert_allclose(found[1, 3:], whole[1, 3:], rtol=0.7)
