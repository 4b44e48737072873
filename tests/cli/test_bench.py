"""`posterion bench`: tables or JSON, and one sentence for a wrong option."""

import json

import pytest
from typer.testing import CliRunner

from posterion.cli import app
from posterion.errors import PosterionError

TINY = ("bench", "--box", "24", "--diameter", "150", "--particles", "500", "--quick", "--symmetry", "O")


def test_tables() -> None:
    result = CliRunner().invoke(app, [*TINY, "--threads", "3"])
    assert result.exit_code == 0, result.output
    for words in ("box 24 px of 7.5 A", "symmetry O", "500 particles", "3 threads", "n^5", "memory"):
        assert words in result.stdout


def test_json_is_all_of_the_output() -> None:
    result = CliRunner().invoke(app, [*TINY, "--json", "--resolution", "30"])
    record = json.loads(result.stdout)
    assert record["options"]["n_particles"] == 500
    assert record["options"]["resolution_angstrom"] == 30
    assert record["forecast"]["cpu_seconds"] > 0


def test_a_wrong_option_is_one_sentence() -> None:
    result = CliRunner().invoke(app, ["bench", "--box", "33"])
    assert isinstance(result.exception, PosterionError)
    assert str(result.exception) == "--box 33: expected an even number of pixels from 20 to 1024"


@pytest.mark.parametrize("option", ["--threads", "--particles"])
def test_counts_are_positive(option: str) -> None:
    result = CliRunner().invoke(app, ["bench", "--box", "24", option, "0"])
    assert isinstance(result.exception, PosterionError)
