"""The benchmark scripts: fits and curves against closed forms, results that are not computed twice."""

import importlib
import resource
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from posterion.compute import Workers
from posterion.data.particles import Particles, Poses
from posterion.physics.rotations import matrices_from_rotation_vectors
from posterion.physics.sources import read_source
from posterion.refine.inputs import prepare
from posterion.refine.options import RefineOptions
from posterion.refine.start import init


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Import a benchmark as its own command would."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_exponent_of_a_power_law(script) -> None:  # type: ignore[no-untyped-def]
    x = np.array([64.0, 128, 256])
    assert script("growth").exponent(x, 3 * x**2.5) == pytest.approx(2.5)


def test_series_vary_one_thing(script) -> None:  # type: ignore[no-untyped-def]
    growth = script("growth")
    assert [p.particles for p in growth.series_points("particles", tiny=False)] == [500, 2000, 8000]
    assert [p.box for p in growth.series_points("box", tiny=False)] == [64, 128, 192, 256]
    assert {p.box for p in growth.series_points("shifts", tiny=False)} == {128}
    low, *_, high = growth.series_points("resolution", tiny=False)
    assert low.bfactor_angstrom2 > high.bfactor_angstrom2 > 0


def test_finished_points_are_found_again(script, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    measured = script("measured")
    measured.Results(tmp_path / "a" / "r.jsonl").put({"box": 64, "snr": 0.1}, {"cpu_seconds": 2.0})
    again = measured.Results(tmp_path / "a" / "r.jsonl")
    assert again.get({"snr": 0.1, "box": 64}) == {"cpu_seconds": 2.0}
    assert again.get({"snr": 0.1, "box": 128}) is None


def test_a_command_is_measured_and_a_failure_ends_it(script, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The system's count of all children, before and after, tells how much CPU time this one took."""

    def of_all_children() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    command, before = script("measured").posterion_command, of_all_children()
    cost = command(["symmetry", "D2"], tmp_path / "ok.log")
    assert cost.cpu_seconds > 0
    assert cost.cpu_seconds == pytest.approx(of_all_children() - before, abs=1e-3)
    assert cost.peak_bytes > 10e6
    with pytest.raises(SystemExit, match="exit 2"):
        command(["symmetry", "Q9"], tmp_path / "wrong.log")


def test_the_clock_keeps_what_the_first_batches_take_more_apart(  # type: ignore[no-untyped-def]
    script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two halves of 5 and 4 images: 2 s an image, 10 s more in the first batch of each half."""
    iterations = script("iterations")
    seconds = iter(np.cumsum([100.0, 14.0, 4.0, 2.0, 14.0, 4.0]).tolist())
    monkeypatch.setattr(iterations.time, "process_time", lambda: next(seconds))
    clock = iterations.BatchClock(first_half=5)
    for count in (2, 2, 1, 2, 2):
        clock(count)
    assert clock.per_particle() == pytest.approx(2.0)
    assert clock.references() == pytest.approx(20.0)


def test_crossing(script) -> None:  # type: ignore[no-untyped-def]
    crossing = script("quality").crossing
    assert crossing(np.array([1.0, 1.0, 0.75, 0.25, 0.0]), 0.5) == pytest.approx(2.5)
    assert crossing(np.ones(5), 0.5) == 4


@pytest.mark.parametrize("sign", [1, -1])
def test_a_result_in_another_frame_is_brought_back(script, tmp_path: Path, sign: int) -> None:  # type: ignore[no-untyped-def]
    """V_found(x) = V(Q x + u) with poses R Q: the judge finds Q and u and the map agrees with the truth."""
    import posterion

    quality = script("quality")
    density, pixel = read_source(None, 32, 5.6)
    options = posterion.SimulationOptions(n_particles=20, snr=10.0)
    made = posterion.simulate([density], pixel, tmp_path / "images", options)
    truth, known = posterion.read_map(made.map_paths[0])[0], Particles.read(made.truth_path)
    turn, move = matrices_from_rotation_vectors(np.array([[0.05, 0.1, -0.03]]))[0], np.array([1.0, -0.7, 0.4])
    poses = known.require_poses()
    rotations = poses.matrices()
    offsets = np.stack([poses.shift_x_angstrom_i, poses.shift_y_angstrom_i], axis=-1)
    offsets += sign * pixel * (rotations @ move)[:, :2]
    for name in ("half1", "half2", "map"):
        posterion.write_map(tmp_path / f"{name}.mrc", quality.moved(truth, turn, move), pixel)
    known.write_star(tmp_path / "particles.star", poses=Poses.from_matrices(rotations @ turn, offsets))
    verdict = quality.judge(tmp_path, tmp_path / "images", "C1")
    assert verdict["truth_mean"] > 0.98
    assert verdict["angle_deg"] < 0.01


def test_a_complete_search_leaves_no_pose_out(  # type: ignore[no-untyped-def]
    script, tiny_set: Path, tiny_options: RefineOptions
) -> None:
    """One level over all orientations, then one near the last poses, of two images of each half."""
    inputs = prepare(tiny_set / "particles.star", tiny_set / "reference.mrc", 150.0, tiny_options)
    few = np.where(np.arange(len(inputs.half_i)) < 4, 1 + np.arange(len(inputs.half_i)) % 2, 0)
    search = script("exhaustive").CompleteSearch()
    with Workers(1) as workers:
        context = replace(inputs, half_i=few.astype(np.int8)).context(workers)
        state, first, _ = search.step(context, init(context, inputs.reference)[0])
        search.near_deg = 6.0
        _, near, _ = search.step(context, state)
    assert [info.angular_step_deg for info in (first, near)] == [7.5, 60 / 64]
    assert [info.search for info in (first, near)] == ["dense", "local"]
    assert first.poses_scored == first.poses_kept
    assert near.poses_scored == near.poses_kept
    assert first.scored_rotations == 36_864 > 8 * near.scored_rotations
