"""The command ``posterion refine``, run as a user runs it, and what it says of bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import posterion
from posterion.cli import main
from posterion.data import atomic
from posterion.data.mrc import read_map, write_map, write_stack
from posterion.data.particles import Particles

Spoil = Callable[[Path], None]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["posterion", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def own_set(tiny_set: Path, tmp_path: Path) -> Path:
    """A copy of the tiny set that a test may spoil."""
    folder = tmp_path / "set"
    shutil.copytree(tiny_set, folder)
    return folder


def command(folder: Path, output: Path, *more: object) -> list[object]:
    return [
        *("refine", folder / "particles.star", "-r", folder / "reference.mrc", "-d", 150, "-o", output),
        *("--max-iterations", 1, "--shift-range", 8, "--threads", 2, *more),
    ]


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text()
    changed = change(text)
    assert changed != text
    path.write_text(changed)


def test_a_run_shows_what_it_does_and_draws(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(monkeypatch, *command(tiny_set, output)) == 0
    shown = capsys.readouterr()
    assert re.search(r"^resolution  \d+\.\d\d A at FSC 0\.143", shown.out)
    assert f"poses       {output / 'particles.star'}" in shown.out
    for line in (
        r"^32 particles, box 24 px of 7\.5 A, diameter 150 A, symmetry C1, em; halves of 16 and 16$",
        r"^forecast: 0\.\d GB of memory, in the last iteration, and about \d+ s on 2 threads",
        r"^reference low-passed to 25\.0 A; its grey scale was multiplied by \d",
        r"^iteration 1, 32 particles: \d+\.\d\d A .* Pmax 0\.\d\d, log-likelihood -?\d+.* expectation \d+",
        r"^iteration 2, last, all frequencies: 32 particles in ",
    ):
        assert re.search(line, shown.err, re.MULTILINE), line
    for name in ("fsc.png", "summary.png", "directions.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    assert "forecast" in (output / "run.log").read_text()
    assert json.loads((output / "summary.json").read_text())["iterations"] == 2

    # Once more it says so; from config.toml, elsewhere and with one thread, come the same bytes.
    assert run(monkeypatch, *command(tiny_set, output)) == 0
    assert "this run is finished" in capsys.readouterr().err
    again = ("refine", "--config", output / "config.toml", "-o", tmp_path / "again", "--threads", 1)
    assert run(monkeypatch, *again) == 0
    for name in ("map.mrc", "half2.mrc", "particles.star", "summary.png"):
        assert (tmp_path / "again" / name).read_bytes() == (output / name).read_bytes()
    assert run(monkeypatch, *command(tiny_set, output, "--seed", 5)) == 2
    assert "another run, with seed: 1, now 5" in capsys.readouterr().err


def test_reference_of_another_grid_and_projection_matching(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values, _ = read_map(tiny_set / "reference.mrc")
    larger = np.pad(values, 4)
    write_map(tmp_path / "large.mrc", larger, 7.5)
    more = ("-r", tmp_path / "large.mrc", "--method", "projection-matching")
    assert run(monkeypatch, *command(tiny_set, tmp_path / "out", *more)) == 0
    assert "box 32 px of 7.5 A brought to the images' box 24 px of 7.5 A" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["options"]["method"] == more[-1]


def truncate(folder: Path) -> None:
    stack = folder / "particles.mrcs"
    stack.write_bytes(stack.read_bytes()[:-100])


def star(pattern: str, replacement: str) -> Spoil:
    def spoil(folder: Path) -> None:
        edit(folder / "particles.star", lambda text: re.sub(pattern, replacement, text, count=1))

    return spoil


def column(name: str, value: str, rows: int = 1) -> Spoil:
    """Set a column's value in the first rows of the particle table."""

    def change(text: str) -> str:
        number = int(re.search(rf"_{name} #(\d+)", text.partition("data_particles")[2])[1])  # type: ignore[index]
        head, lines = text.partition("000001@")[0], text[text.index("000001@") :].splitlines()
        for i in range(min(rows, len(lines))):
            fields = lines[i].split()
            if fields:
                lines[i] = " ".join([*fields[: number - 1], value, *fields[number:]])
        return head + "\n".join(lines) + "\n"

    return lambda folder: edit(folder / "particles.star", change)


def empty_table(folder: Path) -> None:
    edit(folder / "particles.star", lambda text: text[: text.index("000001@")])


def constant_images(folder: Path) -> None:
    images = Particles.read(folder / "particles.star").images()
    write_stack(folder / "particles.mrcs", np.full_like(images, 3.0), 7.5)


def nan_half(folder: Path) -> None:
    particles = Particles.read(folder / "particles.star")
    images = particles.images()
    images[particles.half_i == 2] = np.nan
    write_stack(folder / "particles.mrcs", images, 7.5)


def two_boxes(folder: Path) -> None:
    def change(text: str) -> str:
        row = next(line for line in text.splitlines() if "opticsGroup1" in line)
        names = re.findall(r"^_(rln\w+) #", text.partition("data_particles")[0], re.MULTILINE)
        fields = row.split()
        fields[names.index("rlnOpticsGroup")] = "2"
        fields[names.index("rlnImageSize")] = "32"
        return text.replace(row, row + "\n" + " ".join(fields))

    edit(folder / "particles.star", change)
    column("rlnOpticsGroup", "2")(folder)


def pickled_cs(folder: Path) -> None:
    with (folder / "particles.cs").open("wb") as stream:
        np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)


