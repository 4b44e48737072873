from pathlib import Path

import numpy as np
import pytest

from posterion.data.star import read_star
from posterion.data.table import TextColumn
from posterion.errors import PosterionError
from posterion.micrographs.coordinates import (
    Coordinates,
    coordinate_files,
    read_coordinates,
    write_box,
    write_coordinate_files,
    write_coordinates,
)


@pytest.fixture
def three() -> Coordinates:
    scores = {"rlnAutopickFigureOfMerit": TextColumn.of(["7.1", "6.0", "5.5"])}
    return Coordinates(np.array([10.25, 300.0, 7.5]), np.array([20.0, 41.75, 8.0]), scores)


def test_star_round_trip(tmp_path: Path, three: Coordinates) -> None:
    write_coordinates(tmp_path / "a_autopick.star", three)
    back = read_coordinates(tmp_path / "a_autopick.star")
    np.testing.assert_array_equal(back.x_px_i, three.x_px_i)
    np.testing.assert_array_equal(back.y_px_i, three.y_px_i)
    assert back.columns["rlnAutopickFigureOfMerit"].floats().tolist() == [7.1, 6.0, 5.5]
    assert read_star(tmp_path / "a_autopick.star")[0].name == ""  # data_, as RELION has it


def test_none_at_all(tmp_path: Path) -> None:
    empty = Coordinates(np.zeros(0), np.zeros(0), {"rlnClassNumber": TextColumn.of([])})
    write_coordinates(tmp_path / "a.star", empty)
    back = read_coordinates(tmp_path / "a.star")
    assert len(back) == 0
    assert list(back.columns) == ["rlnClassNumber"]
    write_box(tmp_path / "a.box", empty, 64)
    assert len(read_coordinates(tmp_path / "a.box")) == 0


def test_box_names_the_corner(tmp_path: Path, three: Coordinates) -> None:
    write_box(tmp_path / "a.box", three, 64)
    assert (tmp_path / "a.box").read_text().splitlines()[0].split() == ["-22", "-12", "64", "64"]
    back = read_coordinates(tmp_path / "a.box")
    assert back.x_px_i.tolist() == [10, 300, 8]
    assert back.y_px_i.tolist() == [20, 42, 8]


def test_list_of_relion_4(tmp_path: Path) -> None:
    write_coordinate_files(tmp_path / "autopick.star", ["m/a.mrc", "m/b.mrc"], ["p/a.star", "p/b.star"])
    tables = read_star(tmp_path / "autopick.star")
    assert tables[0].name == "coordinate_files"
    assert coordinate_files(tables) == [("m/a.mrc", "p/a.star"), ("m/b.mrc", "p/b.star")]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "a.star",
            "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateZ\n1 2\n",
            "column rlnCoordinateY is missing",
        ),
        ("a.star", "data_\nloop_\n_rlnDefocusU\n1\n", "a.star holds no coordinates"),
        (
            "a.star",
            "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n1 x\n",
            "line 6, column rlnCoordinateY",
        ),
        ("a.box", "1 2 64 64\n1 2 64\n", "a.box, line 2: expected four numbers"),
        ("a.box", "1 2 64 64\na b c d\n", "a.box, line 2: expected four numbers"),
    ],
)
def test_files_that_hold_none(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PosterionError, match=sentence):
        read_coordinates(tmp_path / name)
