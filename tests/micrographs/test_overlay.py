from pathlib import Path

import numpy as np
from PIL import Image

from posterion.micrographs.overlay import draw_overlay
from posterion.micrographs.picking import Picks
from posterion.micrographs.reduced import ReducedMicrograph


def test_circles_are_where_the_particles_are(tmp_path: Path) -> None:
    """Grey 100 x 80 at a quarter of the micrograph's sampling, one pick, one corner left out."""
    grey = np.random.default_rng(1).standard_normal((80, 100)).astype(np.float32)
    left_out = np.zeros((80, 100), np.bool_)
    left_out[:20, :20] = True
    one = np.array([1])
    picks = Picks(
        x_px_i=np.array([240.0]),
        y_px_i=np.array([160.0]),
        score_i=np.array([7.25]),
        class_i=one.astype(np.int32),
        psi_deg_i=np.zeros(1),
        threshold=5.0,
        expected_false=1.0,
        best_score=7.25,
        left_out=left_out,
        reduced=ReducedMicrograph(grey, 8.0, (4.0, 4.0)),
    )
    draw_overlay(tmp_path / "a.png", picks, 160.0, "a")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1200, 960 + 26)
        pixels = np.asarray(picture)[26:].astype(int)
    rows, columns = np.nonzero((pixels == (90, 235, 120)).all(axis=2))
    middle_x, middle_y = (60 + 0.5) * 12, (40 + 0.5) * 12
    np.testing.assert_allclose(np.hypot(columns - middle_x, rows - middle_y), 120, atol=3)
    redness = pixels[..., 0] - pixels[..., 2]
    assert redness[20:200, 20:200].mean() > 30 > 5 > abs(redness[600:, :300]).mean()
