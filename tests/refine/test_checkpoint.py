"""A checkpoint there and back, and what a run is known by."""

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import posterion
from posterion.errors import PosterionError
from posterion.refine.checkpoint import (
    Checkpoint,
    fingerprint,
    load_checkpoint,
    require_same_run,
    save_checkpoint,
)
from posterion.refine.inputs import prepare
from posterion.refine.schedule import SearchState
from posterion.refine.state import IterationInfo, ParticleEstimates, RefinementState


@pytest.fixture
def checkpoint() -> Checkpoint:
    rng = np.random.default_rng(0)
    kinds = {"half_maps": (2, 4, 4, 4), "sigma2_gs": (2, 3), "scale_g": (5,), "tau2_s": (3,)}
    arrays = {name: rng.standard_normal(shape) for name, shape in kinds.items()}
    arrays["half_maps"] = arrays["half_maps"].astype(np.float32)
    state = RefinementState(
        iteration=3,
        particles=ParticleEstimates.empty(6),
        resolution_shell=4,
        best_shell=5,
        stalled=1,
        search=SearchState(fineness=4.0, local=True, support_share=0.1, subset=1000, newcomers=True),
        log_direction_d=rng.standard_normal(12),
        offset_sigma_px=1 / 3,
        converged=False,
        **arrays,
    )
    numbers = {f.name: 0.1 for f in dataclasses.fields(IterationInfo)}
    info = IterationInfo(**(numbers | {"iteration": 3, "search": "local", "seconds": {"expectation": 0.2}}))
    return Checkpoint(state, (info,), {"seed": 1, "mask": "a" * 64}, 0.3, 1.5, 2.5, 10**10)


def same(a: object, b: object) -> bool:
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
        )
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def test_there_and_back_bit_by_bit(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path / "c.h5", checkpoint)
    assert same(load_checkpoint(tmp_path / "c.h5"), checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]


def test_an_older_checkpoint_survives_a_failed_write(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "c.h5", checkpoint)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PosterionError, match="No space left"):
        save_checkpoint(tmp_path / "c.h5", dataclasses.replace(checkpoint, wall_seconds=9.0))
    assert load_checkpoint(tmp_path / "c.h5").wall_seconds == 1.5
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]


@pytest.mark.parametrize("spoil", ["cut", "format", "field"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, checkpoint: Checkpoint, spoil: str) -> None:
    path = tmp_path / "c.h5"
    save_checkpoint(path, checkpoint)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:500])
    else:
        with h5py.File(path, "a") as file:
            if spoil == "format":
                file.attrs["format"] = 999
            else:
                file.attrs["history"] = json.dumps([{"iteration": 1}])
    with pytest.raises(PosterionError, match="remove it to start the run anew"):
        load_checkpoint(path)


def test_fingerprint_names_what_changed(tiny_set: Path, tiny_options: posterion.RefineOptions) -> None:
    def mark(options: posterion.RefineOptions = tiny_options, **changes: object) -> dict:
        inputs = prepare(tiny_set / "particles.star", tiny_set / "reference.mrc", 150.0, options)
        values = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)} | changes
        names = ("particles", "half_i", "reference", "mask", "config")
        return json.loads(json.dumps(fingerprint(*(values[name] for name in names))))

    first = mark()
    require_same_run(Path("out"), first, mark(dataclasses.replace(tiny_options, threads=1)))
    changed = {
        "seed": mark(dataclasses.replace(tiny_options, seed=2)),
        "half sets": mark(half_i=np.ones(32, np.int8)),
        "mask": mark(mask=np.ones(3, np.float32)),
        "particles": mark(particles=posterion.Particles.read(tiny_set / "particles.star")[:31]),
    }
    for name, other in changed.items():
        with pytest.raises(PosterionError, match=f"out holds another run, with {name}"):
            require_same_run(Path("out"), first, other)
