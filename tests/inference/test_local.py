"""Candidates around a previous pose."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posterion.inference.local import local_candidates
from posterion.physics.rotations import angular_distance_deg

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
PLAN = replace(SMALL["one_level_plan"](3, 8, 1.0, 0.5), local_radius_deg=15.0)


def test_rotations_and_shifts_lie_around_the_previous_pose() -> None:
    previous, shift = Rotation.random(random_state=0).as_matrix(), np.array([0.3, -0.2])
    candidates = local_candidates(previous, shift, PLAN)
    assert candidates.level == 0
    grid = PLAN.grid(0)
    distance = angular_distance_deg(grid.matrices(grid.all_cells()), previous)
    np.testing.assert_array_equal(candidates.cell, np.flatnonzero(distance <= 15))
    assert np.hypot(*(candidates.shifts_px - shift).T).max() == pytest.approx(1)
    assert len(candidates.shifts_px) == 13
    np.testing.assert_allclose(candidates.shifts_px.mean(axis=0), shift)


def test_a_global_plan_has_no_local_candidates() -> None:
    with pytest.raises(ValueError, match="local"):
        local_candidates(np.eye(3), np.zeros(2), replace(PLAN, local_radius_deg=None))
