"""The gallery's pages lean on the lecture and on the library's public functions; the site has every page.

They are executed when the documentation is built (`./run docs`, in CI with warnings as errors).
"""

import ast
import importlib
import pkgutil
import re
import runpy
from functools import cache
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import pytest

import posterion
from posterion.mapping.fsc import fourier_shell_correlation

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted((DOCS / "gallery").glob("*.py"))
LECTURE = ROOT.parent / "shared" / "lecture.txt"
MOST_LINES = 8
ON_SITE = {"index", "auto_gallery/index", "api/index"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


@cache
def parsed(page: Path) -> ast.Module:
    return ast.parse(page.read_text(encoding="utf-8"))


def text_of(page: Path) -> str:
    return ast.get_docstring(parsed(page)) or ""


def plain(text: str) -> str:
    """Letters and digits only, so that line breaks, quotes and math do not matter."""
    return re.sub(r"[^a-z0-9]+", "", re.sub(r":math:`[^`]*`|\$[^$]*\$", "", text).lower())


@cache
def library() -> dict[str, ModuleType]:
    names = [info.name for info in pkgutil.walk_packages(posterion.__path__, "posterion.")]
    public = [name for name in names if not any(part.startswith("_") for part in name.split("."))]
    return {name: importlib.import_module(name) for name in ["posterion", *public]}


def calls(page: Path) -> list[ast.Call]:
    return [node for node in ast.walk(parsed(page)) if isinstance(node, ast.Call)]


def test_there_is_one_page_per_idea() -> None:
    assert [page.stem.split("_")[:2] for page in PAGES] == [["plot", f"{n:02d}"] for n in range(1, 13)]


@every_page
def test_page_has_the_number_of_its_file(page: Path) -> None:
    assert text_of(page).startswith(f"{int(page.stem.split('_')[1])}. ")


@every_page
def test_page_names_its_place_in_the_lecture(page: Path) -> None:
    line = re.search(r"\*Lecture: (.*?)\n\n", text_of(page), re.DOTALL)
    assert line, 'expected a line *Lecture: "heading", ...* under the title'
    headings = re.findall(r'"(.+?)"', line[1], re.DOTALL)
    assert headings
    if LECTURE.exists():
        lecture = plain(LECTURE.read_text(encoding="utf-8"))
        unknown = [heading for heading in headings if plain(heading) not in lecture]
        assert not unknown


@every_page
def test_page_has_an_equation_and_pictures(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert ".. math::" in text
    assert "plt.subplots(" in text


@every_page
def test_page_imports_public_names_only(page: Path) -> None:
    imports = [node for node in ast.walk(parsed(page)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").split(".")[0] == "posterion"]
    assert ours, "no page does without the library"
    for node in ours:
        assert node.module in library(), f"{node.module} is no public module"
        names = {alias.name for alias in node.names}
        assert names <= set(library()[node.module].__all__), f"{node.module} has no public {sorted(names)}"
    private = [n.attr for n in ast.walk(parsed(page)) if isinstance(n, ast.Attribute) and n.attr[:1] == "_"]
    assert private == ["_replace"] * len(private), "a named tuple's is the only one"


@every_page
def test_page_has_no_twin_of_the_library(page: Path) -> None:
    """Functions of a page only hold together what the library gives: short, and under names of their own."""
    public = {name for module in library().values() for name in getattr(module, "__all__", ())}
    for node in ast.walk(parsed(page)):
        assert not isinstance(node, ast.ClassDef)
        if isinstance(node, ast.FunctionDef):
            assert node.name not in public
            assert (node.end_lineno or 0) - node.lineno < MOST_LINES


@every_page
def test_random_numbers_have_a_seed(page: Path) -> None:
    for call in calls(page):
        name = ast.unparse(call.func)
        if name.rpartition(".")[0] == "np.random":
            assert name == "np.random.default_rng", f"{name}: use np.random.default_rng(seed)"
            assert call.args, "default_rng without a seed"
        if name in ("SimulationOptions", "simulate_micrograph"):
            assert "seed" in {keyword.arg for keyword in call.keywords}


def test_the_page_on_em_ends_near_the_truth() -> None:
    """It prints whether the height never fell, which no build of the site reads."""
    names = runpy.run_path(str(DOCS / "gallery" / "plot_09_likelihood_and_em.py"))
    plt.close("all")
    assert (np.diff(names["objective"]) > 0).all()
    assert names["orientations"][0] > 20 > 3 > names["orientations"][-1]
    first, last = (fourier_shell_correlation(names["maps"][i], names["truth"])[3:8].mean() for i in (0, -1))
    assert last > max(first, 0.7)


def test_site_has_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    listed = {line for tree in trees for line in tree.split() if not line.startswith(":")}
    missing = {path.stem for path in DOCS.glob("*.md")} - listed - ON_SITE
    assert not missing, "put these into a toctree of docs/index.md"


def test_site_is_built_in_ci_without_a_network() -> None:
    assert "./run docs" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "--fail-on-warning" in (ROOT / "run").read_text(encoding="utf-8")
    assert "intersphinx" not in (DOCS / "conf.py").read_text(encoding="utf-8")


def test_every_module_has_its_page_in_the_api_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sphinx", reason="what only the documentation needs is not installed")
    monkeypatch.syspath_prepend(str(DOCS))
    pages = runpy.run_path(str(DOCS / "api_pages.py"))
    rooms = pages["rooms"]()
    listed = {pages["module_name"](path) for paths in rooms.values() for path in paths}
    packages = {name for name, module in library().items() if hasattr(module, "__path__")}
    expected = {name for name in set(library()) - packages if not name.startswith("posterion.cli.")}
    assert listed == expected
    assert all(f":py:mod:`{name.removeprefix('posterion.')} " in pages["contents"](rooms) for name in listed)
