"""The forecast grows with what costs, sums its stages, and the measured run keeps to it."""

from dataclasses import fields, replace
from typing import Any

import pytest

import posterion
from posterion.refine.forecast import (
    StageCosts,
    forecast,
    memory_available_bytes,
    seconds_left,
    typical_costs,
    usual_iterations,
)
from posterion.refine.state import IterationInfo, RefineConfig

CONFIG = RefineConfig(diameter_angstrom=150.0)
NOTHING = StageCosts(prepare=0, first=0, everywhere=0, local=0, insert=0, references=0, maps=0)


def cpu_seconds(n_particles: int, **costs: float) -> float:
    """CPU time beyond that of a run whose stages cost nothing."""
    free = forecast(n_particles, 64, CONFIG, 1, NOTHING).cpu_seconds
    return forecast(n_particles, 64, CONFIG, 1, replace(NOTHING, **costs)).cpu_seconds - free


def test_it_grows_with_what_costs() -> None:
    base = forecast(10_000, 128, CONFIG, 2)
    assert forecast(20_000, 128, CONFIG, 2).seconds > 1.5 * base.seconds
    assert forecast(10_000, 128, CONFIG, 8).seconds < base.seconds / 2
    assert forecast(10_000, 256, CONFIG, 2).memory_bytes > 4 * base.memory_bytes
    assert forecast(10_000, 256, CONFIG, 2).disk_bytes > 4 * base.disk_bytes
    per_particle = forecast(1_010_000, 128, CONFIG, 2).memory_bytes - base.memory_bytes
    assert per_particle < 500e6


def test_stages_add_up() -> None:
    """One first iteration, three everywhere, three local; 100 images searched five times for the scale."""
    assert cpu_seconds(1000, references=1.0) == cpu_seconds(1000, maps=1.0) == pytest.approx(7)
    assert cpu_seconds(1000, local=0.5) == pytest.approx(1500)
    assert cpu_seconds(1000, everywhere=0.5) == pytest.approx(1500)
    assert cpu_seconds(1000, insert=0.5) == pytest.approx(3500)
    assert cpu_seconds(1000, first=0.5) == pytest.approx(500 + 5 * 100 * 0.5)
    assert cpu_seconds(50, first=0.5) == pytest.approx(25 + 5 * 50 * 0.5)
    assert cpu_seconds(1000, prepare=0.5) == pytest.approx(3500 + 5 * 100 * 0.5)


def times(n_particles: int, **options: Any) -> dict[str, float]:
    """How often an image is searched in each kind of iteration."""
    usual = usual_iterations(n_particles, **options)
    kinds = ("first", "everywhere", "local")
    return {kind: sum(u.images for u in usual if u.kind == kind) / n_particles for kind in kinds}


def test_a_look_inserts_nothing_and_makes_no_map() -> None:
    """Nine iterations, of which one searches 2,000 everywhere and does no more."""
    usual = usual_iterations(100_000)
    assert [each.maps for each in usual] == [True] * 7 + [False, True]
    assert all(each.maps for each in usual_iterations(100_000, subset="all"))
    assert cpu_seconds(100_000, references=1.0) == pytest.approx(9)
    assert cpu_seconds(100_000, maps=1.0) == pytest.approx(8)
    inserted = sum(each.images for each in usual) - 2000
    assert cpu_seconds(100_000, insert=0.01) == pytest.approx(0.01 * inserted)
    assert cpu_seconds(100_000, everywhere=0.01) == pytest.approx(0.01 * 114_000)


def test_fewer_iterations_keep_the_last() -> None:
    assert [each.kind for each in usual_iterations(100, most=2)] == ["first", "everywhere", "local"]
    assert len(usual_iterations(100)) == 7


def test_large_sets_are_searched_in_parts_first() -> None:
    assert times(3998) == times(100_000, subset="all") == {"first": 1, "everywhere": 3, "local": 3}
    usual = usual_iterations(100_000)
    assert [u.images for u in usual] == [2000] * 3 + [8000] + [100_000] * 3 + [2000, 100_000]
    assert times(100_000) == pytest.approx({"first": 0.02, "everywhere": 1.14, "local": 3})
    all_of_them = replace(CONFIG, subset="all")
    whole, parts = (forecast(100_000, 128, config, 1).cpu_seconds for config in (all_of_them, CONFIG))
    assert 0.4 * whole < parts < 0.75 * whole


def iteration(**numbers: Any) -> IterationInfo:
    usual = dict.fromkeys((f.name for f in fields(IterationInfo)), 0.0)
    seconds = {"expectation": 10.0, "maximisation": 1.0}
    named = {"iteration": 2, "particles": 100, "search": "global", "seconds": seconds, "gaussian_share": 1.0}
    return IterationInfo(**(usual | named | numbers))


