"""Grids of poses: children tile their cell, no rotation is far from a cell, symmetry is used once."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from posterion.physics.rotations import angular_distance_deg
from posterion.physics.sampling import RotationGrid, shift_children, shift_lattice
from posterion.physics.symmetry import in_asymmetric_unit, point_group_operators, symmetry_equivalents

OFFSET = Rotation.from_rotvec([0.05, -0.03, 0.08]).as_matrix()
CHILD_WITHIN = 0.65  # of the step: half a pixel's diagonal and a quarter of the in-plane step, measured 0.62
COVERED_WITHIN = 1.0  # of the step, measured 0.89


def distance_to_nearest(grid: NDArray[np.float64], probes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angle in degrees from each probe to the nearest rotation of a grid, by quaternions."""
    q = Rotation.from_matrix(grid).as_quat()
    chord, _ = cKDTree(np.concatenate([q, -q])).query(Rotation.from_matrix(probes).as_quat())
    return np.degrees(4 * np.arcsin(chord / 2))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_cells_are_rotations_all_different(order: int) -> None:
    grid = RotationGrid(order, OFFSET)
    cells = grid.all_cells()
    matrices = grid.matrices(cells)
    assert len(cells) == len(np.unique(cells)) == 72 * 8**order == grid.n_directions * grid.n_psi
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), matrices.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1)
    q = Rotation.from_matrix(matrices).as_quat()
    chord, _ = cKDTree(np.concatenate([q, -q])).query(q, k=2)
    assert np.degrees(4 * np.arcsin(chord[:, 1] / 2)).min() > 0.5 * grid.step_deg


def test_step_is_halved_by_each_order() -> None:
    assert [RotationGrid(order, OFFSET).step_deg for order in range(5)] == [60, 30, 15, 7.5, 3.75]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_children_make_up_the_finer_grid(order: int) -> None:
    grid = RotationGrid(order, OFFSET)
    children = grid.children(grid.all_cells())
    np.testing.assert_array_equal(np.sort(children), grid.finer().all_cells())


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_children_lie_in_their_cell(order: int) -> None:
    grid = RotationGrid(order, OFFSET)
    cells = np.random.default_rng(0).integers(grid.n_directions * grid.n_psi, size=500)
    children = grid.finer().matrices(grid.children(cells)).reshape(-1, 8, 3, 3)
    distance = angular_distance_deg(children, grid.matrices(cells)[:, None]) / grid.step_deg
    assert distance.max() < CHILD_WITHIN
    mean = children.mean(axis=1)
    u, _, vt = np.linalg.svd(mean)
    assert angular_distance_deg(u @ vt, grid.matrices(cells)).max() < 0.1 * grid.step_deg


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_every_rotation_is_near_a_cell(order: int) -> None:
    grid = RotationGrid(order, OFFSET)
    probes = Rotation.random(5000, random_state=1).as_matrix()
    distance = distance_to_nearest(grid.matrices(grid.all_cells()), probes) / grid.step_deg
    assert distance.max() < COVERED_WITHIN
    assert distance.mean() < 0.5


def test_cells_are_spread_evenly() -> None:
    """Each cell is nearest to its share of random rotations, near the poles of the grid too."""
    grid = RotationGrid(1, OFFSET)
    q = Rotation.from_matrix(grid.matrices(grid.all_cells())).as_quat()
    _, nearest = cKDTree(np.concatenate([q, -q])).query(Rotation.random(100_000, random_state=2).as_quat())
    share = np.bincount(nearest % len(q), minlength=len(q)) / (100_000 / len(q))
    assert share.min() > 0.5
    assert share.max() < 1.6


@pytest.mark.parametrize("point_group", ["C1", "C4", "D2", "T", "O", "I2"])
@pytest.mark.parametrize("order", [1, 2])
def test_symmetric_grids_reach_every_orbit(point_group: str, order: int) -> None:
    grid = RotationGrid(order, OFFSET)
    cells = grid.all_cells(point_group)
    probes = symmetry_equivalents(point_group, Rotation.random(1000, random_state=3).as_matrix())
    operators = len(point_group_operators(point_group))
    distance = distance_to_nearest(grid.matrices(cells), probes.reshape(-1, 3, 3)).reshape(-1, operators)
    assert distance.min(axis=1).max() < COVERED_WITHIN * grid.step_deg
    if operators > 1:  # the rim of a coarse unit is counted more than once
        assert len(cells) < (5.1 if order == 1 else 2.6) * len(grid.all_cells()) / operators


