"""Whose an output folder is."""

import json
import logging
from pathlib import Path

import pytest

from posterion.errors import PosterionError
from posterion.refine.folder import (
    claim_for_reconstruction,
    find_checkpoint,
    finished_summary,
    open_folder,
)


def test_log_goes_into_the_folder_and_leftovers_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / ".123-unfinished-map.mrc").write_text("half a map")
    with open_folder(folder):
        logging.getLogger("posterion").info("a line")
    logging.getLogger("posterion").warning("after")
    assert [path.name for path in folder.iterdir()] == ["run.log"]
    assert (folder / "run.log").read_text().endswith(" INFO a line\n")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        open_folder(tmp_path),
        pytest.raises(PosterionError, match="another process is working"),
        open_folder(tmp_path),
    ):
        pass
    with open_folder(tmp_path):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PosterionError, match="cannot be written"), open_folder(tmp_path / "file" / "out"):
        pass


def test_finished_runs(tmp_path: Path) -> None:
    assert finished_summary(tmp_path, {"seed": 1}) is None
    (tmp_path / "summary.json").write_text(json.dumps({"fingerprint": {"seed": 1}}))
    assert finished_summary(tmp_path, {"seed": 1}) == {"fingerprint": {"seed": 1}}
    with pytest.raises(PosterionError, match="another run, with seed: 1, now 2"):
        finished_summary(tmp_path, {"seed": 2})
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(PosterionError, match="something else than 'posterion refine'"):
        finished_summary(tmp_path, {"seed": 1})


def test_results_of_others_are_not_replaced(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, {}) is None
    claim_for_reconstruction(tmp_path)
    (tmp_path / "map.mrc").write_text("")
    for claim in (lambda: find_checkpoint(tmp_path, {}), lambda: claim_for_reconstruction(tmp_path)):
        with pytest.raises(PosterionError, match=r"already holds map\.mrc"):
            claim()
    (tmp_path / "summary.json").write_text(json.dumps({"command": "reconstruct"}))
    claim_for_reconstruction(tmp_path)
    (tmp_path / "particles.star").write_text("")
    with pytest.raises(PosterionError, match="holds a refinement or a particle set"):
        claim_for_reconstruction(tmp_path)
