import fcntl
import json
import logging
import os
from pathlib import Path

import pytest

from posterion.data.output_folder import OutputFolder, open_folder
from posterion.errors import PosterionError


def folder(path: Path, command: str = "pick", of: str = "") -> OutputFolder:
    return OutputFolder(path, command, ("all.star", "all.png"), of)


def test_a_stopped_run_goes_on_and_any_other_is_refused(tmp_path: Path) -> None:
    mine, (product,) = folder(tmp_path / "new"), [tmp_path / "new" / "one.box"]
    mine.claim()
    assert not (tmp_path / "new").exists()
    mine.begin([product])
    product.write_text("x")
    mine.begin()
    assert json.loads((tmp_path / "new" / "summary.json").read_text()) == {"command": "pick"}
    for other in (folder(tmp_path / "new", "ctf"), folder(tmp_path / "new", of="particles")):
        with pytest.raises(PosterionError, match=r"results of 'posterion pick' .its summary.json., not of"):
            other.claim()
        with pytest.raises(PosterionError, match=r"results of 'posterion pick' .its summary.json., not of"):
            other.begin()
    assert product.read_text() == "x"


def test_results_are_of_one_run(tmp_path: Path) -> None:
    mine = folder(tmp_path)
    mine.begin()
    for name in mine.results:
        (tmp_path / name).touch()
    mine.finish({"count": 3})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"command": "pick", "count": 3}
    mine.claim()
    assert (tmp_path / "all.png").exists()
    mine.begin()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.json"]


def test_what_no_run_of_ours_wrote_stays(tmp_path: Path) -> None:
    mine, product = folder(tmp_path), tmp_path / "one.box"
    product.touch()
    mine.claim()
    with pytest.raises(PosterionError, match=r"one.box is there already"):
        mine.begin([tmp_path / "two.box", product])
    (tmp_path / "all.star").touch()
    with pytest.raises(PosterionError, match=r"all.star is there already"):
        mine.claim()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.star", "one.box"]


def test_nor_is_a_product_of_the_users_replaced_in_a_folder_of_ours(tmp_path: Path) -> None:
    mine, product = folder(tmp_path), tmp_path / "one.box"
    mine.begin([product])
    (tmp_path / "all.star").touch()
    product.touch()
    with pytest.raises(PosterionError, match=r"one.box is there already"):
        mine.begin([product])
    assert (tmp_path / "all.star").exists()


