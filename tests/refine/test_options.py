"""Options resolved, and config.toml there and back."""

from pathlib import Path

import pytest

from posterion.data.particles import Supplement
from posterion.errors import PosterionError
from posterion.refine.options import RefineOptions, Sources, read_config, resolve, write_config


@pytest.mark.parametrize(("diameter", "lowpass"), [(90, 20), (180, 30), (500, 60)])
def test_what_is_left_open_is_chosen(diameter: float, lowpass: float) -> None:
    config = resolve(RefineOptions(), diameter, 256, 2.0)
    assert config.initial_lowpass_angstrom == lowpass
    assert config.shift_range_angstrom == 10.0
    assert config.join_halves_angstrom == 40.0


@pytest.mark.parametrize(
    ("diameter", "changes", "sentence"),
    [
        (513, {}, "diameter, 513 A, does not fit the box of 256 px x 2 A = 512.0 A"),
        (0, {}, "diameter"),
        (float("nan"), {}, "diameter"),
        (200, {"symmetry": "Q7"}, "Q7"),
        (200, {"method": "magic"}, "em, projection-matching"),
        (200, {"search": "magic"}, "auto, exhaustive, adaptive, branch-and-bound"),
        (200, {"search": "branch-and-bound", "method": "projection-matching"}, "choose another search"),
        (200, {"subset": "some"}, "auto, all"),
        (200, {"initial_lowpass_angstrom": 3.0}, "low-pass"),
        (200, {"shift_range_angstrom": 300.0}, "shift range"),
        (200, {"max_iterations": 0}, "iterations"),
    ],
)
def test_what_cannot_be_is_refused(diameter: float, changes: dict, sentence: str) -> None:
    with pytest.raises(PosterionError, match=sentence):
        resolve(RefineOptions(**changes), diameter, 256, 2.0)


def test_config_there_and_back(tmp_path: Path) -> None:
    sources = Sources(tmp_path / 'odd "name" é.star', tmp_path / "ref.mrc", 150.0)
    supplement = Supplement(tmp_path / "s.mrcs", 1.5, passthrough=(tmp_path / "a.cs",))
    options = RefineOptions("D2", tmp_path / "m.mrc", threads=3, seed=7, subset="all", supplement=supplement)
    write_config(tmp_path / "config.toml", sources, options)
    found = read_config(tmp_path / "config.toml")
    assert found.pop("options") == options
    assert found == {
        "particles": sources.particles,
        "reference": sources.reference,
        "diameter_angstrom": 150.0,
    }


def test_config_defaults_and_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'particles = "p.star"\nthreads = 2\ninitial_lowpass_angstrom = 30\n'
    )
    found = read_config(tmp_path / "config.toml")
    assert found["particles"] == tmp_path / "p.star"
    assert found["options"] == RefineOptions(threads=2, initial_lowpass_angstrom=30.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sede = 1\n", "'sede' is no option"),
        ("seed = 1.5\n", "seed = 1.5 is not of the right type"),
        ('threads = "two"\n', "threads"),
        ("mask = 3\n", "mask"),
        ("supplement = 3\n", "table"),
        ("[supplement]\nvolts = 3\n", "'volts' is no option"),
        ("seed == 1\n", "not a TOML file"),
    ],
)
def test_bad_config(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(PosterionError, match=sentence):
        read_config(tmp_path / "config.toml")


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(PosterionError, match="cannot be read"):
        read_config(tmp_path / "config.toml")
