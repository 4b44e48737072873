import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from posterion.data.mrc import write_map
from posterion.data.output_folder import open_folder
from posterion.data.particles import OpticsGroup, Supplement
from posterion.data.star import read_star
from posterion.errors import PosterionError
from posterion.micrographs import ctf_driver
from posterion.micrographs.ctf_driver import ctf
from posterion.micrographs.ctf_estimation import CtfEstimate, CtfOptions
from posterion.micrographs.ctf_records import CtfRecord
from posterion.micrographs.ctf_rings import CtfParameters
from posterion.micrographs.micrograph_set import micrograph_set
from posterion.micrographs.simulation import CARBON, simulate_micrograph

OPTICS = OpticsGroup("", 300.0, 2.7, 0.1, 1.8, 0)
TRUTH = {"a": (12300.0, 11700.0, 30.0), "b": (20200.0, 19800.0, -60.0), "c": (8300.0, 8000.0, 5.0)}


@pytest.fixture(scope="module")
def micrographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good micrographs of two sizes, and four bad ones."""
    folder = tmp_path_factory.mktemp("micrographs")
    for name, defocus in TRUTH.items():
        shape = (640, 720) if name == "b" else (600, 600)
        write_map(
            folder / f"{name}.mrc", simulate_micrograph(shape, OPTICS, defocus, CARBON, seed=1)[None], 1.8
        )
    whole = (folder / "a.mrc").read_bytes()
    (folder / "cut.mrc").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mrc").touch()
    write_map(folder / "flat.mrc", np.full((1, 600, 600), 3.0), 1.8)
    noise = np.random.default_rng(0).normal(0, 1, (1, 600, 600))
    write_map(folder / "noise.mrc", noise, 1.8)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    names = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "run.log"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in names}


def test_the_good_go_on_and_the_bad_are_told(
    micrographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a", "cut", "b", "empty", "flat", "c", "noise", "missing"]
    with caplog.at_level(logging.WARNING, "posterion"):
        run = ctf([micrographs / f"{name}.mrc" for name in names], tmp_path, threads=1)
    assert [isinstance(record, CtfRecord) for record in run.records] == [name in TRUTH for name in names]
    told = "\n".join(run.failures)
    for name, complaint in {
        "cut.mrc": "is truncated",
        "empty.mrc": "is empty",
        "flat.mrc": "is constant",
        "noise.mrc": "no ring fits",
        "missing.mrc": "No such file",
    }.items():
        assert any(name in line and complaint in line for line in run.failures), told
    assert len(caplog.records) == 5
    for name, record in zip(names, run.records, strict=True):
        if isinstance(record, CtfRecord):
            u, v, angle = TRUTH[name]
            assert record.parameters.mean_defocus_angstrom == pytest.approx((u + v) / 2, abs=40)
            assert record.parameters.defocus_angle_deg == pytest.approx(angle, abs=6)
    assert run.star_path == tmp_path / "micrographs.star"
    written = micrograph_set([run.star_path])
    assert [path.name for path in written.paths] == ["a.mrc", "b.mrc", "c.mrc"]
    assert written.ctf is not None
    assert written.optics[0].pixel_size_angstrom == 1.8
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["command"], summary["fitted"], len(summary["failures"])) == ("ctf", 3, 5)


def test_repeated_and_stopped_runs_give_the_same_files(
    micrographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [micrographs / f"{name}.mrc" for name in TRUTH]
    drawn: list[str] = []

    def draw(estimate: CtfEstimate, path: Path, title: str) -> None:
        drawn_figure(estimate, path, title)
        drawn.append(title)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert ctf(sources, whole, threads=2, draw=draw).reused == 0
    with monkeypatch.context() as patched:
        estimated, calls = ctf_driver._estimated, []

        def dies(fit: object) -> object:
            calls.append(fit)
            if len(calls) > 1:
                raise KeyboardInterrupt
            return estimated(fit)  # type: ignore[arg-type]

        patched.setattr(ctf_driver, "_estimated", dies)
        with pytest.raises(KeyboardInterrupt):
            ctf(sources, stopped, threads=1, draw=draw)
    assert (stopped / "ctf" / "a.json").exists()
    assert not (stopped / "micrographs.star").exists()
    drawn.clear()
    assert ctf(sources, stopped, threads=1, draw=draw).reused == 1
    assert drawn == ["b.mrc", "c.mrc"]
    assert files(whole) == files(stopped)
    assert ctf(sources, stopped, draw=draw).reused == 3
    assert files(whole) == files(stopped)
    (stopped / "diagnostics" / "b.png").unlink()
    assert ctf(sources, stopped, draw=draw).reused == 2
    assert ctf(sources, stopped, CtfOptions(highest_resolution_angstrom=6.0), draw=draw).reused == 0


def test_optics_of_a_star_file_and_patches(micrographs: Path, tmp_path: Path) -> None:
    names = ("OpticsGroup", "MicrographPixelSize", "Voltage", "SphericalAberration", "AmplitudeContrast")
    optics = "".join(f"_rln{name}\n" for name in names)
    (micrographs / "mics.star").write_text(
        f"data_optics\n\nloop_\n{optics}1 1.8 300 2.7 0.1\n2 1.8 200 2.7 0.1\n\ndata_micrographs\n\nloop_\n"
        "_rlnMicrographName\n_rlnOpticsGroup\na.mrc 1\nb.mrc 2\n"
    )
    run = ctf([micrographs / "mics.star"], tmp_path, patches=(2, 1), threads=1)
    first, second = run.records
    assert isinstance(first, CtfRecord)
    assert isinstance(second, CtfRecord)
    assert first.parameters.mean_defocus_angstrom == pytest.approx(12000, abs=40)
    # at 200 kV the same rings mean less defocus, by the ratio of the wavelengths, 1.274
    assert second.parameters.mean_defocus_angstrom == pytest.approx(20000 / 1.274, rel=0.02)
    (table,) = read_star(tmp_path / "patches.star")
    assert table.columns["rlnMicrographName"].text().tolist() == [b"a.mrc"] * 2 + [b"b.mrc"] * 2
    assert np.abs(table.floats("rlnDefocusU")[:2] - 12300).max() < 100


def test_kinds_and_one_name_in_two_folders(micrographs: Path, tmp_path: Path) -> None:
    values = simulate_micrograph((600, 600), OPTICS, TRUTH["a"], CARBON, seed=1)
    tifffile.imwrite(tmp_path / "d.tif", values)
    pixel_size = Supplement(pixel_size_angstrom=1.8)
    run = ctf([tmp_path / "d.tif"], tmp_path / "out", supplement=pixel_size, threads=1)
    (record,) = run.records
    assert isinstance(record, CtfRecord)
    assert record.parameters.defocus_angle_deg == pytest.approx(-30, abs=6)  # TIFF is turned upside down
    (tmp_path / "d.tif").rename(tmp_path / "a.tif")
    sources = [micrographs / "a.mrc", tmp_path / "a.tif"]
    with pytest.raises(PosterionError, match=r"a.mrc and .*a.tif would both be written as a;"):
        ctf(sources, tmp_path / "two", supplement=pixel_size)
    assert not (tmp_path / "two").exists()


def test_a_poor_fit_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for limit, pixel_size, is_told in ((12.3, 1.0, True), (9.0, 1.0, False), (12.3, 4.0, False)):
        caplog.clear()
        record = CtfRecord(CtfParameters(1e4, 1e4, 0.0), 0.1, 20.0, limit)
        fit = ctf_driver._Fit(Path("m.mrc"), pixel_size, CtfOptions(), None, tmp_path / "m.json", None)
        with caplog.at_level(logging.WARNING, "posterion"):
            ctf_driver._tell_if_poor(fit, record)
        assert ("m.mrc: rings fit to 12.3 A only" in caplog.text) == is_told


def drawn_figure(estimate: CtfEstimate, path: Path, title: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{title} {estimate.parameters}")


def test_a_fit_that_fails_leaves_no_table_and_no_picture(micrographs: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "a.mrc", tmp_path / "out"
    picture = out / "diagnostics" / "a.png"
    source.write_bytes((micrographs / "a.mrc").read_bytes())
    for draw, is_drawn in ((drawn_figure, True), (None, False), (drawn_figure, True)):
        run = ctf([source], out, CtfOptions(), patches=(1, 1) if is_drawn else None, threads=1, draw=draw)
        assert run.star_path.exists()
        assert (picture.exists(), (out / "patches.star").exists()) == (is_drawn, is_drawn)
    source.write_bytes((micrographs / "flat.mrc").read_bytes())
    with pytest.raises(
        PosterionError, match=r"none of 1 micrographs could be fitted; the first: .*a.mrc is con"
    ):
        ctf([source], out, threads=1, draw=drawn_figure)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["run.log", "summary.json"]
    assert json.loads((out / "summary.json").read_text())["failures"].keys() == {str(source)}


def test_a_folder_of_something_else_is_left_alone(micrographs: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"command": "refine"}')
    with pytest.raises(PosterionError, match=r"holds results of 'posterion refine'"):
        ctf([micrographs / "a.mrc"], tmp_path)
    (tmp_path / "summary.json").unlink()
    (tmp_path / "micrographs.star").write_text("data_micrographs\n")
    with pytest.raises(PosterionError, match=r"micrographs.star is there already"):
        ctf([micrographs / "a.mrc"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["micrographs.star"]


def test_one_process_at_a_time(micrographs: Path, tmp_path: Path) -> None:
    with open_folder(tmp_path / "out"), pytest.raises(PosterionError, match="another process is working"):
        ctf([micrographs / "a.mrc"], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_without_pictures_none_of_the_users_is_removed(micrographs: Path, tmp_path: Path) -> None:
    """Nor a micrograph that lies under a picture's name."""
    out = tmp_path / "out"
    source = out / "diagnostics" / "a.png"
    source.parent.mkdir(parents=True)
    values = simulate_micrograph((600, 600), OPTICS, TRUTH["a"], CARBON, seed=1)
    grey = np.clip(128 + 30 * (values - values.mean()) / values.std(), 0, 255).astype(np.uint8)
    Image.fromarray(grey).save(source)
    before = source.read_bytes()
    run = ctf([source], out, supplement=Supplement(pixel_size_angstrom=1.8), threads=1)
    assert not run.failures
    run = ctf([micrographs / "a.mrc"], out, threads=1)
    assert not run.failures
    assert source.read_bytes() == before
    with pytest.raises(PosterionError, match=r"a.png is there already"):
        ctf([micrographs / "a.mrc"], out, threads=1, draw=drawn_figure)
    assert source.read_bytes() == before