def test_a_result_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever name."""
    folder(tmp_path).begin()
    monkeypatch.chdir(tmp_path)
    folder(tmp_path).claim([None, Path("other.star")])
    with pytest.raises(PosterionError, match=r"all.star is read by this run, which would replace it;"):
        folder(tmp_path).claim([None, Path("all.star")])


def test_kinds_of_one_command(tmp_path: Path) -> None:
    folder(tmp_path, of="particles").begin()
    folder(tmp_path, of="particles").claim()
    with pytest.raises(
        PosterionError,
        match=r"'posterion pick' of particles .its summary.json., not of 'posterion pick' of micrographs;",
    ):
        folder(tmp_path, of="micrographs").claim()
    with pytest.raises(
        PosterionError, match=r"'posterion pick' of particles .its summary.json., not of 'posterion pick';"
    ):
        folder(tmp_path).claim()


@pytest.mark.parametrize("text", ["", "[]", "{cut off", "{}"])
def test_a_summary_that_says_nothing_is_not_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(PosterionError, match=r"summary.json does not say which command's results are there;"):
        folder(tmp_path).claim()


@pytest.mark.parametrize("place", ["a", "a/sub", "a/sub/folder"])
def test_a_file_is_no_folder(tmp_path: Path, place: str) -> None:
    """The sentence names the file, not the folder that would lie in it."""
    (tmp_path / "a").touch()
    with pytest.raises(
        PosterionError, match="a is a file; move it away, or give another output folder"
    ) as no:
        folder(tmp_path / place).claim()
    assert str(no.value).startswith(f"{tmp_path / 'a'} is a file")


def test_a_summary_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(PosterionError, match=r"summary.json cannot be read \(Is a directory\);"):
        folder(tmp_path).claim()


def test_an_earlier_version_named_its_folder_in_another_file(tmp_path: Path) -> None:
    """It did so without saying of what; of another command or of none the folder is not ours."""
    record, result = tmp_path / "made.json", tmp_path / "all.star"
    mine = OutputFolder(tmp_path, "pick", ("all.star",), "particles", "made.json")
    result.touch()
    for text in ('{"command": "ctf"}', "{cut off"):
        record.write_text(text)
        with pytest.raises(
            PosterionError, match=r"all.star is there already, and no 'posterion pick' of this"
        ):
            mine.begin()
    record.write_text('{"command": "pick"}')
    mine.begin()
    assert not result.exists()
    assert json.loads((tmp_path / "summary.json").read_text()) == {"command": "pick", "of": "particles"}


def test_a_result_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    folder(tmp_path).begin()
    (tmp_path / "all.star").mkdir()
    with pytest.raises(PosterionError, match=r"all.star cannot be removed \(Is a directory\); move it away"):
        folder(tmp_path).begin()


def test_log_goes_into_the_folder_and_leftovers_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / ".99999999-unfinished-map.mrc").write_text("half a map")
    with open_folder(folder):
        logging.getLogger("posterion").info("a line")
    logging.getLogger("posterion").warning("after")
    assert [path.name for path in folder.iterdir()] == ["run.log"]
    assert (folder / "run.log").read_text().endswith(" INFO a line\n")


def test_leftovers_are_removed_among_products_and_not_in_folders_of_others(tmp_path: Path) -> None:
    leftovers = [
        tmp_path / place / ".99999999-unfinished-a.mrcs" for place in (".", "stacks", "b/c", "other", "x")
    ]
    for file in leftovers:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "other" / "run.log").touch()
    (tmp_path / "x" / "summary.json").touch()
    (tmp_path / "stacks" / ".my-unfinished-notes").touch()
    (tmp_path / "stacks" / ".1st-unfinished-notes").touch()
    # Another command, which locks nothing, is writing.
    (tmp_path / "stacks" / f".{os.getppid()}-unfinished-b.mrcs").touch()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "b" / "c")
    with open_folder(tmp_path):
        assert [file.exists() for file in leftovers] == [False, False, True, True, True]
    assert (tmp_path / "stacks" / ".my-unfinished-notes").exists()
    assert (tmp_path / "stacks" / ".1st-unfinished-notes").exists()
    assert (tmp_path / "stacks" / f".{os.getppid()}-unfinished-b.mrcs").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_inside_that_may_not_be_looked_into_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir(mode=0)
    with open_folder(tmp_path):
        pass
    (tmp_path / "lost+found").chmod(0o700)


@pytest.mark.parametrize("taken", [False, True])
def test_a_lock_on_a_log_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """Its process ended, and removed it as empty, when we had opened it and not locked; another began."""
    log, flock, removed = tmp_path / "run.log", fcntl.flock, False
    other = os.open(tmp_path, os.O_RDONLY)

    def after_removal(file: int, how: int) -> None:
        nonlocal removed, other
        if not removed:
            removed = True
            log.unlink()
            if taken:
                other = os.open(log, os.O_CREAT | os.O_WRONLY)
                flock(other, how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", after_removal)
    if taken:
        with pytest.raises(PosterionError, match="another process"), open_folder(tmp_path):
            pass
    else:
        with (
            open_folder(tmp_path),
            pytest.raises(PosterionError, match="another process"),
            open_folder(tmp_path),
        ):
            pass
    os.close(other)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        open_folder(tmp_path),
        pytest.raises(PosterionError, match="another process is working"),
        open_folder(tmp_path),
    ):
        pass
    with open_folder(tmp_path):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PosterionError, match="cannot be written"), open_folder(tmp_path / "file" / "out"):
        pass


def test_a_log_that_says_nothing_does_not_stay(tmp_path: Path) -> None:
    """Unless it is that of another process."""
    with open_folder(tmp_path):
        with pytest.raises(PosterionError, match="another process"), open_folder(tmp_path):
            pass
        assert (tmp_path / "run.log").exists()
    assert not list(tmp_path.iterdir())
