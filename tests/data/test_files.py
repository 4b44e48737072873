from pathlib import Path

import pytest

from posterion.data.files import find_file, open_binary, places_to_look, without_format
from posterion.errors import PosterionError


def test_own_folder_comes_first_then_parents_then_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project" / "job").mkdir(parents=True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    places = places_to_look(tmp_path / "project" / "job")
    assert places[:2] == [tmp_path / "project" / "job", tmp_path / "project"]
    assert places[-1] == tmp_path / "cwd"
    assert find_file("s.mrcs", places) is None
    for folder in ("cwd", "project", "project/job"):
        (tmp_path / folder / "s.mrcs").touch()
        assert find_file("s.mrcs", places) == tmp_path / folder / "s.mrcs"
    assert find_file(str(tmp_path / "cwd" / "s.mrcs"), places) == tmp_path / "cwd" / "s.mrcs"


def test_format_notes_of_relion() -> None:
    assert [without_format(name) for name in ("a.mrc:mrcs", "a.ctf:mrc", "a.mrcs")] == [
        "a.mrc",
        "a.ctf",
        "a.mrcs",
    ]


def test_missing_file() -> None:
    with pytest.raises(PosterionError, match="No such file"):
        open_binary(Path("nowhere"))
