"""Whole iterations on images whose truth is known: what they find, and what may not change them."""

import runpy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from posterion.compute import Workers
from posterion.data.mrc import read_map
from posterion.data.particles import Particles
from posterion.inference.search import SearchPlan
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.mapping.masks import low_pass
from posterion.mapping.reconstruct import HalfSums
from posterion.physics.fourier import fourier_transform_3d, shell_mean
from posterion.physics.phantom import phantom_map
from posterion.physics.projection import Accumulator
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.simulate import SimulationOptions, simulate
from posterion.physics.symmetry import point_group_operators
from posterion.refine import auto_refine, plan, subsets
from posterion.refine.auto_refine import step
from posterion.refine.inputs import Inputs, prepare
from posterion.refine.options import RefineOptions
from posterion.refine.schedule import SearchState
from posterion.refine.start import init
from posterion.refine.state import RefinementState

SETS = runpy.run_path(str(Path(__file__).parents[1] / "references" / "particle_sets.py"))
BOX, PIXEL, DIAMETER, COUNT = 32, 6.0, 150.0, 96
INTENSITIES = np.array([0.75, 1.0, 1.25])  # of the three micrographs


class Known(NamedTuple):
    """A particle set, the map it shows, and its poses."""

    particles: Particles
    truth: NDArray[np.float32]
    matrices: NDArray[np.float64]
    shifts_px: NDArray[np.float64]


