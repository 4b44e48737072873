"""Early iterations on growing parts of the particles end with the map and poses of a run on all of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import posterion
from posterion.data.mrc import read_map
from posterion.data.particles import Particles
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.mapping.masks import low_pass
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.sources import read_source
from posterion.refine import subsets

pytestmark = pytest.mark.slow
BOX, PIXEL, DIAMETER, COUNT = 32, 5.6, 150.0, 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("parts")
    density, pixel = read_source(None, BOX, PIXEL)
    posterion.simulate([density], pixel, made, posterion.SimulationOptions(COUNT, snr=0.4, seed=8))
    posterion.write_map(made / "reference.mrc", low_pass(density, 30.0, pixel), pixel)
    return made


def refined(folder: Path, name: str, options: posterion.RefineOptions) -> dict[str, Any]:
    """Refine, and judge against the truth: mean FSC, median angle, and what each iteration searched."""
    result = posterion.refine(
        folder / "particles.star", folder / "reference.mrc", folder / name, DIAMETER, options
    )
    found, truth = (read_map(path)[0] for path in (result.folder / "map.mrc", folder / "truth.mrc"))
    mask = read_map(result.folder / "mask.mrc")[0]
    poses, true = (
        Particles.read(path).require_poses().matrices()
        for path in (result.folder / "particles.star", folder / "truth.star")
    )
    lines = (result.folder / "iterations.jsonl").read_text().splitlines()
    return {
        "fsc": fourier_shell_correlation(found * mask, truth * mask)[1:14].mean(),
        "angle": np.median(angular_distance_deg(poses, true)),
        "searched": [json.loads(line)["particles"] for line in lines],
        "everywhere": sum(i["particles"] for i in map(json.loads, lines) if i["search"] != "local"),
        "looks": [json.loads(line)["search"] for line in lines].count("look"),
    }


def test_parts_cost_no_quality(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "_FEWEST", 100)
    options = posterion.RefineOptions(initial_lowpass_angstrom=30.0, shift_range_angstrom=15.0, threads=2)
    parts = refined(folder, "parts", options)
    whole = refined(folder, "whole", replace(options, subset="all"))
    assert parts["searched"][0] == 200
    assert parts["searched"][-1] == COUNT
    assert set(whole["searched"]) == {COUNT}
    assert whole["looks"] == 0
    assert parts["everywhere"] < whole["everywhere"], "local searches are cheap, and there may be more"
    assert parts["fsc"] > whole["fsc"] - 0.01
    assert parts["angle"] < 1.1 * whole["angle"]
