import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterion.data.output_folder import OutputFolder
from posterion.errors import PosterionError
from posterion.micrographs.micrograph_set import MicrographSet
from posterion.micrographs.streaming import (
    Job,
    file_state,
    micrograph_stem,
    output_stems,
    process_all,
    require_one,
)


class Counting:
    """Work that writes its product; negative numbers fail."""

    def __init__(self, jobs: list[Job], values: list[int]) -> None:
        self.jobs, self.values, self.done = jobs, values, list[int]()

    def __call__(self, index: int) -> dict[str, Any]:
        if self.values[index] < 0:
            raise PosterionError(f"number {index} is negative")
        self.done.append(index)
        self.jobs[index].products[0].write_text("x")
        return {"value": self.values[index]}


def jobs(folder: Path, settings: dict[str, Any], count: int = 4) -> list[Job]:
    return [
        Job(
            f"m{i}",
            folder / f"m{i}.mrc",
            settings | {"own": i},
            folder / "records" / f"m{i}.json",
            (folder / f"m{i}.txt",),
        )
        for i in range(count)
    ]


def mine(folder: Path) -> OutputFolder:
    return OutputFolder(folder, "test", ("all.txt",))


@pytest.mark.parametrize("threads", [1, 3])
def test_one_failure_stops_no_other_and_a_second_run_does_the_rest(tmp_path: Path, threads: int) -> None:
    todo, folder = jobs(tmp_path, {"a": 1.5}), mine(tmp_path)
    work = Counting(todo, [10, -1, 30, 40])
    outcome = process_all(folder, todo, work, stage="testing", threads=threads)
    assert outcome.records == ({"value": 10}, None, {"value": 30}, {"value": 40})
    assert [(f.name, f.reason) for f in outcome.failures] == [("m1", "number 1 is negative")]
    assert outcome.reasons == {"m1": "number 1 is negative"}
    (tmp_path / "m3.txt").unlink()
    again = Counting(todo, [10, 20, 30, 40])
    outcome = process_all(folder, todo, again, stage="testing", threads=threads)
    assert sorted(again.done) == [1, 3]
    assert (outcome.resumed, outcome.failures) == (2, ())


def test_other_settings_and_another_file_begin_anew(tmp_path: Path) -> None:
    first, other, folder = jobs(tmp_path, {"a": 1}), jobs(tmp_path, {"a": 2}), mine(tmp_path)
    process_all(folder, first, Counting(first, [1] * 4), stage="testing", threads=1)
    work = Counting(other, [1] * 4)
    assert process_all(folder, other, work, stage="testing", threads=1).resumed == 0
    other[0].record_path.write_text("{cut off")
    other[1].source.touch()
    assert process_all(folder, other, work, stage="testing", threads=1).resumed == 2


def test_a_failure_leaves_nothing_of_other_settings(tmp_path: Path) -> None:
    """Nor its own, from before a product was lost; that of another job stays."""
    first, other, folder = jobs(tmp_path, {"a": 1}, 2), jobs(tmp_path, {"a": 2}, 2), mine(tmp_path)
    process_all(folder, first, Counting(first, [10, 20]), stage="testing", threads=1)
    outcome = process_all(folder, other, Counting(other, [10, -1]), stage="testing", threads=1)
    assert outcome.records == ({"value": 10}, None)
    assert [job.record_path.exists() for job in other] == [True, False]
    assert [job.products[0].exists() for job in other] == [True, False]


def test_a_run_that_is_killed_leaves_no_record_of_what_it_replaced(tmp_path: Path) -> None:
    first, other, folder = jobs(tmp_path, {"a": 1}, 1), jobs(tmp_path, {"a": 2}, 1), mine(tmp_path)
    process_all(folder, first, Counting(first, [10]), stage="testing", threads=1)

    def dies(index: int) -> dict[str, Any]:
        other[index].products[0].write_text("y")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process_all(folder, other, dies, stage="testing", threads=1)
    assert process_all(folder, first, Counting(first, [10]), stage="testing", threads=1).resumed == 0
    assert first[0].products[0].read_text() == "x"


def test_a_micrograph_is_never_replaced(tmp_path: Path) -> None:
    """Not even where an earlier run has made it."""
    folder, (first, second) = mine(tmp_path), jobs(tmp_path, {}, 2)
    folder.begin()
    second.products[0].write_text("x")
    turned = replace(first, source=second.products[0])
    with pytest.raises(PosterionError, match=r"m1.txt is a micrograph, which this run would replace;"):
        process_all(folder, [turned, second], Counting([turned, second], [1, 1]), stage="testing")
    assert second.products[0].read_text() == "x"


def test_all_failed(tmp_path: Path) -> None:
    todo, folder = jobs(tmp_path, {}, 2), mine(tmp_path)
    outcome = process_all(folder, todo, Counting(todo, [-1, -1]), stage="testing", threads=1)
    with pytest.raises(PosterionError, match="nothing works; the first: number 0 is negative"):
        require_one(folder, outcome, "nothing works")
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "command": "test",
        "failures": {"m0": "number 0 is negative", "m1": "number 1 is negative"},
    }
    outcome = process_all(folder, todo, Counting(todo, [-1, 5]), stage="testing", threads=1)
    require_one(folder, outcome, "nothing works")


def test_names(tmp_path: Path) -> None:
    assert micrograph_stem(Path("a/b_01.bin.mrc.gz")) == "b_01.bin"
    two = (Path("x/a.mrc"), Path("y/a.tif"))
    mixed = MicrographSet(two, ("x/a.mrc", "y/a.tif"), (), np.zeros(2, np.int32))
    with pytest.raises(PosterionError, match=r"x/a.mrc and y/a.tif would both be written as a;"):
        output_stems(mixed)


def test_file_state_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    absent = file_state(path)
    path.write_text("1")
    first = file_state(path)
    path.write_text("22")
    assert absent != first != file_state(path)
