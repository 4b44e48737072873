"""Figures: written whole, the same bytes for the same input, and what they draw is what they were given."""

from collections.abc import Callable
from pathlib import Path

import hpgeom
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from posterion.errors import PosterionError
from posterion.mapping.fsc import FscCurves
from posterion.mapping.postprocess import fit_guinier
from posterion.report.figures import (
    angular_distribution_figure,
    draw_fsc,
    fsc_figure,
    guinier_figure,
    posterior_figure,
    summary_figure,
)

PNG = b"\x89PNG"


def curves(masked: bool = True) -> FscCurves:
    fsc_s = 1 / (1 + np.exp((np.arange(33) - 18) / 2))
    others = (fsc_s, np.where(np.arange(33) < 8, 1, 0.02), fsc_s, 8) if masked else ()
    return FscCurves(64, 1.8, 0.9 * fsc_s, *others)  # type: ignore[arg-type]


def directions(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(-180, 180, n), np.degrees(np.arccos(rng.uniform(-1, 1, n)))


def posterior() -> np.ndarray:
    theta, phi = hpgeom.pixel_to_angle(8, np.arange(768), nest=True, lonlat=False)
    weight = np.exp(80 * (np.cos(theta - 1) - 1) + 40 * (np.cos(phi - 2) - 1))
    return weight / weight.sum()


VOLUME = np.random.default_rng(0).standard_normal((32,) * 3).astype(np.float32)
FIGURES: dict[str, Callable[[Path], None]] = {
    "fsc": lambda path: fsc_figure(curves(), path, "half maps"),
    "fsc without mask": lambda path: fsc_figure(curves(masked=False), path),
    "guinier": lambda path: guinier_figure(fit_guinier(np.exp(-np.arange(33) / 9.0), 64, 1.8, 10, 5), path),
    "summary": lambda path: summary_figure(VOLUME, curves(), path, "a map"),
    "summary with images": lambda path: summary_figure(VOLUME, curves(), path, "", VOLUME[:3]),
    "directions": lambda path: angular_distribution_figure(*directions(), path),
    "posterior": lambda path: posterior_figure(posterior(), path, VOLUME[0], np.arange(24.0)),
    "posterior alone": lambda path: posterior_figure(posterior(), path),
}


@pytest.mark.parametrize("name", FIGURES)
def test_same_input_same_png(tmp_path: Path, name: str) -> None:
    for file in ("a.png", "b.png"):
        FIGURES[name](tmp_path / file)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_constant_images_and_one_direction_can_be_drawn(tmp_path: Path) -> None:
    summary_figure(np.zeros((16,) * 3, np.float32), curves(), tmp_path / "a.png")
    angular_distribution_figure(np.zeros(1), np.zeros(1), tmp_path / "b.png")
    posterior_figure(np.eye(1, 12)[0], tmp_path / "c.png")


def test_a_curve_that_never_falls_can_be_drawn(tmp_path: Path) -> None:
    fsc_figure(FscCurves(16, 2.0, np.ones(9)), tmp_path / "a.png")


def test_axes_say_what_they_are() -> None:
    axes = Figure().add_subplot()
    draw_fsc(axes, curves())
    assert axes.get_xlabel() == "spatial frequency (1/Å)"
    assert [text.get_text() for text in axes.texts] == ["0.143 "]
    labels = axes.get_legend_handles_labels()[1]
    assert [label.split(":")[0] for label in labels] == [
        "unmasked",
        "masked",
        "phases randomised",
        "corrected for the mask",
    ]
    assert f"{curves().resolution():.2f} Å" in labels[-1]


def test_no_global_state_is_touched(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    fsc_figure(curves(), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before


def test_unwritable_figures_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PosterionError, match=r"fsc\.png"):
        fsc_figure(curves(), tmp_path / "file" / "fsc.png")
