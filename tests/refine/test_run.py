"""A run from beginning to end: the same result however often it is stopped and on any number of threads."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import posterion
from posterion.data.mrc import read_map, write_map, write_stack
from posterion.data.particles import Particles
from posterion.errors import PosterionError
from posterion.refine import auto_refine, subsets
from posterion.refine import run as run_module
from posterion.refine.options import read_config
from posterion.refine.state import RefineConfig

RESULTS = ("map.mrc", "map_unfiltered.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.tsv", "particles.star")


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def start(tiny_set: Path, output: Path, options: posterion.RefineOptions) -> posterion.RefineResult:
    return posterion.refine(tiny_set / "particles.star", tiny_set / "reference.mrc", output, 150.0, options)


def require_same_results(folder: Path, other: Path) -> None:
    for name in RESULTS:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def stopped_at_each_iteration(
    tiny_set: Path, output: Path, options: posterion.RefineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run to the end in four goes: each of the first three is stopped in its second iteration."""
    step = run_module.step

    def stop_after(*arguments: Any) -> Any:
        stages.append(None)
        if len(stages) == 2:
            raise StoppedError
        return step(*arguments)

    monkeypatch.setattr(run_module, "step", stop_after)
    for _ in range(3):
        stages: list[None] = []
        with pytest.raises(StoppedError):
            start(tiny_set, output, options)
    stages = []
    start(tiny_set, output, options)


def test_the_map_is_the_truth(tiny_run: posterion.RefineResult, tiny_set: Path) -> None:
    """32 images and two iterations, but a signal twice the noise: the map has to show the structure."""
    found, truth = (read_map(path)[0] for path in (tiny_run.folder / "map.mrc", tiny_set / "truth.mrc"))
    mask = read_map(tiny_run.folder / "mask.mrc")[0]
    inside = mask > 0.5
    assert np.corrcoef(found[inside], truth[inside])[0, 1] > 0.8
    assert 0.5 < np.sum(found * truth * mask) / np.sum(truth * truth * mask) < 1.5


