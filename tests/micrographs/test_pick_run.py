from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from posterion.data.mrc import write_map, write_stack
from posterion.data.output_folder import open_folder
from posterion.data.particles import Supplement
from posterion.data.star import read_star
from posterion.errors import PosterionError
from posterion.micrographs.coordinates import read_coordinates
from posterion.micrographs.pick_run import Template, pick, read_templates
from posterion.micrographs.picking import PickOptions

OPTIONS = PickOptions(150.0, lowpass_angstrom=40.0)


@pytest.fixture(scope="module")
def folder(
    plant: Callable[..., Any], density: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two planted micrographs (one cut smaller), their STAR file with CTF, and the map."""
    where = tmp_path_factory.mktemp("pick")
    first, second = plant(1, 1.0), plant(2, 1.0)
    write_map(where / "m1.mrc", first.values[None], 4.0)
    write_map(where / "m2.mrc", second.values[None, :250, :300], 4.0)
    write_map(where / "map.mrc", density, 4.0)
    (where / "micrographs.star").write_text(
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n_rlnVoltage\n_rlnSphericalAberration\n"
        "_rlnAmplitudeContrast\n1 4.0 300 2.7 0.1\n\ndata_micrographs\nloop_\n_rlnMicrographName\n"
        "_rlnOpticsGroup\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
        "m1.mrc 1 16000 15000 30\nm2.mrc 1 16000 15000 30\n"
    )
    return where


def test_files_for_extract_relion_and_eman(folder: Path, plant: Callable[..., Any], tmp_path: Path) -> None:
    result = pick([folder / "micrographs.star"], tmp_path, OPTIONS, Template(str(folder / "map.mrc")))
    optics, table = read_star(result.picks_path)
    assert (optics.name, table.name) == ("optics", "particles")
    assert len(table) == result.count
    assert result.failures == ()
    assert set(table.floats("rlnDefocusU")) == {16000.0}
    one, box = read_coordinates(tmp_path / "m1_autopick.star"), read_coordinates(tmp_path / "m1.box")
    np.testing.assert_array_equal(box.x_px_i, np.rint(one.x_px_i))
    away, _ = cKDTree(np.stack([one.x_px_i, one.y_px_i], 1)).query(plant(1, 1.0).truth_xy)
    assert (4 * away < 25).mean() > 0.8
    assert {"rlnAnglePsi", "rlnClassNumber", "rlnAutopickFigureOfMerit"} <= one.columns.keys()
    assert read_star(tmp_path / "autopick.star")[0].name == "coordinate_files"
    with Image.open(tmp_path / "overlays" / "m1.png") as picture:
        assert picture.size == (1200, 1026)


def test_same_bits_for_any_threads_and_resumed(folder: Path, tmp_path: Path) -> None:
    runs = [
        pick([folder / "micrographs.star"], tmp_path / name, OPTIONS, Template(folder / "map.mrc"), threads=n)
        for name, n in (("one", 1), ("two", 2), ("one", 1))
    ]
    assert [run.resumed for run in runs] == [0, 0, 2]
    assert runs[0].records == runs[1].records == runs[2].records
    assert runs[0].picks_path.read_bytes() == runs[1].picks_path.read_bytes()
    changed = pick([folder / "micrographs.star"], tmp_path / "one", OPTIONS)
    assert changed.resumed == 0


def test_bad_micrographs_are_named_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    tiny = np.random.default_rng(1).standard_normal((1, 34, 36)).astype(np.float32)
    write_map(tmp_path / "tiny.mrc", tiny, 4.0)
    (tmp_path / "cut.mrc").write_bytes((folder / "m1.mrc").read_bytes()[:3000])
    sources = [folder / "m1.mrc", tmp_path / "tiny.mrc", tmp_path / "cut.mrc"]
    result = pick(sources, tmp_path / "out", OPTIONS, threads=1)
    assert [Path(failure.name).name for failure in result.failures] == ["tiny.mrc", "cut.mrc"]
    assert "tiny.mrc: a particle of 150 A is larger than the micrograph" in result.failures[0].reason
    assert "cut.mrc is truncated" in result.failures[1].reason
    assert result.records[0] is not None
    with pytest.raises(PosterionError, match=r"none of 1 micrographs could be picked; the first: .*tiny.mrc"):
        pick(sources[1:2], tmp_path / "none", OPTIONS)


def test_a_micrograph_that_fails_in_a_second_run_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    sources, out = [tmp_path / "a.mrc", tmp_path / "b.mrc"], tmp_path / "out"
    for source in sources:
        source.write_bytes((folder / "m2.mrc").read_bytes())
    pick(sources, out, OPTIONS, threads=1)
    sources[0].write_bytes(sources[1].read_bytes()[:3000])
    pick(sources, out, OPTIONS, threads=1)
    assert [path.name for path in out.rglob("a*") if path.is_file()] == ["autopick.star"]
    assert len(list(out.rglob("b*"))) == 4
    sources[1].write_bytes(sources[0].read_bytes())
    with pytest.raises(PosterionError, match=r"none of 2 micrographs could be picked; the first: .*a.mrc"):
        pick(sources, out, OPTIONS, threads=1)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["run.log", "summary.json"]
    assert "a.mrc" in (out / "run.log").read_text()


def test_boxes_of_others_stay(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "m2.box").write_text("1 2 3 3\n")
    with pytest.raises(PosterionError, match=r"m2.box is there already"):
        pick([folder / "m2.mrc"], tmp_path, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["m2.box"]


def test_boxes_made_by_hand_stay_in_a_folder_of_ours(folder: Path, tmp_path: Path) -> None:
    made = pick([folder / "m1.mrc"], tmp_path, OPTIONS, threads=1)
    (tmp_path / "m2.box").write_text("1 2 3 3\n")
    with pytest.raises(PosterionError, match=r"m2.box is there already"):
        pick([folder / "m1.mrc", folder / "m2.mrc"], tmp_path, OPTIONS, threads=1)
    assert (tmp_path / "m2.box").read_text() == "1 2 3 3\n"
    assert made.picks_path.exists()


def test_no_particles(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(1).standard_normal((1, 200, 200)).astype(np.float32)
    write_map(tmp_path / "noise.mrc", noise, 4.0)
    result = pick([tmp_path / "noise.mrc"], tmp_path / "out", PickOptions(150.0, threshold=12.0))
    assert result.count == 0
    assert "noise.mrc: no particles found: the best score is" in caplog.text
    assert len(read_star(result.picks_path)[1]) == 0
    assert (tmp_path / "out" / "noise.box").read_text() == ""


def test_class_averages_and_templates_that_cannot_be_used(
    density: NDArray[np.float32], tmp_path: Path
) -> None:
    averages = density.sum(axis=(1,))[None].astype(np.float32)
    write_stack(tmp_path / "classes.mrcs", averages, 4.0)
    assert len(read_templates(Template(tmp_path / "classes.mrcs"), OPTIONS)) == 24
    write_stack(tmp_path / "no_pixel.mrcs", averages, 0.0)
    with pytest.raises(PosterionError, match=r"no pixel size; give --template-pixel-size"):
        read_templates(Template(tmp_path / "no_pixel.mrcs"), OPTIONS)
    assert len(read_templates(Template(tmp_path / "no_pixel.mrcs", pixel_size_angstrom=4.0), OPTIONS)) == 24
    with pytest.raises(PosterionError, match=r"absent.mrc"):
        read_templates(Template(tmp_path / "absent.mrc"), OPTIONS)


def test_micrographs_beside_their_results_are_safe(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 255, (200, 200)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png")
    before = (tmp_path / "m.png").read_bytes()
    pick([tmp_path / "m.png"], tmp_path, OPTIONS, supplement=Supplement(pixel_size_angstrom=4.0))
    assert (tmp_path / "m.png").read_bytes() == before


def test_one_process_at_a_time(folder: Path, tmp_path: Path) -> None:
    with open_folder(tmp_path / "out"), pytest.raises(PosterionError, match="another process is working"):
        pick([folder / "m2.mrc"], tmp_path / "out", OPTIONS)
    assert not list((tmp_path / "out").iterdir())
