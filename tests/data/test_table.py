from pathlib import Path

import numpy as np
import pytest

from posterion.data.star import read_star
from posterion.data.table import Table, TextColumn, tokens
from posterion.errors import PosterionError

STAR = """
data_optics
_rlnSomething 1

data_particles
loop_
_rlnA #1
_rlnB #2
1 x  # comment
# a whole line of comment

2.5 'y z'
oops w
"""


@pytest.fixture
def table(tmp_path: Path) -> Table:
    (tmp_path / "t.star").write_text(STAR)
    return read_star(tmp_path / "t.star")[1]


def test_tokens_keep_quotes_and_drop_comments() -> None:
    assert tokens(b"""a 'b c' "it's" d'e #f g""") == [b"a", b"'b c'", b'"it\'s"', b"d'e"]


def test_repeated_values_are_stored_once() -> None:
    column = TextColumn.of(["mic1.mrc"] * 500 + ["mic2.mrc"] * 500)
    assert len(column.entries) == 2
    assert len(column) == 1000
    assert column[400:600].text().tolist() == [b"mic1.mrc"] * 100 + [b"mic2.mrc"] * 100


def test_new_values_are_quoted_where_needed() -> None:
    column = TextColumn.of(["a b", "", "c", 'd "e"', "#f"])
    assert column.text().tolist() == [b'"a b"', b'""', b"c", b"'d \"e\"'", b'"#f"']
    names, code_i = column.strings()
    assert [names[code] for code in code_i] == ["a b", "", "c", 'd "e"', "#f"]


def test_value_that_is_no_number_is_named_by_line_and_column(table: Table) -> None:
    with pytest.raises(PosterionError, match=r"t\.star, line 13, column rlnA: 'oops' is not a number"):
        table.floats("rlnA")
    with pytest.raises(PosterionError, match=r"line 13, column rlnA: 'oops'"):
        table[[2]].floats("rlnA")


def test_fraction_is_no_whole_number(table: Table) -> None:
    with pytest.raises(PosterionError, match=r"line 12, column rlnA: '2\.5' is not a whole number"):
        table[:2].integers("rlnA")


def test_not_a_number_is_not_finite() -> None:
    with pytest.raises(PosterionError, match="'nan' is not a finite number"):
        Table.of("t", {"a": ["1", "nan"]}).floats("a")


def test_missing_column_says_what_there_is(table: Table) -> None:
    with pytest.raises(PosterionError, match=r"column rlnC is missing; it has rlnA, rlnB"):
        table.column("rlnC")


def test_quoted_numbers_are_numbers() -> None:
    np.testing.assert_array_equal(TextColumn(np.array([b"'1.5'", b'"2"'])).floats(), [1.5, 2.0])


def test_columns_are_replaced_in_place_appended_or_removed() -> None:
    table = Table.of("t", {"a": ["1"], "b": ["2"], "c": ["3"]})
    changed = table.with_columns({"b": TextColumn.of(["9"]), "a": None, "d": TextColumn.of(["4"])})
    assert {name: column.text()[0] for name, column in changed.columns.items()} == {
        "b": b"9",
        "c": b"3",
        "d": b"4",
    }
    assert list(changed.columns) == ["b", "c", "d"]
