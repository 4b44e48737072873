"""A workflow file read and checked: which steps there are, in which order, with which options.

Every mistake that can be seen before anything runs is one sentence with file and line.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posterion.errors import PosterionError
from posterion.physics.symmetry import point_group_operators
from posterion.workflow.command_options import CommandOption, checked, command_options

__all__ = ["OUTPUTS", "Commands", "Plan", "Step", "read_plan"]

Commands = Mapping[str, Callable[..., None]]

OUTPUTS = ("output", "target", "new_stack")
"""Parameters of commands that name what they write; all others that are paths name what they read."""
_OUTPUT_FILES = {"mask": ("output", "mask.mrc"), "convert": ("target", "particles.star")}
"""Commands that write one file where the others write a folder: the parameter, and the file's usual name."""
_NEEDED = {"refine": ("particles", "reference", "diameter")}
"""Options without which a command does not start although its signature has a default (--config)."""
_SHARED = ("threads", "seed", "symmetry")
"""Keys that may stand at the top of the file, for every step that has such an option."""
_NO_STEP = ("run",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_REFERENCE = re.compile(r"\{([^{}]*)\}")
_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_\"'.\s-]+?)\s*=")


@dataclass(frozen=True)
class Step:
    """One command of a workflow.

    Attributes
    ----------
    name : of the step and of its folder
    command : what it runs
    folder : where its results go
    options : name to value; paths and text may still refer to other steps
    known : the command's options
    needs : steps whose folders it refers to
    """

    name: str
    command: str
    folder: Path
    options: Mapping[str, Any]
    known: Mapping[str, CommandOption]
    needs: tuple[str, ...]

    def arguments(self, plan: Plan) -> dict[str, Any]:
        """Arguments for the command: references replaced by folders, paths absolute, patterns expanded.

        Raises
        ------
        PosterionError
            When a pattern stands for no file.
        """
        made = {name: self._resolved(name, value, plan) for name, value in self.options.items()}
        parameter, name = _OUTPUT_FILES.get(self.command, ("output", ""))
        if parameter in self.known:
            made.setdefault(parameter, self.folder / name)
        return made

    def _resolved(self, name: str, value: Any, plan: Plan) -> Any:
        option = self.known[name]
        if isinstance(value, list | tuple):
            parts = [self._resolved(name, item, plan) for item in value]
            flat = [item for part in parts for item in (part if isinstance(part, list) else [part])]
            return tuple(flat) if isinstance(value, tuple) else flat
        if not isinstance(value, str) or option.choices is not None:
            return value
        if name in OUTPUTS:
            return self.folder / value
        text = _REFERENCE.sub(lambda found: str(plan.output / found[1]), value)
        path = plan.folder / text
        if option.kind is Path:
            return plan.files_of(self.name, name, text) if option.count == 0 else path
        return str(path) if path.is_file() else text


@dataclass(frozen=True)
class Plan:
    """A whole workflow.

    Attributes
    ----------
    path : its file; relative paths in it start from that file's folder
    output : holds one folder for each step
    steps : in the order in which they run
    lines : (step, key) to line of the file
    """

    path: Path
    output: Path
    steps: tuple[Step, ...]
    lines: Mapping[tuple[str, str], int]

    @property
    def folder(self) -> Path:
        """Folder of the workflow file, absolute."""
        return self.path.absolute().parent

    def error(self, step: str, key: str, complaint: str) -> PosterionError:
        """Complaint with the file and the line of a step's key, or of its head where the key is not there."""
        places = [(step, key), (step, ""), ("", step)]
        if key in _SHARED:
            places.insert(1, ("", key))
        line = next((self.lines[place] for place in places if place in self.lines), None)
        return PosterionError(f"{self.path}{f', line {line}' if line else ''}: {complaint}")

    def files_of(self, step: str, key: str, pattern: str) -> list[Path]:
        """Files that a path or a pattern with ``*`` or ``?`` stands for, in alphabetical order."""
        path = self.folder / pattern
        if not any(sign in pattern for sign in "*?"):
            return [path]
        root = Path(path.anchor)
        found = sorted(root.glob(str(path.relative_to(root))))
        if not found:
            raise self.error(step, key, f"step '{step}', {key}: no file matches {path}")
        return found