def test_a_run_stopped_twice_ends_with_the_same_bytes(
    tiny_run: posterion.RefineResult,
    tiny_set: Path,
    tiny_options: posterion.RefineOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the middle of iteration 2 and while results are written; the last time with one thread."""
    output = tmp_path / "out"
    stages = iter([10_000, 20])

    @contextmanager
    def stop_in_second_stage(stage: str, total: int) -> Iterator[object]:
        left = [next(stages)]

        class Count:
            def advance(self, count: int = 1) -> None:
                left[0] -= count
                if left[0] < 0:
                    raise StoppedError

        yield Count()

    with pytest.raises(StoppedError):
        posterion.refine(
            *(tiny_set / "particles.star", tiny_set / "reference.mrc", output, 150.0, tiny_options),
            progress=stop_in_second_stage,
        )
    assert len((output / "iterations.jsonl").read_text().splitlines()) == 1
    assert not (output / "map.mrc").exists()

    def stop(*_: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_particles", stop)
        with pytest.raises(StoppedError):
            start(tiny_set, output, tiny_options)
    assert (output / "map.mrc").exists()
    assert not (output / "summary.json").exists()

    result = start(tiny_set, output, replace(tiny_options, threads=1))
    assert not result.was_finished
    require_same_results(output, tiny_run.folder)
    assert "going on from iteration 1" in (output / "run.log").read_text()
    assert sorted(p.name for p in output.iterdir()) == sorted(p.name for p in tiny_run.folder.iterdir())


def test_a_run_on_growing_parts_stopped_in_between_ends_with_the_same_bytes(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four images of each half, then all: stopped at each iteration or never, on one thread or two."""
    monkeypatch.setattr(subsets, "_FEWEST", 4)
    options = replace(tiny_options, max_iterations=3)
    whole = start(tiny_set, tmp_path / "whole", options)
    told = [json.loads(line) for line in (whole.folder / "iterations.jsonl").read_text().splitlines()]
    counts = [each["particles"] for each in told]
    assert counts[0] == 8
    assert counts == sorted(counts)
    assert counts[-1] == 32
    assert "iteration 1, 8 particles:" in (whole.folder / "run.log").read_text()

    stopped_at_each_iteration(tiny_set, tmp_path / "out", replace(options, threads=1), monkeypatch)
    require_same_results(tmp_path / "out", whole.folder)


def test_a_run_stopped_before_and_after_a_look_ends_with_the_same_bytes(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three iterations is made a look: told as one, and without a resolution of its own."""
    decide = auto_refine.decide

    def decide_to_look(context: Any, measured: Any, old: Any, info: Any) -> Any:
        found = decide(context, measured, old, info)
        if found.iteration > 1:
            return replace(found, converged=False)
        return replace(found, search=replace(found.search, subset=5, look=True))

    monkeypatch.setattr(auto_refine, "decide", decide_to_look)
    options = replace(tiny_options, max_iterations=3)
    whole = start(tiny_set, tmp_path / "whole", options)
    told = [json.loads(line) for line in (whole.folder / "iterations.jsonl").read_text().splitlines()]
    assert [each["iteration"] for each in told] == [1, 2, 3, 4]
    assert [(each["particles"], each["search"] == "look") for each in told[1:3]] == [(10, True), (32, False)]
    assert told[1]["resolution_angstrom"] == told[0]["resolution_angstrom"]
    lines = (whole.folder / "run.log").read_text().splitlines()
    (line,) = (line for line in lines if "iteration 2" in line)
    assert "10 particles: a look at all orientations" in line
    assert "maximisation" not in line

    stopped_at_each_iteration(tiny_set, tmp_path / "out", replace(options, threads=1), monkeypatch)
    require_same_results(tmp_path / "out", whole.folder)


def test_images_of_a_later_part_are_quarantined_when_they_are_met(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constant image outside the first part is not listed before it has been read."""
    monkeypatch.setattr(subsets, "_FEWEST", 4)
    particles = Particles.read(tiny_set / "particles.star")
    half_i = run_module.prepare(particles, tiny_set / "reference.mrc", 150.0, tiny_options).half_i
    late = int(np.flatnonzero(~subsets.searched(half_i, 4, tiny_options.seed))[0])
    images = particles.images()
    images[late] = 1.0
    (tmp_path / "particles.star").write_text((tiny_set / "particles.star").read_text())
    write_stack(tmp_path / "particles.mrcs", images, 7.5)
    save, listed = run_module.save_checkpoint, []

    def look(path: Path, checkpoint: Any) -> None:
        listed.append((path.parent / "quarantine.txt").exists())
        save(path, checkpoint)

    monkeypatch.setattr(run_module, "save_checkpoint", look)
    options = replace(tiny_options, max_iterations=1)
    arguments = tmp_path / "particles.star", tiny_set / "reference.mrc"
    result = posterion.refine(*arguments, tmp_path / "out", 150.0, options)
    assert not any(listed)
    assert len(result.summary["quarantined"]) == 1
    assert len(Particles.read(result.folder / "particles.star")) == 31


def test_a_first_part_of_bad_images_only_is_refused_in_words(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subsets, "_FEWEST", 4)
    particles = Particles.read(tiny_set / "particles.star")
    half_i = run_module.prepare(particles, tiny_set / "reference.mrc", 150.0, tiny_options).half_i
    images = particles.images()
    images[subsets.searched(half_i, 4, tiny_options.seed)] = 1.0
    (tmp_path / "particles.star").write_text((tiny_set / "particles.star").read_text())
    write_stack(tmp_path / "particles.mrcs", images, 7.5)
    arguments = tmp_path / "particles.star", tiny_set / "reference.mrc", tmp_path / "out", 150.0
    with pytest.raises(PosterionError, match="no image of half set 1 can be used"):
        posterion.refine(*arguments, tiny_options)


def test_a_finished_run_is_not_repeated(
    tiny_run: posterion.RefineResult, tiny_set: Path, tiny_options: posterion.RefineOptions
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.folder.iterdir()}
    again = start(tiny_set, tiny_run.folder, tiny_options)
    assert again.was_finished
    assert again.summary == tiny_run.summary
    assert {path: path.stat().st_mtime_ns for path in tiny_run.folder.iterdir()} == before


def test_another_run_is_refused(
    tiny_run: posterion.RefineResult, tiny_set: Path, tiny_options: posterion.RefineOptions
) -> None:
    with pytest.raises(PosterionError, match="another run, with seed: 1, now 2"):
        start(tiny_set, tiny_run.folder, replace(tiny_options, seed=2))


def test_config_says_what_was_run(
    tiny_run: posterion.RefineResult, tiny_set: Path, tiny_options: posterion.RefineOptions
) -> None:
    found = read_config(tiny_run.folder / "config.toml")
    assert found["options"] == tiny_options
    assert found["particles"] == tiny_set / "particles.star"
    assert found["reference"] == tiny_set / "reference.mrc"
    assert found["diameter_angstrom"] == 150.0


def test_spoiled_images_foreign_grid_and_objects_in_memory(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path
) -> None:
    """NaN and constant images are listed and left out; the reference's grid, grey scale and mask are met."""
    (tmp_path / "particles.star").write_text((tiny_set / "particles.star").read_text())
    images = Particles.read(tiny_set / "particles.star").images()
    images[3, 5, 5], images[7] = np.nan, 2.5
    write_stack(tmp_path / "particles.mrcs", images, 7.5)
    reference = 40 * read_map(tiny_set / "reference.mrc")[0]
    mask = run_module.prepare(tiny_set / "particles.star", reference, 150.0, tiny_options).mask
    write_map(tmp_path / "mask.mrc", mask, 7.5)
    options = replace(tiny_options, max_iterations=1, mask=tmp_path / "mask.mrc")
    result = posterion.refine(
        Particles.read(tmp_path / "particles.star"), reference, tmp_path / "out", 150.0, options
    )
    assert len(result.summary["quarantined"]) == 2
    assert len((tmp_path / "out" / "quarantine.txt").read_text().splitlines()) == 2
    assert len(Particles.read(tmp_path / "out" / "particles.star")) == 30
    for name in ("map", "half1", "half2"):
        assert np.isfinite(read_map(tmp_path / "out" / f"{name}.mrc")[0]).all()
    assert np.array_equal(read_map(tmp_path / "out" / "mask.mrc")[0], mask)
    assert np.array_equal(read_map(tmp_path / "out" / "reference.mrc")[0], reference)
    log = (tmp_path / "out" / "run.log").read_text()
    assert "grey scale was multiplied by" in log
    assert "left out, see quarantine.txt: 2 of 32 images (6.25 %), the first: " in log


def spoiled_set(tiny_set: Path, folder: Path, images: NDArray[np.float32]) -> Path:
    """The tiny set with other images."""
    folder.mkdir()
    write_stack(folder / "particles.mrcs", images, 7.5)
    for name in ("particles.star", "reference.mrc"):
        (folder / name).write_bytes((tiny_set / name).read_bytes())
    return folder


def test_one_image_beyond_all_others_harms_no_other(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path
) -> None:
    """Hot pixels, a normalisation that failed: the bytes of a set with NaN there, the map of one without."""
    plain, found = Particles.read(tiny_set / "particles.star").images(), {}
    options = replace(tiny_options, max_iterations=1)
    for said, value in {"nan": np.nan, "1e+06": 1e6, "1e+08": 1e8, "1e+11": -1e11, "deviation": 0}.items():
        images = plain.copy()
        images[4, 3, 3] = value
        if said == "deviation":
            images[4] = 1e5 * plain[4]
        spoiled = spoiled_set(tiny_set, tmp_path / said, images)
        found[said] = start(spoiled, spoiled / "out", options)
        (line,) = found[said].summary["quarantined"]
        assert "image 5 of particles.mrcs" in line
        assert said in line.lower()
        require_same_results(found[said].folder, found["nan"].folder)
    kept = np.delete(np.arange(32), 4)
    half_i = run_module.prepare(
        tiny_set / "particles.star", tiny_set / "reference.mrc", 150.0, options
    ).half_i
    without = replace(Particles.read(tiny_set / "particles.star"), half_i=half_i)[kept]
    alone = posterion.refine(without, tiny_set / "reference.mrc", tmp_path / "alone", 150.0, options)
    assert alone.summary["resolution_angstrom"] == found["nan"].summary["resolution_angstrom"]
    ours, theirs = (read_map(run.folder / "map.mrc")[0] for run in (found["nan"], alone))
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * theirs.max())


def test_a_run_that_sets_images_aside_is_the_same_when_stopped(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Particles.read(tiny_set / "particles.star").images()
    images[4, 3, 3], images[9] = 1e7, 1e3 * images[9]
    spoiled = spoiled_set(tiny_set, tmp_path / "set", images)
    options = replace(tiny_options, max_iterations=3)
    whole = start(spoiled, tmp_path / "whole", options)
    assert len(whole.summary["quarantined"]) == 2
    stopped_at_each_iteration(spoiled, tmp_path / "out", replace(options, threads=1), monkeypatch)
    require_same_results(tmp_path / "out", whole.folder)
    assert (tmp_path / "out" / "quarantine.txt").read_text() == (whole.folder / "quarantine.txt").read_text()


def test_a_second_grey_scale_is_kept_and_warned_of(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path
) -> None:
    images = Particles.read(tiny_set / "particles.star").images()
    images[::4] *= 100
    spoiled = spoiled_set(tiny_set, tmp_path / "set", images)
    result = start(spoiled, tmp_path / "out", replace(tiny_options, max_iterations=1))
    assert result.summary["quarantined"] == []
    warning = result.summary["warnings"][0]
    assert "about 25 % of the images of optics group 'opticsGroup1' have" in warning
    assert (tmp_path / "out" / "run.log").read_text().count(warning) == 1


def test_images_of_other_gain_are_kept(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path
) -> None:
    """A third of one optics group is five times as strong, a few images ten times."""
    images = Particles.read(tiny_set / "particles.star").images()
    images[::3] *= 5
    images[[1, 4]] *= 10
    spoiled = spoiled_set(tiny_set, tmp_path / "set", images)
    result = start(spoiled, tmp_path / "out", replace(tiny_options, max_iterations=1))
    assert result.summary["quarantined"] == []
    assert len(Particles.read(result.folder / "particles.star")) == 32


def test_grey_scale_of_the_reference_does_not_matter(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path
) -> None:
    values, pixel_size = read_map(tiny_set / "reference.mrc")
    scales = []
    for factor in (1.0, 1000.0):
        write_map(tmp_path / f"ref{factor}.mrc", factor * values, pixel_size)
        result = posterion.refine(
            tiny_set / "particles.star",
            tmp_path / f"ref{factor}.mrc",
            tmp_path / f"out{factor}",
            150.0,
            replace(tiny_options, max_iterations=1),
        )
        scales.append(factor * result.summary["reference_scale"])
    assert scales[1] == pytest.approx(scales[0], rel=0.05)
    truth = read_map(tiny_set / "truth.mrc")[0]
    assert np.sum(truth * values) / np.sum(values * values) == pytest.approx(scales[0], rel=0.35)


def test_inverted_contrast_is_said(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_module.init
    monkeypatch.setattr(run_module, "init", lambda *a: (first(*a)[0], -0.3))
    with pytest.raises(PosterionError, match="--invert-contrast"):
        start(tiny_set, tmp_path / "out", tiny_options)


def test_dark_particles_are_inverted_on_demand(
    tiny_run: posterion.RefineResult, tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path
) -> None:
    (tmp_path / "particles.star").write_text((tiny_set / "particles.star").read_text())
    write_stack(tmp_path / "particles.mrcs", -Particles.read(tiny_set / "particles.star").images(), 7.5)
    arguments = (tmp_path / "particles.star", tiny_set / "reference.mrc")
    with pytest.raises(PosterionError, match="inverted contrast"):
        posterion.refine(*arguments, tmp_path / "out", 150.0, tiny_options)
    options = replace(tiny_options, invert_contrast=True)
    result = posterion.refine(*arguments, tmp_path / "out", 150.0, options)
    assert (result.folder / "map.mrc").read_bytes() == (tiny_run.folder / "map.mrc").read_bytes()
    assert "dark in the stacks" in (result.folder / "run.log").read_text()
    assert read_config(result.folder / "config.toml")["options"] == options


def test_full_disk(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at a checkpoint: one sentence, and the run goes on from the one before."""
    save, calls = run_module.save_checkpoint, []

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    def full_at_second(path: Path, checkpoint: object) -> None:
        calls.append(path)
        if len(calls) == 2:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", full)
                save(path, checkpoint)
        else:
            save(path, checkpoint)

    monkeypatch.setattr(run_module, "save_checkpoint", full_at_second)
    output = tmp_path / "out"
    with pytest.raises(PosterionError, match=r"checkpoint\.h5: cannot be written \(No space left"):
        start(tiny_set, output, replace(tiny_options, max_iterations=1))
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint.h5", "config.toml", "run.log"]
    start(tiny_set, output, replace(tiny_options, max_iterations=1))
    assert "going on from iteration 0" in (output / "run.log").read_text()


KILLED = """
import dataclasses, os, signal
from posterion.cli import main
from posterion.refine import run

def killed(context, state, final):
    if state.iteration == 1:
        kill = lambda count: os.kill(os.getpid(), signal.SIGKILL)
        context = dataclasses.replace(context, observer=kill)
    return step(context, state, final)

step, run.step = run.step, killed
main()
"""


def test_killed_with_sigkill_it_goes_on_to_the_same_bytes(
    tiny_run: posterion.RefineResult, tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path: Path
) -> None:
    """It kills itself after the first batch of iteration 2: from outside it may be over before one looks."""
    output = tmp_path / "out"
    command = [
        *(sys.executable, "-c", KILLED, "refine"),
        *(str(tiny_set / "particles.star"), "-r", str(tiny_set / "reference.mrc"), "-d", "150"),
        *("-o", str(output), "--max-iterations", "2", "--shift-range", "8", "--threads", "1"),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len((output / "iterations.jsonl").read_text().splitlines()) == 1
    assert not (output / "summary.json").exists()
    (output / ".99999999-unfinished-map.mrc").write_text("left by the killed process")
    result = start(tiny_set, output, tiny_options)
    assert not result.was_finished
    assert "going on from iteration 1," in (output / "run.log").read_text()
    require_same_results(output, tiny_run.folder)
    assert not list(output.glob(".*"))


@pytest.mark.parametrize(
    ("available", "words"),
    [
        (2.1e9, None),
        (1.6e9, "1.6 GB of memory left: the run may be stopped for want of memory if posteriors stay broad;"),
        (1.2e9, "1.2 GB of memory left: the run may be stopped for want of memory; fewer threads"),
        (None, None),
    ],
)
def test_too_little_memory_is_said_before(
    available: float | None,
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """300 images of 128 px on four threads: 1.3 GB, or 1.9 GB where posteriors stay broad."""
    monkeypatch.setattr(run_module, "memory_available_bytes", lambda: available)
    config = RefineConfig(diameter_angstrom=150.0)
    context: Any = SimpleNamespace(
        particles=range(300), box=128, config=config, workers=SimpleNamespace(threads=4)
    )
    with caplog.at_level("INFO", "posterion"):
        run_module._tell_forecast(context)
    said, *warned = caplog.records
    assert "1.3 GB of memory, in the last iteration (up to 1.9 GB if posteriors stay broad), and about" in (
        said.getMessage()
    )
    assert len(warned) == (words is not None)
    assert words is None or words in warned[0].getMessage()
