"""Sphinx extension: the pages of the API reference, one per module, written anew before each build."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from make_architecture import PACKAGE, ROOMS, summary
from sphinx.application import Sphinx

FOLDER = Path(__file__).parent / "api" / "generated"
LEFT_OUT = ("cli",)  # its reference is cli.md
BEFORE_NAPOLEON = 400
TYPE_ONLY = 45  # characters: shape and type, with a sentence on the next line
ENTRY = re.compile(r"([A-Za-z_*][\w, *]*?) ?: (\S.*)")


def module_name(path: Path) -> str:
    """Dotted name of a source file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_paths(room: str) -> list[Path]:
    """Return the public modules of a room in alphabetical order; of the package itself, its own files."""
    return [path for path in sorted((PACKAGE / room).glob("*.py")) if not path.name.startswith("_")]


def module_page(path: Path) -> str:
    """Title, docstring and members of one module."""
    name = module_name(path)
    title = name.removeprefix("posterion.")
    return f"{title}\n{'=' * len(title)}\n\n.. automodule:: {name}\n   :members:\n"


def face() -> list[str]:
    """One line for each name that ``import posterion`` gives."""
    posterion = importlib.import_module("posterion")
    values = ((name, getattr(posterion, name)) for name in sorted(posterion.__all__, key=str.lower))
    return [
        f"- :py:obj:`posterion.{name} <{value.__module__}.{name}>`: {value.__doc__.strip().splitlines()[0]}"
        for name, value in values
    ]


def contents(by_room: dict[str, list[Path]]) -> str:
    """List every module under its room, and the names at the package's top."""
    lines = ["Names at the top of the package", "-" * 31, "", *face(), ""]
    for room, paths in by_room.items():
        title = f"{room or 'posterion'}/"
        lines += [title, "-" * len(title), ""]
        lines += [
            f"- :py:mod:`{module_name(p).removeprefix('posterion.')} <{module_name(p)}>`: {summary(p)}"
            for p in paths
        ]
        lines += ["", ".. toctree::", "   :hidden:", ""]
        lines += [f"   /api/generated/{module_name(path)}" for path in paths] + [""]
    return "\n".join(lines)


def rooms() -> dict[str, list[Path]]:
    """Return the public modules by room, in the order of the architecture page."""
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    names = [name for name in (*ROOMS, *sorted(found - set(ROOMS))) if name not in LEFT_OUT]
    return {name: room_paths(name) for name in names}


def write_pages(_: Sphinx) -> None:
    """Write all pages; those of modules that are gone disappear, unchanged ones keep their time."""
    all_rooms = rooms()
    paths = [path for room in all_rooms.values() for path in room]
    pages = {f"{module_name(path)}.rst": module_page(path) for path in paths}
    pages["contents.inc"] = contents(all_rooms)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        page = FOLDER / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def entries_as_text(lines: list[str]) -> Iterator[str]:
    """Give ``name : shape, type, unit`` on one line, and what follows it, as one text under the name.

    Napoleon would take what stands after the colon for the name of a type.
    """
    inside = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch("-{3,}", following):
            inside = line in ("Parameters", "Attributes")
        found = ENTRY.fullmatch(line) if inside else None
        if found:
            name, text = found.groups()
            sentence_follows = len(text) < TYPE_ONLY and re.match(r"    [A-Z]", following)
            yield name
            yield f"    {text}{'.' if sentence_follows and text[-1] not in '.,:;' else ''}"
        else:
            yield line


def plain(text: str) -> str:
    """Let |x| and names_ outside of ``literals`` be text; no docstring means substitutions or links."""
    parts = re.split(r"(``.*?``)", text, flags=re.DOTALL)
    parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\_", part.replace("|", r"\|")) for part in parts[::2]]
    return "".join(parts)


def read_docstring(
    _app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Turn a docstring as it is written here into what Sphinx reads."""
    lines[:] = plain("\n".join(entries_as_text(lines))).split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages when a build begins; read docstrings as the plain text that they are."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", read_docstring, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
