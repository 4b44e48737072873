"""What a command takes, read from its own signature: so every command can be a step without new code."""

from __future__ import annotations

import enum
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

__all__ = ["CommandOption", "checked", "command_options"]

_WORDS = {
    Path: "a path in quotes",
    float: "a number",
    int: "a whole number",
    str: "text in quotes",
    bool: "true or false",
}


@dataclass(frozen=True)
class CommandOption:
    """One argument or option of a command.

    Attributes
    ----------
    name : of the parameter; the key in a workflow
    kind : Path, float, int, str or bool
    count : values there must be: 1; a fixed number; 0 for any number of them
    choices : text to what it stands for, where only some values are allowed
    low, high : bounds of a number
    required : whether the command needs it
    meaning : its help
    """

    name: str
    kind: type
    count: int = 1
    choices: Mapping[str, Any] | None = None
    low: float = -math.inf
    high: float = math.inf
    required: bool = False
    meaning: str = ""

    def expected(self) -> str:
        """Say in words what is expected."""
        one = _WORDS[self.kind]
        if self.choices is not None:
            one = "one of " + ", ".join(f'"{choice}"' for choice in self.choices)
        elif math.isfinite(self.low) and math.isfinite(self.high):
            one += f" from {self.low:g} to {self.high:g}"
        elif math.isfinite(self.low):
            one += f" of {self.low:g} or more"
        if self.count == 1:
            return one
        return f"a list [...], each {one}" if self.count == 0 else f"a list of {self.count}, each {one}"


def command_options(function: Callable[..., None]) -> dict[str, CommandOption]:
    """Read the arguments and options of a command from its signature, by name of the parameter.

    Parameters
    ----------
    function : of a command: every parameter is ``Annotated[type, typer.Option(...) or typer.Argument(...)]``
    """
    kinds = typing.get_type_hints(function, include_extras=True)
    return {
        name: _option(name, kinds[name], parameter)
        for name, parameter in inspect.signature(function).parameters.items()
    }


def _option(name: str, annotated: Any, parameter: inspect.Parameter) -> CommandOption:
    annotation, info = typing.get_args(annotated)[:2]
    kind, count, choices = _kind(annotation)
    low, high = (getattr(info, end, None) for end in ("min", "max"))
    return CommandOption(
        name,
        kind,
        count,
        choices,
        -math.inf if low is None else low,
        math.inf if high is None else high,
        parameter.default is inspect.Parameter.empty,
        " ".join((info.help or "").split()),
    )


def _kind(annotation: Any) -> tuple[type, int, Mapping[str, Any] | None]:
    """Type of one value, how many there are, and the choices."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return _kind(next(part for part in parts if part is not type(None)))
    if origin is list or (origin is tuple and parts[-1] is Ellipsis):
        return _kind(parts[0])[0], 0, None
    if origin is tuple:
        return _kind(parts[0])[0], len(parts), None
    if origin is Literal:
        return str, 1, {str(part): part for part in parts}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return str, 1, {str(member.value): member for member in annotation}
    return annotation, 1, None


def checked(option: CommandOption, value: Any) -> Any:
    """Give a value of a TOML file the option's type; ValueError where it has another.

    A single value stands for a list of one, a number for the text of it.
    """
    if option.count == 1:
        return _one(option, value)
    values = value if isinstance(value, list) else [value]
    if option.count and len(values) != option.count:
        raise ValueError
    made = [_one(option, item) for item in values]
    return tuple(made) if option.count else made


def _one(option: CommandOption, value: Any) -> Any:
    made = _of_kind(option, value)
    if option.choices is not None:
        if made not in option.choices:
            raise ValueError
        return option.choices[made]
    if option.kind in (int, float) and not option.low <= made <= option.high:
        raise ValueError
    return made


def _of_kind(option: CommandOption, value: Any) -> Any:
    """Give a value that is of the option's kind, paths as text; a whole number may stand for any number."""
    if option.kind is str and type(value) in (int, float):
        return str(value)
    if option.kind is float and type(value) is int:
        return float(value)
    if type(value) is not (str if option.kind is Path else option.kind):
        raise ValueError
    return value
