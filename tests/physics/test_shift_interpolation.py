"""All shifts from few against phases at any place of the disc, the adjoint, and where it is left alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from posterion.physics import shift_interpolation
from posterion.physics.fourier import disc
from posterion.physics.sampling import shift_lattice
from posterion.physics.shift_interpolation import ShiftInterpolation, interpolation
from posterion.physics.shifts import shifted

WIDE = [
    (128, 20, 10.0, 1.0),
    (128, 20, 5.0, 1.0),
    (128, 12, 10.0, 1.0),
    (64, 10, 5.0, 0.5),
    (33, 9, 4.0, 0.5),
]
"""Box, shells, range and step of the shifts."""
USUAL = [
    (128, 28, 2.5, 1.0),
    (128, 12, 4.0, 2.0),
    (128, 20, 2.5, 1.0),
    (128, 12, 10.0, 2.0),
    (128, 32, 6.0, 1.0),
]


def few_of(box: int, radius: int, range_px: float, step_px: float) -> ShiftInterpolation | None:
    return interpolation(shift_lattice(range_px, step_px), disc(box, radius))


def required(box: int, radius: int, range_px: float, step_px: float) -> ShiftInterpolation:
    few = few_of(box, radius, range_px, step_px)
    assert few is not None
    return few


def phases(shifts_px: NDArray[np.float64], k: NDArray[np.float64], box: int) -> NDArray[np.complex128]:
    return np.exp(-2j * np.pi / box * shifts_px @ k.T)


def within_disc(radius: float, count: int) -> NDArray[np.float64]:
    """Random places of a disc, with its centre and points of its rim."""
    rng = np.random.default_rng(0)
    k = rng.uniform(-radius, radius, (count, 2))
    angle = rng.uniform(0, 2 * np.pi, 200)
    rim = radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.concatenate([k[np.hypot(*k.T) <= radius], rim, np.zeros((1, 2))])


@pytest.mark.parametrize("case", WIDE)
def test_phases_of_all_shifts_follow_from_few(case: tuple[int, int, float, float]) -> None:
    """At random places: 3e-4 root mean square, as stated, and nowhere, rim included, above 4e-3."""
    box, radius, range_px, step_px = case
    few, shifts_px = required(*case), shift_lattice(range_px, step_px)
    assert few.weight_ts.shape == (len(shifts_px), len(few.kept_s))
    k = within_disc(radius, 20_000)
    error = few.weight_ts.astype(float) @ phases(shifts_px[few.kept_s], k, box) - phases(shifts_px, k, box)
    inside = np.abs(error[:, :-201])
    assert np.sqrt((inside**2).mean(axis=1)).max() < 1.03 * 3e-4
    assert np.abs(error).max() < 4e-3
    np.testing.assert_allclose(few.weight_ts.sum(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("case", WIDE)
def test_few_are_some_of_all_and_noise_is_not_amplified(case: tuple[int, int, float, float]) -> None:
    few, shifts_px = required(*case), shift_lattice(*case[2:])
    assert (np.diff(few.kept_s) > 0).all()
    assert 1.5 * len(few.kept_s) < len(shifts_px)
    np.testing.assert_allclose(few.weight_ts[few.kept_s], np.eye(len(few.kept_s)), atol=1e-5)
    assert np.sqrt((few.weight_ts**2).sum(axis=1)).max() < 4


def test_as_few_as_the_band_allows() -> None:
    """Below the rank to that error nothing can go; eigenvalues of the disc's pixels, another quadrature."""
    for box, radius, range_px, step_px in WIDE[:4]:
        pixels, shifts_px = disc(box, radius), shift_lattice(range_px, step_px)
        every_tp = shifted(np.ones(len(pixels), np.complex64), pixels, shifts_px)
        values = np.linalg.svd(every_tp * np.sqrt(pixels.multiplicity_p), compute_uv=False)
        # Left out, an eigenvector is an error of all T shifts together.
        power = np.cumsum(values[::-1] ** 2)[::-1] / pixels.multiplicity_p.sum()
        rank = int(np.count_nonzero(power > len(shifts_px) * 3e-4**2))
        found = len(required(box, radius, range_px, step_px).kept_s)
        assert rank <= found < 2 * rank


