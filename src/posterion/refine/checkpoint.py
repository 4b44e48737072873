"""The state of a run on disk: written whole after each iteration, and known by what it was computed from."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import h5py
import numpy as np
from numpy.typing import NDArray

from posterion.data.atomic import replacing
from posterion.data.particles import Particles
from posterion.errors import PosterionError
from posterion.refine.state import IterationInfo, RefineConfig, RefinementState

__all__ = ["Checkpoint", "fingerprint", "load_checkpoint", "require_same_run", "save_checkpoint"]

Fingerprint = dict[str, Any]

_FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped.

    Attributes
    ----------
    state : of the refinement after its last finished iteration
    history : one record per finished iteration
    fingerprint : what the run is computed from, see `fingerprint`
    reference_scale : factor by which the reference's grey values were multiplied
    wall_seconds, cpu_seconds, peak_bytes : used so far
    """

    state: RefinementState
    history: tuple[IterationInfo, ...]
    fingerprint: Fingerprint
    reference_scale: float
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def fingerprint(
    particles: Particles,
    half_i: NDArray[np.int8],
    reference: NDArray[np.float32],
    mask: NDArray[np.float32],
    config: RefineConfig,
) -> Fingerprint:
    """Name everything that the result of a run depends on, large things by their SHA-256.

    The number of threads is not among them: it changes nothing. Stacks count by size and time of last change.

    Parameters
    ----------
    particles, half_i : the set, and its half ids as used
    reference, mask : (n, n, n) float32, on the images' grid
    config : options of the engine

    Returns
    -------
    JSON-ready record
    """
    # Options first: the digests of mask and half sets follow from some of them, which is what to name.
    return {
        **dataclasses.asdict(config),
        "particles": _digest_particles(particles),
        "image stacks": _digest(*_stack_marks(particles)),
        "half sets": _digest(half_i),
        "reference": _digest(reference),
        "mask": _digest(mask),
    }


def _digest(*parts: Any) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(
            np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
        )
    return total.hexdigest()


def _digest_particles(particles: Particles) -> str:
    """Digest of the columns that refinement uses; poses of the file are not among them."""
    arrays = [
        getattr(particles, field.name)
        for field in dataclasses.fields(particles)
        if field.name.endswith("_i") and field.name != "half_i"
    ]
    return _digest(particles.optics, particles.stack_names, *arrays)


def _stack_marks(particles: Particles) -> list[tuple[int, int]]:
    used = np.unique(particles.stack_index_i)
    status = [particles.find_stack(int(i)).stat() for i in used]
    return [(s.st_size, s.st_mtime_ns) for s in status]


def require_same_run(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a folder whose run was computed from something else, and say from what.

    Raises
    ------
    PosterionError
        Names the first input or option that differs.
    """
    for name, value in here.items():
        if there.get(name) != value:
            digest = isinstance(value, str) and len(value) == 64
            change = "other ones" if digest else f"{there.get(name)!r}, now {value!r}"
            raise PosterionError(
                f"{folder} holds another run, with {name.replace('_', ' ')}: {change}; "
                "move it away, or give another output folder"
            )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint (HDF5) under a temporary name, flush it to disk, rename it."""
    # Made in memory: HDF5 crashes the process when a disk is full as it closes a file.
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        _save_checkpoint(file, checkpoint)
    with replacing(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def _save_checkpoint(file: Any, checkpoint: Checkpoint) -> None:
    file.attrs["format"] = _FORMAT
    file.attrs["history"] = json.dumps([dataclasses.asdict(info) for info in checkpoint.history])
    file.attrs["fingerprint"] = json.dumps(checkpoint.fingerprint)
    for name in ("reference_scale", "wall_seconds", "cpu_seconds", "peak_bytes"):
        file.attrs[name] = getattr(checkpoint, name)
    _save_record(file.create_group("state"), checkpoint.state)


def _save_record(group: Any, record: Any) -> None:
    """Store a dataclass of arrays, numbers and further such dataclasses."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            _save_record(group.create_group(field.name), value)
        elif value is not None:
            group.create_dataset(field.name, data=value, track_times=False)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises
    ------
    PosterionError
        When the file is no checkpoint of this version of Posterion.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs["format"] != _FORMAT:
                raise KeyError("format")
            return Checkpoint(
                state=_load_record(file["state"], RefinementState),
                history=tuple(IterationInfo(**record) for record in json.loads(file.attrs["history"])),
                fingerprint=json.loads(file.attrs["fingerprint"]),
                reference_scale=float(file.attrs["reference_scale"]),
                wall_seconds=float(file.attrs["wall_seconds"]),
                cpu_seconds=float(file.attrs["cpu_seconds"]),
                peak_bytes=int(file.attrs["peak_bytes"]),
            )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise PosterionError(
            f"{path} is no checkpoint that this version of Posterion can go on from ({error}); "
            "remove it to start the run anew"
        ) from None


def _load_record(group: Any, kind: type) -> Any:
    """Build a dataclass from a group; fields stored as scalars become Python numbers again."""
    kinds = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        stored = group.get(field.name)
        if stored is None:
            values[field.name] = None
        elif dataclasses.is_dataclass(kinds[field.name]):
            values[field.name] = _load_record(stored, kinds[field.name])
        else:
            values[field.name] = stored[()].item() if stored.shape == () else stored[()]
    return kind(**values)
