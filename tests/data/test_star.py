import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posterion.data import star
from posterion.data.star import read_star, write_star
from posterion.data.table import Table, TextColumn
from posterion.errors import PosterionError

FIXTURES = Path(__file__).parent / "fixtures"


def texts(table: Table) -> dict[str, list[bytes]]:
    return {name: column.text().tolist() for name, column in table.columns.items()}


def assert_same(first: tuple[Table, ...], second: tuple[Table, ...]) -> None:
    assert [(t.name, t.is_loop) for t in first] == [(t.name, t.is_loop) for t in second]
    for a, b in zip(first, second, strict=True):
        assert list(a.columns) == list(b.columns)
        assert texts(a) == texts(b)


@pytest.mark.parametrize("name", ["relion30.star", "relion31.star"])
def test_text_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    tables = read_star(FIXTURES / name)
    write_star(tmp_path / "out.star", tables)
    assert_same(tables, read_star(tmp_path / "out.star"))


def test_strings_that_look_like_numbers_stay_strings() -> None:
    particles = read_star(FIXTURES / "relion31.star")[-1]
    assert texts(particles)["labNote"] == [
        b"0012",
        b"1.500000",
        b"'two words'",
        b'"it\'s quoted"',
        b"1e5",
        b"-0.0",
    ]


def test_crlf_comments_and_quotes() -> None:
    (table,) = read_star(FIXTURES / "relion30.star")
    assert table.name == "images"
    assert len(table) == 6
    assert texts(table)["rlnClassNumber"] == [b"0001"] * 6


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".bz2", bz2)])
def test_compressed(suffix: str, module: object, tmp_path: Path) -> None:
    path = tmp_path / f"p.star{suffix}"
    path.write_bytes(module.compress((FIXTURES / "relion31.star").read_bytes()))  # type: ignore[attr-defined]
    assert_same(read_star(path), read_star(FIXTURES / "relion31.star"))


def test_what_cif_forbids_and_relion_writes(tmp_path: Path) -> None:
    """Names beyond ASCII, values that start with a keyword or a dollar."""
    path = tmp_path / "p.star"
    rows = ["1 data_001.mrc Grün/ä.mrc", "2 $HOME/x loop_1", "3 ~x24~y stop_"]
    path.write_text("data_\nloop_\n_a\n_b\n_c\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (table,) = read_star(path)
    assert texts(table)["b"][:2] == [b"data_001.mrc", b"$HOME/x"]
    assert table.columns["c"].strings()[0][0] == "Grün/ä.mrc"
    write_star(tmp_path / "q.star", [table])
    assert_same((table,), read_star(tmp_path / "q.star"))


def test_text_of_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    path.write_text("data_x\n_note\n;two\nlines\n;\nloop_\n_a\n_b\n1\n;more\nlines\n;\n2 3\n")
    tables = read_star(path)
    assert texts(tables[1])["b"] == [b";more\nlines\n;", b"3"]
    write_star(tmp_path / "q.star", tables)
    assert_same(tables, read_star(tmp_path / "q.star"))


def test_empty_loop_survives(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    path.write_text("data_a\nloop_\n_x\n_y\n\ndata_b\n_z 1\n")
    tables = read_star(path)
    assert [len(table) for table in tables] == [0, 1]
    write_star(tmp_path / "q.star", tables)
    assert_same(tables, read_star(tmp_path / "q.star"))


def test_pieces_give_the_same_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the text is cut: in a heading, a row, a quoted text, between tables."""
    note = "\ndata_end\n_note\n;a\nb\n;\n_last 1\n"
    path = tmp_path / "p.star"
    path.write_text((FIXTURES / "relion31.star").read_text() + note)
    whole = read_star(path)
    for size in (20, 64, 100, 333, 1000):
        monkeypatch.setattr(star, "_PIECE_BYTES", size)
        assert_same(whole, read_star(path))


word = st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), max_size=12)


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(word, word), min_size=1, max_size=8))
def test_any_strings_survive(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    rows = [(a.replace('"', "'") if "'" in a else a, b.replace('"', "'")) for a, b in rows]
    table = Table.of("particles", {"a": [a for a, _ in rows], "b": [b for _, b in rows]})
    write_star(tmp_path / "t.star", [table])
    (back,) = read_star(tmp_path / "t.star")
    for name, values in (("a", [a for a, _ in rows]), ("b", [b for _, b in rows])):
        names, code_i = back.columns[name].strings()
        assert [names[code] for code in code_i] == values


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no table"),
        ("# only a comment\n", "holds no table"),
        ("data_x\nloop_\n_a\n_b\n1 2\n3\n4 5\n", "line 6: 1 values for 2 columns"),
        ("data_x\nloop_\n_a\n_b\n1 2\n\n3 4 5\n", "line 7: 3 values for 2 columns"),
        ("just words\n", "line 1: not STAR text"),
        ("data_x\nloop_\n_a\n1\n'open\n", "line 5"),
    ],
)
def test_bad_text_is_named_by_line(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.star"
    path.write_text(text)
    with pytest.raises(PosterionError, match=complaint):
        read_star(path)


def test_bad_row_far_into_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(star, "_PIECE_BYTES", 200)
    path = tmp_path / "bad.star"
    path.write_text("data_x\nloop_\n_a\n_b\n" + "1 2\n" * 300 + "1\n" + "1 2\n" * 20)
    with pytest.raises(PosterionError, match="line 305: 1 values for 2 columns"):
        read_star(path)


def test_missing_file() -> None:
    with pytest.raises(PosterionError, match="No such file"):
        read_star("nowhere.star")


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "p.star.gz"
    path.write_bytes(gzip.compress((FIXTURES / "relion31.star").read_bytes())[:-20])
    with pytest.raises(PosterionError, match="cannot be read"):
        read_star(path)


def test_nothing_half_written(tmp_path: Path) -> None:
    bad = Table("t", {"a": TextColumn.of(["1", "2"]), "b": TextColumn.of(["1"])}, np.arange(2))
    (tmp_path / "t.star").write_text("old")
    with pytest.raises(ValueError, match="zip"):
        write_star(tmp_path / "t.star", [bad])
    assert (tmp_path / "t.star").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["t.star"]


def test_real_files_survive_a_round_trip(shared_data: Path, tmp_path: Path) -> None:
    paths = [p for p in sorted(shared_data.rglob("*")) if ".star" in p.name and "ribo128" not in str(p)]
    assert len(paths) >= 10
    for path in paths:
        tables = read_star(path)
        write_star(tmp_path / "out.star", tables)
        assert_same(tables, read_star(tmp_path / "out.star"))
