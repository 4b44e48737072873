import bz2
import gzip
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from posterion.data.mrc import write_map, write_stack
from posterion.errors import PosterionError
from posterion.micrographs.reading import read_micrograph


@pytest.fixture
def values() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(100, 20, (40, 56)).astype(np.float32)


def test_mrc_plain_and_compressed(tmp_path: Path, values: NDArray[np.float32]) -> None:
    write_map(tmp_path / "m.mrc", values[None], 1.35)
    plain = (tmp_path / "m.mrc").read_bytes()
    (tmp_path / "m.mrc.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "m.mrc.bz2").write_bytes(bz2.compress(plain))
    for name in ("m.mrc", "m.mrc.gz", "m.mrc.bz2"):
        read = read_micrograph(tmp_path / name)
        np.testing.assert_array_equal(read.values, values)
        assert read.pixel_size_angstrom == pytest.approx(1.35)
        assert read.path == tmp_path / name


def test_two_dimensional_mrc_and_integers(tmp_path: Path, values: NDArray[np.float32]) -> None:
    with mrcfile.new(tmp_path / "m.mrc") as mrc:
        mrc.set_data(values.astype(np.int16))
    read = read_micrograph(tmp_path / "m.mrc")
    np.testing.assert_array_equal(read.values, np.trunc(values))
    assert read.values.dtype == np.float32
    assert read.pixel_size_angstrom is None


def test_png_keeps_sixteen_bits(tmp_path: Path, values: NDArray[np.float32]) -> None:
    grey = (600 * values).astype(np.uint16)  # values differ in their low byte
    Image.fromarray(grey).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "m.png").values, grey)
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "m8.png")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "m8.png").values, values.astype(np.uint8))


def test_tiff_is_turned_as_relion_turns_it(tmp_path: Path, values: NDArray[np.float32]) -> None:
    """relion_preprocess --extract (3.1.3) cuts a spot in rows 10 to 20 of a 64-row TIFF at y = 64 - 15."""
    tifffile.imwrite(tmp_path / "m.tif", values)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "m.tif").values, values[::-1])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate"])
def test_packed_tiff(tmp_path: Path, values: NDArray[np.float32], compression: str) -> None:
    grey = (600 * values).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "m.tiff", compression=compression)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "m.tiff").values, grey[::-1])


def refused(path: Path) -> str:
    with pytest.raises(PosterionError) as caught:
        read_micrograph(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_empty_or_unknown(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "m.mrc")
    for suffix in ("mrc", "mrc.gz", "tif", "png"):
        (tmp_path / f"e.{suffix}").touch()
        assert "is empty (0 bytes)" in refused(tmp_path / f"e.{suffix}")
    (tmp_path / "m.jpg").write_bytes(b"x" * 100)
    assert "read from MRC" in refused(tmp_path / "m.jpg")


@pytest.mark.parametrize("name", ["m.mrc", "m.mrc.gz", "m.mrc.bz2", "m.tif", "z.tif", "m.png"])
def test_truncated(tmp_path: Path, values: NDArray[np.float32], name: str) -> None:
    write_map(tmp_path / "m.mrc", values[None], 1.35)
    tifffile.imwrite(tmp_path / "m.tif", values)
    Image.fromarray((600 * values).astype(np.uint16)).save(tmp_path / "z.tif", compression="tiff_lzw")
    Image.fromarray((600 * values).astype(np.uint16)).save(tmp_path / "m.png")
    plain = (tmp_path / "m.mrc").read_bytes()
    (tmp_path / "m.mrc.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "m.mrc.bz2").write_bytes(bz2.compress(plain))
    for share in (0.3, 0.9):
        whole = (tmp_path / name).read_bytes()
        cut = tmp_path / f"cut-{share}-{name}"
        cut.write_bytes(whole[: int(len(whole) * share)])
        refused(cut)


def test_not_one_grey_image(tmp_path: Path, values: NDArray[np.float32]) -> None:
    write_stack(tmp_path / "s.mrcs", np.stack([values, values]), 1.0)
    assert "2 images" in refused(tmp_path / "s.mrcs")
    tifffile.imwrite(tmp_path / "s.tif", np.stack([values, values, values]), photometric="minisblack")
    assert "3 images" in refused(tmp_path / "s.tif")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "c.png")
    assert "mode RGB" in refused(tmp_path / "c.png")
    write_map(tmp_path / "tiny.mrc", values[None, :8, :8], 1.0)
    assert "too small" in refused(tmp_path / "tiny.mrc")


def test_constant_or_not_finite(tmp_path: Path, values: NDArray[np.float32]) -> None:
    write_map(tmp_path / "flat.mrc", np.full((1, 40, 40), 7), 1.0)
    assert "is constant: all pixels are 7" in refused(tmp_path / "flat.mrc")
    values[3, 5] = np.nan
    write_map(tmp_path / "nan.mrc", values[None], 1.0)
    assert "1 pixels that are not finite" in refused(tmp_path / "nan.mrc")
