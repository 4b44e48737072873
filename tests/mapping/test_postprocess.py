"""Post-processing against closed forms, RELION's frozen numbers, and maps with known faults."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.data.mrc import read_map
from posterion.errors import PosterionError
from posterion.mapping.fsc import FscCurves, read_fsc
from posterion.mapping.masks import low_pass, soft_sphere
from posterion.mapping.postprocess import (
    fit_guinier,
    fsc_warnings,
    fsc_weight,
    postprocess,
    sharpen,
    write_postprocessed,
)
from posterion.physics.fourier import fourier_transform_3d, shell_mean

REFERENCES = Path(__file__).parents[1] / "references"
RELION = dict(np.load(REFERENCES / "relion_postprocess.npz"))
MADE = runpy.run_path(str(REFERENCES / "make_relion_postprocess.py"))

Real = NDArray[np.float32]


def noise(box: int, seed: int) -> Real:
    return np.random.default_rng(seed).standard_normal((box,) * 3, np.float32)


@pytest.fixture(scope="module")
def halves() -> tuple[Real, Real, Real]:
    made: tuple[Real, Real, Real] = MADE["halves_and_mask"]()
    return made


def curves_of(values: list[float] | NDArray[np.float64], **others: object) -> FscCurves:
    values = np.asarray(values, float)
    return FscCurves(2 * (len(values) - 1), 2.0, values, **others)  # type: ignore[arg-type]


def test_weight_is_the_expected_correlation_with_the_truth() -> None:
    weight = fsc_weight(np.array([-1.0, 1.0, 0.5, 0.143, -0.1, 0.4]))
    np.testing.assert_allclose(weight, [1, 1, np.sqrt(1 / 1.5), np.sqrt(0.286 / 1.143), 0, 0])


@pytest.mark.parametrize("bfactor", [-80.0, 150.0])
def test_sharpening_is_undone_by_the_opposite_b(bfactor: float) -> None:
    volume = sharpen(noise(24, 0), np.ones(13), 0.0, 2.0)  # without its corners
    back = sharpen(sharpen(volume, np.ones(13), bfactor, 2.0), np.ones(13), -bfactor, 2.0)
    np.testing.assert_allclose(back, volume, atol=1e-4)


@pytest.mark.parametrize("bfactor", [40.0, 120.0])
def test_the_b_of_a_damped_map_is_found(bfactor: float) -> None:
    """A map of white spectrum, damped by exp(-B s^2 / 4), with hardly any noise."""
    damped = sharpen(noise(48, 0), np.ones(25), bfactor, 1.5)
    result = postprocess(damped, damped + 1e-4 * noise(48, 1), 1.5)
    assert result.bfactor_angstrom2 == pytest.approx(-bfactor, rel=0.02)


def test_guinier_line_of_exact_amplitudes() -> None:
    square = (np.arange(33) / (64 * 1.8)) ** 2
    guinier = fit_guinier(np.exp(2 - 100 / 4 * square), 64, 1.8, 10, 5)
    assert guinier.bfactor_angstrom2 == pytest.approx(-100)
    assert guinier.intercept == pytest.approx(2)
    np.testing.assert_array_equal(np.flatnonzero(guinier.fitted_s), np.arange(12, 24))


def test_guinier_needs_three_shells() -> None:
    with pytest.raises(PosterionError, match="fewer than three shells"):
        fit_guinier(np.ones(33), 64, 1.8, 10, 9.8)


def test_relion_s_curves_and_resolution(halves: tuple[Real, Real, Real]) -> None:
    half1, half2, mask = halves
    result = postprocess(half1, half2, MADE["PIXEL_SIZE"], mask)
    curves = result.curves
    # RELION counts the kx = 0 plane twice as heavily; its random phases are other ones.
    np.testing.assert_allclose(curves.unmasked_s[1:], RELION["unmasked"][1:], atol=0.01)
    np.testing.assert_allclose(curves.named()["masked"][1:], RELION["masked"][1:], atol=0.01)
    np.testing.assert_allclose(curves.named()["corrected"][1:], RELION["corrected"][1:], atol=0.08)
    extent = MADE["BOX"] * MADE["PIXEL_SIZE"]
    assert abs(extent / result.resolution_angstrom - extent / RELION["resolution"]) < 1
    assert curves.randomised_from_shell == round(extent / RELION["randomised_from"])


def test_relion_s_b_factor_is_that_of_the_whole_box(halves: tuple[Real, Real, Real]) -> None:
    half1, half2, mask = halves
    result = postprocess(half1, half2, MADE["PIXEL_SIZE"], mask, fit_whole_box=True)
    assert result.bfactor_angstrom2 == pytest.approx(float(RELION["bfactor"]), rel=0.05)


def test_inside_the_mask_the_b_factor_is_the_true_one(halves: tuple[Real, Real, Real]) -> None:
    """RELION says -101 for atoms of B = 150: solvent noise lifts the box's amplitudes at high resolution."""
    half1, half2, mask = halves
    result = postprocess(half1, half2, MADE["PIXEL_SIZE"], mask)
    assert result.bfactor_angstrom2 == pytest.approx(-MADE["ATOM_B"], rel=0.05)


