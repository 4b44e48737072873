import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posterion.micrographs.ctf_rings import CtfParameters, MicroscopeOptics, Rings
from posterion.micrographs.ctf_search import coarse_search, refine_ctf
from posterion.micrographs.sector_spectrum import sector_spectrum

REFERENCES = Path(__file__).parents[1] / "references"
ctf_reference = runpy.run_path(str(REFERENCES / "ctf_reference.py"))["ctf_reference"]

CASES = [
    (CtfParameters(5200.0, 4800.0, -80.0), False),
    (CtfParameters(15070.0, 14930.0, 12.0), False),
    (CtfParameters(24000.0, 20100.0, 60.0), False),
    (CtfParameters(36000.0, 36000.0, 0.0), False),
    (CtfParameters(9000.0, 8300.0, 88.0, 110.0), True),
    (CtfParameters(18000.0, 17000.0, -20.0, 5.0), True),
]


@pytest.mark.parametrize(("truth", "with_phase"), CASES)
def test_noise_free_rings_are_found(truth: CtfParameters, with_phase: bool) -> None:
    fy, fx = np.broadcast_arrays(np.fft.fftfreq(800, 1.2)[:, None], np.arange(401)[None, :] / 960)
    four = (
        truth.defocus_u_angstrom,
        truth.defocus_v_angstrom,
        truth.defocus_angle_deg,
        truth.phase_shift_deg,
    )
    ctf = ctf_reference(fx, fy, np.array([*four, 0, 1]), np.array([300, 2.7, 0.1]))
    squared = fx**2 + fy**2
    power = (0.3 + 1 / (1 + 900 * squared)) * (1 + 0.5 * np.exp(-60 * squared) * ctf**2)
    spectrum = sector_spectrum(power, 1.2, 1 / 60, 0.25)
    rings = Rings.of(spectrum, MicroscopeOptics(), 1 / 30, 0.2)
    start = coarse_search(rings, (3000.0, 50000.0), with_phase)
    assert start.mean_defocus_angstrom == pytest.approx(truth.mean_defocus_angstrom, abs=310)
    found, measured = refine_ctf(rings, start, with_phase)
    # without noise what is left is the background that a parabola does not take away
    tolerance = 40 if with_phase else 15
    assert found.mean_defocus_angstrom == pytest.approx(truth.mean_defocus_angstrom, abs=tolerance)
    astigmatism = [p.defocus_u_angstrom - p.defocus_v_angstrom for p in (found, truth)]
    assert astigmatism[0] == pytest.approx(astigmatism[1], abs=15)
    if astigmatism[1] > 0:
        turn = (found.defocus_angle_deg - truth.defocus_angle_deg + 90) % 180 - 90
        assert abs(turn) < 1.5
    off = (found.phase_shift_deg - truth.phase_shift_deg + 90) % 180 - 90
    assert abs(off) < 4
    assert found.defocus_u_angstrom >= found.defocus_v_angstrom
    assert -90 < found.defocus_angle_deg <= 90
    assert measured.correlation(found) >= measured.correlation(replace(found, defocus_angle_deg=0.0)) - 1e-6