def rotated(volume: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """``V'(x) = V(R^T x)`` about the origin n // 2, by splines (exact for quarter turns)."""
    pull = matrix.T[::-1, ::-1]
    centre = np.full(3, len(volume) // 2)
    return affine_transform(volume, pull, centre - pull @ centre, order=3, prefilter=True).astype(np.float32)


def make_known(folder: Path, volume: NDArray[np.float32], n: int, snr: float, pixel: float = PIXEL) -> Known:
    """Noise of variance 1, three micrographs whose images differ in intensity."""
    options = SimulationOptions(
        n_particles=n,
        snr=np.inf,
        shift_sd_angstrom=4.0,
        particles_per_micrograph=-(-n // 3),
        defocus_range_angstrom=(8000.0, 16000.0),
        seed=2,
        dtype="float32",
    )
    made = simulate([volume], pixel, folder, options)
    posed = Particles.read(made.truth_path)
    clean = posed.images(np.arange(n))
    scale = np.float32(np.sqrt(snr / clean.var()))
    images = clean * scale * INTENSITIES[posed.micrograph_index_i][:, None, None]
    images += np.random.default_rng(3).normal(size=images.shape)
    SETS["write_stack"](folder / "noisy.mrcs", images, pixel)
    particles = replace(posed, poses=None, stack_paths=(folder / "noisy.mrcs",))
    poses = posed.require_poses()
    shifts = np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], -1) / pixel
    return Known(particles, read_map(made.map_paths[0])[0] * scale, poses.matrices(), shifts)


def prepared(known: Known, reference: NDArray[np.float32], pixel: float = PIXEL, **options: Any) -> Inputs:
    chosen = RefineOptions(shift_range_angstrom=2 * pixel, initial_lowpass_angstrom=40.0, **options)
    return prepare(known.particles, low_pass(reference, 40.0, pixel), DIAMETER, chosen)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return make_known(tmp_path_factory.mktemp("known"), phantom_map(BOX, PIXEL), COUNT, 1.0)


@pytest.fixture(scope="module")
def inputs(known: Known) -> Inputs:
    return prepared(known, 0.2 * known.truth)


@pytest.fixture(scope="module")
def first(inputs: Inputs) -> tuple[RefinementState, float]:
    with Workers(2) as workers:
        return init(inputs.context(workers), inputs.reference)


@pytest.fixture(scope="module")
def states(inputs: Inputs, first: tuple[RefinementState, float]) -> list[Any]:
    """What `step` returned in each of four iterations."""
    done, state = [], first[0]
    with Workers(2) as workers:
        for _ in range(4):
            done.append(step(inputs.context(workers), state))
            state = done[-1][0]
    return done


def same(a: Any, b: Any) -> bool:
    """Whether two states hold the same bits."""
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


def test_init_finds_grey_scale_and_noise(first: tuple[RefinementState, float], known: Known) -> None:
    """The reference came at a fifth of the images' grey scale."""
    state, factor = first
    assert factor == pytest.approx(5, rel=0.25)
    np.testing.assert_allclose(state.sigma2_gs[0, 3:16] / BOX**2, 1, atol=0.2)
    assert state.iteration == 0
    assert not state.converged
    np.testing.assert_array_equal(state.half_maps[0], state.half_maps[1])


def test_iterations_find_poses_noise_and_intensities(states: list[Any], known: Known) -> None:
    state, info, _ = states[-1]
    error = angular_distance_deg(state.particles.matrices, known.matrices)
    assert np.median(error) < 4
    assert np.median(np.hypot(*(state.particles.shifts_px - known.shifts_px).T)) < 0.4
    # Half the images of a small set: their poses, and so the residual, are not quite settled.
    np.testing.assert_allclose(state.sigma2_gs[0, 4:15] / BOX**2, 1.1, atol=0.2)
    assert (states[0][0].sigma2_gs[0, 4:10] > 1.2 * state.sigma2_gs[0, 4:10]).all()
    np.testing.assert_allclose(state.scale_g / state.scale_g.mean(), INTENSITIES, atol=0.12)
    assert state.particles.usable.all()
    assert info.quarantined == 0


def test_map_approaches_the_truth(states: list[Any], inputs: Inputs, known: Known) -> None:
    truth = known.truth * inputs.mask
    found = [maps.half_maps.mean(axis=0) for _, _, maps in states]
    fsc = [fourier_shell_correlation(volume, truth) for volume in found]
    assert fsc[-1][1:9].min() > 0.85
    assert fsc[-1][1:12].mean() > fsc[0][1:12].mean()
    a, b = fourier_transform_3d(found[-1]), fourier_transform_3d(truth)
    ratio = shell_mean((a * b.conj()).real, BOX) / shell_mean(np.abs(b) ** 2, BOX)
    np.testing.assert_allclose(ratio[1:4], 1, atol=0.1)  # beyond, the prior takes its share
    assert (ratio[4:12] < 1.05).all()


def test_reports_say_what_happened(states: list[Any]) -> None:
    infos = [info for _, info, _ in states]
    assert [info.iteration for info in infos] == [1, 2, 3, 4]
    assert all(0 < info.pmax <= 1 and info.effective_orientations >= 1 for info in infos)
    assert infos[-1].angle_change_deg < infos[1].angle_change_deg < 90
    assert infos[-1].resolution_angstrom < infos[0].resolution_angstrom + 1e-9
    assert all(np.isfinite(info.log_likelihood) for info in infos)


@pytest.mark.parametrize("threads", [1, 3])
def test_same_bits_for_any_number_of_threads(
    inputs: Inputs, first: tuple[RefinementState, float], states: list[Any], threads: int
) -> None:
    """The global first iteration, and one more from where the others stand; the fixtures used two threads."""
    with Workers(threads) as workers:
        context = inputs.context(workers)
        again = step(context, first[0])
        assert same(again[0], states[0][0])
        assert same(again[2], states[0][2])
        assert same(step(context, states[2][0])[0], states[3][0])


def test_halves_know_nothing_of_each_other(
    inputs: Inputs, first: tuple[RefinementState, float], states: list[Any], tmp_path: Path
) -> None:
    """With other images in the second half, the first half's map has the same bits."""
    images = inputs.particles.images(np.arange(COUNT))
    second = inputs.half_i == 2
    images[second] = np.random.default_rng(0).normal(size=images[second].shape)
    SETS["write_stack"](tmp_path / "other.mrcs", images, PIXEL)
    other = replace(inputs, particles=replace(inputs.particles, stack_paths=(tmp_path / "other.mrcs",)))
    with Workers(2) as workers:
        maps = step(other.context(workers), first[0])[2]
    np.testing.assert_array_equal(maps.unfiltered[0], states[0][2].unfiltered[0])
    assert not np.array_equal(maps.unfiltered[1], states[0][2].unfiltered[1])


def test_halves_share_only_low_resolution(states: list[Any], inputs: Inputs) -> None:
    """The references agree below 40 A, where they are joined, and are independent beyond."""
    half_maps = states[-1][0].half_maps
    joined = int(BOX * PIXEL / 40)
    fsc_s = fourier_shell_correlation(*half_maps)
    assert fsc_s[1 : joined - 1].min() > 0.98
    assert fsc_s[10:].max() < 0.95


def test_bad_images_are_set_aside(
    inputs: Inputs, first: tuple[RefinementState, float], states: list[Any], tmp_path: Path
) -> None:
    """They count in no mean: each of the others is compared with the whole grid, as without them."""
    images = inputs.particles.images(np.arange(COUNT))
    images[5, 0, 0], images[11] = np.nan, 0
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
        SETS["write_stack"](tmp_path / "bad.mrcs", images, PIXEL)
    damaged = replace(inputs, particles=replace(inputs.particles, stack_paths=(tmp_path / "bad.mrcs",)))
    with Workers(2) as workers:
        state, info, maps = step(damaged.context(workers), first[0])
    np.testing.assert_array_equal(np.flatnonzero(~state.particles.usable), [5, 11])
    assert (info.particles, info.quarantined) == (COUNT, 2)
    assert info.search == "dense"
    for name in ("poses_scored", "poses_kept", "scored_rotations"):
        assert getattr(info, name) == getattr(states[0][1], name)
    assert np.isfinite(maps.half_maps).all()
    assert np.isfinite(state.sigma2_gs).all()


def test_last_iteration_joins_the_halves_at_all_frequencies(
    states: list[Any], inputs: Inputs, known: Known
) -> None:
    heard: list[int] = []
    with Workers(2) as workers:
        _, _, maps = step(replace(inputs.context(workers), observer=heard.append), states[-1][0], final=True)
    assert sum(heard) == COUNT
    truth = known.truth * inputs.mask
    both, one = (
        fourier_shell_correlation(m * inputs.mask, truth)
        for m in (maps.joined_unfiltered, maps.unfiltered[0])
    )
    assert both[4:12].mean() > one[4:12].mean() + 0.02
    assert states[-1][2].joined is None
    assert np.abs(np.fft.rfftn(maps.joined)[0, 0, 14]) > 0, "nothing may be missing up to Nyquist"
    assert fourier_shell_correlation(maps.joined, maps.joined_unfiltered)[1:8].min() > 0.98


def test_a_part_of_the_particles(
    inputs: Inputs, first: tuple[RefinementState, float], known: Known, tmp_path: Path
) -> None:
    """Only they are read and estimated, twelve of each half, one of them bad; then newcomers join them."""
    part = replace(first[0], search=SearchState(subset=12))
    chosen = subsets.searched(inputs.half_i, 12, inputs.config.seed)
    images = inputs.particles.images(np.arange(COUNT))
    bad = int(np.flatnonzero(chosen)[3])
    images[bad] = 0
    SETS["write_stack"](tmp_path / "bad.mrcs", images, PIXEL)
    damaged = replace(inputs, particles=replace(inputs.particles, stack_paths=(tmp_path / "bad.mrcs",)))
    heard: list[int] = []
    with Workers(2) as workers:
        context = replace(damaged.context(workers), observer=heard.append)
        state, info, _ = step(context, part)
        assert sum(heard) == info.particles == 24
        assert info.quarantined == 1
        assert (info.angle_change_deg, info.shift_change_px) == (None, None)
        np.testing.assert_array_equal(state.particles.usable, chosen & (np.arange(COUNT) != bad))
        np.testing.assert_array_equal(state.scale_g, part.scale_g)
        state = replace(state, search=replace(state.search, subset=0, newcomers=True))
        whole, info, _ = step(context, state)
    assert info.particles == COUNT
    assert info.quarantined == 1
    assert 0 < info.angle_change_deg < 90
    newcomers = whole.particles.usable & ~chosen
    assert newcomers.sum() == COUNT - 24
    error = np.hypot(*(whole.particles.shifts_px - known.shifts_px).T)
    assert np.median(error[newcomers]) < 1


def test_a_look_finds_images_that_are_on_a_lower_peak(
    inputs: Inputs, states: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sixth of the poses are turned over beforehand; the look tells how many, and makes no map."""

    def nothing_may_be_added(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(Accumulator, "insert", nothing_may_be_added)
    monkeypatch.setattr(HalfSums, "solve", nothing_may_be_added)
    state = states[-1][0]
    wrong = np.arange(COUNT) % 6 == 0
    poses = np.diag([-1.0, 1.0, -1.0]) @ state.particles.matrices
    matrices = np.where(wrong[:, None, None], poses, state.particles.matrices).astype(np.float32)
    old = replace(
        state,
        particles=replace(state.particles, matrices=matrices),
        search=replace(state.search, local=False, subset=30, look=True),
    )
    with Workers(2) as workers:
        found, info, maps = step(inputs.context(workers), old)
    halves = (subsets.members(inputs.half_i, half, 30, inputs.config.seed, newest=True) for half in (0, 1))
    looked_at = np.concatenate(list(halves))
    assert (info.search, info.particles) == ("look", 60)
    assert info.moved_share == pytest.approx(wrong[looked_at].mean(), abs=0.05)
    assert maps is None
    assert list(info.seconds) == ["expectation"]
    assert (info.resolution_angstrom, info.map_change) == (BOX * PIXEL / old.resolution_shell, 0)
    assert (found.iteration, info.iteration) == (old.iteration + 1, old.iteration + 1)
    assert same(replace(found, iteration=old.iteration, search=old.search, converged=False), old)
    assert found.particles is old.particles


def test_the_last_iteration_uses_all_particles(inputs: Inputs, first: tuple[RefinementState, float]) -> None:
    """A run may be told to stop before its subsets have grown to the full set."""
    with Workers(2) as workers:
        part = replace(first[0], search=replace(first[0].search, subset=12, look=True))
        state, info, _ = step(inputs.context(workers), part, final=True)
    assert info.particles == COUNT
    assert state.particles.usable.all()


TURN = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # lays the grid of voxels on itself


def turned(state: RefinementState) -> RefinementState:
    return replace(state, half_maps=np.stack([rotated(m, TURN) for m in state.half_maps]))


def test_turning_reference_and_grid_turns_the_result(
    inputs: Inputs,
    first: tuple[RefinementState, float],
    states: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing changes but the rounding of sums where all is turned alike: ``V(Q^T x)`` and R Q^T."""

    def make_plan(*arguments: Any) -> SearchPlan:
        usual = plan.make_plan(*arguments)
        return replace(usual, grid_offset=usual.grid_offset @ TURN.T)

    monkeypatch.setattr(auto_refine, "make_plan", make_plan)
    with Workers(2) as workers:
        state, _, maps = step(inputs.context(workers), turned(first[0]))
    expected, _, expected_maps = states[0]
    difference = angular_distance_deg(state.particles.matrices @ TURN, expected.particles.matrices)
    assert np.median(difference) < 1e-3
    assert np.percentile(difference, 95) < 0.1
    np.testing.assert_allclose(state.particles.log_likelihood, expected.particles.log_likelihood, atol=0.05)
    for half in (0, 1):
        again = rotated(expected_maps.unfiltered[half], TURN)
        assert fourier_shell_correlation(maps.unfiltered[half], again)[1:15].min() > 0.999


def test_turning_the_reference_alone_changes_as_much_as_another_grid_does(
    inputs: Inputs, first: tuple[RefinementState, float], states: list[Any], known: Known
) -> None:
    state = turned(first[0])
    with Workers(2) as workers:
        for _ in range(3):
            state, _, maps = step(inputs.context(workers), state)
    expected, _, expected_maps = states[2]
    error = np.median(angular_distance_deg(expected.particles.matrices, known.matrices))
    assert np.median(angular_distance_deg(state.particles.matrices @ TURN, known.matrices)) < 1.5 * error
    again = rotated(expected_maps.half_maps.mean(axis=0), TURN)
    assert fourier_shell_correlation(maps.half_maps.mean(axis=0), again)[1:9].min() > 0.9


@pytest.fixture
def few(inputs: Inputs) -> Inputs:
    """Eight images of each half."""
    return replace(
        inputs, half_i=np.where(np.arange(COUNT) < 16, 1 + np.arange(COUNT) % 2, 0).astype(np.int8)
    )


def two_broad_steps(few: Inputs, state: RefinementState, threads: int) -> list[Any]:
    """Two iterations in which all orientations of a grid are scored for every image."""
    done = []
    with Workers(threads) as workers:
        for _ in range(2):
            broad = replace(state, search=SearchState(fineness=2.0, support_share=0.1))
            done.append(step(few.context(workers), broad))
            state = done[-1][0]
    return done


def test_harmonics_give_the_same_bits_for_any_number_of_threads(
    few: Inputs, first: tuple[RefinementState, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches of each half; and, but for interpolation, what pixels give."""
    plans: list[SearchPlan] = []

    def recorded(*given: Any) -> SearchPlan:
        plans.append(plan.make_plan(*given))
        return plans[-1]

    monkeypatch.setattr(auto_refine, "make_plan", recorded)
    monkeypatch.setattr(auto_refine, "_BATCH_BY_HARMONICS", 3)
    one, two = (two_broad_steps(few, first[0], threads) for threads in (1, 2))
    assert len(plans) == 4
    assert all(own.by_harmonics for own in plans)
    for mine, theirs in zip(one, two, strict=True):
        assert same(mine[0], theirs[0])
        assert same(mine[2], theirs[2])
    monkeypatch.setattr(auto_refine, "make_plan", lambda *a: replace(plan.make_plan(*a), by_harmonics=False))
    dots, rings = two_broad_steps(few, first[0], 1)[0], one[0]
    apart = angular_distance_deg(rings[0].particles.matrices, dots[0].particles.matrices)[:16]
    assert np.median(apart) < 1
    fsc_s = fourier_shell_correlation(*(maps.half_maps.mean(axis=0) for _, _, maps in (rings, dots)))
    assert fsc_s[1:11].min() > 0.98
    np.testing.assert_allclose(rings[0].sigma2_gs[:, 2:] / dots[0].sigma2_gs[:, 2:], 1, atol=0.12)


def test_odd_boxes(tmp_path: Path) -> None:
    known = make_known(tmp_path, phantom_map(27, 7.0), 48, 1.0, 7.0)
    inputs = prepared(known, known.truth, 7.0)
    with Workers(2) as workers:
        context = inputs.context(workers)
        state, _ = init(context, inputs.reference)
        for _ in range(2):
            state, _, maps = step(context, state)
    assert np.median(angular_distance_deg(state.particles.matrices, known.matrices)) < 10
    assert np.median(np.hypot(*(state.particles.shifts_px - known.shifts_px).T)) < 0.5
    fsc_s = fourier_shell_correlation(maps.half_maps.mean(axis=0), known.truth * inputs.mask)
    assert fsc_s[1:6].min() > 0.8


@pytest.mark.parametrize("point_group", ["D2", "O"])
def test_symmetric_particles(tmp_path: Path, point_group: str) -> None:
    operators = point_group_operators(point_group)
    volume = np.mean([rotated(phantom_map(24, 8.0), s) for s in operators], axis=0, dtype=np.float32)
    known = make_known(tmp_path, volume, 36, 1.0, 8.0)
    inputs = prepared(known, known.truth, 8.0, symmetry=point_group)
    with Workers(2) as workers:
        context = inputs.context(workers)
        state, _ = init(context, inputs.reference)
        for _ in range(2):
            state, _, maps = step(context, state)
    error = np.min(
        [angular_distance_deg(state.particles.matrices @ s, known.matrices) for s in operators], axis=0
    )
    assert np.median(error) < 16  # averaged over O, the phantom is nearly a ball
    found = maps.half_maps.mean(axis=0)
    for operator in operators[1:4]:
        again = rotated(found, operator)
        assert np.corrcoef(found.ravel(), again.ravel())[0, 1] > 0.98
    fsc_s = fourier_shell_correlation(found, known.truth * inputs.mask)
    assert fsc_s[1:8].min() > 0.85


def test_projection_matching_finds_the_same_map(inputs: Inputs, states: list[Any]) -> None:
    """Only the weights differ: once poses are known, the best of each image gives nearly the same map."""
    matching = replace(inputs, config=replace(inputs.config, method="projection-matching"))
    with Workers(2) as workers:
        state, _, maps = step(matching.context(workers), states[2][0])
    difference = angular_distance_deg(state.particles.matrices, states[3][0].particles.matrices)
    assert np.median(difference) < 3
    fsc_s = fourier_shell_correlation(maps.half_maps.mean(axis=0), states[3][2].half_maps.mean(axis=0))
    assert fsc_s[1:8].min() > 0.9
