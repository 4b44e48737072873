"""Memory that grows with the number of particles: at most 200 bytes for each, whatever its row holds."""

import gc
import importlib
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import posterion
from posterion.compute import Workers
from posterion.refine.auto_refine import step
from posterion.refine.inputs import prepare
from posterion.refine.start import init

OPTIONS = posterion.RefineOptions(shift_range_angstrom=8.0, threads=1)


def longer_set(tiny_set: Path, folder: Path, copies: int) -> Path:
    """The tiny set's rows repeated, each with text of 500 characters that differs from row to row."""
    lines = (tiny_set / "particles.star").read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("_rln"))
    header = [*lines[: last + 1], f"_userText #{int(lines[last].split('#')[1]) + 1}"]
    rows = [line for line in lines if ".mrcs" in line]
    text = (f"{row} {copy:06d}{i:03d}{'x' * 491}" for copy in range(copies) for i, row in enumerate(rows))
    star = folder / f"long{copies}.star"
    star.write_text("\n".join([*header, *text]) + "\n")
    for stack in tiny_set.glob("*.mrcs"):
        if not (folder / stack.name).exists():
            (folder / stack.name).symlink_to(stack)
    return star


def bytes_of_an_iteration(star: Path, tiny_set: Path) -> tuple[int, int]:
    """Particles, and the most bytes held at any moment of an iteration by prepared inputs and states."""
    gc.collect()
    tracemalloc.start()
    try:
        inputs = prepare(star, tiny_set / "reference.mrc", 150.0, OPTIONS)
        with Workers(1) as workers:
            # Cycles of dead objects wait for the collector however few particles there are: not counted.
            context = replace(inputs.context(workers), observer=lambda _: gc.collect())
            state, _ = init(context, inputs.reference)
            gc.collect()
            tracemalloc.reset_peak()
            state, _, _ = step(context, state)
            return len(inputs.particles), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_per_particle(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("inference.priors", "refine.iteration_report"):  # a set of many blocks, though a small one
        monkeypatch.setattr(importlib.import_module(f"posterion.{module}"), "_BLOCK", 64)
    # Threads hold some kilobytes more or less at the peak, by chance: 5 % of what 768 particles take.
    few, some = (longer_set(tiny_set, tmp_path, copies) for copies in (4, 28))
    bytes_of_an_iteration(few, tiny_set)  # caches are filled
    (few_count, few_bytes), (some_count, some_bytes) = (
        bytes_of_an_iteration(star, tiny_set) for star in (few, some)
    )
    each = (some_bytes - few_bytes) / (some_count - few_count)
    assert 100 < each < 200, each


def test_the_smallest_type_holds_the_groups(tiny_set: Path) -> None:
    inputs = prepare(tiny_set / "particles.star", tiny_set / "reference.mrc", 150.0, OPTIONS)
    with Workers(1) as workers:
        context = inputs.context(workers)
    assert context.noise_group_i.dtype == np.uint8
    assert context.noise_group_i.max() == 0


@pytest.mark.parametrize("name", ["matrices", "shifts_px", "log_likelihood", "pmax", "correlation"])
def test_estimates_take_four_bytes_a_number(name: str) -> None:
    from posterion.refine.state import ParticleEstimates

    assert getattr(ParticleEstimates.empty(2), name).dtype == np.float32
