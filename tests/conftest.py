"""Fixtures shared by all tests, and what must not decide whether they pass: terminal, chance and clock."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import posterion
from posterion.mapping.masks import low_pass
from posterion.physics.sources import read_source

# The same examples in each run, and as many, however long one takes on a busy machine.
settings.register_profile(
    "same_each_time",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("same_each_time")

# What Rich asks of the environment: no user's terminal decides what commands print.
for _variable in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_variable, None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of public test data beside the project; tests skip where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("shared data not present")
    return folder


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with particles.star (32 images, box 24, 7.5 A/px), truth.star, truth.mrc and reference.mrc."""
    folder = tmp_path_factory.mktemp("tiny")
    density, pixel_size = read_source(None, 24, 7.5)
    posterion.simulate([density], pixel_size, folder, posterion.SimulationOptions(32, snr=2.0, seed=3))
    posterion.write_map(folder / "reference.mrc", low_pass(density, 25.0, pixel_size), pixel_size)
    return folder


@pytest.fixture(scope="session")
def tiny_options() -> posterion.RefineOptions:
    """Options under which the tiny set is refined in seconds."""
    return posterion.RefineOptions(max_iterations=2, shift_range_angstrom=8.0, threads=2)


@pytest.fixture(scope="session")
def tiny_run(
    tiny_set: Path, tiny_options: posterion.RefineOptions, tmp_path_factory: pytest.TempPathFactory
) -> posterion.RefineResult:
    """The tiny set, refined once; tests must not change its folder."""
    output = tmp_path_factory.mktemp("tiny-run") / "out"
    return posterion.refine(
        tiny_set / "particles.star", tiny_set / "reference.mrc", output, 150.0, tiny_options
    )
