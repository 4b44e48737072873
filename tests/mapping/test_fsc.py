"""FSC curves against closed forms and a slow differently written reference; what the correction is for."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.mapping.fsc import (
    FscCurves,
    corrected_fsc,
    fourier_shell_correlation,
    fsc_curves,
    randomise_phases,
    read_fsc,
    resolution_at,
    write_fsc,
)
from posterion.mapping.masks import soft_sphere
from posterion.physics.fourier import fourier_transform_3d, shell_index_3d

Real = NDArray[np.float32]


def noise(box: int, seed: int) -> Real:
    return np.random.default_rng(seed).standard_normal((box,) * 3, np.float32)


def slow_fsc(a: Real, b: Real) -> NDArray[np.float64]:
    """Sum over the full complex spectrum, shell by shell, in float64: no half spectrum, no weights."""
    n = len(a)
    fa, fb = np.fft.fftn(a.astype(float)), np.fft.fftn(b.astype(float))
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    curve = []
    for shell in range(n // 2 + 1):
        inside = np.abs(radius - shell) <= 0.5  # no half-integer radii: squares of integers are never n + 1/4
        pa, pb = fa[inside], fb[inside]
        curve.append(np.sum(pa * pb.conj()).real / np.sqrt(np.sum(abs(pa) ** 2) * np.sum(abs(pb) ** 2)))
    return np.array(curve)


def crossing_of_the_judge(curve: NDArray[np.float64], threshold: float, n: int, pixel: float) -> float:
    """Apply the independent judge's rule: between the last shell above and the first below, linearly."""
    below = np.flatnonzero(curve[1:] < threshold)
    if not len(below):
        return 2 * pixel
    k = below[0] + 1
    return float(n * pixel / (k - 1 + (curve[k - 1] - threshold) / (curve[k - 1] - curve[k])))


@pytest.mark.parametrize("box", [15, 16, 21])
def test_agrees_with_the_slow_reference(box: int) -> None:
    common = noise(box, 0)
    a, b = common + noise(box, 1), common + 0.5 * noise(box, 2)
    np.testing.assert_allclose(fourier_shell_correlation(a, b), slow_fsc(a, b), atol=2e-6)


@pytest.mark.parametrize("snr", [0.2, 1.0, 4.0])
def test_known_signal_to_noise_gives_snr_over_one_plus_snr(snr: float) -> None:
    signal = np.sqrt(snr) * noise(48, 0)
    curve = fourier_shell_correlation(signal + noise(48, 1), signal + noise(48, 2))
    shells = np.arange(6, 25)
    spread = 1 / np.sqrt(np.sum(2 * np.pi * shells**2))  # of the weighted mean over independent voxels
    mean = np.average(curve[shells], weights=shells**2)
    assert abs(mean - snr / (1 + snr)) < 4 * spread


def test_equal_maps_correlate_fully_whatever_their_scale() -> None:
    a = noise(16, 0)
    np.testing.assert_allclose(fourier_shell_correlation(a, 3 * a), 1, atol=1e-6)
    np.testing.assert_allclose(fourier_shell_correlation(a, -a), -1, atol=1e-6)


def test_a_map_without_power_correlates_with_nothing() -> None:
    assert not fourier_shell_correlation(noise(16, 0), np.zeros((16,) * 3, np.float32)).any()


def test_threads_change_nothing() -> None:
    a, b = noise(24, 0), noise(24, 1)
    np.testing.assert_array_equal(fourier_shell_correlation(a, b), fourier_shell_correlation(a, b, workers=2))


def test_boxes_must_agree() -> None:
    with pytest.raises(PosterionError, match="16x16x16 and 18x18x18"):
        fourier_shell_correlation(noise(16, 0), noise(18, 0))


@pytest.mark.parametrize("threshold", [0.143, 0.5])
def test_crossing_is_the_judge_s(threshold: float) -> None:
    curve = np.array([1, 0.95, 0.8, 0.55, 0.3, 0.2, 0.1, 0.16, 0.05])
    assert resolution_at(curve, threshold, 2.5, 16) == pytest.approx(
        crossing_of_the_judge(curve, threshold, 16, 2.5)
    )


def test_crossing_at_the_ends() -> None:
    assert resolution_at(np.ones(9), 0.143, 2.5, 16) == 5.0
    assert resolution_at(np.array([1.0, -0.1, 0.1]), 0.143, 2.5, 16) == 40.0
    assert resolution_at(np.array([-1.0, -0.1, 0.1]), 0.143, 2.5, 16) == 40.0
    assert resolution_at(np.array([1.0, 0.9, 0.5, 0.2]), 0.5, 2.5, 16) == pytest.approx(20.0)


