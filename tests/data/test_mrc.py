import bz2
import gzip
import logging
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from posterion.data.mrc import (
    open_stack,
    read_images,
    read_map,
    read_stack_header,
    write_map,
    write_stack,
    write_stack_batches,
)
from posterion.errors import PosterionError

VALUES = np.arange(2 * 3 * 4).reshape(2, 3, 4)


@pytest.mark.parametrize("code", ["i1", "i2", "f4", "u2", "f2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_mode_in_both_byte_orders(code: str, order: str, tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "m.mrc") as mrc:
        mrc.set_data(VALUES.astype(order + code))
        mrc.voxel_size = 1.5
    values, pixel_size = read_map(tmp_path / "m.mrc")
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, VALUES)
    assert pixel_size == 1.5
    stack = open_stack(tmp_path / "m.mrc")
    np.testing.assert_array_equal(read_images(stack, np.array([1, 0])), VALUES[[1, 0]])


def test_wrong_machine_stamp_and_missing_map_word(tmp_path: Path) -> None:
    write_map(tmp_path / "m.mrc", VALUES, 2.0)
    data = bytearray((tmp_path / "m.mrc").read_bytes())
    data[208:216] = b"\0\0\0\0\x11\x11\0\0"
    (tmp_path / "m.mrc").write_bytes(data)
    np.testing.assert_array_equal(read_map(tmp_path / "m.mrc")[0], VALUES)


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".bz2", bz2)])
def test_compressed_maps(suffix: str, module: object, tmp_path: Path) -> None:
    write_map(tmp_path / "m.mrc", VALUES, 2.5)
    data = module.compress((tmp_path / "m.mrc").read_bytes())  # type: ignore[attr-defined]
    (tmp_path / f"n.mrc{suffix}").write_bytes(data)
    write_map(tmp_path / f"o.mrc{suffix}", VALUES, 2.5)
    for name in ("n", "o"):
        values, pixel_size = read_map(tmp_path / f"{name}.mrc{suffix}")
        np.testing.assert_array_equal(values, VALUES)
        assert pixel_size == 2.5
    with pytest.raises(PosterionError, match="compressed stack"):
        open_stack(tmp_path / f"n.mrc{suffix}")


def test_axes_in_another_order(tmp_path: Path) -> None:
    """Columns along y, rows along z, sections along x."""
    with mrcfile.new(tmp_path / "m.mrc") as mrc:
        mrc.set_data(VALUES.astype(np.float32))
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 2, 3, 1
    values, _ = read_map(tmp_path / "m.mrc")
    assert values.shape == (3, 4, 2)
    np.testing.assert_array_equal(values, VALUES.transpose(1, 2, 0))


def test_extended_header_is_skipped(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "m.mrc") as mrc:
        mrc.set_data(VALUES.astype(np.int16))
        mrc.set_extended_header(np.zeros(100, "V1"))
    np.testing.assert_array_equal(read_map(tmp_path / "m.mrc")[0], VALUES)
    np.testing.assert_array_equal(read_images(open_stack(tmp_path / "m.mrc"), np.array([1]))[0], VALUES[1])


def test_unsigned_bytes_of_imod(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "m.mrc") as mrc:
        mrc.set_data(np.full((1, 2, 2), -56, np.int8))
    data = bytearray((tmp_path / "m.mrc").read_bytes())
    data[152:156] = (1146047817).to_bytes(4, "little")
    (tmp_path / "m.mrc").write_bytes(data)
    assert read_map(tmp_path / "m.mrc")[0].max() == 200


def test_useless_voxel_sizes_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_map(tmp_path / "m.mrc", VALUES, 0.0)
    assert read_map(tmp_path / "m.mrc")[1] == 0.0
    with mrcfile.open(tmp_path / "m.mrc", "r+") as mrc:
        mrc.voxel_size = (90.3, 107.2, 0.02)
    with caplog.at_level(logging.WARNING, "posterion"):
        assert read_map(tmp_path / "m.mrc")[1] == 0.0
    assert "90.300 x 107.200 A; ignored" in caplog.text


def test_truncated(tmp_path: Path) -> None:
    write_stack(tmp_path / "s.mrcs", VALUES.astype(np.float32), 1.0)
    data = (tmp_path / "s.mrcs").read_bytes()
    (tmp_path / "s.mrcs").write_bytes(data[:-10])
    for read in (read_map, open_stack):
        with pytest.raises(
            PosterionError, match=f"truncated: 2 images .* need {len(data)} bytes, the file has 1110"
        ):
            read(tmp_path / "s.mrcs")


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 2000])
def test_no_mrc(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.mrc").write_bytes(content)
    with pytest.raises(PosterionError, match="no MRC file"):
        read_map(tmp_path / "x.mrc")


def test_complex_mode_is_refused(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "m.mrc") as mrc:
        mrc.set_data(VALUES.astype(np.complex64))
    with pytest.raises(PosterionError, match="MRC mode 4; expected 0, 1, 2, 6 or 12"):
        read_map(tmp_path / "m.mrc")


def test_missing_file() -> None:
    for read in (read_map, read_stack_header, open_stack):
        with pytest.raises(PosterionError, match="No such file"):
            read(Path("nowhere.mrc"))


def test_stacks_keep_their_type_and_are_stacks(tmp_path: Path) -> None:
    write_stack(tmp_path / "s.mrcs", VALUES.astype(np.float16), 3.0)
    with mrcfile.open(tmp_path / "s.mrcs") as mrc:
        assert mrc.is_image_stack()
        assert mrc.data.dtype == np.float16
    header = read_stack_header(tmp_path / "s.mrcs")
    assert (header.n_images, header.ny, header.nx, header.pixel_size_angstrom) == (2, 3, 4, 3.0)
    write_stack_batches(
        tmp_path / "t.mrcs", (VALUES[i : i + 1].astype(np.float32) for i in range(2)), (2, 3, 4), 3.0
    )
    np.testing.assert_array_equal(read_map(tmp_path / "t.mrcs")[0], VALUES)


def test_replaced_stack_is_read_anew(tmp_path: Path) -> None:
    """Even one written within the same tick of the clock."""
    for factor in (1, 2):
        write_stack(tmp_path / "s.mrcs", factor * VALUES.astype(np.float32), 1.0)
        os.utime(tmp_path / "s.mrcs", (10, 10))
        images = read_images(open_stack(tmp_path / "s.mrcs"), np.array([1]))
        np.testing.assert_array_equal(images[0], factor * VALUES[1])


def test_unwritable_folder() -> None:
    with pytest.raises(PosterionError, match="cannot be written"):
        write_map("/proc/nowhere/m.mrc", VALUES, 1.0)


def test_map_with_nan_is_written(tmp_path: Path) -> None:
    write_map(tmp_path / "m.mrc", np.full((2, 2, 2), np.nan), 1.0)
    assert np.isnan(read_map(tmp_path / "m.mrc")[0]).all()
