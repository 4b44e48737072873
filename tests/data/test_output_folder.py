import json
import logging
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
    mine.begin([product])
    assert json.loads((tmp_path / "new" / "summary.json").read_text()) == {"command": "pick"}
    for other in (folder(tmp_path / "new", "ctf"), folder(tmp_path / "new", of="particles")):
        with pytest.raises(PosterionError, match="holds results of something else than"):
            other.claim()
        with pytest.raises(PosterionError, match="holds results of something else than"):
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
    with pytest.raises(PosterionError, match="something else than 'posterion pick' of micrographs;"):
        folder(tmp_path, of="micrographs").claim()
    with pytest.raises(PosterionError, match="something else than 'posterion pick';"):
        folder(tmp_path).claim()


@pytest.mark.parametrize("text", ["", "[]", "{cut off", "{}"])
def test_a_summary_that_says_nothing_is_not_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(PosterionError, match="holds results of something else"):
        folder(tmp_path).claim()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(PosterionError, match="a is a file; choose another folder with -o"):
        folder(tmp_path / "a").claim()


def test_log_goes_into_the_folder_and_leftovers_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / ".123-unfinished-map.mrc").write_text("half a map")
    with open_folder(folder):
        logging.getLogger("posterion").info("a line")
    logging.getLogger("posterion").warning("after")
    assert [path.name for path in folder.iterdir()] == ["run.log"]
    assert (folder / "run.log").read_text().endswith(" INFO a line\n")


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
