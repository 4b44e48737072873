from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posterion.data.particles import OpticsGroup
from posterion.micrographs.ctf_estimation import CtfEstimate, estimate_ctf
from posterion.micrographs.simulation import CARBON, simulate_micrograph
from posterion.report.ctf_figures import ctf_figure, spectrum_halves


@pytest.fixture(scope="module")
def estimate() -> CtfEstimate:
    optics = OpticsGroup("", 300.0, 2.7, 0.1, 1.5, 0)
    return estimate_ctf(simulate_micrograph((900, 1000), optics, (14000.0, 11000.0, 35.0), CARBON), 1.5)


def test_halves_show_the_same_rings_where_they_meet(estimate: CtfEstimate) -> None:
    """The measured half, turned by 180 degrees, lies on the fitted one: both of its quarters."""
    whole, edge = spectrum_halves(estimate)
    half = whole.shape[0] // 2
    assert whole.shape == (2 * half + 1, 2 * half + 1)
    assert np.abs(whole).max() <= 1
    assert 0.25 < edge <= estimate.profile.frequency_s[-1]
    fitted, turned = whole[:, half + 3 :], whole[::-1, ::-1][:, half + 3 :]
    radius = np.hypot(*np.mgrid[-half : half + 1, 3 : half + 1])
    seen = (radius > 0.15 * half) & (radius < 0.6 * half)
    for quarter in (slice(0, half - 2), slice(half + 3, None)):
        chosen = seen[quarter]
        assert np.corrcoef(fitted[quarter][chosen], turned[quarter][chosen])[0, 1] > 0.5
    wrong, _ = spectrum_halves(
        replace(estimate, parameters=replace(estimate.parameters, defocus_angle_deg=-55.0))
    )
    mirrored = wrong[:, half + 3 :]
    assert np.corrcoef(mirrored[seen], turned[seen])[0, 1] < 0.5


def test_figure_is_the_same_each_time(estimate: CtfEstimate, tmp_path: Path) -> None:
    ctf_figure(estimate, tmp_path / "a.png", "name")
    ctf_figure(estimate, tmp_path / "b.png", "name")
    first = (tmp_path / "a.png").read_bytes()
    assert first[:4] == b"\x89PNG"
    assert first == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