@pytest.mark.parametrize("case", USUAL)
def test_where_shifts_are_nearly_independent_nothing_is_interpolated(
    case: tuple[int, int, float, float],
) -> None:
    assert few_of(*case) is None


def test_what_is_used_saves_a_third_of_the_multiplications() -> None:
    for box in (64, 128):
        for radius in (6, 10, 16, 24):
            for range_px, step_px in ((2.5, 0.5), (5.0, 1.0), (5.0, 0.5), (12.0, 2.0)):
                few = few_of(box, radius, range_px, step_px)
                if few is None:
                    continue
                shifts, samples = len(few.weight_ts), 2 * len(disc(box, radius))
                assert few.samples == samples
                assert len(few.kept_s) * (samples + shifts) <= shifts * samples / 1.5
                assert few.saves(shifts)
                assert not few.saves(len(few.kept_s))


@pytest.mark.parametrize("shifts_px", [np.zeros((0, 2)), np.zeros((63, 2)), shift_lattice(2.5, 1.0)])
def test_short_lists_are_left_as_they_are(shifts_px: NDArray[np.float64]) -> None:
    """However low the band: the usual range has 21 shifts."""
    assert interpolation(shifts_px, disc(128, 5)) is None


def test_the_same_list_gives_the_same_bits() -> None:
    first = required(*WIDE[0])
    shift_interpolation._interpolation.cache_clear()
    again = required(*WIDE[0])
    assert again is not first
    np.testing.assert_array_equal(again.kept_s, first.kept_s)
    np.testing.assert_array_equal(again.weight_ts, first.weight_ts)
    assert required(*WIDE[0]) is again
    assert not again.weight_ts.flags.writeable, "it is shared"


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), rotations=st.integers(1, 20), part=st.integers(1, 81))
def test_weights_move_by_the_adjoint(seed: int, rotations: int, part: int) -> None:
    """``<Gamma, X at all> = <Gamma moved onto few, X at few>``, of some of the shifts too."""
    few, rng = required(128, 20, 5.0, 1.0), np.random.default_rng(seed)
    shift_t = np.sort(rng.choice(81, part, replace=False))
    gamma_rt = rng.uniform(size=(rotations, part)).astype(np.float32)
    values_sr = rng.normal(size=(len(few.kept_s), rotations)).astype(np.float32)
    left = np.vdot(gamma_rt.T, few.at_all(values_sr)[shift_t])
    right = np.vdot(few.onto_few(gamma_rt, shift_t).T, values_sr)
    assert left == pytest.approx(right, rel=1e-4, abs=1e-4 * np.sqrt(part * rotations))


def test_moved_images_summed_over_few_are_those_summed_over_all() -> None:
    """The sum over a posterior, as the M-step needs it, against every shift of an image."""
    pixels, shifts_px = disc(128, 20), shift_lattice(10.0, 1.0)
    few, rng = required(128, 20, 10.0, 1.0), np.random.default_rng(3)
    image_p = (rng.normal(size=len(pixels)) + 1j * rng.normal(size=len(pixels))).astype(np.complex64)
    gamma_rt = rng.uniform(size=(6, len(shifts_px))).astype(np.float32)
    gamma_rt /= gamma_rt.sum(axis=1, keepdims=True)
    expected = gamma_rt.astype(complex) @ shifted(image_p, pixels, shifts_px)
    found = few.onto_few(gamma_rt) @ shifted(image_p, pixels, shifts_px[few.kept_s])
    assert np.abs(found - expected).max() < 1e-3 * np.abs(image_p).max()
    one_shift = np.eye(len(shifts_px), dtype=np.float32)[[7, 200]]
    found = few.onto_few(one_shift) @ shifted(image_p, pixels, shifts_px[few.kept_s])
    exact = shifted(image_p, pixels, shifts_px[[7, 200]])
    assert np.sqrt((np.abs(found - exact) ** 2).mean() / (np.abs(exact) ** 2).mean()) < 4e-4