def read_plan(path: str | Path, commands: Commands, output: str | Path | None = None) -> Plan:
    """Read and check a workflow file.

    Parameters
    ----------
    path : TOML file: a table for each step, named after its command or with a key ``command``
    commands : functions of the commands, by name
    output : folder for the steps' folders; the file's key ``output``, or a folder of the file's name

    Raises
    ------
    PosterionError
        For anything that is not as docs/workflow.md says: file, line and what was expected.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise PosterionError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PosterionError(f"{path} is not a TOML file: {error}") from None
    top = {name: value for name, value in tables.items() if not isinstance(value, dict)}
    empty = Plan(path, Path(), (), _lines_of_keys(text))
    folder = _output_folder(empty, top, output)
    plan = Plan(path, folder, (), empty.lines)
    shared = _shared_options(plan, top)
    steps: list[Step] = []
    for name, values in tables.items():
        if isinstance(values, dict):
            steps.append(_step(plan, name, values, shared, steps, commands))
    if not steps:
        raise PosterionError(f"{path}: there is no step in it; 'posterion run --example' shows a workflow")
    for key in shared:
        if not any(key in step.known for step in steps):
            raise plan.error("", key, f"'{key}' is an option of none of the steps")
    return Plan(path, folder, tuple(steps), plan.lines)


def _output_folder(plan: Plan, top: dict[str, Any], given: str | Path | None) -> Path:
    value = top.pop("output", None)
    if given is not None:
        return Path(given).absolute()
    if value is None:
        return plan.folder / plan.path.stem if plan.path.suffix else plan.folder / f"{plan.path.name}_output"
    if not isinstance(value, str) or not value:
        raise plan.error("", "output", f"output = {value!r}: a folder in quotes was expected")
    return plan.folder / value


def _shared_options(plan: Plan, top: dict[str, Any]) -> dict[str, Any]:
    for key in top:
        if key.replace("-", "_") not in _SHARED:
            raise plan.error(
                "",
                key,
                f"'{key}' stands outside of all steps, where only output, {', '.join(_SHARED)} may stand; "
                "put it into the table of its step",
            )
    return {key.replace("-", "_"): value for key, value in top.items()}


def _step(
    plan: Plan,
    name: str,
    values: dict[str, Any],
    shared: Mapping[str, Any],
    before: list[Step],
    commands: Commands,
) -> Step:
    """Check one table."""
    values = {key.replace("-", "_"): value for key, value in values.items()}
    command = values.pop("command", name)
    steps = sorted(set(commands) - set(_NO_STEP))
    if not _NAME.fullmatch(name):
        raise plan.error(name, "", f"a step cannot be called '{name}': use letters, digits, - and _")
    if not isinstance(command, str) or command not in steps:
        what = f"step '{name}'" if command == name else f"step '{name}', command '{command}'"
        raise plan.error(
            name,
            "command",
            f"{what} is unknown{_meant(str(command), steps)}; steps are {', '.join(steps)}, "
            'or a name of your own with command = "..."',
        )
    known = command_options(commands[command])
    options = {key: value for key, value in shared.items() if key in known} | values
    made = {key: _value(plan, name, command, key, value, known) for key, value in options.items()}
    needs = tuple(dict.fromkeys(_references(plan, name, made, [step.name for step in before])))
    _require(plan, name, command, made, known)
    return Step(name, command, plan.output / name, made, known, needs)


def _value(
    plan: Plan, step: str, command: str, key: str, value: Any, known: Mapping[str, CommandOption]
) -> Any:
    """Check one option of a step."""
    writes = _OUTPUT_FILES.get(command, ("output", ""))[0]
    if key not in known:
        names = [name for name in known if name != "output"]
        raise plan.error(
            step, key, f"step '{step}' has no option '{key}'{_meant(key, names)}; it has {', '.join(names)}"
        )
    if key == writes and command not in _OUTPUT_FILES:
        raise plan.error(
            step, key, f"step '{step}': its output is the folder {plan.output / step}; leave '{key}' out"
        )
    try:
        made = checked(known[key], value)
        if key == "symmetry":
            point_group_operators(made)
    except ValueError:
        expected, meaning = known[key].expected(), known[key].meaning
        raise plan.error(
            step, key, f"step '{step}', {key} = {_toml(value)}: {expected} was expected ({meaning})"
        ) from None
    except PosterionError as error:
        raise plan.error(step, key, f"step '{step}': {error}") from None
    if key in OUTPUTS and (Path(made).is_absolute() or ".." in Path(made).parts):
        raise plan.error(step, key, f"step '{step}', {key}: a file name was expected, it lies in its folder")
    return made


def _references(plan: Plan, step: str, options: Mapping[str, Any], before: list[str]) -> Iterable[str]:
    """Names in braces; each has to be an earlier step."""
    for key, value in options.items():
        for text in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(text, str):
                continue
            names = _REFERENCE.findall(text)
            for name in names:
                if name not in before:
                    raise plan.error(
                        step,
                        key,
                        f"step '{step}', {key} = {_toml(text)}: {{{name}}} is no step before this one"
                        f"{_meant(name, before)}; before it are {', '.join(before) or 'none'}",
                    )
            yield from names


def _require(
    plan: Plan,
    step: str,
    command: str,
    options: Mapping[str, Any],
    known: Mapping[str, CommandOption],
) -> None:
    """Refuse a step that lacks a key, or names a file that is not there."""
    needed = [name for name, option in known.items() if option.required and name not in OUTPUTS]
    needed += [name for name in _NEEDED.get(command, ()) if "config" not in options]
    for name in needed:
        if name not in options:
            option = known[name]
            raise plan.error(
                step,
                "",
                f"step '{step}' lacks the key '{name}': {option.expected()} ({option.meaning})",
            )
    for key, value in options.items():
        if known[key].kind is not Path or key in OUTPUTS:
            continue
        for text in value if isinstance(value, list | tuple) else [value]:
            if _REFERENCE.search(text) is None and not all(
                path.exists() for path in plan.files_of(step, key, text)
            ):
                raise plan.error(step, key, f"step '{step}', {key}: {plan.folder / text} does not exist")


def _meant(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), 1, 0.6)
    return f", '{near[0]}' may be meant" if near else ""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _lines_of_keys(text: str) -> dict[tuple[str, str], int]:
    """Line of every table's head, as (table, ""), and of every key in it; tomllib does not tell."""
    lines: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        head, key = _HEADER.match(line), _KEY.match(line)
        if head is not None:
            table = head[1].strip("\"' ")
            lines.setdefault((table, ""), number)
        elif key is not None:
            parts = [part.strip().strip("\"'") for part in key[1].split(".")]
            inside = table or (parts[0] if len(parts) > 1 else "")
            name = parts[-1]
            lines.setdefault((inside, name), number)
            lines.setdefault((inside, name.replace("-", "_")), number)
    return lines
