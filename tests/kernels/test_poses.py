"""Scores, gradients and normal matrices of poses against sums and finite differences in double precision."""

import runpy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.kernels import gather_slices, score_poses, shift_spectrum
from posterion.physics.fourier import Disc, disc

REFERENCE = runpy.run_path(str(Path(__file__).parents[1] / "references" / "slices_reference.py"))
PADDING = 2
UPPER = np.triu_indices(5)


@dataclass
class Problem:
    """Random volume and images, and poses that belong to them in a ragged order."""

    pixels: Disc
    volume: NDArray[np.float32]
    centre: int
    matrices: NDArray[np.float64]
    shifts_px: NDArray[np.float64]
    image_r: NDArray[np.int32]
    whitened: NDArray[np.complex64]
    ctf2: NDArray[np.float32]

    @classmethod
    def random(cls, box: int, radius: int, n_poses: int = 7, n_images: int = 3) -> "Problem":
        rng = np.random.default_rng(box)
        centre = PADDING * radius + 2
        values = rng.normal(size=(2 * centre + 1, 2 * centre + 1, centre + 1, 2)).astype(np.float32)
        values[:, :, 0] = 0.5 * (values[:, :, 0] + values[::-1, ::-1, 0] * np.array([1, -1], np.float32))
        pixels = disc(box, radius)
        shape = n_images, len(pixels)
        weight = np.where(pixels.shell_p > 0, 1.0, 0.0)
        return cls(
            pixels,
            values,
            centre,
            Rotation.random(n_poses, random_state=rng).as_matrix(),
            rng.normal(0, 3, (n_poses, 2)),
            rng.integers(0, n_images, n_poses).astype(np.int32),
            ((rng.normal(size=shape) + 1j * rng.normal(size=shape)) * weight).astype(np.complex64),
            (rng.uniform(0, 2, shape) * weight).astype(np.float32),
        )

    @property
    def rows(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        return self.pixels.row_ky, self.pixels.row_first_kx, self.pixels.row_start

    @property
    def axes(self) -> NDArray[np.float32]:
        return (PADDING * self.matrices).astype(np.float32)

    def scored(self) -> NDArray[np.float64]:
        terms = np.full((len(self.matrices), 22), np.nan)
        score_poses(
            self.volume,
            self.centre,
            self.axes,
            self.shifts_px,
            self.image_r,
            self.rows,
            self.pixels.box,
            self.whitened,
            self.ctf2,
            terms,
        )
        return terms

    def slice_of(self, matrix: NDArray[np.float64]) -> NDArray[np.complex128]:
        grid = REFERENCE["whole_grid"](self.volume.view(np.complex64)[..., 0], self.centre)
        where = REFERENCE["positions"](matrix[None], self.pixels.kx_p, self.pixels.ky_p, PADDING)
        found: NDArray[np.complex128] = REFERENCE["trilinear_slices"](grid, where, (self.centre,) * 3)[0]
        return found

    def wave(self, shift_px: NDArray[np.float64]) -> NDArray[np.complex128]:
        k = self.pixels.kx_p * shift_px[0] + self.pixels.ky_p * shift_px[1]
        return np.asarray(np.exp(-2j * np.pi / self.pixels.box * k))

    def log_prob(self, r: int, step: NDArray[np.float64]) -> float:
        """Log-probability of pose r moved by (rotation vector in the image's frame, shift in pixels)."""
        model = self.slice_of(Rotation.from_rotvec(step[:3]).as_matrix() @ self.matrices[r])
        data = self.whitened[self.image_r[r]] * self.wave(self.shifts_px[r] + step[3:])
        norm = np.sum(self.ctf2[self.image_r[r]] * np.abs(model) ** 2)
        return float(np.sum((model.conj() * data).real) - 0.5 * norm)

    def model_derivatives(self, r: int) -> NDArray[np.complex128]:
        """Numerical derivatives of the model, laid on the image, by the five parameters: (5, P)."""
        steps = 1e-6 * np.eye(5)

        def model(step: NDArray[np.float64]) -> NDArray[np.complex128]:
            turned = Rotation.from_rotvec(step[:3]).as_matrix() @ self.matrices[r]
            return self.slice_of(turned) * self.wave(-step[3:])

        return np.stack([(model(step) - model(-step)) / 2e-6 for step in steps])


CASES = pytest.mark.parametrize(("box", "radius"), [(16, 7), (17, 8), (64, 10), (40, 19)])


@CASES
def test_cross_and_norm_are_those_of_gather_and_shift(box: int, radius: int) -> None:
    problem = Problem.random(box, radius)
    n, pixels = len(problem.matrices), problem.pixels
    slices = np.empty((n, len(pixels), 2), np.float32)
    axes = np.ascontiguousarray(problem.axes[:, :2])
    gather_slices(problem.volume, problem.centre, axes, problem.rows, slices)
    model = slices.view(np.complex64)[..., 0].astype(complex)
    moved = np.empty((1, len(pixels)), np.complex64)
    for r, found in enumerate(problem.scored()):
        image = problem.image_r[r]
        shift_spectrum(problem.whitened[image], box, problem.rows, problem.shifts_px[r : r + 1], moved)
        assert found[0] == pytest.approx(np.sum((model[r].conj() * moved[0]).real), abs=3e-5 * len(pixels))
        assert found[1] == pytest.approx(np.sum(problem.ctf2[image] * np.abs(model[r]) ** 2), rel=1e-5)


@CASES
def test_gradient_is_the_derivative_of_log_prob(box: int, radius: int) -> None:
    problem = Problem.random(box, radius)
    assert (problem.slice_of(problem.matrices[0]).imag != 0).any()
    for r, found in enumerate(problem.scored()):
        steps = 1e-6 * np.eye(5)
        expected = [(problem.log_prob(r, step) - problem.log_prob(r, -step)) / 2e-6 for step in steps]
        scale = np.sqrt(found[7:][[0, 5, 9, 12, 14]] * found[1])
        np.testing.assert_allclose(found[2:7] / scale, expected / scale, atol=3e-5)


@CASES
def test_normal_matrix_is_that_of_numerical_derivatives(box: int, radius: int) -> None:
    problem = Problem.random(box, radius)
    for r, found in enumerate(problem.scored()):
        derivatives = problem.model_derivatives(r)
        weighted = problem.ctf2[problem.image_r[r]] * derivatives
        expected = (derivatives.conj() @ weighted.T).real
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        np.testing.assert_allclose((found[7:] / scale[UPPER]), (expected / scale)[UPPER], atol=3e-5)


def test_a_score_does_not_depend_on_the_other_poses() -> None:
    problem = Problem.random(17, 8)
    together = problem.scored()
    for r in range(len(together)):
        problem_of_one = Problem.random(17, 8)
        problem_of_one.matrices = problem.matrices[r : r + 1]
        problem_of_one.shifts_px = problem.shifts_px[r : r + 1]
        problem_of_one.image_r = problem.image_r[r : r + 1]
        np.testing.assert_array_equal(problem_of_one.scored()[0], together[r])
