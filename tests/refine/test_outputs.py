"""Files of a finished run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import posterion
from posterion.data.mrc import write_stack
from posterion.data.particles import Particles
from posterion.inference import climbing
from posterion.mapping.fsc import read_fsc
from posterion.physics.soft_masks import soft_sphere
from posterion.refine.outputs import peak_memory_bytes, result_mask, write_particles, write_quarantine
from posterion.refine.state import ParticleEstimates


def test_every_file_is_there(tiny_run: posterion.RefineResult) -> None:
    assert sorted(path.name for path in tiny_run.folder.iterdir()) == sorted(
        [
            *("map.mrc", "map_unfiltered.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.tsv"),
            *("particles.star", "iterations.jsonl", "summary.json", "config.toml", "run.log"),
        ]
    )


def test_maps_have_box_and_pixel_size(tiny_run: posterion.RefineResult) -> None:
    for name in ("map", "map_unfiltered", "half1", "half2", "mask"):
        values, pixel_size = posterion.read_map(tiny_run.folder / f"{name}.mrc")
        assert values.shape == (24, 24, 24)
        assert pixel_size == pytest.approx(7.5)
        assert np.isfinite(values).all()
        assert np.ptp(values) > 0


def test_particle_table(tiny_run: posterion.RefineResult, tiny_set: Path) -> None:
    found, given = (Particles.read(f / "particles.star") for f in (tiny_run.folder, tiny_set))
    assert np.array_equal(found.half_i, given.half_i)
    assert np.array_equal(found.image_index_i, given.image_index_i)
    assert found.poses is not None
    assert np.array_equal(found.images(), given.images())
    pmax, effective, likelihood = (
        found.table.floats(name)
        for name in (
            "rlnMaxValueProbDistribution",
            "posterionEffectiveOrientations",
            "rlnLogLikeliContribution",
        )
    )
    assert ((pmax > 0) & (pmax <= 1)).all()
    assert (effective >= 1).all()
    assert np.isfinite(likelihood).all()


def test_curves_summary_and_iterations_agree(tiny_run: posterion.RefineResult) -> None:
    summary = json.loads((tiny_run.folder / "summary.json").read_text())
    assert summary == tiny_run.summary
    curves = read_fsc(tiny_run.folder / "fsc.tsv")
    assert set(curves.named()) == {"unmasked", "masked", "randomised", "corrected"}
    assert summary["resolution_angstrom"] == pytest.approx(curves.resolution(), rel=1e-4)
    assert summary["resolution_unmasked_angstrom"] == pytest.approx(
        curves.resolution(curve="unmasked"), rel=1e-4
    )
    lines = [json.loads(line) for line in (tiny_run.folder / "iterations.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, summary["iterations"] + 1))
    assert {"resolution_angstrom", "pmax", "log_likelihood", "angle_change_deg", "seconds"} <= set(lines[0])
    assert summary["particles"] == 32
    assert summary["gaussian_share"] == pytest.approx(lines[-1]["gaussian_share"], abs=1e-4)
    assert summary["diverged"] == lines[-1]["diverged"]
    assert summary["diverged_at_most"] == max(line["diverged"] for line in lines)
    assert summary["quarantined"] == []
    assert summary["cpu_seconds"] > 0
    assert 1e8 < summary["peak_memory_bytes"] <= peak_memory_bytes(), "of all tests so far"
    assert {"posterion", "numpy"} <= set(summary["versions"])


def test_particles_whose_optimiser_found_no_peak_are_counted(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is allowed, so every particle keeps its grid; the map is there all the same."""
    monkeypatch.setattr(climbing, "_MOST_STEPS", 0)
    options = replace(tiny_options, max_iterations=1)
    result = posterion.refine(
        tiny_set / "particles.star", tiny_set / "reference.mrc", tmp_path, 150.0, options
    )
    assert result.summary["gaussian_share"] == 0
    assert result.summary["diverged"] == result.summary["diverged_at_most"] == 32
    assert np.isfinite(posterion.read_map(tmp_path / "map.mrc")[0]).all()


def test_quarantined_images_are_listed_and_left_out(tmp_path: Path, tiny_set: Path) -> None:
    particles = Particles.read(tiny_set / "particles.star")
    images = particles.images()
    images[3, 5, 5], images[7] = np.nan, 2.5
    write_stack(tmp_path / "particles.mrcs", images, 7.5)
    (tmp_path / "particles.star").write_text((tiny_set / "particles.star").read_text())
    spoiled = Particles.read(tmp_path / "particles.star")
    estimates = replace(ParticleEstimates.empty(32), usable=~np.isin(np.arange(32), [3, 7]))
    lines = write_quarantine(tmp_path / "quarantine.txt", spoiled, estimates.usable)
    assert (tmp_path / "quarantine.txt").read_text() == "\n".join(lines) + "\n"
    assert "image 4 of particles.mrcs holds NaN" in lines[0]
    assert "image 8 of particles.mrcs is constant" in lines[1]
    write_particles(tmp_path / "kept.star", spoiled, spoiled.half_i, estimates)
    kept = Particles.read(tmp_path / "kept.star")
    assert np.array_equal(kept.image_index_i, np.delete(np.arange(32), [3, 7]))


def test_mask_from_the_map_or_else_the_sphere(tiny_set: Path) -> None:
    density, pixel_size = posterion.read_map(tiny_set / "truth.mrc")
    sphere = soft_sphere(24, 10, 3)
    made = result_mask(density, sphere, pixel_size)
    assert 0.02 < made.mean() < sphere.mean()
    assert np.array_equal(result_mask(0 * density, sphere, pixel_size), sphere)


def test_peak_memory_is_of_this_process() -> None:
    assert 5e7 < peak_memory_bytes() < 1e11
