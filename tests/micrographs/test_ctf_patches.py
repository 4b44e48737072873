import numpy as np
import pytest

from posterion.data.particles import OpticsGroup
from posterion.errors import PosterionError
from posterion.micrographs.ctf_patches import PatchDefocus, defocus_gradient, patch_defoci
from posterion.micrographs.ctf_rings import CtfParameters, MicroscopeOptics
from posterion.micrographs.simulation import CARBON, simulate_micrograph

OPTICS = OpticsGroup("", 300.0, 2.7, 0.1, 1.5, 0)


def test_patches_of_different_defocus() -> None:
    """A micrograph put together from four with their own defoci."""
    defoci = np.array([[14000.0, 14400.0], [15100.0, 15700.0]])
    rows = [
        np.hstack(
            [
                simulate_micrograph((600, 640), OPTICS, (d + 300, d - 300, 30.0), CARBON, seed=int(d))
                for d in row
            ]
        )
        for row in defoci.tolist()
    ]
    values = np.vstack(rows)
    fit = CtfParameters(15100.0, 14500.0, 30.0)
    patches = patch_defoci(values, 1.5, MicroscopeOptics(), fit, (2, 2), 512, (1 / 30, 1 / 5))
    assert [(p.x_px, p.y_px) for p in patches] == [
        (319.5, 299.5),
        (959.5, 299.5),
        (319.5, 899.5),
        (959.5, 899.5),
    ]
    np.testing.assert_allclose([p.defocus_angstrom for p in patches], defoci.ravel(), atol=30)
    assert min(p.correlation for p in patches) > 0.5


def test_patches_smaller_than_a_tile_overlap_and_cover() -> None:
    values = simulate_micrograph((700, 800), OPTICS, (15000.0, 15000.0, 0.0), CARBON, seed=1)
    fit = CtfParameters(15000.0, 15000.0, 0.0)
    patches = patch_defoci(values, 1.5, MicroscopeOptics(), fit, (3, 1), 512, (1 / 30, 1 / 5))
    assert [(p.x_px, p.y_px) for p in patches] == [(255.5, 349.5), (399.5, 349.5), (543.5, 349.5)]
    with pytest.raises(PosterionError, match="0x2 patches"):
        patch_defoci(values, 1.5, MicroscopeOptics(), fit, (0, 2), 512, (1 / 30, 1 / 5))


def test_gradient_of_a_tilted_plane() -> None:
    """A specimen tilted by 10 degrees about y: tan 10 along x."""
    slope = np.tan(np.radians(10))
    points = [(x, y) for x in (100.0, 900.0, 1700.0) for y in (100.0, 1200.0)]
    patches = [
        PatchDefocus(x, y, 12000 + slope * 1.2 * x - 0.02 * 1.2 * y, 0.5 + x / 4000) for x, y in points
    ]
    assert defocus_gradient(patches, 1.2) == pytest.approx((slope, -0.02))
    assert defocus_gradient(patches[:2], 1.2) == pytest.approx((0, -0.02))
    assert defocus_gradient(patches[:1], 1.2) == (0, 0)