@pytest.mark.parametrize(("order", "radius_deg"), [(1, 45.0), (2, 30.0), (3, 15.0), (3, 7.0)])
def test_near_finds_what_a_search_of_all_cells_finds(order: int, radius_deg: float) -> None:
    grid = RotationGrid(order, OFFSET)
    cells = grid.all_cells()
    matrices = grid.matrices(cells)
    for probe in Rotation.random(10, random_state=4).as_matrix():
        expected = cells[angular_distance_deg(matrices, probe) <= radius_deg]
        assert len(expected) > 0
        np.testing.assert_array_equal(grid.near(probe, radius_deg), expected)


def test_near_gives_a_close_cell_where_none_is_within() -> None:
    grid = RotationGrid(2, OFFSET)
    for probe in Rotation.random(20, random_state=5).as_matrix():
        (cell,) = grid.near(probe, 0.01)
        assert angular_distance_deg(grid.matrices(np.array([cell]))[0], probe) < 1.2 * grid.step_deg


def test_offset_turns_the_whole_grid() -> None:
    cells = np.arange(72)
    plain, turned = RotationGrid(0, np.eye(3)), RotationGrid(0, OFFSET)
    np.testing.assert_allclose(turned.matrices(cells), plain.matrices(cells) @ OFFSET, atol=1e-12)


@pytest.mark.parametrize(
    ("range_px", "step_px"), [(3.0, 1.0), (2.5, 0.5), (1.0, 0.3), (0.2, 0.5), (0.6, 0.2)]
)
def test_shift_lattice_fills_the_disc(range_px: float, step_px: float) -> None:
    shifts = shift_lattice(range_px, step_px)
    assert np.hypot(*shifts.T).max() <= range_px + 1e-6
    grid = range(-50, 51)
    expected = {(i, j) for i in grid for j in grid if np.hypot(i, j) * step_px <= range_px + 1e-6}
    found = {(round(x / step_px), round(y / step_px)) for x, y in shifts}
    assert found == expected
    assert len(shifts) == len(expected)
    np.testing.assert_allclose(shifts.mean(axis=0), 0, atol=1e-12)


def test_shift_children_tile_their_square() -> None:
    shifts = shift_lattice(2, 1)
    children = shift_children(shifts, 1)
    np.testing.assert_allclose(children.reshape(-1, 4, 2).mean(axis=1), shifts)
    np.testing.assert_allclose(np.abs(children.reshape(-1, 4, 2) - shifts[:, None]), 0.25)
    assert len(np.unique(children.round(6), axis=0)) == 4 * len(shifts)
    grandchildren = shift_children(children, 0.5)
    np.testing.assert_allclose(np.diff(np.unique(grandchildren[:, 0].round(6))), 0.25)


@pytest.mark.parametrize("point_group", ["C4", "D2", "D7", "O", "I1"])
@pytest.mark.parametrize("order", [2, 3])
def test_shares_of_cells_add_up_to_one_asymmetric_unit(point_group: str, order: int) -> None:
    """All touched cells are more than the unit; the parts of them inside it are its g-th of the sphere."""
    turn = Rotation.from_rotvec([0.05, 0.03, -0.06]).as_matrix()
    grid = RotationGrid(order, turn)
    cell = grid.all_cells(point_group)
    share = grid.share_inside(cell, point_group)
    unit = grid.n_directions * grid.n_psi / len(point_group_operators(point_group))
    assert len(cell) > 1.05 * unit
    assert share.sum() == pytest.approx(unit, rel=0.02)
    assert ((share > 0) & (share <= 1)).all()
    # Cells whose centre is inside by more than their own size count whole, whatever is asked besides.
    vectors = grid.matrices(cell)[:, 2]
    well_inside = in_asymmetric_unit(point_group, vectors, margin_deg=-2 * grid.step_deg)
    assert (share[well_inside] == 1).all()
    some = np.random.default_rng(0).permutation(len(cell))[:50]
    np.testing.assert_array_equal(grid.share_inside(cell[some], point_group), share[some])
    outside = np.setdiff1d(grid.all_cells(), cell)
    assert grid.share_inside(outside, point_group).max() <= 1e-3
