"""How far poses are from the truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posterion.data.particles import Particles, Poses
from posterion.report.demo import pose_errors_deg


@pytest.mark.parametrize("turn_deg", [0.0, 3.0])
def test_a_turn_of_the_whole_frame_is_no_error(tiny_set: Path, tmp_path: Path, turn_deg: float) -> None:
    truth = Particles.read(tiny_set / "truth.star")
    poses = truth.require_poses()
    turn = Rotation.from_rotvec([0, 0, np.radians(turn_deg)]).as_matrix()
    matrices = poses.matrices() @ turn
    wrong = [4, 9]
    matrices[wrong] = Rotation.from_rotvec([np.radians(20), 0, 0]).as_matrix() @ matrices[wrong]
    turned = Poses.from_matrices(matrices, np.zeros((len(truth), 2)))
    order = np.random.default_rng(0).permutation(len(truth))[:20]
    replace(truth, poses=turned)[order].write_star(tmp_path / "found.star")
    error = pose_errors_deg(tmp_path / "found.star", tiny_set / "truth.star")
    expected = np.where(np.isin(truth.image_index_i[order], wrong), 20.0, 0.0)
    assert error == pytest.approx(expected, abs=0.01)
