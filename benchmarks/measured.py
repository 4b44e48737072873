"""What benchmarks share: a command of posterion in a process of its own, measured; results that stay."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START = "from posterion.cli import main; main()"


@dataclass(frozen=True)
class Measured:
    """CPU and wall seconds and peak resident bytes of one process, its threads among them."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int


def posterion_command(arguments: Sequence[object], log: Path, source: Path | None = None) -> Measured:
    """Run ``posterion ARGUMENTS`` to its end; output goes into ``log``.

    Parameters
    ----------
    arguments : command and options
    log : file for what the command says
    source : folder that holds the package to run, in place of the installed one
    """
    environment = dict(os.environ)
    if source is not None:
        environment["PYTHONPATH"] = str(source.resolve())
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, arguments)], stdout=stream, stderr=stream, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = log.read_text(encoding="utf-8").strip().splitlines()
        sys.exit(
            f"posterion {' '.join(map(str, arguments))}: exit {process.returncode}: {said[-1:]}, see {log}"
        )
    kilobyte = 1 if sys.platform == "darwin" else 1024
    wall = time.perf_counter() - started
    return Measured(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * kilobyte)


class Results:
    """Finished points in a file of JSON lines; a point that is there already is not computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._found: dict[str, dict[str, Any]] = {}
        for line in lines:
            record = json.loads(line)
            self._found[self._key(record["point"])] = record["result"]

    @staticmethod
    def _key(point: dict[str, Any]) -> str:
        return json.dumps(point, sort_keys=True)

    def get(self, point: dict[str, Any]) -> dict[str, Any] | None:
        """Return the result of a point, None where it has none yet."""
        return self._found.get(self._key(point))

    def put(self, point: dict[str, Any], result: dict[str, Any]) -> None:
        """Add a point to the file at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"point": point, "result": result}) + "\n")
        self._found[self._key(point)] = result