def test_time_left_follows_what_was_measured() -> None:
    """Five usual iterations are left after two: two everywhere, three local, which are cheaper."""
    history = [iteration(iteration=1), iteration()]
    everywhere, local = 0.0006 + 0.0008 + 0.003, 0.0006 + 0.0008 + 0.0015
    expected = 2 * 10 + 3 * 10 * local / everywhere + 5
    assert seconds_left(history, 100, CONFIG) == pytest.approx(expected)
    slow = iteration(seconds={"expectation": 100.0, "maximisation": 1.0})
    assert seconds_left([slow], 100, CONFIG) == pytest.approx(10 * (expected - 5) + 5)
    part = iteration(particles=50)
    assert seconds_left([part], 100, CONFIG) == pytest.approx(2 * (expected - 5) + 5)
    look = iteration(search="look", seconds={"expectation": 10.0})
    longer = 5 + (expected - 5) * everywhere / (everywhere - 0.0008)  # the look inserted nothing in its 10 s
    assert seconds_left([iteration(iteration=1), look], 100, CONFIG) == pytest.approx(longer)


def test_a_look_that_is_left_makes_no_map() -> None:
    """Of 100,000 after seven iterations: a look at 2,000 and the last, of all."""
    last = iteration(iteration=7, search="local", particles=100_000)
    local, look = 100_000 * (0.0006 + 0.0015 + 0.0008), 2000 * (0.0006 + 0.003)
    assert seconds_left([last], 100_000, CONFIG) == pytest.approx(10 * (local + look) / local + 1)


def test_broad_posteriors_take_more_iterations_and_none_is_cheaper() -> None:
    broad = iteration(gaussian_share=0.1)
    assert seconds_left([broad], 100, CONFIG) == pytest.approx(13 * 11)
    assert seconds_left([iteration(gaussian_share=0.5)], 100, CONFIG) == pytest.approx(13 * 11)
    late = replace(broad, iteration=20, search="local")
    assert seconds_left([late], 100, CONFIG) == pytest.approx(11)


def test_threads_share_wall_time_not_cpu_time() -> None:
    one, eight = (forecast(10_000, 128, CONFIG, threads) for threads in (1, 8))
    assert one.cpu_seconds == eight.cpu_seconds
    assert one.seconds == one.cpu_seconds


def test_symmetry_makes_the_first_search_cheaper() -> None:
    none, octahedral = typical_costs(128, "C1"), typical_costs(128, "O")
    assert octahedral.first < 0.6 * none.first
    assert typical_costs(256, "C1").local == pytest.approx(4 * none.local)


MEASURED_BROAD = (  # 70S ribosome, peak of one iteration and the last; see docs/performance.md
    (640, 128, 2, 1.674e9),
    (640, 128, 4, 1.865e9),
    (640, 128, 8, 2.269e9),
)
MEASURED_LESS = (  # one thread; then less broad, on lists of rotations and not on a shared grid
    (640, 128, 1, 1.063e9),
    (300, 128, 1, 0.984e9),
    (300, 128, 2, 1.127e9),
    (300, 128, 4, 1.281e9),
    (300, 128, 8, 1.430e9),
    (60, 256, 1, 3.686e9),
    (60, 256, 4, 3.875e9),
    (60, 256, 8, 3.875e9),
)


@pytest.mark.parametrize(("n_particles", "box", "threads", "measured"), MEASURED_BROAD)
def test_broad_posteriors_stay_below_what_is_said(
    n_particles: int, box: int, threads: int, measured: float
) -> None:
    assert measured < forecast(n_particles, box, CONFIG, threads).broad_memory_bytes < 1.25 * measured


@pytest.mark.parametrize(("n_particles", "box", "threads", "measured"), MEASURED_LESS)
def test_less_broad_posteriors_need_less(n_particles: int, box: int, threads: int, measured: float) -> None:
    assert measured < forecast(n_particles, box, CONFIG, threads).broad_memory_bytes < 1.7 * measured


def test_broad_posteriors_need_more_in_small_boxes_and_not_for_best_poses() -> None:
    """Whatever the threads, slices or symmetry; in large boxes maps need most."""
    for threads, changed in ((1, {}), (8, {}), (2, {"max_rotations": 50}), (2, {"point_group": "T"})):
        said = forecast(10_000, 128, replace(CONFIG, **changed), threads)  # type: ignore[arg-type]
        maps = (220 + 130 * ("point_group" in changed) - 128) * 128**3
        assert said.broad_memory_bytes - said.memory_bytes == pytest.approx(850e6 - maps)
    small = forecast(10_000, 64, CONFIG, 4)
    assert small.broad_memory_bytes - small.memory_bytes == pytest.approx(850e6 / 4 - (220 - 128) * 64**3)
    for box, method in ((256, "em"), (128, "projection-matching")):
        same = forecast(10_000, box, replace(CONFIG, method=method), 8)  # type: ignore[arg-type]
        assert same.broad_memory_bytes == same.memory_bytes


def test_box_128_is_within_two_gibibytes() -> None:
    assert forecast(100_000, 128, CONFIG, 2).memory_bytes < 2 * 2**30
    assert forecast(100_000, 128, CONFIG, 4).broad_memory_bytes < 2 * 2**30


def test_a_run_keeps_to_it(tiny_run: posterion.RefineResult) -> None:
    """The peak is the whole test process's, so only the lower side is told from a small run."""
    said = forecast(32, 24, CONFIG, 2)
    assert said.memory_bytes < 2.5 * tiny_run.summary["peak_memory_bytes"]
    assert said.disk_bytes < 10e6


def test_available_memory_is_plausible() -> None:
    available = memory_available_bytes()
    assert available is None or 1e6 < available < 1e16
