"""The reference on the images' grid, and the mask."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.data.mrc import write_map
from posterion.errors import PosterionError
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.physics.sources import read_source
from posterion.refine.reference import prepare_mask, prepare_reference

BOX, PIXEL = 24, 7.5


@pytest.fixture(scope="module")
def density() -> NDArray[np.float32]:
    return read_source(None, BOX, PIXEL)[0]


def test_a_reference_on_the_grid_is_left_alone(tmp_path: Path, density: NDArray[np.float32]) -> None:
    write_map(tmp_path / "map.mrc", density, PIXEL)
    values, notes = prepare_reference(tmp_path / "map.mrc", BOX, PIXEL)
    assert np.array_equal(values, density)
    assert notes == ()


@pytest.mark.parametrize(("box", "pixel"), [(36, 5.0), (20, 9.0), (40, 7.5), (48, 7.5), (27, 7.5)])
def test_another_grid_is_met_and_said(
    tmp_path: Path, density: NDArray[np.float32], box: int, pixel: float
) -> None:
    write_map(tmp_path / "map.mrc", read_source(None, box, pixel)[0], pixel)
    values, notes = prepare_reference(tmp_path / "map.mrc", BOX, PIXEL)
    assert values.shape == (BOX,) * 3
    # The coarsest map here has its Nyquist at shell 10 of 12.
    assert fourier_shell_correlation(values, density)[1:9].min() > 0.98
    assert len(notes) == 1
    assert f"{box} px of {pixel:g} A" in notes[0]
    assert f"{BOX} px of {PIXEL:g} A" in notes[0]


def test_the_pixel_size_given_goes_before_the_header(tmp_path: Path, density: NDArray[np.float32]) -> None:
    write_map(tmp_path / "map.mrc", density, 1.0)
    assert np.array_equal(prepare_reference(tmp_path / "map.mrc", BOX, PIXEL, PIXEL)[0], density)
    assert not np.allclose(prepare_reference(tmp_path / "map.mrc", BOX, PIXEL)[0], density)


def test_a_header_without_pixel_size_is_said_or_refused(tmp_path: Path, density: NDArray[np.float32]) -> None:
    write_map(tmp_path / "map.mrc", density, 0.0)
    assert "says no pixel size" in prepare_reference(tmp_path / "map.mrc", BOX, PIXEL)[1][0]
    with pytest.raises(PosterionError, match="--reference-pixel-size"):
        prepare_reference(tmp_path / "map.mrc", BOX + 2, PIXEL)


def test_an_array_has_the_images_pixel_size(density: NDArray[np.float32]) -> None:
    assert np.array_equal(prepare_reference(density.astype(np.float64), BOX, PIXEL)[0], density)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda m: m[:-2], "cubic"),
        (lambda m: np.where(m == m.max(), np.nan, m), "1 voxels of the reference are NaN"),
        (lambda m: 0 * m, "constant"),
    ],
)
def test_unusable_references(density, spoil, sentence: str) -> None:
    with pytest.raises(PosterionError, match=sentence):
        prepare_reference(spoil(density), BOX, PIXEL)


def test_mask_is_a_sphere_of_the_diameter_where_none_is_given() -> None:
    mask, warnings = prepare_mask(None, BOX, PIXEL, 90.0)
    along_x = mask[BOX // 2, BOX // 2]
    assert warnings == ()
    assert along_x[BOX // 2 + 6] == 1  # 45 A
    assert 0 < along_x[BOX // 2 + 8] < 1


def test_mask_with_the_wrong_box_is_refused(tmp_path: Path) -> None:
    write_map(tmp_path / "mask.mrc", np.ones((20, 20, 20), np.float32), PIXEL)
    with pytest.raises(PosterionError, match="20x20x20 voxels but the map has 24x24x24"):
        prepare_mask(tmp_path / "mask.mrc", BOX, PIXEL, 90.0)