BAD_SETS: dict[str, tuple[Spoil, str]] = {
    "missing file": (lambda f: (f / "particles.star").unlink(), r"particles\.star cannot be read"),
    "missing stack": (lambda f: (f / "particles.mrcs").unlink(), "stack 'particles.mrcs' does not exist"),
    "missing reference": (lambda f: (f / "reference.mrc").unlink(), r"reference\.mrc cannot be read"),
    "truncated stack": (truncate, r"particles\.mrcs is truncated"),
    "empty file": (lambda f: (f / "particles.star").write_text(""), r"particles\.star"),
    "empty table": (empty_table, r"particles\.star.*no (particles|rows)"),
    "missing column": (star("_rlnDefocusU", "_rlnDefocusX"), "rlnDefocusU"),
    "not a number": (column("rlnDefocusU", "12k"), "rlnDefocusU.*'12k'|'12k'.*rlnDefocusU|12k"),
    "image number": (star("000005@", "000099@"), "image number 99 is out of range"),
    "two boxes": (two_boxes, "two box sizes, 24 and 32"),
    "constant images": (constant_images, "images of half set 1 can be used"),
    "half of NaN": (nan_half, "images of half set 2 can be used"),
    "one half": (column("rlnRandomSubset", "1", 32), r"half sets .* hold the values \[1\]"),
    "bad half": (column("rlnRandomSubset", "3"), "is no half set"),
}


@pytest.mark.parametrize("kind", BAD_SETS)
def test_bad_particle_sets(
    own_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    spoil, sentence = BAD_SETS[kind]
    spoil(own_set)
    assert run(monkeypatch, *command(own_set, tmp_path / "out")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert re.search(sentence, said[-1]), said
    assert said[-1].startswith("posterion: ")
    assert not (tmp_path / "out").exists()


def wrong_mask(folder: Path) -> tuple[object, ...]:
    write_map(folder / "mask.mrc", np.ones((20, 20, 20), np.float32), 7.5)
    return "--mask", folder / "mask.mrc"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (lambda f: ("--symmetry", "Q3"), "Q3"),
        (lambda f: ("-d", 500), "diameter, 500 A, does not fit the box of 24 px x 7.5 A = 180.0 A"),
        (wrong_mask, "mask has 20x20x20 voxels but the map has 24x24x24"),
        (lambda f: ("--initial-lowpass", 3), "low-pass, 3 A"),
        (lambda f: ("--config", f / "none.toml"), "none.toml cannot be read"),
    ],
)
def test_bad_options(
    own_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: Callable[[Path], tuple[object, ...]],
    sentence: str,
) -> None:
    assert run(monkeypatch, *command(own_set, tmp_path / "out", *more(own_set))) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["-r", "-d"])
def test_what_every_run_needs(
    tiny_set: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    given = {"-r": tiny_set / "reference.mrc", "-d": 150, "-o": tmp_path / "out"}
    del given[missing]
    options = [part for pair in given.items() for part in pair]
    assert run(monkeypatch, "refine", tiny_set / "particles.star", *options) == 2
    assert f"{'--reference' if missing == '-r' else '--diameter'} is missing" in capsys.readouterr().err


def test_pickled_cs_file(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled_cs(own_set)
    arguments = command(own_set, tmp_path / "out")
    arguments[1] = own_set / "particles.cs"
    assert run(monkeypatch, *arguments) == 2
    assert "it holds pickled Python objects" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nan_image_is_listed_and_the_run_goes_on(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Particles.read(own_set / "particles.star").images()
    images[4, 0, 0] = np.nan
    write_stack(own_set / "particles.mrcs", images, 7.5)
    assert run(monkeypatch, *command(own_set, tmp_path / "out")) == 0
    shown = capsys.readouterr()
    assert "warning: left out, see quarantine.txt" in shown.err
    assert "31 (1 left out, see quarantine.txt)" in shown.out
    assert "image 5 of particles.mrcs holds NaN" in (tmp_path / "out" / "quarantine.txt").read_text()


def test_output_that_is_a_file_or_the_particles_own_folder(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(monkeypatch, *command(own_set, tmp_path / "file" / "out")) == 2
    assert "cannot be written" in capsys.readouterr().err
    before = sorted(path.name for path in own_set.iterdir())
    assert run(monkeypatch, *command(own_set, own_set)) == 2
    assert "already holds particles.star" in capsys.readouterr().err
    assert sorted(path.name for path in own_set.iterdir()) == before


def test_unwritable_folder(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    assert run(monkeypatch, *command(tiny_set, tmp_path / "out")) == 2
    assert "cannot be written (Permission denied)" in capsys.readouterr().err


def test_full_disk_while_results_are_written(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk fills up at half1.mrc: one sentence, no half file; with room the same command ends it."""
    real = os.replace

    def full(source: str, target: str) -> None:
        if Path(target).name == "half1.mrc":
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", full)
        assert run(patch, *command(tiny_set, tmp_path / "out")) == 2
    assert "half1.mrc: cannot be written (No space left on device)" in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "checkpoint.h5" in names
    assert not names & {"half1.mrc", "summary.json", "particles.star"}
    assert run(monkeypatch, *command(tiny_set, tmp_path / "out")) == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_really_full(tiny_set: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        script = "from posterion.cli import main; main()"
        arguments = map(str, command(tiny_set, disk / "out"))
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
        )
        left = {path.name for path in (disk / "out").iterdir()}
    finally:
        subprocess.run(["umount", str(disk)], check=False)
    assert done.returncode == 2
    assert re.match(r"posterion: .*cannot be written \(No space left", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    assert not any(name.startswith(".") for name in left)


def test_public_names() -> None:
    assert all(hasattr(posterion, name) for name in posterion.__all__)
    assert callable(posterion.refine)
