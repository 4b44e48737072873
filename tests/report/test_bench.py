"""`posterion bench`: the lecture's formula, counts against counting by hand, what the forecast is told."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterion.errors import PosterionError
from posterion.inference.exhaustive import SharedGrid, dense_log_prob
from posterion.inference.expectation import expect_batch
from posterion.inference.search import Level
from posterion.physics.projection import FourierVolume
from posterion.refine.forecast import forecast
from posterion.refine.state import RefineConfig
from posterion.report import bench as bench_module
from posterion.report.bench import (
    BenchOptions,
    BenchReport,
    Climbed,
    Compared,
    Tally,
    bench,
    lecture_operations,
    operation_counts,
)

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "references" / "small_problem.py"))
TINY = BenchOptions(n_particles=1000, box_px=24, diameter_angstrom=150.0, symmetry="D4", images=4)
FINE = replace(TINY, box_px=32, symmetry="O", resolution_angstrom=2 * 1.2 * 150 / 32)


def half_disc(radius: int) -> int:
    """Fourier pixels within a radius, one of each pair of Friedel mates."""
    every = [(x, y) for x in range(radius + 1) for y in range(-radius, radius + 1)]
    return sum(x * x + y * y <= radius**2 and (x > 0 or y >= 0) for x, y in every)


@pytest.fixture(scope="module")
def report() -> BenchReport:
    return bench(TINY)


@pytest.fixture(scope="module")
def harmonic_report() -> BenchReport:
    return bench(FINE)


def test_formula_of_the_lecture() -> None:
    tiny = lecture_operations(1, 2, shifts_per_axis=1)
    assert tiny.orientations == pytest.approx(124.025106721)  # 4 pi^3
    assert tiny.reconstruction == pytest.approx(54.265482457)  # 16 pi + 4
    many = lecture_operations(3, 10, shifts_per_axis=2)
    assert many.orientations == pytest.approx(3 * 4 * 1e5 * 3.87578458504)
    assert many.reconstruction == pytest.approx(31415.9265359 + 300)


def test_headline_of_the_lecture() -> None:
    count = lecture_operations(100_000, 128)
    assert count.total == pytest.approx(6e17, rel=0.1)
    assert count.cpu_years() == pytest.approx(19, rel=0.1)
    assert count.cpu_years(1e12) == pytest.approx(count.cpu_years() / 1000)


def test_operations_counted_by_hand() -> None:
    """Two images: 6 pairs, 3 norms, 3 slices on 10 pixels; 1 pair, 1 norm, 7 climbed on 100; 5 inserted."""
    counts = operation_counts([Compared(10, 6, 3, 3), Compared(100, 1, 1)], 2, 5, Climbed(7, 700))
    assert counts.scoring == (6 * 10 * 2 + 3 * 10 + 100 * 2 + 100) / 2
    assert counts.slicing == 30 * 16 / 2
    assert counts.insertion == 5 * 24 / 2
    assert counts.climbing == 700 * 132 / 2
    assert counts.total == counts.scoring + counts.slicing + counts.climbing + counts.insertion
    assert (counts.pairs, counts.climbed, counts.gathered, counts.inserted) == (7, 3.5, 365, 2.5)


def test_tally_of_a_search_with_two_levels(tmp_path: Path) -> None:
    """72 rotations and 5 shifts for all, then the 8 children of the two best, with the same 5 shifts."""
    problem = SMALL["make_problem"](tmp_path, 16, 11.0, n_particles=3, snr=1.0)
    plan = replace(
        SMALL["one_level_plan"](0, 3, 1.0), levels=(Level(0, 3, 1.0), Level(1, 5, 1.0)), max_rotations=2
    )
    batch, tally = SMALL["unmasked_batch"](problem, 5), Tally()
    volume = tally.volume(FourierVolume.from_map(problem.truth, 5))
    shared = SharedGrid.of(volume, plan)
    tally.on(len(shared.pixels))
    expect_batch(batch, volume, tally.plan(plan), shared, None)
    coarse = Compared(half_disc(3), pairs=3 * 72 * 5, norms=3 * 72, slices=72)
    fine = Compared(half_disc(5), pairs=3 * 16 * 5, norms=3 * 16, slices=3 * 16)
    assert tally.compared == (coarse, fine)


def test_what_batches_report_of_climbing_adds_up(tmp_path: Path) -> None:
    """Two batches, one that climbs and one that does not; their grids are tallied and not their climbing."""
    problem = SMALL["make_problem"](tmp_path, 16, 11.0, n_particles=2, snr=1.0)
    levels = Level(0, 3, 1.0), Level(1, 5, 1.0)
    plan = replace(SMALL["one_level_plan"](0, 3, 1.0), levels=levels, max_rotations=2, climb=True)
    batch, tally = SMALL["unmasked_batch"](problem, 5), Tally()
    volume = tally.volume(FourierVolume.from_map(problem.truth, 5))
    shared = SharedGrid.of(volume, plan)
    plans = plan, replace(plan, climb=False)
    climbing, resting = (expect_batch(batch, volume, each, shared, None) for each in plans)
    assert climbing.climbed > 2
    total = Climbed(4, 100).plus(climbing).plus(resting)
    assert total == Climbed(4 + climbing.climbed, 100 + climbing.climbed_samples)
    counts = operation_counts(tally.compared, 2, 0, total)
    grids = operation_counts(tally.compared, 2)
    assert (counts.climbed, counts.pairs - grids.pairs) == (total.poses / 2, total.poses / 2)
    assert counts.gathered - grids.gathered == total.samples / 2


def test_counting_changes_no_score(tmp_path: Path) -> None:
    problem = SMALL["make_problem"](tmp_path, 16, 11.0, n_particles=2, snr=1.0)
    plan, batch = SMALL["one_level_plan"](0, 4, 1.0), SMALL["unmasked_batch"](problem, 4)
    volume, tally = FourierVolume.from_map(problem.truth, 4), Tally()
    plain, _ = dense_log_prob(batch, SharedGrid.of(volume, plan), plan)
    counted, _ = dense_log_prob(batch, SharedGrid.of(tally.volume(volume), plan), tally.plan(plan))
    np.testing.assert_array_equal(counted, plain)
    assert tally.compared


def test_bench_counts_what_the_search_does(report: BenchReport) -> None:
    first, everywhere, local = (report.searches[kind] for kind in ("first", "everywhere", "local"))
    assert first.collected <= everywhere.collected == local.collected <= 11
    assert everywhere.operations.pairs > 4608 / 8  # at least the shared grid, one shift
    assert local.operations.pairs < everywhere.operations.pairs
    assert local.dense == 0
    assert all(times.operations.inserted >= times.collected for times in report.searches.values())


def test_run_is_the_sum_of_its_iterations(report: BenchReport) -> None:
    each = {kind: times.operations.total for kind, times in report.searches.items()}
    assert report.operations == pytest.approx(
        1000 * (each["first"] + 3 * each["everywhere"] + 3 * each["local"])
    )
    assert report.costs.local == report.searches["local"].ragged


def test_broad_posteriors_of_a_fine_grid_go_by_harmonics(harmonic_report: BenchReport) -> None:
    """At 7.5 degrees: 48 turns in the plane, by 21 shifts within 2.5 px."""
    searches = harmonic_report.searches
    broad = searches["broad"]
    assert (broad.radius, broad.collected) == (12, 15)
    assert broad.by_harmonics
    assert broad.operations.once > 0
    assert broad.operations.pairs % (48 * 21) == 0
    assert 1536 * 21 <= broad.operations.pairs <= 2 * 1536 * 21, (
        "O has 1,536 cells, some are cut by its planes"
    )
    assert (broad.operations.inserted, broad.dense) == (0, 0)
    assert broad.support_share > 0.01
    narrow = searches["local"]
    assert (narrow.by_harmonics, narrow.harmonic) == (False, 0)
    assert narrow.operations.once == 0
    rows = [line for line in harmonic_report.to_text().splitlines() if "dense pass, by harmonics" in line]
    assert len(rows) == 1
    assert rows[0].split()[-2] == "-"


def timed(found: BenchReport, **broad: float) -> BenchReport:
    """The report of the same counts, had the stages taken these times."""
    stages: dict[str, Any] = {"prepare": 0.25, "dense": 0.5, "harmonic": 0.0, "ragged": 2.0, "insert": 1.0}
    usual = stages | {"shared": 4.0, "once": 0.0}
    searches = {kind: replace(times, **usual) for kind, times in found.searches.items()}
    searches["broad"] = replace(searches["broad"], **(usual | broad))
    return bench_module._report(FINE, RefineConfig(diameter_angstrom=150.0), 1e9, searches, 8.0)


def test_weak_images_are_predicted_from_broad_searches(harmonic_report: BenchReport) -> None:
    """Three of seven iterations are dearer, all have dearer references and the insertion of harmonics."""
    found = timed(harmonic_report, prepare=0.5, dense=0.0, harmonic=16.0, insert=0.0, shared=5.0, once=32.0)
    dearer = (0.5 + 16.0 + 2.0) - (0.25 + 0.5 + 2.0 + 1.0)
    rest = 2 * (5.0 + 32.0 - 4.0)
    assert found.weak_forecast.cpu_seconds - found.forecast.cpu_seconds == pytest.approx(
        3 * 1000 * dearer + 7 * rest
    )
    broad, late = found.searches["broad"], found.searches["everywhere"]
    images = 1000 * (broad.operations.total - late.operations.total)
    more = 3 * (images + 2 * (broad.operations.once - late.operations.once))
    assert found.weak_operations - found.operations == pytest.approx(more)


def test_a_search_never_takes_less_than_no_time(harmonic_report: BenchReport) -> None:
    """On a busy machine broad searches may be measured shorter than what usual ones prepare and insert."""
    stages = ("prepare", "dense", "harmonic", "ragged", "insert")
    found = timed(harmonic_report, **dict.fromkeys(stages, 0.0))
    assert found.weak_costs.everywhere == 0
    assert found.forecast.cpu_seconds - found.weak_forecast.cpu_seconds == pytest.approx(3 * 1000 * 2.5)


def test_a_look_of_a_large_set_inserts_nothing(harmonic_report: BenchReport) -> None:
    """Of 100,000: 2,000 first, 114,000 everywhere, of which the last 2,000 only look, 300,000 locally."""
    found = replace(harmonic_report, options=replace(FINE, n_particles=100_000))
    first, everywhere, local = (found.searches[kind].operations for kind in ("first", "everywhere", "local"))
    looked = 2000 * (everywhere.total - everywhere.insertion)
    assert everywhere.insertion > 0
    assert found.operations == pytest.approx(
        2000 * first.total + 112_000 * everywhere.total + looked + 300_000 * local.total, rel=1e-12
    )
    broad = found.searches["broad"].operations
    more = 114_000 * broad.total + 4 * 2 * broad.once - 112_000 * everywhere.total - looked
    assert found.weak_operations - found.operations == pytest.approx(more, rel=1e-6)


def test_memory_of_weak_images_is_what_refine_says_of_broad_posteriors(harmonic_report: BenchReport) -> None:
    """Of 300 images of 128 px on four threads; from stages of others, which say nothing of memory."""
    options = replace(FINE, n_particles=300, box_px=128, symmetry="C1", threads=4)
    config = RefineConfig(diameter_angstrom=150.0)
    found = bench_module._report(options, config, 1e9, harmonic_report.searches, 1.0)
    said = forecast(300, 128, config, 4)
    assert found.forecast.memory_bytes == said.memory_bytes
    assert found.weak_forecast.memory_bytes == said.broad_memory_bytes > 1.3 * said.memory_bytes


def test_report_in_words_and_as_json(report: BenchReport) -> None:
    text, record = report.to_text(), json.loads(report.to_json())
    assert "go by pixels" in text
    assert "dense pass, by harmonics" not in text
    assert "(pi^3/8) t^2 n^5 N + pi n^4 + N n^2" in text
    assert "1,000 particles" in text
    assert f"{report.lecture.total:.2g}" in text
    assert record["operations"] == report.operations
    assert record["options"]["pixel_size_angstrom"] == pytest.approx(1.2 * 150 / 24)
    assert record["searches"]["local"]["operations"]["pairs"] == report.searches["local"].operations.pairs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"box_px": 25}, "--box 25: expected an even number"),
        ({"box_px": 8}, "from 20 to 1024"),
        ({"n_particles": 0}, "--particles 0: expected at least 1"),
        ({"threads": 0}, "--threads 0: expected at least 1"),
        ({"images": 1}, "at least 2"),
        ({"symmetry": "Q3"}, "Q3"),
        ({"pixel_size_angstrom": 1.0}, "does not fit the box"),
        ({"diameter_angstrom": float("nan")}, "does not fit the box"),
        ({"resolution_angstrom": 1.0}, "--resolution 1 A is outside 15 A"),
        ({"resolution_angstrom": 1000.0}, "a quarter of the box"),
    ],
)
def test_options_out_of_range(change: dict[str, object], words: str) -> None:
    with pytest.raises(PosterionError, match=words) as caught:
        bench(replace(TINY, **change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