@pytest.mark.parametrize("box", [15, 16])
def test_randomised_phases_keep_amplitudes_and_low_shells(box: int) -> None:
    a = noise(box, 0) + 2
    shuffled = randomise_phases(a, 4, seed=1)
    before, after = fourier_transform_3d(a), fourier_transform_3d(shuffled)
    shell = shell_index_3d(box)
    np.testing.assert_allclose(np.abs(after), np.abs(before), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(after[shell < 4], before[shell < 4], atol=2e-3)
    assert abs(fourier_shell_correlation(a, shuffled)[5:]).max() < 0.3


def test_randomised_phases_follow_the_seed() -> None:
    a = noise(16, 0)
    np.testing.assert_array_equal(randomise_phases(a, 3, seed=5), randomise_phases(a, 3, seed=5))
    assert not np.array_equal(randomise_phases(a, 3, seed=5), randomise_phases(a, 3, seed=6))


def test_correction_is_the_formula_two_shells_on() -> None:
    masked, randomised = np.full(8, 0.6), np.array([1, 1, 1, 0.5, 0.2, 0.2, 0.7, 0.2])
    expected = [0.6, 0.6, 0.6, 0.6, 0.5, 0.5, 0.0, 0.5]
    np.testing.assert_allclose(corrected_fsc(masked, randomised, 2), expected)


def test_the_corrected_curve_is_free_of_a_hard_mask() -> None:
    """Two maps share low shells only; a hard ball makes all correlate, and the correction undoes it."""
    rng = np.random.default_rng(0)
    z = np.arange(32) - 16
    blob = 30 * np.exp(-(z[:, None, None] ** 2 + z[:, None] ** 2 + z**2) / 60).astype(np.float32)
    a, b = (blob + 0.3 + 0.5 * rng.standard_normal(blob.shape, np.float32) for _ in range(2))
    curves = fsc_curves(a, b, 2.0, soft_sphere(32, 6, 0))
    assert curves.masked_s is not None
    assert curves.corrected_s is not None
    beyond = slice(9, 17)
    assert abs(curves.unmasked_s[beyond].mean()) < 0.1
    assert curves.masked_s[beyond].mean() > 0.3
    assert abs(curves.corrected_s[beyond].mean()) < 0.15


def test_curves_without_a_mask() -> None:
    curves = fsc_curves(noise(16, 0), noise(16, 1), 1.5)
    assert list(curves.named()) == ["unmasked"]
    assert curves.best_s is curves.unmasked_s
    np.testing.assert_allclose(curves.frequency_s[-1], 1 / 3.0)


@pytest.mark.parametrize("pixel_size", [0.0, -1.0, float("nan")])
def test_pixel_size_must_be_positive(pixel_size: float) -> None:
    with pytest.raises(PosterionError, match="--pixel-size"):
        fsc_curves(noise(16, 0), noise(16, 1), pixel_size)


@pytest.mark.parametrize("with_mask", [False, True])
def test_table_round_trip(tmp_path: Path, with_mask: bool) -> None:
    mask = soft_sphere(16, 5, 2) if with_mask else None
    common = noise(16, 0)
    curves = fsc_curves(common, common + noise(16, 1), 1.234, mask)
    write_fsc(curves, tmp_path / "new" / "fsc.tsv")
    read = read_fsc(tmp_path / "new" / "fsc.tsv")
    assert (read.box_px, read.pixel_size_angstrom) == (16, 1.234)
    assert read.randomised_from_shell == curves.randomised_from_shell
    assert list(read.named()) == list(curves.named())
    for name, curve in curves.named().items():
        np.testing.assert_allclose(read.named()[name], curve, atol=1e-6)


@pytest.mark.parametrize("text", ["", "hello\n", "# box_px=16 pixel_size_angstrom=2.0\nshell\tfsc\n1\tx\n"])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fsc.tsv"
    path.write_text(text)
    with pytest.raises(PosterionError, match="not an FSC table"):
        read_fsc(path)


def test_missing_and_unwritable_tables(tmp_path: Path) -> None:
    with pytest.raises(PosterionError, match=r"nowhere\.tsv"):
        read_fsc(tmp_path / "nowhere.tsv")
    (tmp_path / "file").write_text("")
    with pytest.raises(PosterionError, match="cannot be"):
        write_fsc(FscCurves(4, 1.0, np.ones(3)), tmp_path / "file" / "fsc.tsv")
