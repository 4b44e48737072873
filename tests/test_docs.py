"""The documentation keeps step with the commands and names only files that exist."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.fixture(scope="module")
def generator() -> dict[str, object]:
    return runpy.run_path(str(ROOT / "docs" / "make_cli_reference.py"))


def test_cli_reference_is_in_step(generator) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == generator["reference"](), "run: .venv/bin/python docs/make_cli_reference.py"


def test_readme_lists_every_command_and_no_other(generator) -> None:
    listed = re.findall(
        r"^\| `posterion (\S+)`", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(listed) == sorted(generator["commands"]())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing
