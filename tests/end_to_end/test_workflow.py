"""From micrographs to a map by one workflow file: on simulated micrographs, and on the real ten."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import posterion
from posterion.cli import app
from posterion.data.mrc import write_map
from posterion.data.star import read_star
from posterion.mapping.masks import low_pass
from posterion.micrographs.simulation import simulate_micrograph
from posterion.physics.fourier import inverse_fourier_transform_2d
from posterion.physics.rotations import matrices_from_rotation_vectors
from posterion.physics.sources import read_source
from posterion.workflow.execute import run_workflow

ROOT = Path(__file__).parents[2]
BOX, PIXEL, SIZE = 64, 3.0, 640
COMMANDS = {str(info.name): info.callback for info in app.registered_commands if info.callback is not None}

STEPS = f"""
threads = 2
output = "results"

[ctf]
micrographs = "m*.mrc"
pixel_size = {PIXEL}
resolution = [30, 8]

[pick]
micrographs = "{{ctf}}/micrographs.star"
template = "reference.mrc"
diameter = 120

[extract]
coordinates = "{{pick}}/picks.star"
box = {BOX}

[refine]
particles = "{{extract}}/particles.star"
reference = "reference.mrc"
diameter = 150
max_iterations = 1

[postprocess]
half1 = "{{refine}}/half1.mrc"
half2 = "{{refine}}/half2.mrc"
mask = "{{refine}}/mask.mrc"
"""


def micrograph(volume: posterion.FourierVolume, number: int) -> np.ndarray:
    """Particles at random orientations on a grid that is a little out of order."""
    rng = np.random.default_rng(number)
    density = np.zeros((SIZE, SIZE), np.float32)
    places = [(y, x) for y in range(60, SIZE - 60, 90) for x in range(60, SIZE - 60, 90)]
    matrices = matrices_from_rotation_vectors(rng.normal(0, 2, (len(places), 3)))
    views = inverse_fourier_transform_2d(volume.project(matrices), BOX)
    half = BOX // 2
    for (y, x), view in zip(np.array(places) + rng.integers(-5, 6, (len(places), 2)), views, strict=True):
        density[y - half : y + half, x - half : x + half] += view
    optics = posterion.OpticsGroup("og", 300.0, 2.7, 0.1, PIXEL, 0)
    density *= 1.5 / density.std()
    defocus = 14000.0 + 2500 * number
    return simulate_micrograph(
        (SIZE, SIZE), optics, (defocus, defocus - 300, 40.0), density=density, seed=number
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three micrographs, a truncated one, the truth and a reference of it at 30 A."""
    folder = tmp_path_factory.mktemp("workflow")
    truth, _ = read_source(None, BOX, PIXEL)
    for number in range(3):
        image = micrograph(posterion.FourierVolume.from_map(truth), number)
        write_map(folder / f"m{number}.mrc", image[None], PIXEL)
    (folder / "m3.mrc").write_bytes((folder / "m2.mrc").read_bytes()[:100_000])
    write_map(folder / "truth.mrc", truth, PIXEL)
    write_map(folder / "reference.mrc", low_pass(truth, 30.0, PIXEL), PIXEL)
    (folder / "w.toml").write_text(STEPS)
    return folder


@pytest.mark.slow
def test_simulated_micrographs_to_their_map(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The truncated micrograph is named and left out; the map is the truth's."""
    results = run_workflow(folder / "w.toml", COMMANDS)
    assert [result.status for result in results] == ["done"] * 5
    out = folder / "results"
    records = {name: json.loads((out / name / "step.json").read_text()) for name in ("ctf", "pick")}
    assert [records[name]["exit_code"] for name in ("ctf", "pick")] == [1, 0]
    fitted = read_star(out / "ctf" / "micrographs.star")[1].floats("rlnDefocusU")
    np.testing.assert_allclose(fitted, [14000, 16500, 19000], atol=150)
    count = len(posterion.Particles.read(out / "extract" / "particles.star"))
    assert 100 < count <= 108
    found, truth = (
        posterion.read_map(path)[0] for path in (out / "refine" / "map.mrc", folder / "truth.mrc")
    )
    inside = posterion.read_map(out / "refine" / "mask.mrc")[0] > 0.5
    assert np.corrcoef(found[inside], truth[inside])[0, 1] > 0.8
    assert [r.status for r in run_workflow(folder / "w.toml", COMMANDS)] == ["up to date"] * 5


@pytest.mark.slow
def test_real_micrographs_reach_what_manual_picks_reach(shared_data: Path, tmp_path: Path) -> None:
    """docs/examples/apoferritin.toml, against 7A4M: 0.66 with manual picks, 0.60 by RELION with those."""
    data, tools = shared_data / "apoferritin", shared_data.parent / "tools"
    if not data.is_dir() or not tools.is_dir():
        pytest.skip("apoferritin not present")
    make = [sys.executable, tools / "apoferritin.py", data, shared_data / "maps" / "7a4m.cif", tmp_path]
    subprocess.run([str(part) for part in make], check=True, capture_output=True)
    shutil.copytree(data, tmp_path / "micrographs", ignore=shutil.ignore_patterns("*.csv"))
    shutil.copy(ROOT / "docs" / "examples" / "apoferritin.toml", tmp_path)
    run_workflow(tmp_path / "apoferritin.toml", COMMANDS)
    judge = [sys.executable, tools / "evaluate.py", "--map", tmp_path / "apoferritin" / "refine" / "map.mrc"]
    judge += ["--truth-map", tmp_path / "model.mrc", "--mean-to", "10", "--symmetry", "O"]
    shown = subprocess.run([str(part) for part in judge], check=True, capture_output=True, text=True)
    assert json.loads(shown.stdout)["fsc_truth_mean_masked"] > 0.6
