"""The tiny set as a refinement sees it before its first iteration."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import posterion
from posterion.compute import Workers
from posterion.mapping.masks import low_pass
from posterion.refine.context import RefineContext
from posterion.refine.inputs import prepare
from posterion.refine.start import init
from posterion.refine.state import RefinementState


@pytest.fixture(scope="module")
def tiny_context(tiny_set: Path, tiny_options: posterion.RefineOptions) -> Iterator[RefineContext]:
    """The run, one thread."""
    inputs = prepare(tiny_set / "particles.star", tiny_set / "reference.mrc", 150.0, tiny_options)
    with Workers(1) as workers:
        yield inputs.context(workers)


@pytest.fixture(scope="module")
def tiny_start(tiny_context: RefineContext, tiny_set: Path) -> RefinementState:
    """Where it starts."""
    return init(tiny_context, low_pass(posterion.read_map(tiny_set / "reference.mrc")[0], 25.0, 7.5))[0]
