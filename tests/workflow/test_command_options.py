"""What a command takes, read from its signature, and values checked against it."""

import enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from posterion.workflow.command_options import checked, command_options


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def command(
    source: Annotated[Path, typer.Argument(help="Where  from.")],
    many: Annotated[list[Path] | None, typer.Option(help="More.")] = None,
    pair: Annotated[tuple[float, float], typer.Option(help="Range.")] = (1.0, 2.0),
    size: Annotated[int | None, typer.Option(help="Pixels.", min=2, max=9)] = None,
    length: Annotated[float, typer.Option(help="A.", min=0.0)] = 1.0,
    flag: Annotated[bool, typer.Option("--flag", help="Whether.")] = False,
    how: Annotated[Literal["a", "b"] | None, typer.Option(help="How.")] = None,
    colour: Annotated[Colour, typer.Option(help="Which.")] = Colour.RED,
    word: Annotated[str, typer.Option(help="auto or a number.")] = "auto",
) -> None:
    """Do nothing."""


OPTIONS = command_options(command)


def test_signature() -> None:
    assert list(OPTIONS) == [
        "source",
        "many",
        "pair",
        "size",
        "length",
        "flag",
        "how",
        "colour",
        "word",
    ]
    assert [name for name, option in OPTIONS.items() if option.required] == ["source"]
    assert OPTIONS["source"].meaning == "Where from."
    assert OPTIONS["source"].kind is Path
    assert (OPTIONS["many"].kind, OPTIONS["many"].count) == (Path, 0)
    assert (OPTIONS["pair"].kind, OPTIONS["pair"].count) == (float, 2)


@pytest.mark.parametrize(
    ("name", "value", "made"),
    [
        ("source", "x.star", "x.star"),
        ("many", "x", ["x"]),
        ("many", ["x", "y"], ["x", "y"]),
        ("pair", [1, 2.5], (1.0, 2.5)),
        ("size", 2, 2),
        ("length", 3, 3.0),
        ("flag", True, True),
        ("how", "b", "b"),
        ("colour", "blue", Colour.BLUE),
        ("word", -80.5, "-80.5"),
    ],
)
def test_right_values(name: str, value: Any, made: Any) -> None:
    result = checked(OPTIONS[name], value)
    assert result == made
    assert type(result) is type(made)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("source", 3, "a path in quotes"),
        ("source", ["x"], "a path in quotes"),
        ("many", [1], "a list [...], each a path in quotes"),
        ("pair", [1.0], "a list of 2, each a number"),
        ("pair", "1:2", "a list of 2, each a number"),
        ("size", 10, "a whole number from 2 to 9"),
        ("size", 2.5, "a whole number from 2 to 9"),
        ("size", True, "a whole number from 2 to 9"),
        ("length", -1, "a number of 0 or more"),
        ("length", float("nan"), "a number of 0 or more"),
        ("length", "3", "a number of 0 or more"),
        ("flag", 1, "true or false"),
        ("flag", "yes", "true or false"),
        ("how", "c", 'one of "a", "b"'),
        ("colour", "green", 'one of "red", "blue"'),
        ("word", False, "text in quotes"),
    ],
)
def test_wrong_values(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        checked(OPTIONS[name], value)
    assert OPTIONS[name].expected() == expected
