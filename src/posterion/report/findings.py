"""What an examination of a particle set found: findings and the diagnosis they make, as text and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Diagnosis", "Finding", "Level", "counted", "listed"]

Level = Literal["fine", "note", "warning", "problem"]

_MARKS: dict[Level, str] = {"fine": "ok     ", "note": "note   ", "warning": "WARNING", "problem": "PROBLEM"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    check : short name of what was looked at, for programs: "contrast", "duplicates", ...
    level : "fine", "note" (worth knowing), "warning" (look at it) or "problem" (mend it before refining)
    message : one sentence or two in words: what was found, what was expected, how to mend it
    particles : first offending particles from 1 in file order; empty where the whole set is meant
    count : how many particles are concerned, all of them
    values : measured numbers behind the words
    """

    check: str
    level: Level
    message: str
    particles: tuple[int, ...] = ()
    count: int = 0
    values: dict[str, float | str] | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All findings on one particle set.

    Attributes
    ----------
    source : the particle file
    n_particles : rows in it
    facts : what the set is, as (name, value) in words
    findings : in the order of the examination
    """

    source: str
    n_particles: int
    facts: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing has to be mended."""
        return all(finding.level != "problem" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0 where the set is sound, 1 where there are problems."""
        return 0 if self.is_sound else 1

    def to_json(self) -> str:
        """Return the diagnosis as indented JSON; the keys are the attributes' names and ``sound``."""
        record: dict[str, Any] = {
            "source": self.source,
            "sound": self.is_sound,
            "n_particles": self.n_particles,
            "facts": dict(self.facts),
            "findings": [asdict(finding) for finding in self.findings],
        }
        return json.dumps(record, indent=2)

    def to_text(self) -> str:
        """Return the diagnosis as lines for a person to read, the verdict last."""
        width = max((len(name) for name, _ in self.facts), default=0)
        lines = [f"{self.source}: {counted(self.n_particles, 'particle')}"]
        lines += [f"  {name:<{width}}  {value}" for name, value in self.facts]
        lines += [f"{_MARKS[finding.level]} {finding.check}: {finding.message}" for finding in self.findings]
        return "\n".join([*lines, self.verdict])

    @property
    def verdict(self) -> str:
        """One sentence: sound or not, with the number of problems and warnings."""
        problems = sum(finding.level == "problem" for finding in self.findings)
        warnings = sum(finding.level == "warning" for finding in self.findings)
        if problems:
            return f"This set is not sound: {counted(problems, 'problem')}, {counted(warnings, 'warning')}."
        if warnings:
            return f"No problem found, {counted(warnings, 'warning')} to look at."
        return "This set looks sound."


def counted(count: int, noun: str) -> str:
    """Say a number of things: ``1 particle``, ``2,000 particles``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: list[str], at_most: int = 3) -> str:
    """Join names for a sentence: the first few, then how many more there are."""
    if len(names) <= at_most:
        return ", ".join(names)
    return f"{', '.join(names[:at_most])} and {len(names) - at_most} more"
