import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterion.errors import PosterionError
from posterion.micrographs.micrograph_set import MicrographSet
from posterion.micrographs.streaming import (
    Job,
    claim_folder,
    file_state,
    micrograph_stem,
    output_stems,
    process_all,
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
        Job(f"m{i}", settings | {"own": i}, folder / "records" / f"m{i}.json", (folder / f"m{i}.txt",))
        for i in range(count)
    ]


@pytest.mark.parametrize("threads", [1, 3])
def test_one_failure_stops_no_other_and_a_second_run_does_the_rest(tmp_path: Path, threads: int) -> None:
    mine = jobs(tmp_path, {"a": 1.5})
    work = Counting(mine, [10, -1, 30, 40])
    outcome = process_all(mine, work, stage="testing", threads=threads)
    assert outcome.records == ({"value": 10}, None, {"value": 30}, {"value": 40})
    assert [(f.name, f.reason) for f in outcome.failures] == [("m1", "number 1 is negative")]
    (tmp_path / "m3.txt").unlink()
    again = Counting(mine, [10, 20, 30, 40])
    outcome = process_all(mine, again, stage="testing", threads=threads)
    assert sorted(again.done) == [1, 3]
    assert (outcome.resumed, outcome.failures) == (2, ())


def test_other_settings_begin_anew(tmp_path: Path) -> None:
    process_all(jobs(tmp_path, {"a": 1}), Counting(jobs(tmp_path, {}), [1] * 4), stage="testing", threads=1)
    other = jobs(tmp_path, {"a": 2})
    work = Counting(other, [1] * 4)
    assert process_all(other, work, stage="testing", threads=1).resumed == 0
    (other[0].record_path).write_text("{cut off")
    assert process_all(other, work, stage="testing", threads=1).resumed == 3


def test_a_failure_leaves_no_record_of_other_settings(tmp_path: Path) -> None:
    """Nor its own, from before a product was lost; that of another job stays."""
    first, other = jobs(tmp_path, {"a": 1}, 2), jobs(tmp_path, {"a": 2}, 2)
    process_all(first, Counting(first, [10, 20]), stage="testing", threads=1)
    outcome = process_all(other, Counting(other, [10, -1]), stage="testing", threads=1)
    assert outcome.records == ({"value": 10}, None)
    assert [job.record_path.exists() for job in other] == [True, False]


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


def test_a_folder_of_another_command(tmp_path: Path) -> None:
    claim_folder(tmp_path, "pick")
    (tmp_path / "summary.json").write_text(json.dumps({"command": "pick"}))
    claim_folder(tmp_path, "pick")
    with pytest.raises(PosterionError, match="something else than 'posterion extract'"):
        claim_folder(tmp_path, "extract")


def test_a_table_without_a_summary_is_of_something_else(tmp_path: Path) -> None:
    claim_folder(tmp_path, "ctf", "micrographs.star")
    (tmp_path / "micrographs.star").touch()
    claim_folder(tmp_path, "ctf")
    with pytest.raises(PosterionError, match="something else than 'posterion ctf'"):
        claim_folder(tmp_path, "ctf", "micrographs.star")
    (tmp_path / "summary.json").write_text(json.dumps({"command": "ctf"}))
    claim_folder(tmp_path, "ctf", "micrographs.star")
