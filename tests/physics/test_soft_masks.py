"""Soft discs and spheres: their values on rays, symmetry, and their edges."""

import numpy as np
import pytest

from posterion.physics.soft_masks import raised_cosine, soft_disc, soft_sphere


@pytest.mark.parametrize("box", [24, 25])
def test_disc_falls_as_a_raised_cosine(box: int) -> None:
    mask = soft_disc(box, 5, 4)
    ray = mask[box // 2, box // 2 :]
    np.testing.assert_array_equal(ray[:6], 1)
    np.testing.assert_allclose(ray[6:9], [0.8535534, 0.5, 0.1464466], atol=1e-6)
    np.testing.assert_allclose(ray[9:], 0, atol=1e-7)
    assert mask.dtype == np.float32


@pytest.mark.parametrize("box", [16, 17])
def test_sphere_cuts_are_discs_and_axes_are_alike(box: int) -> None:
    sphere = soft_sphere(box, 4.5, 2.5)
    np.testing.assert_array_equal(sphere[box // 2], soft_disc(box, 4.5, 2.5))
    np.testing.assert_array_equal(sphere, sphere.transpose(2, 0, 1))
    inner = sphere[1:, 1:, 1:] if box % 2 == 0 else sphere  # an even box has one plane more below the origin
    np.testing.assert_array_equal(inner, inner[::-1, ::-1, ::-1])


def test_edge_of_nothing_is_a_step() -> None:
    np.testing.assert_array_equal(raised_cosine(np.array([-1.0, 0.0, 0.01]), 0), [1, 1, 0])
    assert soft_sphere(16, 3, 0).sum() == np.sum(
        np.add.outer(np.add.outer(np.arange(-8, 8) ** 2, np.arange(-8, 8) ** 2), np.arange(-8, 8) ** 2) <= 9
    )


def test_disc_larger_than_the_box_is_one_everywhere() -> None:
    np.testing.assert_array_equal(soft_disc(10, 10, 3), 1)
