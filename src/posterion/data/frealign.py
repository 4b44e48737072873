"""FREALIGN and cisTEM .par columns <-> our fields.

Their conventions, from cisTEM's source and from images aligned by FREALIGN:

- PHI, THETA, PSI are RELION's rot, tilt, psi: the same matrix.
- SHX, SHY say where the particle is, so they are RELION's offsets with the other sign; in Angstrom since
  FREALIGN 9 (its tables have OCC), in pixels before.
- DF1, DF2, ANGAST are DefocusU, DefocusV, DefocusAngle; PSHIFT is in degrees; MAG is not used.
- The first number of a row is the image in the stack, from 1. Which stack, its pixel size, voltage and Cs
  are not in the file.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterion.data.atomic import replacing
from posterion.data.files import open_binary
from posterion.data.mrc import read_stack_header
from posterion.data.particles import OpticsGroup, Particles, Poses, Supplement
from posterion.data.table import ColumnBuilder, Table
from posterion.errors import PosterionError

__all__ = ["read_frealign", "read_par", "write_frealign"]

_LOG = logging.getLogger("posterion")
_NUMBER = "C"
_POSE = ("PSI", "THETA", "PHI", "SHX", "SHY", "MAG", "FILM", "DF1", "DF2", "ANGAST")
_SCORES = ("OCC", "LogP", "SIGMA", "SCORE", "CHANGE")
_LAYOUTS = {  # columns of files without a heading, by their number
    11: (_NUMBER, *_POSE),
    12: (_NUMBER, *_POSE, "PRESA"),
    13: (_NUMBER, *_POSE, "PRESA", "DPRES"),
    16: (_NUMBER, *_POSE, *_SCORES),
    17: (_NUMBER, *_POSE, "PSHIFT", *_SCORES),
}
_FORMATS = {  # width and decimals as cisTEM writes them: it tells its versions apart by the length of a line
    **dict.fromkeys(("PSI", "THETA", "PHI", "ANGAST", "PSHIFT", "OCC", "SCORE", "CHANGE"), (7, 2)),
    **dict.fromkeys(("SHX", "SHY"), (9, 2)),
    **dict.fromkeys(("DF1", "DF2"), (8, 1)),
    _NUMBER: (7, 0),
    "MAG": (7, 0),
    "FILM": (5, 0),
    "INCLUDE": (5, 0),
    "LogP": (9, 0),
    "SIGMA": (10, 4),
}
_DEFAULT_AMPLITUDE_CONTRAST = 0.07
_NOMINAL = {"MAG": 10000.0, "OCC": 100.0, "LogP": 0.0, "SIGMA": 1.0, "SCORE": 0.0, "CHANGE": 0.0}


def read_par(path: Path) -> Table:
    """Rows of a .par file as text, plain or compressed; columns are named by its heading or their number.

    Raises
    ------
    PosterionError
        An empty file, or a row with another number of values; names the line.
    """
    names: tuple[str, ...] = ()
    rows: list[list[str]] = []
    lines: list[int] = []
    with open_binary(path) as stream:
        for number, line in enumerate(stream):
            words = line.decode("latin-1").split()
            if line[:1] in (b"C", b"c"):
                names = tuple(words) if "PSI" in words and not names else names
            elif words:
                names = names or _LAYOUTS.get(len(words), ())
                if len(words) != len(names):
                    raise PosterionError(
                        f"{path}, line {number + 1}: {len(words)} values for {len(names)} columns."
                    )
                rows.append(words)
                lines.append(number)
    if not rows:
        raise PosterionError(f"{path}: there are no particles in it.")
    columns = {}
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        builder = ColumnBuilder()
        builder.add(list(values))
        columns[name] = builder.build()
    return Table("par", columns, np.array(lines, np.int64), path, rows_are_lines=True)


def read_frealign(path: Path, supplement: Supplement | None = None) -> Particles:
    """Read a FREALIGN or cisTEM .par file.

    Parameters
    ----------
    path
        The .par file.
    supplement
        ``voltage_kv`` and ``spherical_aberration_mm`` are needed. The stack is by default the one of the same
        name beside it, or the only one in the folder that holds enough images and is no cubic map; the pixel
        size that of its header.

    Raises
    ------
    PosterionError
        Names file, line and column; or says what has to be given.
    """
    supplement = supplement or Supplement()
    table = read_par(path)
    stack = supplement.stack or _stack_beside(path, len(table))
    group = _optics_group(path, stack, supplement)
    film_i = table.integers("FILM" if "FILM" in table.columns else "INCLUDE")
    films, micrograph_index_i = np.unique(film_i, return_inverse=True)
    shift_scale = -1.0 if "OCC" in table.columns else -group.pixel_size_angstrom
    zeros = np.zeros(len(table))
    return Particles(
        optics=(group,),
        optics_index_i=np.zeros(len(table), np.int32),
        stack_paths=(stack.absolute(),),
        stack_names=(str(stack) if supplement.stack else stack.name,),
        stack_index_i=np.zeros(len(table), np.int32),
        image_index_i=table.integers(_NUMBER) - 1,
        defocus_u_angstrom_i=table.floats("DF1"),
        defocus_v_angstrom_i=table.floats("DF2"),
        defocus_angle_deg_i=table.floats("ANGAST"),
        phase_shift_deg_i=table.floats("PSHIFT") if "PSHIFT" in table.columns else zeros,
        ctf_bfactor_i=zeros,
        ctf_scale_i=zeros + 1,
        micrograph_names=tuple(f"film_{film:06d}.mrc" for film in films.tolist()),
        micrograph_index_i=micrograph_index_i.ravel().astype(np.int32),
        half_i=np.zeros(len(table), np.int8),
        poses=Poses(
            *(table.floats(name) for name in ("PHI", "THETA", "PSI")),
            *(table.floats(name) * shift_scale for name in ("SHX", "SHY")),
        ),
        table=table,
        image_column=_NUMBER,
    )


def write_frealign(path: str | Path, particles: Particles) -> None:
    """Write a .par file in cisTEM's layout; columns of a .par source go back as they were.

    Parameters
    ----------
    path
        File to write, whole or not at all.
    particles
        With poses, and with all images in one stack.

    Raises
    ------
    PosterionError
        Where there are no poses or several stacks.
    """
    if len(np.unique(particles.stack_index_i)) > 1:
        raise PosterionError(
            f"{path}: a .par file describes one stack, the particles lie in "
            f"{len(np.unique(particles.stack_index_i))}; give --new-stack to write them into one."
        )
    is_par = isinstance(particles.table, Table) and _NUMBER in particles.table.columns
    source = particles.table if is_par and isinstance(particles.table, Table) else None
    names = tuple(source.columns) if source else _LAYOUTS[17 if particles.phase_shift_deg_i.any() else 16]
    values = _values(particles, in_angstrom="OCC" in names)
    texts = [_texts(name, values.get(name), source, len(particles)) for name in names]
    widths = [_FORMATS.get(name, (9, 4))[0] for name in names]
    heading = " ".join(n.rjust(w) for n, w in zip(names[1:], widths[1:], strict=True))
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="ascii", errors="surrogateescape") as stream,
    ):
        stream.write(f"{_NUMBER:7} {heading}\n")
        stream.writelines(" ".join(row) + "\n" for row in zip(*texts, strict=True))


def _stack_beside(path: Path, images: int) -> Path:
    stem = path.with_name(path.name.removesuffix(".gz").removesuffix(".bz2"))
    same_name = [stem.with_suffix(suffix) for suffix in (".mrcs", ".mrc")]
    found = [stack for stack in same_name if stack.is_file()]
    if not found:
        found = sorted(p for p in path.parent.iterdir() if _may_be_stack(p, images))
        if len(found) == 1:
            _LOG.info("%s names no stack; %s is used, the only one beside it.", path, found[0])
    return found[0] if len(found) == 1 else same_name[0]


def _may_be_stack(path: Path, images: int) -> bool:
    """Tell stacks with enough images from other files; a cube called .mrc is taken for a map."""
    if path.suffix not in (".mrcs", ".mrc"):
        return False
    try:
        header = read_stack_header(path)
    except PosterionError:
        return False
    is_map = path.suffix == ".mrc" and header.nx == header.ny == header.n_images
    return header.n_images >= images and not is_map


def _optics_group(path: Path, stack: Path, supplement: Supplement) -> OpticsGroup:
    header = read_stack_header(stack) if stack.is_file() else None
    pixel = supplement.pixel_size_angstrom
    if not pixel and header and header.pixel_size_angstrom:
        pixel = header.pixel_size_angstrom
        _LOG.warning("%s has no pixel size; %g A is used, from %s.", path, pixel, stack)
    options = {
        "--pixel-size": pixel,
        "--voltage": supplement.voltage_kv,
        "--cs": supplement.spherical_aberration_mm,
    }
    missing = [name for name, value in options.items() if value is None]
    if missing:
        raise PosterionError(f"{path}: a .par file does not say everything; give {', '.join(missing)}.")
    contrast = supplement.amplitude_contrast
    if contrast is None:
        contrast = _DEFAULT_AMPLITUDE_CONTRAST
        _LOG.warning("%s has no amplitude contrast; %g is used.", path, contrast)
    return OpticsGroup(
        "opticsGroup1",
        float(supplement.voltage_kv or 0.0),
        float(supplement.spherical_aberration_mm or 0.0),
        contrast,
        float(pixel or 0.0),
        header.nx if header else 0,
    )


def _values(particles: Particles, in_angstrom: bool) -> dict[str, NDArray[np.float64]]:
    """Our fields as FREALIGN has them."""
    poses = particles.require_poses()
    unit = np.array([1.0 if in_angstrom else group.pixel_size_angstrom for group in particles.optics])
    unit_i = unit[particles.optics_index_i]
    return {
        _NUMBER: particles.image_index_i.astype(np.float64) + 1,
        "PSI": poses.psi_deg_i,
        "THETA": poses.tilt_deg_i,
        "PHI": poses.rot_deg_i,
        "SHX": -poses.shift_x_angstrom_i / unit_i,
        "SHY": -poses.shift_y_angstrom_i / unit_i,
        "FILM": np.maximum(particles.micrograph_index_i, 0).astype(np.float64) + 1,
        "DF1": particles.defocus_u_angstrom_i,
        "DF2": particles.defocus_v_angstrom_i,
        "ANGAST": particles.defocus_angle_deg_i,
        "PSHIFT": particles.phase_shift_deg_i,
    }


def _texts(name: str, values: NDArray[np.float64] | None, source: Table | None, count: int) -> list[str]:
    """Column to write: the source's own text where it stands for the same value."""
    width, decimals = _FORMATS.get(name, (9, 4))
    if source is not None and (
        values is None or name == "FILM" or np.allclose(source.floats(name), values, rtol=1e-12, atol=1e-9)
    ):
        return [text.decode("latin-1").rjust(width) for text in source.columns[name].text().tolist()]
    if values is None:
        values = np.full(count, _NOMINAL.get(name, 0.0))
    return [f"{value:{width}.{decimals}f}" for value in values.tolist()]