def test_the_sharpened_map_has_a_flat_spectrum_up_to_its_resolution(halves: tuple[Real, Real, Real]) -> None:
    half1, half2, mask = halves
    result = postprocess(half1, half2, MADE["PIXEL_SIZE"], mask)
    amplitude = shell_mean(np.abs(fourier_transform_3d(result.sharpened * mask)), MADE["BOX"])
    crossing = MADE["BOX"] * MADE["PIXEL_SIZE"] / result.resolution_angstrom
    inside = amplitude[12 : int(crossing) - 1]
    assert inside.std() / inside.mean() < 0.25
    assert amplitude[int(crossing) + 3 :].max(initial=0) < 0.1 * inside.mean()


def test_a_given_b_factor_is_applied(halves: tuple[Real, Real, Real]) -> None:
    half1, half2, mask = halves
    result = postprocess(half1, half2, MADE["PIXEL_SIZE"], mask, bfactor_angstrom2=-33.0)
    assert result.bfactor_angstrom2 == -33.0
    assert result.guinier is not None


def test_a_fit_to_few_shells_is_doubted(halves: tuple[Real, Real, Real]) -> None:
    half1, half2, mask = halves
    wide = postprocess(half1, half2, MADE["PIXEL_SIZE"], mask)
    assert not any("shells lie between" in warning for warning in wide.warnings)
    narrow = postprocess(
        half1, half2, MADE["PIXEL_SIZE"], mask, fit_from_angstrom=1.25 * wide.resolution_angstrom
    )
    assert any("shells lie between" in warning for warning in narrow.warnings)


def test_without_shells_to_fit_the_map_is_not_sharpened() -> None:
    blob = 20 * soft_sphere(32, 6, 6)
    result = postprocess(blob + noise(32, 0), blob + noise(32, 1), 4.0)
    assert result.bfactor_angstrom2 == 0
    assert result.guinier is None
    assert any("not sharpened" in warning for warning in result.warnings)


def test_same_seed_same_map(halves: tuple[Real, Real, Real]) -> None:
    half1, half2, mask = halves
    first, second = (postprocess(half1, half2, 1.8, mask, workers=w) for w in (1, 2))
    np.testing.assert_array_equal(first.sharpened, second.sharpened)
    assert first.summary() == second.summary()


def test_good_halves_need_no_words(halves: tuple[Real, Real, Real]) -> None:
    half1, half2, mask = halves
    assert postprocess(half1, half2, MADE["PIXEL_SIZE"], mask).warnings == ()


def test_identical_masked_and_filtered_halves_are_found() -> None:
    blob = soft_sphere(32, 8, 4)
    a, b = 3 * blob + noise(32, 0), 3 * blob + noise(32, 1)
    assert any("identical" in w for w in postprocess(a, a, 2.0).warnings)
    assert any("nearly identical" in w for w in postprocess(a, a + 1e-3 * b, 2.0).warnings)
    assert any("masked already" in w for w in postprocess(a * blob, b * blob, 2.0).warnings)
    filtered = [low_pass(half, 8.0, 2.0) for half in (a, b)]
    assert any("nothing beyond 7.1 A" in w for w in postprocess(*filtered, 2.0).warnings)


def test_a_tight_hard_mask_is_found() -> None:
    z = np.arange(32) - 16
    blob = 30 * np.exp(-(z[:, None, None] ** 2 + z[:, None] ** 2 + z**2) / 60).astype(np.float32) + 0.3
    halves = blob + 0.5 * noise(32, 0), blob + 0.5 * noise(32, 1)
    warnings = postprocess(*halves, 2.0, soft_sphere(32, 6, 0)).warnings
    assert any("mask itself makes the halves correlate" in warning for warning in warnings)


def falling(n: int = 33) -> NDArray[np.float64]:
    return 1 / (1 + np.exp((np.arange(n) - 15) / 1.5))


def test_faults_in_curves_are_named() -> None:
    high, dip, rise = np.full(33, 0.9), falling(), falling()
    high[0] = 1
    dip[5:7] = 0.6
    rise[25:30] = 0.4
    assert fsc_warnings(curves_of(falling())) == ()
    assert "never falls below 0.143" in fsc_warnings(curves_of(high))[0]
    assert "dips to 0.60" in fsc_warnings(curves_of(dip))[0]
    assert "rises again to 0.40" in fsc_warnings(curves_of(rise))[0]


def test_a_misplaced_mask_is_found() -> None:
    worse = np.interp(np.arange(33) * 1.3, np.arange(33), falling())
    masked = {
        "masked_s": worse,
        "randomised_s": np.zeros(33),
        "corrected_s": worse,
        "randomised_from_shell": 9,
    }
    assert any("makes the resolution worse" in w for w in fsc_warnings(curves_of(falling(), **masked)))


def test_everything_is_written(tmp_path: Path, halves: tuple[Real, Real, Real]) -> None:
    half1, half2, mask = halves
    result = postprocess(half1, half2, 1.8, mask)
    written = write_postprocessed(result, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(written)
    values, pixel_size = read_map(written["postprocessed_masked.mrc"])
    np.testing.assert_array_equal(values, result.sharpened * mask)
    assert pixel_size == pytest.approx(1.8)
    assert read_fsc(written["fsc.tsv"]).resolution() == pytest.approx(result.resolution_angstrom, abs=1e-3)
    record = json.loads(written["postprocess.json"].read_text())
    assert record["bfactor_inside_mask_angstrom2"] == result.bfactor_angstrom2


def test_the_mask_is_checked() -> None:
    with pytest.raises(PosterionError, match="16x16x16 voxels but the map has 32x32x32"):
        postprocess(noise(32, 0), noise(32, 1), 2.0, soft_sphere(16, 5, 3))
