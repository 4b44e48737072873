import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posterion.micrographs.ctf_rings import CtfParameters, MicroscopeOptics, Rings
from posterion.micrographs.sector_spectrum import SectorSpectrum, sector_spectrum

REFERENCES = Path(__file__).parents[1] / "references"
ctf_reference = runpy.run_path(str(REFERENCES / "ctf_reference.py"))["ctf_reference"]

TRUTH = CtfParameters(16000.0, 15000.0, 35.0, 20.0)
OPTICS = MicroscopeOptics(300.0, 2.7, 0.07)


def noise_free_spectrum() -> SectorSpectrum:
    """Power exp(2 C^2 - 1) from the lecture's CTF, 512 px of 1.5 A."""
    fy, fx = np.broadcast_arrays(np.fft.fftfreq(512, 1.5)[:, None], np.arange(257)[None, :] / 768)
    parameters = np.array([16000, 15000, 35, 20, 0, 1.0])
    ctf = ctf_reference(fx, fy, parameters, np.array([300, 2.7, 0.07]))
    return sector_spectrum(np.exp(0.2 * (2 * ctf**2 - 1)), 1.5, 1 / 60, 0.25)


def test_rings_of_the_truth_correlate_fully_and_others_do_not() -> None:
    rings = Rings.of(noise_free_spectrum(), OPTICS, 1 / 30, 0.2)
    flat = replace(rings, envelope_s=np.ones_like(rings.envelope_s))
    assert flat.correlation(TRUTH) > 0.995  # the rest is the width of the bins
    others = (
        TRUTH.shifted(400),
        replace(TRUTH, defocus_angle_deg=-55.0),
        replace(TRUTH, phase_shift_deg=80.0),
    )
    for other in others:
        assert flat.correlation(other) < flat.correlation(TRUTH) - 0.05


def test_model_is_what_noise_free_rings_are() -> None:
    """The same parabola is taken from both; 0.2 is the height of the rings, the rest is the bins' width."""
    rings = Rings.of(noise_free_spectrum(), OPTICS, 1 / 30, 0.2)
    filled = rings.count_as > 0
    np.testing.assert_allclose((rings.measured_as / 0.2)[filled], rings.model_as(TRUTH)[filled], atol=0.25)
    assert np.abs(rings.measured_as / 0.2 - rings.model_as(TRUTH))[filled].mean() < 0.02


def test_a_smooth_background_is_not_seen() -> None:
    """Any parabola in frequency may be added to the logarithm."""
    spectrum = noise_free_spectrum()
    f = spectrum.frequency_s
    tilted = replace(spectrum, log_power_as=spectrum.log_power_as + 7 - 30 * f + 80 * f**2)
    first, second = (Rings.of(s, OPTICS, 1 / 30, 0.2) for s in (spectrum, tilted))
    np.testing.assert_allclose(first.measured_as, second.measured_as, atol=1e-9)


def test_envelope_is_measured() -> None:
    spectrum = noise_free_spectrum()
    fade = np.exp(-20 * spectrum.frequency_s**2)
    model = 2 * OPTICS.ctf(spectrum.frequency_x_as, spectrum.frequency_y_as, TRUTH) ** 2 - 1
    faded = replace(spectrum, log_power_as=0.3 * fade * model)
    rings = Rings.of(faded, OPTICS, 1 / 30, 0.2).with_envelope_of(TRUTH)
    expected = 0.3 * fade[rings.band]
    np.testing.assert_allclose(rings.envelope_s[30:-30], expected[30:-30], rtol=0.1)
    outer = spectrum.frequency_s > 0.12
    turned = replace(
        spectrum, log_power_as=np.where(outer, -0.3, 0.3) * model
    )  # rings against the fit count 0
    envelope_s = Rings.of(turned, OPTICS, 1 / 30, 0.2).with_envelope_of(TRUTH).envelope_s
    assert envelope_s[:40].min() > 0.2
    np.testing.assert_array_equal(envelope_s[-30:], 0)


def test_noise_correlates_as_said() -> None:
    rng = np.random.default_rng(0)
    spectrum = noise_free_spectrum()
    correlations = []
    for _ in range(60):
        noise = rng.normal(0, 1, spectrum.count_as.shape) / np.sqrt(np.maximum(spectrum.count_as, 1))
        rings = Rings.of(replace(spectrum, log_power_as=noise), OPTICS, 1 / 30, 0.2)
        correlations.append(rings.correlation(TRUTH) / rings.noise_correlation)
    assert np.std(correlations) == pytest.approx(1, abs=0.3)
    assert abs(np.mean(correlations)) < 0.4
