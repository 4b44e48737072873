"""Renew the list of files in docs/architecture.md from the first lines of the modules' docstrings."""

import ast
import re
from pathlib import Path

PAGE = Path(__file__).with_name("architecture.md")
PACKAGE = PAGE.parents[1] / "src" / "posterion"
BEGIN, END = "<!-- files: made by docs/make_architecture.py -->\n", "<!-- end of files -->"
ROOMS = (
    "",
    "data",
    "kernels",
    "physics",
    "inference",
    "mapping",
    "refine",
    "micrographs",
    "workflow",
    "report",
    "cli",
)


def summary(path: Path) -> str:
    """First paragraph of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def file_lines(room: Path) -> list[str]:
    """One line for each file of a room, in alphabetical order."""
    paths = sorted(path for path in room.rglob("*.py") if room != PACKAGE or path.parent == PACKAGE)
    return [
        f"- `{path.relative_to(PACKAGE).as_posix()}`: {summary(path)}"
        for path in paths
        if path.name != "__init__.py" or room == PACKAGE
    ]


def room_lines(name: str) -> list[str]:
    """Heading and lines of one room."""
    room = PACKAGE / name
    title = [f"### `{name}/`", "", summary(room / "__init__.py"), ""] if name else ["### `posterion/`", ""]
    return [*title, *file_lines(room), ""]


def renewed(page: str) -> str:
    """Return the page with its list of files made anew; everything outside the marks stays."""
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    names = [*ROOMS, *sorted(found - set(ROOMS))]
    lines = [line for name in names for line in room_lines(name)]
    return re.sub(f"{BEGIN}.*?{END}", lambda _: BEGIN + "\n".join(["", *lines]) + END, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
