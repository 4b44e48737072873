"""Euler angles against scipy's rotations and RELION's projections; poles, vectors, distances."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from posterion.physics.rotations import (
    angular_distance_deg,
    euler_from_matrices,
    matrices_from_euler,
    matrices_from_rotation_vectors,
    rotation_vectors_from_matrices,
    trace_of_angle,
)

RELION = Path(__file__).parents[1] / "references" / "relion_projections.npz"
some = settings(max_examples=50)
angles = st.floats(-180, 180)


def random_matrices(n: int, seed: int = 0) -> np.ndarray:
    return Rotation.random(n, random_state=seed).as_matrix()


@some
@given(angles, angles, angles)
def test_axes_turn_so_each_factor_is_an_inverse_active_rotation(rot: float, tilt: float, psi: float) -> None:
    """R = Rz(psi) Ry(tilt) Rz(rot) with rotations of the axes; scipy's rotate the vectors."""
    expected = Rotation.from_euler("ZYZ", [-psi, -tilt, -rot], degrees=True).as_matrix()
    np.testing.assert_allclose(matrices_from_euler(rot, tilt, psi), expected, atol=1e-12)


def test_relion_projects_as_the_matrix_says() -> None:
    """``x_image = R x_volume - origin`` by first and second moments of 40 projections that RELION made.

    Gridding and the cut at Nyquist disturb moments a little; another order of the factors, the transpose or a
    wrong sign gives unrelated ones.
    """
    with np.load(RELION) as frozen:
        volume, images, poses = frozen["map_32"], frozen["projections_32"], frozen["poses_32"]
        pixel = float(frozen["pixel_size"])
    coordinate = np.arange(32) - 16
    xyz = np.stack(np.meshgrid(coordinate, coordinate, coordinate, indexing="ij")[::-1], -1).reshape(-1, 3)
    density = volume.reshape(-1, 1) / volume.sum()
    assert np.linalg.norm((xyz * density).sum(axis=0)) < 0.01  # the phantom is centred on its mass
    xy, share = xyz[:1024, :2], images.reshape(40, 1024, 1) / images.sum(axis=(1, 2))[:, None, None]
    offset = np.sum(xy * share, axis=1)
    np.testing.assert_allclose(offset, -poses[:, 3:] / pixel, atol=0.3)
    moved = xy - offset[:, None]
    found = np.einsum("npi,npj->nij", moved * share, moved)
    matrices = matrices_from_euler(*poses[:, :3].T)
    expected = matrices @ ((xyz * density).T @ xyz) @ matrices.transpose(0, 2, 1)
    assert np.corrcoef(found[:, 0, 1], expected[:, 0, 1])[0, 1] > 0.9
    stretch = found[:, 0, 0] - found[:, 1, 1], expected[:, 0, 0] - expected[:, 1, 1]
    assert np.corrcoef(*stretch)[0, 1] > 0.9


@some
@given(angles, st.floats(0.001, 179.999), angles)
def test_euler_angles_come_back(rot: float, tilt: float, psi: float) -> None:
    again = euler_from_matrices(matrices_from_euler(rot, tilt, psi))
    np.testing.assert_allclose(again[1], tilt, atol=1e-7)
    for angle, given_angle in ((again[0], rot), (again[2], psi)):
        assert abs((angle - given_angle + 180) % 360 - 180) < 1e-6


@some
@given(angles, st.sampled_from([0.0, 180.0, 1e-9, 180 - 1e-9]), angles)
def test_at_the_poles_the_matrix_comes_back_and_psi_is_zero(rot: float, tilt: float, psi: float) -> None:
    matrix = matrices_from_euler(rot, tilt, psi)
    again = euler_from_matrices(matrix)
    assert again[2] == 0
    np.testing.assert_allclose(matrices_from_euler(*again), matrix, atol=1e-8)


def test_shapes_follow_the_batch() -> None:
    assert matrices_from_euler(1.0, 2.0, 3.0).shape == (3, 3)
    batch = matrices_from_euler(np.zeros((2, 4)), np.ones(4), 5.0)
    assert batch.shape == (2, 4, 3, 3)
    assert euler_from_matrices(batch)[0].shape == (2, 4)


def test_rotation_vectors() -> None:
    quarter_about_z = matrices_from_rotation_vectors(np.array([[0, 0, np.pi / 2]]))[0]
    np.testing.assert_allclose(quarter_about_z @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    matrices = random_matrices(20)
    vectors = rotation_vectors_from_matrices(matrices)
    assert (np.linalg.norm(vectors, axis=1) <= np.pi).all()
    np.testing.assert_allclose(matrices_from_rotation_vectors(vectors), matrices, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.01, 30.0, 179.9, 180.0])
def test_distance_is_the_angle_of_the_relative_rotation(angle: float) -> None:
    a = random_matrices(5)
    axis = np.array([0.6, 0.0, 0.8])
    turn = Rotation.from_rotvec(np.radians(angle) * axis).as_matrix()
    tolerance = 1e-5 if angle > 179 else 1e-9  # the arcsine is steep at its end
    np.testing.assert_allclose(angular_distance_deg(turn @ a, a), angle, atol=tolerance)
    np.testing.assert_allclose(angular_distance_deg(a @ turn, a), angle, atol=tolerance)


def test_distance_broadcasts() -> None:
    a, b = random_matrices(3), random_matrices(4, seed=1)
    distance = angular_distance_deg(a[:, None], b)
    expected = np.degrees((Rotation.from_matrix(a[2]) * Rotation.from_matrix(b[1]).inv()).magnitude())
    assert distance.shape == (3, 4)
    assert distance[2, 1] == pytest.approx(expected)


@pytest.mark.parametrize("angle_deg", [0.0, 11.25, 90.0, 180.0])
def test_trace_tells_the_angle_of_a_rotation(angle_deg: float) -> None:
    axis = np.array([0.48, 0.6, -0.64])
    matrix = Rotation.from_rotvec(np.radians(angle_deg) * axis).as_matrix()
    assert np.trace(matrix) == pytest.approx(trace_of_angle(angle_deg), abs=1e-12)
