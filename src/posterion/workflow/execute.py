"""Run a workflow: skip what is up to date, go on with what was stopped, run the rest."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from posterion.errors import PosterionError
from posterion.workflow.plan import Commands, Plan, Step, read_plan
from posterion.workflow.record import (
    RECORD,
    StepRecord,
    changed_output,
    difference,
    outputs_of,
)

__all__ = ["StepResult", "run_workflow"]

_LOG = logging.getLogger("posterion")
_SOME_LEFT_OUT = ("correct", "ctf", "extract", "pick")
"""Commands whose exit code 1 says that some micrographs were left out; the others are done."""


@dataclass(frozen=True)
class StepResult:
    """What became of a step.

    Attributes
    ----------
    name, command : of the step
    status : ``done``, ``up to date``, ``would run``, ``may run``, ``failed`` or ``not reached``
    reason : why it ran, would run or failed
    folder : of its results
    wall_seconds, cpu_seconds : spent on it, now or when it was run
    outputs : files in its folder
    """

    name: str
    command: str
    status: str
    reason: str
    folder: Path
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    outputs: tuple[str, ...] = ()


def run_workflow(
    path: str | Path,
    commands: Commands,
    output: str | Path | None = None,
    dry_run: bool = False,
    told: Callable[[StepResult], None] | None = None,
) -> tuple[StepResult, ...]:
    """Run the steps of a workflow file whose inputs, options or program have changed since they were run.

    A step is finished when the record in its folder says so; one that was stopped is run again in the same
    folder, where its command goes on if it can. Results that a changed step leaves behind are kept: their
    folder is renamed to NAME.old, NAME.old2, ...

    Parameters
    ----------
    path : workflow file, see docs/workflow.md
    commands : functions of the commands, by name
    output : folder for the steps' folders, in place of the file's
    dry_run : only say what would run, and why
    told : called with the result of each step as it comes

    Raises
    ------
    PosterionError
        For a mistake in the file, before anything runs; or from a step, with its name.
    """
    plan = read_plan(path, commands, output)
    for step in plan.steps:
        _refuse_foreign(step)
    results: list[StepResult] = []

    def tell(result: StepResult) -> None:
        results.append(result)
        if told is not None:
            told(result)

    if dry_run:
        for step in plan.steps:
            tell(_foreseen(plan, step, {r.name for r in results if r.status != "up to date"}))
        return tuple(results)
    with _alone_in(plan.output):
        for number, step in enumerate(plan.steps):
            try:
                tell(_brought_up_to_date(plan, step, commands[step.command]))
            except (PosterionError, KeyboardInterrupt) as error:
                reason = str(error) or "interrupted"
                tell(StepResult(step.name, step.command, "failed", reason, step.folder))
                for later in plan.steps[number + 1 :]:
                    tell(StepResult(later.name, later.command, "not reached", "", later.folder))
                raise
    return tuple(results)


def _refuse_foreign(step: Step) -> None:
    """Refuse a folder with files that no workflow wrote: they would become part of the step's results."""
    if step.folder.is_dir() and any(step.folder.iterdir()) and not (step.folder / RECORD).exists():
        raise PosterionError(
            f"{step.folder} holds files that no workflow wrote (there is no {RECORD}); move them, or choose "
            f"another name for the step '{step.name}' or another output folder"
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make the folder and keep a second run out of it; the system lets go of it when a process is killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise PosterionError(
            f"{folder}: cannot be written ({error.strerror}); choose another output"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PosterionError(f"{folder}: another run of a workflow is working in this folder") from None
        except OSError:  # a file system without locks
            _LOG.debug("%s: no locks on this file system", folder)
        yield


def _state(step: Step, now: StepRecord, plan: Plan) -> tuple[StepRecord | None, str | None, bool]:
    """Record that there is, why the step has to run (None: it has not), and whether its folder is kept."""
    there = StepRecord.read(step.folder)
    if there is None:
        return None, "never run", not (step.folder / RECORD).exists()
    changed = difference(there, now, plan.folder)
    if changed is not None:
        return there, changed, False
    if not there.finished:
        return there, "stopped before it was finished", True
    return there, changed_output(there, step.folder), False


def _foreseen(plan: Plan, step: Step, running: set[str]) -> StepResult:
    """Say whether a step would run; where it needs one that would, that cannot be known."""
    pending = [name for name in step.needs if name in running]
    if pending:
        there = StepRecord.read(step.folder)
        finished = there is not None and there.finished
        reason = f"its input comes from {', '.join(pending)}"
        status = "may run" if finished else "would run"
        return StepResult(step.name, step.command, status, reason, step.folder)
    there, why, _ = _state(step, _now(plan, step), plan)
    if why is not None:
        return StepResult(step.name, step.command, "would run", why, step.folder)
    return _up_to_date(step, there)


def _up_to_date(step: Step, there: StepRecord | None) -> StepResult:
    outputs = tuple(there.outputs) if there is not None else ()
    wall, cpu = (there.wall_seconds, there.cpu_seconds) if there is not None else (0.0, 0.0)
    return StepResult(step.name, step.command, "up to date", "", step.folder, wall, cpu, outputs)


def _now(plan: Plan, step: Step) -> StepRecord:
    """Record of a step as it stands; refused where a file that an earlier step should have written is not."""
    arguments = step.arguments(plan)
    for name in step.options:
        given = arguments[name]
        for path in given if isinstance(given, list | tuple) else [given]:
            if isinstance(path, Path) and plan.output in path.parents and not path.exists():
                maker = path.relative_to(plan.output).parts[0]
                there = sorted(file.name for file in (plan.output / maker).glob("*") if file.name != RECORD)
                raise plan.error(
                    step.name,
                    name,
                    f"step '{step.name}', {name}: step '{maker}' has not written {path}; "
                    f"it wrote {', '.join(there) or 'nothing'}",
                )
    return StepRecord.of(plan, step)


def _brought_up_to_date(plan: Plan, step: Step, command: Callable[..., None]) -> StepResult:
    """Run one step if it has to be."""
    now = _now(plan, step)
    there, reason, keep = _state(step, now, plan)
    if reason is None:
        _LOG.info("%s: up to date", step.name)
        return _up_to_date(step, there)
    _LOG.info("%s: %s", step.name, reason)
    if not keep:
        _set_aside(step.folder)
    now = StepRecord.of(plan, step, with_digests=True)
    if keep and there is not None:
        now = replace(now, wall_seconds=there.wall_seconds, cpu_seconds=there.cpu_seconds)
    step.folder.mkdir(parents=True, exist_ok=True)
    now.write(step.folder)
    done = _timed(step, now, command, step.arguments(plan))
    outputs = outputs_of(step.folder)
    replace(done, outputs=outputs, finished=True).write(step.folder)
    return StepResult(
        step.name,
        step.command,
        "done",
        reason,
        step.folder,
        done.wall_seconds,
        done.cpu_seconds,
        tuple(outputs),
    )


def _timed(
    step: Step, record: StepRecord, command: Callable[..., None], arguments: dict[str, Any]
) -> StepRecord:
    """Run a command; the time of one that does not come to its end is kept too."""
    wall, cpu = time.perf_counter(), time.process_time()
    code = 0
    try:
        command(**arguments)
    except typer.Exit as stop:
        code = stop.exit_code
    except PosterionError as error:
        raise PosterionError(f"step '{step.name}': {error}") from error
    finally:
        record = replace(
            record,
            exit_code=code,
            wall_seconds=round(record.wall_seconds + time.perf_counter() - wall, 2),
            cpu_seconds=round(record.cpu_seconds + time.process_time() - cpu, 2),
        )
        record.write(step.folder)
    if code and not (code == 1 and step.command in _SOME_LEFT_OUT):
        raise PosterionError(
            f"step '{step.name}': 'posterion {step.command}' ended with exit code {code}; see what it says"
        )
    return record


def _set_aside(folder: Path) -> None:
    """Rename a folder of earlier results, so that nothing is lost and nothing old is among the new."""
    if not folder.exists():
        return
    number, target = 1, folder.with_name(f"{folder.name}.old")
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}.old{number}")
    folder.rename(target)
    _LOG.info("%s: earlier results are kept in %s", folder.name, target)
