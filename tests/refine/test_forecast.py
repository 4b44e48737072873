"""The forecast grows with what costs, and the measured run keeps to it."""

import posterion
from posterion.refine.forecast import forecast, memory_available_bytes
from posterion.refine.state import RefineConfig

CONFIG = RefineConfig(diameter_angstrom=150.0)


def test_it_grows_with_what_costs() -> None:
    base = forecast(10_000, 128, CONFIG, 2)
    assert forecast(20_000, 128, CONFIG, 2).seconds > 1.5 * base.seconds
    assert forecast(10_000, 128, CONFIG, 8).seconds < base.seconds / 2
    assert forecast(10_000, 256, CONFIG, 2).memory_bytes > 4 * base.memory_bytes
    assert forecast(10_000, 256, CONFIG, 2).disk_bytes > 4 * base.disk_bytes
    per_particle = forecast(1_010_000, 128, CONFIG, 2).memory_bytes - base.memory_bytes
    assert per_particle < 500e6


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
