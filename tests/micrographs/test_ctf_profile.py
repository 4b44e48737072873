import runpy
from pathlib import Path

import numpy as np
import pytest

from posterion.micrographs.ctf_profile import (
    _fit_resolution,
    ctf_profile,
    equiphase_frequency,
    local_correlation,
)
from posterion.micrographs.ctf_rings import CtfParameters, MicroscopeOptics, Rings
from posterion.micrographs.sector_spectrum import sector_spectrum

REFERENCES = Path(__file__).parents[1] / "references"
ctf_reference = runpy.run_path(str(REFERENCES / "ctf_reference.py"))["ctf_reference"]

FIT = CtfParameters(16000.0, 13000.0, 35.0)
ROUND = np.array([14500, 14500, 0, 0, 0, 1.0])
MICROSCOPE = np.array([300, 2.7, 0.1])


def test_equiphase_frequency_has_the_same_ctf() -> None:
    rng = np.random.default_rng(0)
    f, azimuth = rng.uniform(0.01, 0.4, 500), rng.uniform(-np.pi, np.pi, 500)
    fx, fy = f * np.cos(azimuth), f * np.sin(azimuth)
    astigmatic = ctf_reference(fx, fy, np.array([16000, 13000, 35, 0, 0, 1.0]), MICROSCOPE)
    g = equiphase_frequency(fx, fy, FIT, MicroscopeOptics())
    np.testing.assert_allclose(ctf_reference(g, 0 * g, ROUND, MICROSCOPE), astigmatic, atol=1e-9)
    assert np.abs(g - f).max() > 0.01
    without_cs = equiphase_frequency(fx, fy, FIT, MicroscopeOptics(300.0, 0.0, 0.1))
    df = 14500 + 1500 * np.cos(2 * (azimuth - np.radians(35)))
    np.testing.assert_allclose(without_cs, f * np.sqrt(df / 14500))


def test_beyond_the_turning_point_there_is_none() -> None:
    weak = CtfParameters(1000.0, 400.0, 0.0)
    assert np.isnan(equiphase_frequency(np.array([0.35]), np.array([0.0]), weak, MicroscopeOptics()))


def test_local_correlation_is_pearsons_in_each_window() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(3, 1, (2, 80))
    half = rng.uniform(3, 9, 80)
    got = local_correlation(first, second, half)
    for i in range(80):
        window = slice(max(0, i - round(half[i])), i + round(half[i]) + 1)
        assert got[i] == pytest.approx(np.corrcoef(first[window], second[window])[0, 1])
    np.testing.assert_array_equal(local_correlation(np.ones(9), np.ones(9), np.full(9, 3.0)), 0)


def rings_until(frequency: float, strength: float = 0.3) -> Rings:
    """Rings of FIT, with noise, that end at a frequency."""
    fy, fx = np.broadcast_arrays(np.fft.fftfreq(640, 1.2)[:, None], np.arange(321)[None, :] / 768)
    ctf = ctf_reference(fx, fy, np.array([16000, 13000, 35, 0, 0, 1.0]), MICROSCOPE)
    visible = equiphase_frequency(fx, fy, FIT, MicroscopeOptics()) < frequency
    power = np.exp(strength * visible * (2 * ctf**2 - 1)) * np.random.default_rng(2).gamma(
        20, 1 / 20, ctf.shape
    )
    spectrum = sector_spectrum(power, 1.2, 1 / 60, 0.4)
    return Rings.of(spectrum, MicroscopeOptics(), 1 / 30, 0.2).with_envelope_of(FIT)


@pytest.mark.parametrize("frequency", [0.12, 0.2, 0.3])
def test_rings_fit_to_where_they_end(frequency: float) -> None:
    profile = ctf_profile(rings_until(frequency), FIT)
    assert profile.fit_resolution_angstrom is not None
    assert 1 / profile.fit_resolution_angstrom == pytest.approx(frequency, abs=0.015)  # a window is that wide
    seen = (profile.frequency_s > 0.05) & (profile.frequency_s < frequency - 0.02)
    assert profile.correlation_s[seen].min() > 0.9
    assert np.abs(profile.measured_s - profile.squared_ctf_s)[seen].mean() < 0.15
    expected = ctf_reference(profile.frequency_s, 0 * profile.frequency_s, ROUND, MICROSCOPE) ** 2
    np.testing.assert_allclose(profile.squared_ctf_s, expected, atol=2e-6)


def test_resolution_is_where_half_is_lost_for_a_ring() -> None:
    frequency_s = np.arange(1, 21) / 100
    correlation_s = np.array([0.2, 0.4, 0.8, 0.9, 0.9, 0.49, 0.49, 0.6, 0.51, 0.5, *[0.49] * 3, *[0.9] * 7])
    rings_of_two, rings_of_three = np.full(20, 2.0), np.full(20, 3.0)
    assert _fit_resolution(frequency_s, correlation_s, rings_of_two, 0.02) == 1 / frequency_s[4]
    assert _fit_resolution(frequency_s, correlation_s, rings_of_three, 0.02) == 1 / frequency_s[9]
    assert _fit_resolution(frequency_s, correlation_s, np.full(20, 4.0), 0.02) == 1 / frequency_s[-1]
    assert _fit_resolution(frequency_s, 0.5 * correlation_s, rings_of_two, 0.02) is None


def test_a_wrong_fit_fits_nowhere_for_long() -> None:
    profile = ctf_profile(rings_until(0.3), CtfParameters(11000.0, 11000.0, 0.0))
    assert profile.fit_resolution_angstrom is None or profile.fit_resolution_angstrom > 8
