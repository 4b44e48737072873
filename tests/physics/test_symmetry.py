"""Point groups: RELION's operators, the group axioms, and one representative of each orbit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from posterion.errors import PosterionError
from posterion.physics.symmetry import (
    describe_operators,
    in_asymmetric_unit,
    parse_point_group,
    point_group_operators,
    symmetry_equivalents,
)

REFERENCE = Path(__file__).parents[1] / "references" / "relion_symmetry.npz"
RELION = dict(np.load(REFERENCE))
POLYHEDRAL = ["T", "O", "I1", "I2", "I3", "I4"]
groups = st.one_of(
    st.sampled_from(POLYHEDRAL), st.builds(lambda f, n: f"{f}{n}", st.sampled_from("CD"), st.integers(1, 24))
)


@pytest.mark.parametrize("name", sorted(RELION))
def test_operators_are_relions(name: str) -> None:
    ours, relions = point_group_operators(name), RELION[name]
    distance = np.abs(ours[:, None] - relions[None]).max(axis=(2, 3))
    assert len(ours) == len(relions)
    assert distance.min(axis=1).max() < 2e-5
    assert len(set(distance.argmin(axis=1))) == len(ours)


@given(groups)
def test_group_axioms(name: str) -> None:
    operators = point_group_operators(name)
    np.testing.assert_array_equal(operators[0], np.eye(3))
    np.testing.assert_allclose(
        operators @ operators.transpose(0, 2, 1), np.eye(3)[None] + 0 * operators, atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(operators), 1)
    products = np.einsum("aij,bjk->abik", operators, operators).reshape(-1, 1, 9)
    distance = np.abs(products - operators.reshape(1, -1, 9)).max(axis=2)
    assert distance.min(axis=1).max() < 1e-12
    assert (np.sort(distance, axis=1)[:, 1:2] > 1e-3).all()


@given(groups, st.integers(0, 2**32 - 1))
def test_each_orbit_has_one_representative(name: str, seed: int) -> None:
    operators = point_group_operators(name)
    directions = np.random.default_rng(seed).normal(size=(50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    orbits = np.einsum("gji,nj->ngi", operators, directions)
    inside = in_asymmetric_unit(name, orbits.reshape(-1, 3)).reshape(50, -1)
    np.testing.assert_array_equal(inside.sum(axis=1), 1)


@pytest.mark.parametrize("name", ["C2", "C7", "D2", "D5", *POLYHEDRAL])
def test_directions_on_an_axis_keep_a_representative(name: str) -> None:
    operators = point_group_operators(name)
    axes = Rotation.from_matrix(operators[1:]).as_rotvec()
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    orbits = np.einsum("gji,nj->ngi", operators, axes)
    assert in_asymmetric_unit(name, orbits.reshape(-1, 3)).reshape(len(axes), -1).any(axis=1).all()


@pytest.mark.parametrize("name", ["C5", "D3", "O", "I2"])
def test_margin_widens_the_unit(name: str) -> None:
    directions = np.random.default_rng(0).normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    inside, wider = in_asymmetric_unit(name, directions), in_asymmetric_unit(name, directions, margin_deg=5)
    assert wider[inside].all()
    assert wider.sum() > inside.sum()
    nearest = np.degrees(np.arccos(np.clip((directions[wider] @ directions[inside].T).max(axis=1), -1, 1)))
    assert nearest.max() < 12  # 5 degrees beyond each wall is at most twice that beyond a corner


def test_equivalent_poses_see_equivalent_directions() -> None:
    pose = Rotation.from_euler("ZYZ", [10, 50, 70], degrees=True).as_matrix()
    equivalents = symmetry_equivalents("D3", pose)
    np.testing.assert_array_equal(equivalents[0], pose)
    seen = equivalents[:, 2]  # R^T e_z
    expected = np.einsum("gji,j->gi", point_group_operators("D3"), pose[2])
    np.testing.assert_allclose(seen, expected, atol=1e-14)


@pytest.mark.parametrize(
    ("text", "name"), [("c4", "C4"), ("I", "I2"), (" o ", "O"), ("d02", "D2"), ("i3", "I3")]
)
def test_names(text: str, name: str) -> None:
    assert parse_point_group(text).name == name


@pytest.mark.parametrize("text", ["", "X", "C", "C0", "D", "T2", "I5", "C-2", "octahedral"])
def test_unknown_name_lists_what_is_known(text: str) -> None:
    with pytest.raises(PosterionError, match="is not known; expected one of C1, C2"):
        parse_point_group(text)


@pytest.mark.parametrize("text", ["TH", "Td", "OH", "CI", "CS", "C3h", "D2V", "S4", "IH", "I2H"])
def test_mirrors_are_refused(text: str) -> None:
    with pytest.raises(PosterionError, match="contains mirrors or inversions"):
        parse_point_group(text)


def test_operators_are_described() -> None:
    text = describe_operators("d2")
    assert text.startswith("Point group D2: 4 rotations\nS(1) =\n  1.000000    0.000000    0.000000")
    assert "-0.000000" not in text


@pytest.mark.parametrize(("key", "name"), [("map_c3", "C3"), ("map_t", "T")])
def test_relion_averages_over_the_same_axes(key: str, name: str) -> None:
    frozen = np.load(REFERENCE.with_name("relion_reconstructions.npz"))
    n = frozen["map"].shape[0]
    xyz = np.stack(np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij")[::-1]).reshape(3, -1)
    average = np.zeros(n**3)
    for operator in point_group_operators(name):
        turned = (operator @ xyz)[::-1] + n // 2
        average += map_coordinates(frozen["map"].astype(float), turned, order=3)
    inside = np.linalg.norm(xyz, axis=0) < n // 2
    assert np.corrcoef(average[inside], frozen[key].ravel()[inside])[0, 1] > 0.97
