"""Renew docs/cli.md from the signatures of the commands: every option with its meaning and default."""

import enum
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

from typer.models import ArgumentInfo

import posterion.cli

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Commands

Made by docs/make_cli_reference.py from the commands themselves; a test keeps it in step.
Exit codes: 0 done, 1 problems found (`doctor`), 2 a mistake, which one sentence on stderr explains.
"""


def commands() -> dict[str, Callable[..., None]]:
    """Return the functions behind the commands, by name: those that `posterion.cli` registers."""
    modules = (info.name for info in pkgutil.iter_modules(posterion.cli.__path__))
    public = sorted(name for name in modules if not name.startswith("_"))
    return {
        name.rstrip("_"): getattr(importlib.import_module(f"posterion.cli.{name}"), name) for name in public
    }


def value_name(kind: Any) -> str:
    """Say what kind of value an option takes; nothing for a flag."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        return value_name(next(part for part in typing.get_args(kind) if part is not type(None)))
    if typing.get_origin(kind) is typing.Literal:
        return "\\|".join(str(value) for value in typing.get_args(kind))
    if typing.get_origin(kind) in (list, tuple):
        return value_name(typing.get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "\\|".join(str(member.value) for member in kind)
    return {bool: "", str: "text", int: "integer", float: "number"}.get(kind, kind.__name__.lower())


def default_text(parameter: inspect.Parameter) -> str:
    """Say the default; nothing where leaving the option out means none."""
    if parameter.default is inspect.Parameter.empty:
        return "required"
    value = getattr(parameter.default, "value", parameter.default)
    return "" if value is None or value is False else f"`{value}`"


def row(parameter: inspect.Parameter, kind: Any) -> str:
    """Return the line of one argument or option."""
    value, info = typing.get_args(kind)[:2]
    if isinstance(info, ArgumentInfo):
        spelling = f"`{parameter.name.upper()}`"
    else:
        spellings = info.param_decls or [f"--{parameter.name.replace('_', '-')}"]
        spelling = f"{', '.join(f'`{name}`' for name in spellings)} {value_name(value)}".strip()
    return f"| {spelling} | {' '.join((info.help or '').split())} | {default_text(parameter)} |"


def section(name: str, function: Callable[..., None]) -> list[str]:
    """Return heading, text and table of one command."""
    kinds = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    arguments = [
        p.name.upper() for p in parameters if isinstance(typing.get_args(kinds[p.name])[1], ArgumentInfo)
    ]
    usage = " ".join(["posterion", name, *arguments, "[OPTIONS]"])
    rows = [row(parameter, kinds[parameter.name]) for parameter in parameters]
    table = ["| option | meaning | default |", "|---|---|---|", *rows]
    return [f"## {name}", "", f"`{usage}`", "", inspect.getdoc(function) or "", "", *table, ""]


def reference() -> str:
    """Return the whole page."""
    lines = [line for name, function in commands().items() for line in section(name, function)]
    return "\n".join([HEAD, *lines])


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
