import json
import os
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
    for i in range(count):
        (folder / f"m{i}.mrc").touch()
        os.utime(folder / f"m{i}.mrc", (10, 10))
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
    other[1].source.touch()
    assert process_all(folder, other, work, stage="testing", threads=1).resumed == 3
    other[0].record_path.unlink()
    other[0].products[0].unlink()
    assert process_all(folder, other, work, stage="testing", threads=1).resumed == 3


@pytest.mark.parametrize("notes", [b"my notes, no JSON", b"{cut off", b"\xff\xfe", b"[1]"])
def test_what_is_no_record_is_the_users_and_so_are_the_files_beside_it(tmp_path: Path, notes: bytes) -> None:
    todo, folder = jobs(tmp_path, {}, 1), mine(tmp_path)
    todo[0].record_path.parent.mkdir(parents=True, exist_ok=True)
    todo[0].record_path.write_bytes(notes)
    todo[0].products[0].parent.mkdir(parents=True, exist_ok=True)
    todo[0].products[0].write_text("by hand")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(PosterionError, match="is there already"):
        process_all(folder, todo, Counting(todo, [1]), stage="testing", threads=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


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
    process_all(folder, [second], Counting([second], [1]), stage="testing", threads=1)
    turned = replace(first, source=second.products[0])
    with pytest.raises(PosterionError, match=r"m1.txt is a micrograph, which this run would replace;"):
        process_all(folder, [turned, second], Counting([turned, second], [1, 1]), stage="testing")
    assert second.products[0].read_text() == "x"


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_micrograph_whose_disk_is_away_keeps_its_files(tmp_path: Path) -> None:
    """It is told and left out of the tables; where all are away, the tables stay too."""
    todo, folder = jobs(tmp_path, {}, 2), mine(tmp_path)
    process_all(folder, todo, Counting(todo, [10, 20]), stage="testing", threads=1)
    (tmp_path / "all.txt").write_text("table")
    todo[0].source.rename(tmp_path / "away")
    before = files(tmp_path)
    outcome = process_all(folder, todo, Counting(todo, [1, 1]), stage="testing", threads=1)
    assert outcome.records == (None, {"value": 20})
    assert outcome.failures[0].reason == f"{todo[0].source} cannot be read: No such file or directory"
    del before["all.txt"]
    assert files(tmp_path) == before
    todo[1].source.unlink()
    (tmp_path / "all.txt").write_text("table")
    before = files(tmp_path)
    with pytest.raises(
        PosterionError, match=r"none of 2 micrographs can be opened; the first: .*m0.mrc cann"
    ):
        process_all(folder, todo, Counting(todo, [1, 1]), stage="testing", threads=1)
    assert files(tmp_path) == before
    (tmp_path / "away").rename(todo[0].source)
    work = Counting(todo, [1, 1])
    assert process_all(folder, todo, work, stage="testing", threads=1).records == ({"value": 10}, None)
    assert not work.done


def test_a_folder_in_place_of_a_micrograph_is_told(tmp_path: Path) -> None:
    todo = jobs(tmp_path, {}, 2)
    todo[0].source.unlink()
    todo[0].source.mkdir()
    outcome = process_all(mine(tmp_path), todo, Counting(todo, [1, 1]), stage="testing", threads=1)
    assert outcome.failures[0].reason == f"{todo[0].source} cannot be read: Is a directory"
    assert outcome.records[1] == {"value": 1}


def test_a_file_of_the_users_stays_in_a_folder_of_ours(tmp_path: Path) -> None:
    """Whether it lies where a product of a new micrograph would, or of one that failed."""
    todo, folder = jobs(tmp_path, {}, 3), mine(tmp_path)
    process_all(folder, todo[:2], Counting(todo, [10, -1]), stage="testing", threads=1)
    for number in (1, 2):
        by_hand = todo[number].products[0]
        by_hand.write_text("by hand")
        before = files(tmp_path)
        with pytest.raises(PosterionError, match=rf"m{number}.txt is there already"):
            process_all(folder, todo, Counting(todo, [1, 1, 1]), stage="testing", threads=1)
        assert files(tmp_path) == before
        by_hand.unlink()


def test_only_files_that_a_record_names_are_removed(tmp_path: Path) -> None:
    """A picture that other settings drew goes; one of the user's stays, and is not drawn over."""
    (drawn,), folder = jobs(tmp_path, {"drawn": True}, 1), mine(tmp_path)
    plain = replace(drawn, settings={"drawn": False}, products=(), stale=drawn.products)
    picture = drawn.products[0]

    def run(job: Job) -> None:
        def work(index: int) -> dict[str, Any]:
            for product in job.products:
                product.write_text("x")
            return {}

        process_all(folder, [job], work, stage="testing", threads=1)

    run(drawn)
    run(plain)
    assert not picture.exists()
    picture.write_text("by hand")
    run(replace(plain, settings={"more": 1}))
    assert picture.read_text() == "by hand"
    with pytest.raises(PosterionError, match=r"m0.txt is there already"):
        run(drawn)


def test_a_micrograph_that_would_be_removed_is_not(tmp_path: Path) -> None:
    """A picture that a run has drawn, taken for a micrograph by a run that draws none."""
    (drawn,), folder = jobs(tmp_path, {}, 1), mine(tmp_path)
    process_all(folder, [drawn], Counting([drawn], [1]), stage="testing")
    picture = drawn.products[0]
    plain = replace(drawn, source=picture, products=(), stale=(picture,))
    with pytest.raises(PosterionError, match=r"m0.txt is a micrograph, which this run would replace"):
        process_all(folder, [plain], Counting([drawn], [1]), stage="testing")
    assert picture.exists()


def test_records_name_their_command(tmp_path: Path) -> None:
    """That of another command stays, even where no summary says whose the folder is."""
    todo, folder = jobs(tmp_path, {}, 1), mine(tmp_path)
    process_all(folder, todo, Counting(todo, [10]), stage="testing")
    assert json.loads(todo[0].record_path.read_text()) == {
        "command": "test",
        "files": ["../m0.txt"],
        "settings": {"own": 0, "file": file_state(todo[0].source)},
        "result": {"value": 10},
    }
    (tmp_path / "summary.json").unlink()
    before = files(tmp_path)
    for other in (replace(folder, command="other"), replace(folder, of="particles")):
        with pytest.raises(PosterionError, match=r"records.m0.json is there already, and no"):
            process_all(other, todo, Counting(todo, [1]), stage="testing")
        assert files(tmp_path) == before
    assert process_all(folder, todo, Counting(todo, [1]), stage="testing").resumed == 1


def test_records_of_earlier_versions_count_in_a_folder_of_ours(tmp_path: Path) -> None:
    todo, folder = jobs(tmp_path, {}, 1), mine(tmp_path)
    process_all(folder, todo, Counting(todo, [10]), stage="testing")
    there = json.loads(todo[0].record_path.read_text())
    todo[0].record_path.write_text(json.dumps({"settings": there["settings"], "result": there["result"]}))
    assert process_all(folder, todo, Counting(todo, [1]), stage="testing").resumed == 1
    (tmp_path / "summary.json").unlink()
    with pytest.raises(PosterionError, match=r"records.m0.json is there already"):
        process_all(folder, todo, Counting(todo, [1]), stage="testing")


@pytest.mark.parametrize("text", ["[]", "{}", '{"mine": 1}'])
def test_a_file_of_the_users_under_the_name_of_a_record_stays(tmp_path: Path, text: str) -> None:
    todo, folder = jobs(tmp_path, {}, 1), mine(tmp_path)
    folder.begin()
    todo[0].record_path.parent.mkdir()
    todo[0].record_path.write_text(text)
    with pytest.raises(PosterionError, match=r"records.m0.json is there already"):
        process_all(folder, todo, Counting(todo, [1]), stage="testing")
    assert todo[0].record_path.read_text() == text


def test_a_micrograph_that_is_replaced_while_it_is_processed_is_not_done(tmp_path: Path) -> None:
    todo, folder = jobs(tmp_path, {}, 1), mine(tmp_path)
    work = Counting(todo, [10])

    def replaced(index: int) -> dict[str, Any]:
        result = work(index)
        todo[index].source.write_text("a new micrograph")
        return result

    process_all(folder, todo, replaced, stage="testing")
    assert process_all(folder, todo, work, stage="testing").resumed == 0
    assert process_all(folder, todo, work, stage="testing").resumed == 1


def test_a_failure_leaves_no_part_of_its_products(tmp_path: Path) -> None:
    todo, folder = jobs(tmp_path, {}, 1), mine(tmp_path)

    def fails(index: int) -> dict[str, Any]:
        todo[index].products[0].write_text("half")
        raise PosterionError("the disk is full")

    assert process_all(folder, todo, fails, stage="testing").reasons == {"m0": "the disk is full"}
    assert sorted(files(tmp_path)) == ["m0.mrc", "summary.json"]


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    todo, folder = jobs(tmp_path, {}, 2), mine(tmp_path)
    process_all(folder, todo, Counting(todo, [10, 20]), stage="testing")
    todo[0].products[0].unlink()
    todo[0].products[0].mkdir()
    outcome = process_all(folder, todo, Counting(todo, [10, 20]), stage="testing")
    assert f"{todo[0].products[0]} cannot be removed (Is a directory)" in outcome.reasons["m0"]
    assert outcome.records[1] == {"value": 20}


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
