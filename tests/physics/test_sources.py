"""Maps that simulation starts from, on the wanted grid."""

from pathlib import Path

import numpy as np
import pytest

from posterion.data.mrc import write_map
from posterion.errors import PosterionError
from posterion.physics.atomic_model import map_from_atoms
from posterion.physics.phantom import phantom_atoms, phantom_map
from posterion.physics.sources import map_on_grid, read_source


def smooth(box: int, pixel: float) -> np.ndarray:
    atoms = phantom_atoms()
    return map_from_atoms(atoms._replace(bfactors_angstrom2=atoms.bfactors_angstrom2 + 900), box, pixel)


@pytest.mark.parametrize(("box", "pixel"), [(48, 4.0), (37, 5.0), (60, 3.3), (41, 4.0), (60, 4.0)])
def test_map_on_another_grid(box: int, pixel: float) -> None:
    moved = map_on_grid(smooth(48, 4.0), 4.0, box, pixel)
    expected = smooth(box, pixel)
    assert np.abs(moved - expected).max() < 0.01 * expected.max()


def test_embedded_model() -> None:
    values, pixel = read_source(None)
    assert values.shape == (64, 64, 64)
    assert pixel == 180 / 64
    values, pixel = read_source(None, 32, 5.5)
    np.testing.assert_array_equal(values, phantom_map(32, 5.5))


def test_mrc_map(tmp_path: Path) -> None:
    write_map(tmp_path / "m.mrc", smooth(32, 5.0), 5.0)
    values, pixel = read_source(tmp_path / "m.mrc")
    assert (values.shape[0], pixel) == (32, 5.0)
    values, pixel = read_source(tmp_path / "m.mrc", 40, 4.5)
    assert (values.shape[0], pixel) == (40, 4.5)
    assert np.abs(values - smooth(40, 4.5)).max() < 0.02 * values.max()


def test_atomic_model(shared_data: Path) -> None:
    values, pixel = read_source(shared_data / "maps" / "7a4m.cif", 48)
    assert values.shape == (48, 48, 48)
    assert 4 < pixel < 4.5


def test_what_is_refused(tmp_path: Path) -> None:
    write_map(tmp_path / "slab.mrc", np.zeros((4, 8, 8)), 1.0)
    with pytest.raises(PosterionError, match="expected a cubic map, got 4 x 8 x 8 voxels"):
        read_source(tmp_path / "slab.mrc")
    write_map(tmp_path / "unscaled.mrc", np.zeros((8, 8, 8)), 0.0)
    with pytest.raises(PosterionError, match="no voxel size; give --pixel-size"):
        read_source(tmp_path / "unscaled.mrc")
    assert read_source(tmp_path / "unscaled.mrc", pixel_size_angstrom=2.0)[1] == 2.0
