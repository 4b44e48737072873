"""Whose an output folder is."""

import json
from pathlib import Path

import pytest

from posterion.errors import PosterionError
from posterion.refine.folder import (
    claim_for_reconstruction,
    find_checkpoint,
    finished_summary,
)


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
    with pytest.raises(PosterionError, match=r"already holds map\.mrc"):
        find_checkpoint(tmp_path, {})
    with pytest.raises(
        PosterionError,
        match=r"map\.mrc is there already, and no 'posterion reconstruct' of this version wrote it;",
    ):
        claim_for_reconstruction(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"command": "reconstruct"}))
    claim_for_reconstruction(tmp_path)
    (tmp_path / "particles.star").write_text("")
    with pytest.raises(PosterionError, match="holds a refinement or a particle set"):
        claim_for_reconstruction(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            '{"command": "pick"}',
            r"results of 'posterion pick' .its summary.json., not of 'posterion reconstr",
        ),
        ('{"fingerprint": {}}', r"summary.json does not say which command's"),
        ("{cut off", r"summary.json does not say which command's"),
    ],
)
def test_another_command_s_summary_is_not_replaced_by_a_reconstruction(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(PosterionError, match=why):
        claim_for_reconstruction(tmp_path)
