"""What a step was run with, kept in its folder, and whether that is still so."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from posterion.data.atomic import write_text
from posterion.data.files import find_file, places_to_look, without_format
from posterion.data.star import read_star
from posterion.errors import PosterionError
from posterion.workflow.plan import OUTPUTS, Plan, Step

__all__ = [
    "RECORD",
    "FileMark",
    "StepRecord",
    "changed_output",
    "difference",
    "inputs_of",
    "mark_of",
    "outputs_of",
]

RECORD = "step.json"
_NO_DIFFERENCE = ("threads", "json")
"""Options that change how fast or how talkative a step is, not what it gives."""
_DIGESTED_BYTES = 1 << 24
_DIGESTED_FILES = 100


@dataclass(frozen=True)
class FileMark:
    """By what a file is known: size, time of change and, where it is small, a digest of its content."""

    size: int
    modified_ns: int
    digest: str = ""

    def matches(self, path: Path) -> bool:
        """Whether a file is still the same: not written since, or with the same content."""
        try:
            found = path.stat()
        except OSError:
            return False
        if found.st_size != self.size:
            return False
        return found.st_mtime_ns == self.modified_ns or bool(self.digest and _digest(path) == self.digest)


def mark_of(path: Path, with_digest: bool = True) -> FileMark:
    """Mark a file as it is now; up to 16 MB by its content too, if that is wanted."""
    found = path.stat()
    digest = _digest(path) if with_digest and found.st_size <= _DIGESTED_BYTES else ""
    return FileMark(found.st_size, found.st_mtime_ns, digest)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@dataclass(frozen=True)
class StepRecord:
    """One run of a step.

    Attributes
    ----------
    program : name and version
    command : that was run
    options : name to value, as text
    inputs : path, relative to the workflow's folder, to what the file was
    outputs : path, relative to the step's folder, to what was written; empty until finished
    finished : whether the command came to its end
    exit_code : with which it ended
    wall_seconds, cpu_seconds : spent, over all attempts
    """

    program: str
    command: str
    options: Mapping[str, str]
    inputs: Mapping[str, FileMark]
    outputs: Mapping[str, FileMark] = field(default_factory=dict)
    finished: bool = False
    exit_code: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0

    @classmethod
    def of(cls, plan: Plan, step: Step, with_digests: bool = False) -> StepRecord:
        """Record of a step as it would be run now; with digests, unless there are over a hundred inputs."""
        arguments = step.arguments(plan)
        options = {
            name: _as_text(value, plan.folder)
            for name, value in sorted(arguments.items())
            if name not in (*_NO_DIFFERENCE, *OUTPUTS) or name in step.options
        }
        for name in _NO_DIFFERENCE:
            options.pop(name, None)
        files = inputs_of(step, arguments)
        digested = with_digests and len(files) <= _DIGESTED_FILES
        marks = {os.path.relpath(path, plan.folder): mark_of(path, digested) for path in files}
        return cls(f"posterion {version('posterion')}", step.command, options, marks)

    @classmethod
    def read(cls, folder: Path) -> StepRecord | None:
        """Record in a step's folder; None where there is none, or one that cannot be understood."""
        try:
            values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            for kind in ("inputs", "outputs"):
                values[kind] = {path: FileMark(**mark) for path, mark in values[kind].items()}
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, folder: Path) -> None:
        """Write into a step's folder, whole or not at all."""
        write_text(folder / RECORD, json.dumps(asdict(self), indent=1) + "\n")


def _as_text(value: Any, folder: Path) -> str:
    """Write a value so that it is the same for the same meaning wherever the project lies."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_as_text(item, folder) for item in value) + "]"
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute()):
        return os.path.relpath(value, folder)
    return str(getattr(value, "value", value))


def inputs_of(step: Step, arguments: Mapping[str, Any]) -> list[Path]:
    """Files that a step reads: those its options name, all in folders they name, and images of STAR files."""
    named = [
        Path(item)
        for name, value in arguments.items()
        if name not in OUTPUTS
        for item in (value if isinstance(value, list | tuple) else [value])
        if isinstance(item, Path) or (isinstance(item, str) and Path(item).is_absolute())
    ]
    files = [path for path in named if path.is_file()]
    files += [path for folder in named if folder.is_dir() for path in _files_in(folder)]
    images = [image for path in files if path.suffix.lower() == ".star" for image in _named_in_star(path)]
    return list(dict.fromkeys((*files, *images)))


def _named_in_star(path: Path) -> list[Path]:
    """Stacks of a STAR file of particles, micrographs of one of micrographs, as far as they are there."""
    try:
        tables = read_star(path)
    except PosterionError:  # the command will say it better
        return []
    found: dict[Path, None] = {}
    places = places_to_look(path.parent)
    for table in tables:
        column = table.columns.get("rlnImageName", table.columns.get("rlnMicrographName"))
        for name in dict.fromkeys(column.strings()[0]) if column is not None else ():
            file = find_file(without_format(name.rpartition("@")[2]), places)
            if file is not None:
                found[file] = None
    return list(found)


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)


def outputs_of(folder: Path) -> dict[str, FileMark]:
    """Files in a step's folder, by their path in it; without those of the workflow itself."""
    return {
        path.relative_to(folder).as_posix(): mark_of(path, with_digest=False) for path in _files_in(folder)
    }


def difference(then: StepRecord, now: StepRecord, folder: Path) -> str | None:
    """Say what has changed since a step was run, as far as it can change the result; None if nothing has.

    Parameters
    ----------
    then, now : records of the run and of the step as it stands
    folder : of the workflow file, which inputs are relative to
    """
    if then.program != now.program:
        return f"made by {then.program}, this is {now.program}"
    if then.command != now.command:
        return f"command {then.command} -> {now.command}"
    changes = [
        f"{name}: {then.options.get(name, 'not given')} -> {now.options.get(name, 'not given')}"
        for name in sorted({*then.options, *now.options})
        if then.options.get(name) != now.options.get(name)
    ]
    for name in sorted({*then.inputs, *now.inputs}):
        if name not in now.inputs:
            changes.append(f"input {name} is gone")
        elif name not in then.inputs:
            changes.append(f"input {name} is new")
        elif not then.inputs[name].matches(folder / name):
            changes.append(f"input {name} has changed")
    if not changes:
        return None
    return changes[0] + (f" (and {len(changes) - 1} more)" if len(changes) > 1 else "")


def changed_output(record: StepRecord, folder: Path) -> str | None:
    """Say which output is no longer as it was written; None if all are."""
    for name, mark in record.outputs.items():
        if not (folder / name).is_file():
            return f"output {name} is gone"
        if not mark.matches(folder / name):
            return f"output {name} was changed by something else"
    return None
