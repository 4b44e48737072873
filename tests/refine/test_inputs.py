"""What a refinement starts from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import posterion
from posterion.compute import Workers
from posterion.errors import PosterionError
from posterion.refine.inputs import check_for_reconstruction, check_images, prepare


@pytest.fixture
def particles(tiny_set: Path) -> posterion.Particles:
    return posterion.Particles.read(tiny_set / "particles.star")


def test_half_sets_of_the_file_are_kept(tiny_set: Path, particles: posterion.Particles) -> None:
    inputs = prepare(particles, tiny_set / "reference.mrc", 150.0, posterion.RefineOptions())
    assert np.array_equal(inputs.half_i, particles.half_i)
    assert inputs.notes == ()
    assert inputs.particles_path == tiny_set / "particles.star"


def test_half_sets_are_drawn_by_the_seed_and_said(tiny_set: Path, particles: posterion.Particles) -> None:
    unassigned = replace(particles, half_i=np.zeros(32, np.int8))
    drawn = [
        prepare(unassigned, tiny_set / "reference.mrc", 150.0, posterion.RefineOptions(seed=seed))
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(drawn[0].half_i, drawn[1].half_i)
    assert not np.array_equal(drawn[0].half_i, drawn[2].half_i)
    assert np.bincount(drawn[0].half_i).tolist() == [0, 16, 16]
    assert "drawn at random with seed 1" in drawn[0].notes[0]


def test_groups_are_numbered_without_gaps(tiny_set: Path, particles: posterion.Particles) -> None:
    sparse = replace(particles, micrograph_index_i=np.where(np.arange(32) < 5, 7, 3).astype(np.int32))
    inputs = prepare(sparse, tiny_set / "reference.mrc", 150.0, posterion.RefineOptions())
    with Workers(1) as workers:
        context = inputs.context(workers)
    assert context.scale_group_i.tolist() == [1] * 5 + [0] * 27
    assert not context.noise_group_i.any()
    assert not context.tight_mask


def test_no_particles(tiny_set: Path, particles: posterion.Particles) -> None:
    with pytest.raises(PosterionError, match="holds no particles"):
        prepare(particles[[]], tiny_set / "reference.mrc", 150.0, posterion.RefineOptions())


def test_images_are_checked_stack_by_stack(particles: posterion.Particles) -> None:
    check_images(particles, particles.half_i)
    beyond = replace(particles, image_index_i=np.where(np.arange(32) == 4, 99, particles.image_index_i))
    with pytest.raises(PosterionError, match="image number 100 is out of range"):
        check_images(beyond, particles.half_i)


def test_a_half_of_constant_images_is_refused(
    particles: posterion.Particles, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = posterion.Particles.images
    monkeypatch.setattr(
        posterion.Particles,
        "images",
        lambda self, rows: reader(self, rows) * (particles.half_i[rows] != 2)[:, None, None],
    )
    with pytest.raises(PosterionError, match="images of half set 2 can be used"):
        check_images(particles, particles.half_i)


def test_reconstruction_needs_poses_and_a_diameter_that_fits(
    tiny_set: Path, particles: posterion.Particles
) -> None:
    with pytest.raises(PosterionError, match="has no poses"):
        check_for_reconstruction(particles, "C1", None, 1)
    truth = posterion.Particles.read(tiny_set / "truth.star")
    check_for_reconstruction(truth, "D7", 150.0, 1)
    with pytest.raises(PosterionError, match="does not fit the box"):
        check_for_reconstruction(truth, "C1", 500.0, 1)
    with pytest.raises(PosterionError, match="X5"):
        check_for_reconstruction(truth, "X5", None, 1)


def test_a_run_is_known_by_its_search(tiny_set: Path, particles: posterion.Particles) -> None:
    marks = [
        prepare(
            particles, tiny_set / "reference.mrc", 150.0, posterion.RefineOptions(search=search)
        ).fingerprint()
        for search in ("adaptive", "branch-and-bound")
    ]
    assert [mark.pop("search") for mark in marks] == ["adaptive", "branch-and-bound"]
    assert marks[0] == marks[1]
