"""Directions counted on HEALPix pixels, against directions whose pixel is known."""

import hpgeom
import numpy as np

from posterion.physics.rotations import matrices_from_euler
from posterion.report.sphere import count_directions


def test_pixel_centres_are_counted_in_their_own_pixel() -> None:
    theta, phi = hpgeom.pixel_to_angle(4, np.arange(192), nest=True, lonlat=False)
    np.testing.assert_array_equal(count_directions(np.degrees(phi), np.degrees(theta), 2), np.ones(192))


def test_angles_beyond_their_range_mean_the_same_direction() -> None:
    rot, tilt = np.array([30.0, -330.0, 210.0, 210.0]), np.array([50.0, 410.0, -50.0, 310.0])
    views = matrices_from_euler(rot, tilt, np.zeros(4))[:, 2]
    np.testing.assert_allclose(views, np.broadcast_to(views[0], views.shape), atol=1e-12)
    assert count_directions(rot, tilt, 3).max() == 4


def test_poles_belong_to_the_sphere() -> None:
    counts = count_directions(np.array([0.0, 17.0, -90.0]), np.array([0.0, 180.0, -180.0]), 2)
    assert counts.sum() == 3
