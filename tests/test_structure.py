"""The rules that keep docs/architecture.md true: import direction, docstrings, sizes, one line per file."""

import ast
import re
import runpy
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "posterion"
FILES = sorted(PACKAGE.rglob("*.py"))

# Rank of a module; a module imports its own rank or lower ones. The longest matching prefix decides.
RANKS = {
    "errors": 0,
    "arrays": 1,
    "compute": 1,
    "data.atomic": 1,
    "data.files": 1,
    "data.mrc": 1,
    "data.star": 1,
    "data.table": 1,
    "physics.fourier": 1,
    "physics.rotations": 1,
    "data": 2,
    "kernels": 3,
    "physics": 4,
    "inference": 5,
    "mapping": 6,
    "refine": 7,
    "micrographs": 7,
    "workflow": 7,
    "report": 8,
    "cli": 9,
    "": 9,
}
# Stricter than the ranks: arrays in, arrays out, nothing known of particles or files.
ONLY = {"kernels": ("errors", "arrays", "kernels", "physics.fourier", "physics.rotations")}

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 50
MAX_FILES_TO_A_KERNEL = 6


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def module_name(path: Path) -> str:
    """Name below the package: `data.star`, `data` for its __init__, the empty string for the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def rank(module: str) -> int:
    while module and module not in RANKS:
        module = module.rpartition(".")[0]
    return RANKS[module]


def imported_modules(path: Path, at_load_only: bool = False) -> Iterator[tuple[int, str]]:
    """Line and name below the package of every module of ours that a file imports, inside functions too."""
    for node in parsed(path).body if at_load_only else ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "posterion":
                    yield node.lineno, alias.name.removeprefix("posterion").lstrip(".")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: relative import; write posterion.x"
            if (node.module or "").split(".")[0] == "posterion":
                base = (node.module or "").removeprefix("posterion").lstrip(".")
                for alias in node.names:
                    inner = f"{base}.{alias.name}".lstrip(".")
                    yield node.lineno, inner if inner in MODULES else base


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, source: list[str]) -> int:
    """Lines of a function with code on them: no docstring, blank line, comment or signature."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    lines = source[body[0].lineno - 1 : function.end_lineno]
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


def is_only_docstring(path: Path) -> bool:
    return path.name == "__init__.py" and len(parsed(path).body) == 1


def report(offenders: list[str]) -> None:
    assert not offenders, "\n" + "\n".join(offenders)


def test_imports_go_one_way() -> None:
    report(
        [
            f"{relative(path)}:{line}: imports {target or 'posterion'}, which is above it"
            for path in FILES
            for line, target in imported_modules(path)
            if rank(target) > rank(module_name(path)) or (target == "" and rank(module_name(path)) < 9)
        ]
    )


@pytest.mark.parametrize("room", ONLY)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    report(
        [
            f"{relative(path)}:{line}: imports {target}; {room} may import {', '.join(ONLY[room])}"
            for path in FILES
            if module_name(path).split(".")[0] == room
            for line, target in imported_modules(path)
            if not any(target == name or target.startswith(f"{name}.") for name in ONLY[room])
        ]
    )


