"""What a user asks of a refinement, as config.toml holds it, and the engine's options that follow."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from posterion.data.atomic import write_text
from posterion.data.particles import Supplement
from posterion.errors import PosterionError
from posterion.inference.search import require_search
from posterion.physics.symmetry import point_group_operators
from posterion.refine.state import RefineConfig
from posterion.refine.subsets import require_subset

__all__ = [
    "METHODS",
    "RefineOptions",
    "Sources",
    "read_config",
    "require_diameter",
    "resolve",
    "write_config",
]

METHODS = ("em", "projection-matching")
_LOWPASS_RANGE_ANGSTROM = 20.0, 60.0
_SHIFT_RANGE_PX = 5.0


@dataclass(frozen=True)
class RefineOptions:
    """Options of a refinement; None lets the program choose.

    Attributes
    ----------
    symmetry : point group, RELION's name and axes
    mask : solvent mask (MRC, same box, values 0 to 1); a soft sphere of the particle's diameter where None
    method : ``em`` (posterior-weighted) or ``projection-matching`` (best pose only)
    search : ``exhaustive`` scores all poses of the finest grid, ``adaptive`` those within a margin of the
        best at coarser levels, ``branch-and-bound`` those that may still matter; ``auto`` is the fastest
    initial_lowpass_angstrom : the reference is low-passed to this; None: a sixth of the diameter, 20 to 60 A
    join_halves_angstrom : below this resolution both halves share their mean, so that they cannot drift apart
    shift_range_angstrom : radius of the search for origin offsets; None: 5 pixels
    subset : ``auto`` searches a random part of the particles in early iterations, which grows to the full
        set; ``all`` searches every particle in every iteration
    max_iterations : give up improving after this many
    reference_pixel_size_angstrom : of the reference, in place of its header's
    seed : of the half sets where the file has none, of the search grid's offsets and of random phases
    threads : None: all cores; the result does not depend on it
    invert_contrast : the particles are dark in the images
    supplement : what the particle file leaves unsaid
    """

    symmetry: str = "C1"
    mask: Path | None = None
    method: str = "em"
    search: str = "auto"
    initial_lowpass_angstrom: float | None = None
    join_halves_angstrom: float = 40.0
    shift_range_angstrom: float | None = None
    subset: str = "auto"
    max_iterations: int = 30
    reference_pixel_size_angstrom: float | None = None
    seed: int = 1
    threads: int | None = None
    invert_contrast: bool = False
    supplement: Supplement = field(default_factory=Supplement)

    def __post_init__(self) -> None:
        if self.mask is not None:
            object.__setattr__(self, "mask", Path(self.mask))


def resolve(
    options: RefineOptions, diameter_angstrom: float, box_px: int, pixel_size_angstrom: float
) -> RefineConfig:
    """Choose what the user left open and refuse what cannot be.

    Parameters
    ----------
    options : what was asked for
    diameter_angstrom : of the particle
    box_px, pixel_size_angstrom : of the images

    Raises
    ------
    PosterionError
        For an unknown symmetry, method, search or subset, a diameter larger than the box, and lengths that
        make no sense.
    """
    point_group_operators(options.symmetry)
    if options.method not in METHODS:
        raise PosterionError(f"method '{options.method}' is unknown; choose one of {', '.join(METHODS)}")
    require_search(options.search)
    require_subset(options.subset)
    if options.search == "branch-and-bound" and options.method != "em":
        raise PosterionError(
            "branch and bound bounds the log-probability of method 'em'; for projection matching choose "
            "another search"
        )
    require_diameter(diameter_angstrom, box_px, pixel_size_angstrom)
    box_angstrom = box_px * pixel_size_angstrom
    low, high = _LOWPASS_RANGE_ANGSTROM
    lowpass = options.initial_lowpass_angstrom or min(max(diameter_angstrom / 6, low), high)
    shift_range = options.shift_range_angstrom or _SHIFT_RANGE_PX * pixel_size_angstrom
    _within("initial low-pass", lowpass, 2 * pixel_size_angstrom, box_angstrom)
    _within("resolution below which halves are joined", options.join_halves_angstrom, 0, math.inf)
    _within("shift range", shift_range, pixel_size_angstrom, box_angstrom / 4)
    _within("largest number of iterations", options.max_iterations, 1, 10_000, "")
    return RefineConfig(
        diameter_angstrom=float(diameter_angstrom),
        point_group=options.symmetry,
        method=options.method,
        search=options.search,
        initial_lowpass_angstrom=float(lowpass),
        join_halves_angstrom=float(options.join_halves_angstrom),
        shift_range_angstrom=float(shift_range),
        max_iterations=options.max_iterations,
        seed=options.seed,
        subset=options.subset,
    )


def require_diameter(diameter_angstrom: float, box_px: int, pixel_size_angstrom: float) -> None:
    """Refuse a particle diameter (Angstrom) that is larger than the box or smaller than four pixels."""
    box_angstrom = box_px * pixel_size_angstrom
    if not 4 * pixel_size_angstrom <= diameter_angstrom <= box_angstrom:
        raise PosterionError(
            f"the diameter, {diameter_angstrom:g} A, does not fit the box of {box_px} px x "
            f"{pixel_size_angstrom:g} A = {box_angstrom:.1f} A; give the particle's diameter in A with -d"
        )


def _within(name: str, value: float, low: float, high: float, unit: str = " A") -> None:
    if not low <= value <= high:
        raise PosterionError(f"the {name}, {value:g}{unit}, is outside {low:g} to {high:g}{unit}")


@dataclass(frozen=True)
class Sources:
    """Where a run's inputs come from: files (None for objects in memory) and the particle's diameter."""

    particles: Path | None
    reference: Path
    diameter_angstrom: float


def write_config(path: Path, sources: Sources, options: RefineOptions) -> None:
    """Write the options of a run as TOML, paths absolute; what was left to the program stays out."""
    values = {f.name: getattr(sources, f.name) for f in fields(sources)}
    values |= {f.name: getattr(options, f.name) for f in fields(options) if f.name != "supplement"}
    lines = ["# Once more: posterion refine --config config.toml -o FOLDER", *_toml(values)]
    if options.supplement != Supplement():
        lines += ["", "[supplement]", *_toml(asdict(options.supplement))]
    write_text(path, "\n".join(lines) + "\n")


def _toml(values: dict[str, Any]) -> list[str]:
    return [f"{name} = {_toml_value(value)}" for name, value in values.items() if value not in (None, ())]


def _toml_value(value: Any) -> str:
    """Write one value; a JSON string is a TOML string."""
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, Path):
        return json.dumps(str(value.absolute()), ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.toml: particles, reference and diameter_angstrom where it has them, and ``options``.

    Raises
    ------
    PosterionError
        When the file cannot be read, is no TOML, or holds a name or a type that is not an option's.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PosterionError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PosterionError(f"{path} is not a TOML file: {error}") from None
    supplement = _checked(path, values.pop("supplement", {}), Supplement())
    supplement["passthrough"] = tuple(Path(item) for item in supplement.get("passthrough", ()))
    required = {"particles": Path(), "reference": Path(), "diameter_angstrom": 1.0}
    found = {
        name: _typed(path, name, values.pop(name), kind) for name, kind in required.items() if name in values
    }
    options = _checked(path, values, RefineOptions())
    return found | {"options": replace(RefineOptions(**options), supplement=Supplement(**supplement))}


_KINDS = {"mask": Path(), "stack": Path(), "threads": 1, "invert_contrast": False, "passthrough": []}


def _checked(path: Path, values: Any, defaults: Any) -> dict[str, Any]:
    """Give values their types after the defaults', None meaning a number."""
    if not isinstance(values, dict):
        raise PosterionError(f"{path}: 'supplement' must be a table")
    names = {f.name for f in fields(defaults)} - {"supplement"}
    unknown = sorted(set(values) - names)
    if unknown:
        raise PosterionError(
            f"{path}: '{unknown[0]}' is no option; expected one of {', '.join(sorted(names))}"
        )
    return {
        name: _typed(path, name, value, _KINDS.get(name, getattr(defaults, name) or 1.0))
        for name, value in values.items()
    }


def _typed(path: Path, name: str, value: Any, example: Any) -> Any:
    if isinstance(example, Path) and isinstance(value, str):
        return path.parent / value
    if isinstance(example, float) and type(value) in (int, float):
        return float(value)
    if type(value) is type(example):
        return value
    raise PosterionError(
        f"{path}: {name} = {value!r} is not of the right type ({type(example).__name__} expected)"
    )
