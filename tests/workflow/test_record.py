"""By what a file is known, and what counts as a change."""

import os
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from posterion.data.star import write_star
from posterion.data.table import Table
from posterion.workflow.plan import read_plan
from posterion.workflow.record import (
    RECORD,
    FileMark,
    StepRecord,
    changed_output,
    difference,
    inputs_of,
    mark_of,
    outputs_of,
)

COMMANDS = runpy.run_path(str(Path(__file__).with_name("commands.py")))["COMMANDS"]


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("one")
    mark = mark_of(path)
    os.utime(path, ns=(1, 1))
    assert mark.matches(path)
    path.write_text("two")
    assert not mark.matches(path)
    assert not mark.matches(tmp_path / "none")
    large = FileMark(3, 1)  # no digest: time decides
    os.utime(path, ns=(1, 1))
    assert large.matches(path)
    os.utime(path, ns=(2, 2))
    assert not large.matches(path)
    os.utime(path, ns=(1, 1))
    assert not replace(large, size=4).matches(path)


@pytest.fixture
def record(tmp_path: Path) -> StepRecord:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "w.toml").write_text("[double]\nsource = 'a.txt'\ntimes = 3\nthreads = 2\n")
    plan = read_plan(tmp_path / "w.toml", COMMANDS)
    return StepRecord.of(plan, plan.steps[0])


def test_record_survives_its_file(record: StepRecord, tmp_path: Path) -> None:
    assert record.options == {"source": "a.txt", "times": "3"}
    assert list(record.inputs) == ["a.txt"]
    record.write(tmp_path)
    assert StepRecord.read(tmp_path) == record
    for broken in ("", "[]", '{"program": 3}', '{"inputs": 1, "outputs": {}}'):
        (tmp_path / RECORD).write_text(broken)
        assert StepRecord.read(tmp_path) is None


def test_digests_only_where_wanted_and_few(tmp_path: Path) -> None:
    """A thousand micrographs are not read through to see whether they have changed."""
    (tmp_path / "in").mkdir()
    for number in range(101):
        (tmp_path / "in" / f"{number:03d}").write_text("x")
    (tmp_path / "w.toml").write_text("[double]\nsource = 'in/000'\nothers = 'in/*'\n")
    plan = read_plan(tmp_path / "w.toml", COMMANDS)
    many = StepRecord.of(plan, plan.steps[0], with_digests=True)
    assert len(many.inputs) == 101
    assert not any(mark.digest for mark in many.inputs.values())
    (tmp_path / "in" / "100").unlink()
    few = StepRecord.of(plan, plan.steps[0], with_digests=True)
    assert all(mark.digest for mark in few.inputs.values())
    assert not any(mark.digest for mark in StepRecord.of(plan, plan.steps[0]).inputs.values())


def test_what_makes_a_difference(record: StepRecord, tmp_path: Path) -> None:
    other = FileMark(1, 1, "x")
    for then, said in [
        (record, None),
        (replace(record, finished=True, wall_seconds=3.0), None),
        (replace(record, program="posterion 0"), "made by posterion 0, this is posterion "),
        (replace(record, command="make"), "command make -> double"),
        (replace(record, options={"source": "a.txt", "times": "2"}), "times: 2 -> 3"),
        (replace(record, options={"source": "b.txt"}), r"source: b.txt -> a.txt (and 1 more)"),
        (replace(record, inputs={"a.txt": other}), "input a.txt has changed"),
        (replace(record, inputs={}), "input a.txt is new"),
        (replace(record, inputs={**record.inputs, "b.txt": other}), "input b.txt is gone"),
    ]:
        found = difference(then, record, tmp_path)
        assert found == said or (found is not None and said is not None and found.startswith(said))


def test_images_named_in_star_files_are_inputs(tmp_path: Path) -> None:
    """Stacks of particles, but not the micrographs they came from; micrographs of a list of those."""
    for name in ("s.mrcs", "m.mrc"):
        (tmp_path / name).write_text("")
    particles = {"rlnImageName": ["1@s.mrcs", "2@s.mrcs", "1@gone.mrcs"], "rlnMicrographName": ["m.mrc"] * 3}
    write_star(tmp_path / "p.star", [Table.of("particles", particles)])
    write_star(tmp_path / "m.star", [Table.of("micrographs", {"rlnMicrographName": ["m.mrc"]})])
    (tmp_path / "w.toml").write_text(
        "[a]\ncommand='double'\nsource='p.star'\n[b]\ncommand='mask'\nsource='m.star'"
    )
    plan = read_plan(tmp_path / "w.toml", COMMANDS)
    found = [[path.name for path in inputs_of(step, step.arguments(plan))] for step in plan.steps]
    assert found == [["p.star", "s.mrcs"], ["m.star", "m.mrc"]]


def test_files_of_a_folder_are_inputs(tmp_path: Path) -> None:
    for name in ("a", "b/c", "step.json"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("")
    (tmp_path / "w.toml").write_text("[double]\nsource = 'in'\n")
    plan = read_plan(tmp_path / "w.toml", COMMANDS)
    step = plan.steps[0]
    assert inputs_of(step, step.arguments(plan)) == [tmp_path / "in" / "a", tmp_path / "in" / "b" / "c"]


def test_outputs(record: StepRecord, tmp_path: Path) -> None:
    folder = tmp_path / "step"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "x").write_text("1")
    record.write(folder)
    done = replace(record, outputs=outputs_of(folder))
    assert list(done.outputs) == ["inner/x"]
    assert changed_output(done, folder) is None
    (folder / "inner" / "x").write_text("12")
    assert changed_output(done, folder) == "output inner/x was changed by something else"
    (folder / "inner" / "x").unlink()
    assert changed_output(done, folder) == "output inner/x is gone"
