"""The forecast grows with what costs, sums its stages, and the measured run keeps to it."""

from dataclasses import replace

import pytest

import posterion
from posterion.refine.forecast import (
    IterationNumbers,
    StageCosts,
    forecast,
    memory_available_bytes,
    typical_costs,
)
from posterion.refine.state import RefineConfig

CONFIG = RefineConfig(diameter_angstrom=150.0)
NOTHING = StageCosts(prepare=0, first=0, everywhere=0, local=0, insert=0, iteration=0)


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
    assert cpu_seconds(1000, iteration=1.0) == pytest.approx(7)
    assert cpu_seconds(1000, local=0.5) == pytest.approx(1500)
    assert cpu_seconds(1000, everywhere=0.5) == pytest.approx(1500)
    assert cpu_seconds(1000, insert=0.5) == pytest.approx(3500)
    assert cpu_seconds(1000, first=0.5) == pytest.approx(500 + 5 * 100 * 0.5)
    assert cpu_seconds(50, first=0.5) == pytest.approx(25 + 5 * 50 * 0.5)
    assert cpu_seconds(1000, prepare=0.5) == pytest.approx(3500 + 5 * 100 * 0.5)


def test_fewer_iterations_leave_the_last_out() -> None:
    assert IterationNumbers(1, 4, 4).at_most(3) == IterationNumbers(1, 2, 0)
    assert IterationNumbers(1, 4, 4).at_most(6) == IterationNumbers(1, 4, 1)
    assert IterationNumbers(1, 4, 4).at_most(100).total == 9


def test_threads_share_wall_time_not_cpu_time() -> None:
    one, eight = (forecast(10_000, 128, CONFIG, threads) for threads in (1, 8))
    assert one.cpu_seconds == eight.cpu_seconds
    assert one.seconds == one.cpu_seconds


def test_symmetry_makes_the_first_search_cheaper() -> None:
    none, octahedral = typical_costs(128, "C1"), typical_costs(128, "O")
    assert octahedral.first < 0.6 * none.first
    assert typical_costs(256, "C1").local == pytest.approx(4 * none.local)


def test_box_128_is_within_two_gibibytes() -> None:
    assert forecast(100_000, 128, CONFIG, 2).memory_bytes < 2 * 2**30


def test_a_run_keeps_to_it(tiny_run: posterion.RefineResult) -> None:
    """The peak is the whole test process's, so only the lower side is told from a small run."""
    said = forecast(32, 24, CONFIG, 2)
    assert said.memory_bytes < 2.5 * tiny_run.summary["peak_memory_bytes"]
    assert said.disk_bytes < 10e6


def test_available_memory_is_plausible() -> None:
    available = memory_available_bytes()
    assert available is None or 1e6 < available < 1e16
