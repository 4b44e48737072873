"""Particle sets without their text, and with it again."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from posterion.data.particles import Particles
from posterion.data.unread import with_text, without_text


@pytest.fixture
def path(tiny_set: Path, tmp_path: Path) -> Path:
    """A STAR file of its own, with a column that nobody understands."""
    star = tmp_path / "particles.star"
    rows = iter(range(100))
    lines = []
    for line in (tiny_set / "particles.star").read_text().splitlines():
        if ".mrcs" in line:
            line = f"{line} oddity{next(rows)}"  # noqa: PLW2901
        lines.append(line)
    last = max(i for i, line in enumerate(lines) if line.startswith("_rln"))
    lines.insert(last + 1, f"_userOddity #{int(lines[last].split('#')[1]) + 1}")
    star.write_text("\n".join(lines) + "\n")
    for stack in tiny_set.glob("*.mrcs"):
        shutil.copy(stack, tmp_path)
    return star


def test_text_comes_back_whole(path: Path, tmp_path: Path) -> None:
    particles = Particles.read(path)
    light = without_text(particles, path)
    assert light.poses is None
    particles.write_star(tmp_path / "straight.star")
    with_text(light).write_star(tmp_path / "again.star", poses=particles.poses)
    assert (tmp_path / "again.star").read_bytes() == (tmp_path / "straight.star").read_bytes()
    assert b"oddity31" in (tmp_path / "again.star").read_bytes()


def test_chosen_rows_keep_their_lines(path: Path) -> None:
    particles = Particles.read(path)
    light = without_text(particles, path)[[5, 3, 9]][1:]
    assert [light.place(row) for row in range(2)] == [particles.place(3), particles.place(9)]
    assert [text.decode() for text in with_text(light).table.columns["userOddity"].text()] == [
        "oddity3",
        "oddity9",
    ]


def test_images_are_the_same(path: Path) -> None:
    particles = Particles.read(path)
    np.testing.assert_array_equal(without_text(particles, path).images([4, 2]), particles.images([4, 2]))


@pytest.mark.parametrize("change", ["gone", "other rows"])
def test_a_file_that_changed_is_done_without(
    path: Path, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    particles = Particles.read(path)
    light = without_text(particles, path)
    if change == "gone":
        path.unlink()
    else:
        particles[:-1].write_star(path)
    with caplog.at_level(logging.WARNING, logger="posterion"):
        particles_now = with_text(light)
    assert str(path) in caplog.text
    particles_now.write_star(tmp_path / "out.star")
    assert len(Particles.read(tmp_path / "out.star")) == len(particles)


def test_a_set_that_has_its_text_is_left_alone(path: Path) -> None:
    particles = Particles.read(path)
    assert with_text(particles) is particles


def test_an_error_names_the_line_without_the_file(path: Path) -> None:
    light = without_text(Particles.read(path), path)
    path.unlink()
    assert light.place(2) == f"{path}, particle 3"
