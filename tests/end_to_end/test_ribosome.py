"""The main job on public data with known truth, judged by a program that shares nothing with this one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import posterion

pytestmark = pytest.mark.slow
DIAMETER, EDGE = 300.0, 128 * 2.8  # Angstrom
RELION = {"masked": 8.0, "truth": 6.7}  # resolutions of RELION 5 on these images, shared/data/README.md


@pytest.fixture(scope="module")
def judged(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Refine 500 images of ribo128 from the 50 A reference; what shared/tools/evaluate.py says of it."""
    data, tool = shared_data / "ribo128", shared_data.parent / "tools" / "evaluate.py"
    if not data.is_dir() or not tool.is_file():
        pytest.skip("ribo128 or evaluate.py not present")
    output = tmp_path_factory.mktemp("ribosome") / "out"
    given = data / "particles_500.star", data / "reference_50A.mrc"
    found = posterion.refine(*given, output, DIAMETER, posterion.RefineOptions(threads=2))
    files = {
        "truth-map": data / "truth.mrc",
        "truth-star": data / "truth.star",
        "poses": output / "particles.star",
        "half1": output / "half1.mrc",
        "half2": output / "half2.mrc",
        "map": output / "map.mrc",
    }
    command = [sys.executable, str(tool)] + [
        part for key, path in files.items() for part in (f"--{key}", str(path))
    ]
    judgement = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(judgement.stdout) | {"summary": found.summary}


def test_poses(judged: dict[str, Any]) -> None:
    assert judged["poses"]["n"] == 500
    assert judged["poses"]["angle_median"] <= 0.44
    assert judged["poses"]["angle_over_10_percent"] < 2


def test_map_against_the_truth(judged: dict[str, Any]) -> None:
    assert judged["fsc_truth_mean_masked"] >= 0.75
    assert EDGE / judged["fsc_truth_05"]["masked"] > EDGE / RELION["truth"] - 1


def test_half_maps(judged: dict[str, Any]) -> None:
    """No more than one shell short of RELION's."""
    assert EDGE / judged["fsc_halves_0143"]["masked"] > EDGE / RELION["masked"] - 1


def test_memory(judged: dict[str, Any]) -> None:
    """At most 2 GiB resident; CPU time is what benchmarks/ribosome.py measures."""
    assert judged["summary"]["peak_memory_bytes"] < 2 * 2**30
