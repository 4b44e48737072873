"""`./run` on machines that are not as they should be; a stand-in for Python keeps this fast and offline."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Stands in for a new enough Python: `-m venv` copies it into .venv, everything else only writes a line.
PYTHON = """#!/usr/bin/env bash
here=$(cd "$(dirname "$0")" && pwd)
echo "$@" >>"$CALLS"
case "$1 ${2:-}" in
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/posterion" ;;
    "-m pip") [ "${3:-}" = install ] && [ -e "$CALLS.pip-fails" ] && { echo "no network" >&2; exit 1; } ;;
esac
exit 0
"""


class Machine:
    """A project folder with only what `./run` needs, and a fake Python."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "a project"
        self.project.mkdir()
        for name in ("run", "pyproject.toml"):
            shutil.copy(ROOT / name, self.project / name)
        self.python = folder / "fake" / "python3"
        self.python.parent.mkdir()
        self.set_python(PYTHON)
        self.calls = folder / "calls"
        self.calls.touch()

    def set_python(self, text: str) -> None:
        self.python.write_text(text)
        self.python.chmod(0o755)

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHON": str(self.python), "CALLS": str(self.calls), "CI": "true"}
        return subprocess.run(
            [str(self.project / "run"), *arguments],
            check=False,
            cwd=cwd or self.project.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def count(self, call: str) -> int:
        return sum(call in line for line in self.calls.read_text().splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if os.name != "posix" or shutil.which("bash") is None:
        pytest.skip("needs bash")
    return Machine(tmp_path)


def test_sets_up_once_and_runs_from_anywhere(machine: Machine) -> None:
    for _ in range(2):
        result = machine.run("demo", "--seed", "1", cwd=Path("/"))
        assert result.returncode == 0, result.stderr
    assert machine.count("-m venv") == 1
    assert machine.count("-m pip install") == 1
    assert machine.count("demo --seed 1") == 2


def test_tests_leave_out_the_slow_ones_unless_asked(machine: Machine) -> None:
    machine.run("test", "-x")
    machine.run("test", "--all", "-x")
    assert machine.count("-m pytest -m not slow -x") == 1
    assert machine.count("-m pytest -x") == 1


def test_documentation_installs_its_own_tools_once(machine: Machine) -> None:
    machine.run("test")
    assert machine.count(".[docs]") == 0
    for _ in range(2):
        assert machine.run("docs", "-q").returncode == 0
    assert machine.count("-m pip install --quiet --no-input --disable-pip-version-check -e .[docs]") == 1
    assert machine.count("-m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html -q") == 2


def test_old_python_is_named(machine: Machine) -> None:
    machine.set_python("#!/bin/sh\nexit 1\n")
    result = machine.run("setup")
    assert result.returncode == 2
    assert "needs Python 3.11 or newer" in result.stderr
    assert str(machine.python) in result.stderr


def test_missing_venv_module_is_explained_and_leaves_nothing(machine: Machine) -> None:
    machine.set_python('#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p .venv/bin; exit 1\n')
    result = machine.run("setup")
    assert result.returncode == 2
    assert "python3-venv" in result.stderr
    assert not (machine.project / ".venv").exists()


def test_failed_installation_is_tried_again(machine: Machine) -> None:
    failing = Path(f"{machine.calls}.pip-fails")
    failing.touch()
    result = machine.run("demo")
    assert result.returncode == 2
    assert "did not finish" in result.stderr
    assert machine.count("demo") == 0
    failing.unlink()
    assert machine.run("demo").returncode == 0
    assert machine.count("-m pip install") == 2


def test_environment_of_an_old_python_is_rebuilt(machine: Machine) -> None:
    machine.run("setup")
    (machine.project / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    assert machine.run("setup").returncode == 0
    assert machine.count("-m venv") == 2


def test_moved_project_gets_a_new_environment(machine: Machine) -> None:
    machine.run("setup")
    moved = machine.project.with_name("moved")
    machine.project.rename(moved)
    machine.project = moved
    assert machine.run("setup").returncode == 0
    assert machine.count("-m venv") == 2


def test_changed_dependencies_are_installed(machine: Machine) -> None:
    machine.run("setup")
    with (machine.project / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    machine.run("setup")
    assert machine.count("-m venv") == 1
    assert machine.count("-m pip install") == 2


def test_unknown_command(machine: Machine) -> None:
    result = machine.run("dmeo")
    assert result.returncode == 2
    assert "dmeo" in result.stderr
