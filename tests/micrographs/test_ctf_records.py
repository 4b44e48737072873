import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from posterion.micrographs.ctf_patches import PatchDefocus
from posterion.micrographs.ctf_records import CtfRecord, micrograph_columns, patch_table
from posterion.micrographs.ctf_rings import CtfParameters
from posterion.micrographs.micrograph_set import MicrographSet

PATCHES = (PatchDefocus(10.5, 20.5, 11000.0, 0.4), PatchDefocus(30.5, 20.5, 11200.0, 0.5))
RECORD = CtfRecord(CtfParameters(1e4 / 3 + 9000, 1e4, -30.1, 1 / 7), 0.1 + 0.2, 33.3, 4.2, PATCHES)


def test_a_record_comes_back_to_the_last_bit() -> None:
    assert CtfRecord.from_dict(json.loads(json.dumps(asdict(RECORD)))) == RECORD


def test_columns() -> None:
    columns = micrograph_columns([RECORD], with_phase=True)
    assert columns == {
        "rlnDefocusU": ["12333.333333"],
        "rlnDefocusV": ["10000.000000"],
        "rlnCtfAstigmatism": ["2333.333333"],
        "rlnDefocusAngle": ["-30.100000"],
        "rlnCtfFigureOfMerit": ["0.300000"],
        "rlnCtfMaxResolution": ["4.200000"],
        "rlnPhaseShift": ["0.142857"],
    }
    assert "rlnPhaseShift" not in micrograph_columns([RECORD], with_phase=False)


def test_patch_table_keeps_the_astigmatism() -> None:
    names = ("a.mrc", "b.mrc")
    micrographs = MicrographSet(tuple(map(Path, names)), names, (), np.zeros(2, np.int32))
    table = patch_table(micrographs, {1: RECORD})
    assert table.columns["rlnMicrographName"].text().tolist() == [b"b.mrc", b"b.mrc"]
    u, v = table.floats("rlnDefocusU"), table.floats("rlnDefocusV")
    np.testing.assert_allclose((u + v) / 2, [11000, 11200])
    np.testing.assert_allclose(u - v, 2333.333333, atol=1e-5)
    np.testing.assert_array_equal(table.floats("rlnCoordinateX"), [10.5, 30.5])