def test_imports_have_no_cycles() -> None:
    """Among what is imported when a module loads; a face like `Particles.read` calls its readers late."""
    edges = {module_name(path): {target for _, target in imported_modules(path, True)} for path in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for target in sorted(edges.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_module_has_docstring_and_public_names(path: Path) -> None:
    assert ast.get_docstring(parsed(path)), "no module docstring"
    if is_only_docstring(path):
        return
    names = [
        element.value
        for node in parsed(path).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for element in getattr(node.value, "elts", [])
    ]
    assert names, "no __all__, or one that names nothing"
    assert names == sorted(set(names), key=names.index), "a name twice in __all__"


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    report(
        [
            f"{relative(path)}: {n} lines, limit {MAX_FILE_LINES}"
            for path, n in lengths.items()
            if n > MAX_FILE_LINES
        ]
    )


def test_functions_are_short() -> None:
    offenders = []
    for path in FILES:
        source = path.read_text(encoding="utf-8").splitlines()
        for function in functions(path):
            n = code_lines(function, source)
            if n > MAX_FUNCTION_LINES:
                offenders.append(f"{relative(path)}:{function.lineno}: {function.name} has {n} lines of code")
    report(offenders)


def test_only_arrays_and_kernels_know_the_gpu() -> None:
    """Imports of `cupy`, `numba.cuda` and the like, wherever they stand."""
    offenders = []
    for path in FILES:
        if module_name(path).split(".")[0] in ("arrays", "kernels"):
            continue
        for node in ast.walk(parsed(path)):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            if any(part in ("cupy", "cuda") for name in names for part in name.split(".")):
                offenders.append(f"{relative(path)}:{getattr(node, 'lineno', 0)}")
    report(offenders)


def test_only_cli_and_report_print() -> None:
    report(
        [
            f"{relative(path)}:{node.lineno}: print"
            for path in FILES
            if module_name(path).split(".")[0] not in ("cli", "report")
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
    )


def test_no_environment_variable_changes_behaviour() -> None:
    report(
        [
            f"{relative(path)}:{node.lineno}: reads the environment"
            for path in FILES
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
        ]
    )


def test_architecture_page_is_in_step() -> None:
    """Every source file has its line in docs/architecture.md, which is the first line of its docstring."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    renewed = runpy.run_path(str(ROOT / "docs" / "make_architecture.py"))["renewed"](page)
    assert page == renewed, "run: .venv/bin/python docs/make_architecture.py"


def paths_of_architecture_page() -> list[list[tuple[str, str]]]:
    """File and name of each station on the ways from `posterion refine` to a kernel."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = page.partition("<!-- paths:")[2].partition("\n## ")[0].splitlines()
    return [re.findall(r"`(\S+\.py)` `(\w+)`", line) for line in lines if line.startswith("- ")]


def calls(path: Path, name: str) -> bool:
    """Whether a file calls a function or method of a name, under whatever name it imported it."""
    also = {
        alias.asname
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == name and alias.asname
    }
    called = [node.func for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    names = {f.id if isinstance(f, ast.Name) else getattr(f, "attr", "") for f in called}
    return bool(names & ({name} | also))


def test_a_reader_follows_refine_to_a_kernel_in_six_files() -> None:
    """Each file of a stated path defines its name, imports the next or its room's face, and calls it."""
    paths = paths_of_architecture_page()
    assert [stations[-1][1] for stations in paths] == [
        "gather_slices",
        "score_poses",
        "shift_samples",
        "scatter_slices",
    ]
    for stations in paths:
        assert stations[0] == ("cli/refine.py", "refine")
        assert stations[-1][0].startswith("kernels/")
        assert len(stations) <= MAX_FILES_TO_A_KERNEL, stations
        for file, name in stations:
            assert name in {function.name for function in functions(PACKAGE / file)}, (file, name)
        for (file, _), (target, name) in pairwise(stations):
            assert calls(PACKAGE / file, name), (file, name)
            imported = {module for _, module in imported_modules(PACKAGE / file)}
            assert imported & {target.removesuffix(".py").replace("/", "."), target.split("/")[0]}, (
                file,
                target,
            )


def test_every_test_file_mirrors_a_source_file() -> None:
    """`tests/data/test_star.py` is about `data/star.py`; names are free at the top and in two folders."""
    offenders = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder, *inner = path.relative_to(ROOT / "tests").parts
        if inner and folder not in ("references", "end_to_end"):
            source = PACKAGE / folder / Path(*inner).with_name(inner[-1].removeprefix("test_"))
            if not source.exists() and not source.with_name(f"{source.stem}_.py").exists():
                offenders.append(f"tests/{folder}/{'/'.join(inner)}: no {relative(source)}")
    report(offenders)
