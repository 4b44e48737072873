"""The rotations of a point group, printed."""

import numpy as np
import pytest
from typer.testing import CliRunner

from posterion.cli import app
from posterion.errors import PosterionError
from posterion.physics.symmetry import point_group_operators


def test_the_operators_are_printed() -> None:
    shown = CliRunner().invoke(app, ["symmetry", "D2"])
    assert shown.exit_code == 0
    numbers = [[float(v) for v in line.split()] for line in shown.stdout.splitlines() if "." in line]
    np.testing.assert_allclose(np.reshape(numbers, (-1, 3, 3)), point_group_operators("D2"), atol=1e-6)


def test_an_unknown_group_says_what_is_known() -> None:
    with pytest.raises(PosterionError, match="C1, C2"):
        CliRunner().invoke(app, ["symmetry", "X3"], catch_exceptions=False)
