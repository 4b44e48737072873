"""Estimates of each particle, written batch by batch."""

from typing import Any

import numpy as np

from posterion.inference.expectation import BatchExpectation
from posterion.refine.state import ParticleEstimates


def batch(index_i: list[int]) -> BatchExpectation:
    n = len(index_i)
    fields: dict[str, Any] = dict.fromkeys(BatchExpectation.__dataclass_fields__, np.zeros(0))
    fields |= {
        "index_i": np.array(index_i),
        "matrices_i": np.stack([np.diag([1.0, -1.0, -1.0])] * n),
        "shifts_px_i": np.arange(2.0 * n).reshape(n, 2),
        "log_likelihood_i": -np.array(index_i, float),
        "correlation_i": np.full(n, 0.25),
        "pmax_i": np.full(n, 0.5),
        "effective_orientations_i": np.full(n, 3.0),
    }
    return BatchExpectation(**fields)


def test_nothing_is_known_at_first() -> None:
    estimates = ParticleEstimates.empty(4)
    assert not estimates.usable.any()
    np.testing.assert_array_equal(estimates.matrices, [np.eye(3)] * 4)
    np.testing.assert_array_equal(estimates.shifts_px, np.zeros((4, 2)))


def test_a_batch_is_written_at_its_particles() -> None:
    estimates = ParticleEstimates.empty(5)
    estimates.put(batch([3, 1]))
    np.testing.assert_array_equal(estimates.usable, [False, True, False, True, False])
    np.testing.assert_array_equal(estimates.shifts_px[[3, 1]], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(estimates.log_likelihood, [0, -1, 0, -3, 0])
    np.testing.assert_array_equal(estimates.pmax, [0, 0.5, 0, 0.5, 0])
    np.testing.assert_array_equal(estimates.correlation, [0, 0.25, 0, 0.25, 0])
    np.testing.assert_array_equal(estimates.matrices[0], np.eye(3))
    np.testing.assert_array_equal(estimates.matrices[1], np.diag([1.0, -1.0, -1.0]))


def test_scalars_do_not_share_memory() -> None:
    estimates = ParticleEstimates.empty(3)
    estimates.pmax[0] = 1
    assert estimates.log_likelihood[0] == 0
    assert estimates.effective_orientations[0] == 0
