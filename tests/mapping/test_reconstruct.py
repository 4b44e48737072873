"""Reconstruction from known poses against relion_reconstruct, the solve against its equation, bad images."""

import runpy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from posterion.compute import Workers
from posterion.data.particles import Particles
from posterion.errors import PosterionError
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.mapping.reconstruct import (
    HalfSums,
    Reconstruction,
    centred_spectra,
    half_ids,
    reconstruct,
    ssnr_from_fsc,
)
from posterion.physics.fourier import (
    disc,
    fourier_transform_2d,
    fourier_transform_3d,
    phase_shift,
    shell_mean,
)
from posterion.physics.projection import Accumulator, FourierVolume, map_of_transform

REFERENCES = Path(__file__).parents[1] / "references"
SETS = runpy.run_path(str(REFERENCES / "particle_sets.py"))


@cache
def frozen(name: str) -> dict[str, NDArray[np.floating]]:
    with np.load(REFERENCES / f"relion_{name}.npz") as arrays:
        return dict(arrays)


def amplitude_ratio(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Per shell the factor by which ours is the other map, plus what does not correlate."""
    a, b, n = fourier_transform_3d(ours), fourier_transform_3d(theirs), len(ours)
    return shell_mean((a * b.conj()).real, n) / shell_mean(np.abs(b) ** 2, n)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    """1200 noise-free images of three optics groups, the ones RELION was given."""
    stack = tmp_path_factory.mktemp("dense") / "images.mrcs"
    columns = frozen("reconstruction_dense")
    particles: Particles = SETS["particle_set"](columns, 5.0, 32, stack)
    SETS["write_stack"](stack, SETS["projections"](columns["truth"], particles), 5.0)
    return particles


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    """160 images that RELION made."""
    stack = tmp_path_factory.mktemp("sparse") / "images.mrcs"
    columns = frozen("reconstructions")
    SETS["write_stack"](stack, columns["images"], 5.0)
    return SETS["particle_set"](columns, 5.0, 32, stack)


@pytest.fixture(scope="module")
def dense_map(dense: Particles) -> Reconstruction:
    return reconstruct(dense, threads=1)


def test_same_map_as_relion_reconstruct(dense_map: Reconstruction) -> None:
    """Same hand, origin and grey scale; images that end at shell 15, which RELION takes for data."""
    expected = frozen("reconstruction_dense")["map"]
    fsc_s = fourier_shell_correlation(dense_map.map, expected)
    assert fsc_s[1:15].min() > 0.99
    assert fsc_s[15] > 0.93
    np.testing.assert_allclose(amplitude_ratio(dense_map.map, expected)[1:14], 1, atol=0.035)
    mirrored = fourier_shell_correlation(np.ascontiguousarray(expected[::-1]), dense_map.map)
    assert mirrored[5:15].max() < 0.5


def test_as_near_to_the_truth_as_relion(dense_map: Reconstruction) -> None:
    columns = frozen("reconstruction_dense")
    ours = fourier_shell_correlation(dense_map.map, columns["truth"])
    relions = fourier_shell_correlation(columns["map"], columns["truth"])
    assert (ours[1:15] > relions[1:15] - 0.001).all()
    # The weak mean of the map costs most where the first shells lean on it, in RELION's map 2.4 % too.
    np.testing.assert_allclose(amplitude_ratio(dense_map.map, columns["truth"])[1:15], 1, atol=0.03)


def test_unfiltered_map_pays_for_its_flat_prior_at_the_end_only(dense_map: Reconstruction) -> None:
    """Three tenths of the mean weight protect noisy maps; here, without noise, they cost 1 % near Nyquist."""
    fsc_s = fourier_shell_correlation(dense_map.map_unfiltered, frozen("reconstruction_dense")["map"])
    assert fsc_s[1:14].min() > 0.99
    assert dense_map.fsc_s[1:12].min() > 0.98


@pytest.mark.parametrize("symmetry", ["c3", "t"])
def test_symmetric_maps_are_relions(sparse: Particles, symmetry: str) -> None:
    expected = frozen("reconstructions")[f"map_{symmetry}"]
    # The phantom has no symmetry: half maps disagree, which the filtered map heeds.
    found = reconstruct(sparse, point_group=symmetry, threads=1).map_unfiltered
    assert fourier_shell_correlation(found, expected)[1:12].min() > 0.98
    np.testing.assert_allclose(amplitude_ratio(found, expected)[2:12], 1, atol=0.06)
    other = frozen("reconstructions")["map_t" if symmetry == "c3" else "map_c3"]
    assert fourier_shell_correlation(found, other)[5:12].max() < 0.9


def test_halves_are_the_ones_of_the_file(sparse: Particles) -> None:
    """Half 1 correlates more with RELION's half 1 than with the truth or than half 2 does."""
    found = reconstruct(sparse, threads=1)
    expected = frozen("reconstructions")["map_half1"]
    first, second = (
        fourier_shell_correlation(half, expected)[4:13].mean() for half in (found.half1, found.half2)
    )
    assert first > 0.96
    assert first > second + 0.01


def test_each_image_has_its_own_optics(dense: Particles, dense_map: Reconstruction) -> None:
    """With the voltages of another group the CTFs are wrong, and the map shows it."""
    swapped = replace(dense, optics=(*dense.optics[1:], dense.optics[0]))
    wrong = reconstruct(swapped, threads=1)
    truth = frozen("reconstruction_dense")["truth"]
    right = fourier_shell_correlation(dense_map.map, truth)
    assert fourier_shell_correlation(wrong.map, truth)[8:14].mean() < right[8:14].mean() - 0.02


@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_for_any_number_of_threads(sparse: Particles, threads: int) -> None:
    alone, shared = (reconstruct(sparse, "C3", threads=t) for t in (1, threads))
    for name in ("map", "map_unfiltered", "half1", "half2"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(shared, name))


def test_order_of_the_halves_is_theirs(sparse: Particles) -> None:
    """Exchanging the ids exchanges the maps."""
    found = reconstruct(sparse, threads=1)
    exchanged = reconstruct(replace(sparse, half_i=(3 - sparse.half_i).astype(np.int8)), threads=1)
    np.testing.assert_array_equal(found.half1, exchanged.half2)
    np.testing.assert_allclose(found.map, exchanged.map, atol=1e-5 * found.map.max())


def test_unusable_images_are_left_out_and_listed(sparse: Particles, tmp_path: Path) -> None:
    images = frozen("reconstructions")["images"].astype(np.float32)
    images[7], images[30, 3, 4], images[31] = np.nan, np.inf, 2.5
    images[40, 5, 5], images[41] = 1e8, 1e3 * images[41]
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
        SETS["write_stack"](tmp_path / "images.mrcs", images, 5.0)
    damaged = replace(sparse, stack_paths=(tmp_path / "images.mrcs",))
    found = reconstruct(damaged, threads=1)
    left_out = [7, 30, 31, 40, 41]
    np.testing.assert_array_equal(found.left_out_i, left_out)
    kept = np.setdiff1d(np.arange(160), left_out)
    without = reconstruct(sparse[kept], threads=1)
    np.testing.assert_allclose(found.map, without.map, atol=1e-4 * without.map.max())


def test_a_half_of_bad_images_is_refused_in_words(sparse: Particles, tmp_path: Path) -> None:
    images = frozen("reconstructions")["images"].astype(np.float32)
    images[sparse.half_i == 2] = 1.0
    SETS["write_stack"](tmp_path / "images.mrcs", images, 5.0)
    said = "all are constant, .* standard deviation of more than 15 times the median of their optics"
    with pytest.raises(PosterionError, match=said):
        reconstruct(replace(sparse, stack_paths=(tmp_path / "images.mrcs",)), threads=1)


def test_observer_hears_of_every_particle(sparse: Particles) -> None:
    heard: list[int] = []
    reconstruct(sparse, threads=2, observer=heard.append)
    assert sum(heard) == 160
    assert len(heard) > 1


def test_poses_are_needed(sparse: Particles) -> None:
    with pytest.raises(PosterionError):
        reconstruct(replace(sparse, poses=None), threads=1)


def test_half_ids() -> None:
    columns = {name: values[:9] for name, values in frozen("reconstructions").items() if values.ndim} | {
        "optics": frozen("reconstructions")["optics"]
    }
    particles: Particles = SETS["particle_set"](columns, 5.0, 32)
    np.testing.assert_array_equal(half_ids(particles), particles.half_i)
    unassigned = replace(particles, half_i=np.zeros(9, np.int8))
    drawn = half_ids(unassigned, seed=3)
    np.testing.assert_array_equal(np.sort(drawn), [1, 1, 1, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(drawn, half_ids(unassigned, seed=3))
    assert any((half_ids(unassigned, seed) != drawn).any() for seed in range(5))
    for ids in (np.ones(9, np.int8), np.array([0] * 4 + [1, 2] * 2 + [1], np.int8)):
        with pytest.raises(PosterionError, match="half"):
            half_ids(replace(particles, half_i=ids))


def test_centred_spectra_move_the_image_onto_its_projection() -> None:
    image = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    pixels, origin = disc(16, 7), np.array([[2.0, -3.0]])
    moved = np.roll(image, (-3, 2), axis=(1, 2))
    np.testing.assert_allclose(
        centred_spectra(image, origin, pixels), pixels.take(fourier_transform_2d(moved)), atol=1e-4
    )
    expected = pixels.take(phase_shift(fourier_transform_2d(image), origin))
    np.testing.assert_allclose(centred_spectra(image, origin, pixels), expected, atol=1e-4)


def test_ssnr_is_what_the_fsc_means() -> None:
    np.testing.assert_allclose(ssnr_from_fsc(np.array([0.5, 0.143, 0.9])), [1, 0.16686, 9], rtol=1e-4)
    assert ssnr_from_fsc(np.array([-0.3]))[0] > 0
    assert np.isfinite(ssnr_from_fsc(np.array([1.0])))[0]


@pytest.fixture
def sums() -> HalfSums:
    pixels, rng = disc(16, 7), np.random.default_rng(1)
    values = rng.normal(size=(60, len(pixels))) + 1j * rng.normal(size=(60, len(pixels)))
    accumulator = Accumulator(16, 7)
    weights = rng.uniform(0.5, 1.5, values.shape).astype(np.float32)
    accumulator.insert(
        Rotation.random(60, random_state=2).as_matrix(), pixels, values.astype(np.complex64), weights
    )
    with Workers(1) as workers:
        return HalfSums.from_accumulator(accumulator, "C1", workers)


def test_shells_and_their_mean_weight(sums: HalfSums) -> None:
    centre = sums.grid.centre
    shells = sums.grid.shells
    assert shells[centre, centre, 0] == 0
    assert shells[centre + 6, centre - 8, 0] == 5
    assert shells[centre, centre, 11] == 6  # 5.5 rounds to even
    expected = [sums.weight[shells == s].mean() for s in range(8)]
    np.testing.assert_allclose(sums.shell_weight(), expected, rtol=1e-5)


def test_solve_is_numerator_over_weight_and_prior(sums: HalfSums) -> None:
    """The last shell's prior also holds for the voxels between it and Nyquist; beyond is nothing."""
    prior_s = np.linspace(0.5, 4, 8)
    by_shell = np.concatenate([prior_s, prior_s[-1:], [np.inf]])
    spectrum = sums.numerator / (sums.weight + by_shell[np.minimum(sums.grid.shells, 9)])
    expected = map_of_transform(sums.grid, lambda rows: spectrum.astype(np.complex64)[:, rows])
    np.testing.assert_allclose(sums.solve(prior_s), expected, atol=1e-6 * np.abs(expected).max())


def test_solve_without_a_prior_keeps_the_grey_scale(sums: HalfSums) -> None:
    """Where the weight is its shell's mean, the flat prior and the rescaling cancel."""
    even = HalfSums(
        sums.numerator, sums.shell_weight()[np.minimum(sums.grid.shells, 7)].astype(np.float32), sums.grid
    )
    spectrum = np.where(sums.grid.shells <= 8, sums.numerator / even.weight, 0).astype(np.complex64)
    expected = map_of_transform(sums.grid, lambda rows: spectrum[:, rows])
    np.testing.assert_allclose(even.solve(None), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("prior_s", [None, np.linspace(0.5, 4, 8)])
def test_a_weight_that_is_known_is_not_summed_again(
    sums: HalfSums, prior_s: NDArray[np.float64] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, weight_s = sums.solve(prior_s), sums.shell_weight()
    monkeypatch.delattr(HalfSums, "shell_weight")
    np.testing.assert_array_equal(sums.solve(prior_s, weight_s=weight_s), expected)


@pytest.mark.parametrize("ssnr", [None, 1e3])
def test_shells_that_hold_next_to_nothing_do_not_drown_the_others(sums: HalfSums, ssnr: float | None) -> None:
    """Noise of variance w: sqrt(w) / (w + c) is 1 / 2 sqrt(c) = 50 at most, c = 1e-4; w falls to 1e-18."""
    weight_s = 1e-3 ** np.maximum(np.arange(8) - 1.0, 0)
    weight = weight_s[np.minimum(sums.grid.shells, 7)].astype(np.float32)
    white = np.random.default_rng(3).normal(size=weight.shape) + 0j
    amplitude_s = []
    for own_s, own in ((np.ones(8), np.ones_like(weight)), (weight_s, weight)):
        noise = HalfSums((white * np.sqrt(own)).astype(np.complex64), own, sums.grid)
        solved = fourier_transform_3d(noise.solve(None if ssnr is None else own_s / ssnr))
        amplitude_s.append(np.sqrt(shell_mean(np.abs(solved) ** 2, 16))[1:7])
    assert (amplitude_s[1] < 50 * 1.3 * amplitude_s[0]).all()


def test_more_prior_means_less_map(sums: HalfSums) -> None:
    powers = [np.sum(sums.solve(np.full(8, k)) ** 2) for k in (0.0, 1.0, 10.0, 1e9)]
    assert (np.diff(powers) < 0).all()
    assert powers[-1] < 1e-6 * powers[0]


def test_log_prior_is_that_of_all_coefficients(sums: HalfSums) -> None:
    """``-k/2 |V|^2`` summed over the whole complex transform of the padded map, by a plain FFT."""
    density = np.random.default_rng(3).normal(size=(16, 16, 16)).astype(np.float32)
    prior_s = np.linspace(0.5, 4, 8)
    sinc2 = np.sinc((np.arange(16) - 8) / 32) ** 2
    padded = np.fft.fftn(np.pad(density / (sinc2[:, None, None] * sinc2[:, None] * sinc2), 8))
    k = np.fft.fftfreq(32, 1 / 32)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2) / 2).astype(int)
    expected = -0.5 * sum(prior_s[s] * np.sum(np.abs(padded[shell == s]) ** 2) for s in range(8))
    found = sums.log_prior(FourierVolume.from_map(density, 7), prior_s)
    assert found == pytest.approx(expected, rel=1e-5)


def test_halves_joined_below_a_shell(sums: HalfSums) -> None:
    other = HalfSums(2 * sums.numerator, 3 * sums.weight, sums.grid)
    joined = HalfSums(sums.numerator.copy(), sums.weight.copy(), sums.grid)
    joined.join_below(other, 3)
    np.testing.assert_array_equal(
        other.numerator[sums.grid.shells < 3], joined.numerator[sums.grid.shells < 3]
    )
    low = sums.grid.shells < 3
    np.testing.assert_allclose(joined.numerator[low], 1.5 * sums.numerator[low], rtol=1e-6)
    np.testing.assert_allclose(joined.weight[low], 2 * sums.weight[low], rtol=1e-6)
    np.testing.assert_array_equal(joined.numerator[~low], sums.numerator[~low])
    np.testing.assert_array_equal(joined.weight[~low], sums.weight[~low])
