import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.data.particles import OpticsGroup, Particles
from posterion.errors import PosterionError
from posterion.micrographs.ctf_estimation import (
    CtfEstimate,
    CtfOptions,
    amplitude_score,
    estimate_ctf,
    fit_band,
)
from posterion.micrographs.ctf_rings import CtfParameters, MicroscopeOptics, Rings
from posterion.micrographs.ctf_search import coarse_search, refine_ctf
from posterion.micrographs.periodogram import averaged_periodogram
from posterion.micrographs.reading import read_micrograph
from posterion.micrographs.sector_spectrum import sector_spectrum
from posterion.micrographs.simulation import CARBON, ICE, Support, simulate_micrograph

OPTICS = OpticsGroup("", 300.0, 2.7, 0.1, 1.2, 0)


def simulated(defocus: tuple[float, float, float], support: Support, **more: float) -> NDArray[np.float32]:
    return simulate_micrograph((1600, 1728), OPTICS, defocus, support, seed=7, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("support", [ICE, CARBON], ids=["ice", "carbon"])
@pytest.mark.parametrize("defocus", [5000.0, 12000.0, 30000.0])
def test_simulated_micrographs(defocus: float, support: Support) -> None:
    """U - V = 200 A. On a seventh of the area of a 4k micrograph, so angles are off by 2.6 times as much."""
    truth = (defocus + 100, defocus - 100, 40.0)
    estimate = estimate_ctf(simulated(truth, support), 1.2)
    fit = estimate.parameters
    assert fit.mean_defocus_angstrom == pytest.approx(defocus, abs=50 if support is ICE else 10)
    assert abs((fit.defocus_angle_deg - 40 + 90) % 180 - 90) < (13 if support is ICE else 5)
    assert estimate.profile.fit_resolution_angstrom is not None
    assert estimate.profile.fit_resolution_angstrom < (5.5 if support is ICE else 3.5)
    assert estimate.score > 0.1
    assert estimate.significance > 20


def test_phase_shift() -> None:
    estimate = estimate_ctf(
        simulated((12500.0, 11500.0, -30.0), ICE, phase_shift_deg=65.0), 1.2, CtfOptions(fit_phase_shift=True)
    )
    assert estimate.parameters.phase_shift_deg == pytest.approx(65, abs=6)
    assert estimate.parameters.mean_defocus_angstrom == pytest.approx(12000, abs=80)
    assert estimate.parameters.defocus_angle_deg == pytest.approx(-30, abs=3)


def test_other_microscope_and_odd_sizes() -> None:
    optics = replace(OPTICS, voltage_kv=200.0, spherical_aberration_mm=1.4, amplitude_contrast=0.07)
    values = simulate_micrograph((1201, 1333), optics, (15300.0, 14700.0, 80.0), CARBON, seed=1)
    estimate = estimate_ctf(values, 1.2, CtfOptions(MicroscopeOptics(200.0, 1.4, 0.07)))
    assert estimate.parameters.mean_defocus_angstrom == pytest.approx(15000, abs=15)
    assert abs((estimate.parameters.defocus_angle_deg - 80 + 90) % 180 - 90) < 3


def test_grey_scale_and_its_sign_do_not_matter() -> None:
    values = simulated((10100.0, 9900.0, 40.0), ICE)
    first, second = estimate_ctf(values, 1.2), estimate_ctf(5000 - 300 * values, 1.2)
    assert first.parameters.mean_defocus_angstrom == pytest.approx(
        second.parameters.mean_defocus_angstrom, abs=1
    )
    assert first.score == pytest.approx(second.score, abs=1e-3)


def test_hot_pixels_do_not_matter() -> None:
    values = simulated((10100.0, 9900.0, 40.0), ICE)
    hot = values.copy()
    hot[np.arange(50, 1500, 200), np.arange(80, 1530, 200)] = 1e5
    first, second = (estimate_ctf(v, 1.2).parameters for v in (values, hot))
    assert first.mean_defocus_angstrom == pytest.approx(second.mean_defocus_angstrom, abs=5)


def test_spots_of_a_crystal_do_not_matter_much() -> None:
    values = simulated((15200.0, 14800.0, 30.0), ICE)
    y, x = np.mgrid[: values.shape[0], : values.shape[1]]
    for q in range(6):
        for spacing, height in ((3.66, 0.05), (6.66, 0.1)):
            values += height * np.cos(2 * np.pi * 1.2 / spacing * (x * np.cos(q) + y * np.sin(q)) + q)
    estimate = estimate_ctf(values, 1.2)
    assert estimate.parameters.mean_defocus_angstrom == pytest.approx(15000, abs=100)  # unclipped: 140 A off


def test_noise_has_no_rings() -> None:
    values = simulated((1e4, 1e4, 0.0), Support(0.0, 0.0))
    with pytest.raises(PosterionError, match=r"no ring fits between 30 and 5 A at a pixel size of 1.2 A"):
        estimate_ctf(values, 1.2)


@pytest.mark.parametrize(
    ("pixel_size", "complaint"),
    [
        (20.0, r"pixel size of 20 A \(Nyquist 40 A\) no ring can fit: a defocus of 50000 A has 0"),
        (9.0, r"no ring can fit: a defocus of 50000 A has 1 finer than 30 A"),
        (0.05, r"field of 86 x 80 A, at 0.05 A per pixel, is too small to tell rings apart"),
        (0.0, r"pixel size of 0 A: expected a positive number"),
    ],
)
def test_a_pixel_size_that_no_ring_can_fit(pixel_size: float, complaint: str) -> None:
    with pytest.raises(PosterionError, match=complaint):
        estimate_ctf(simulated((1e4, 1e4, 0.0), Support(0.0, 0.0)), pixel_size)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"optics": MicroscopeOptics(voltage_kv=3.0)}, "a voltage of 3 kV"),
        ({"optics": MicroscopeOptics(spherical_aberration_mm=-1.0)}, "a Cs of -1 mm"),
        ({"optics": MicroscopeOptics(amplitude_contrast=7.0)}, "an amplitude contrast of 7"),
        ({"lowest_resolution_angstrom": 4.0}, "a fit from 4 to 5 A: expected the larger first"),
        ({"defocus_range_angstrom": (2e4, 1e4)}, "defoci from 20000 to 10000 A"),
    ],
)
def test_wrong_options(wrong: dict[str, object], complaint: str) -> None:
    with pytest.raises(PosterionError, match=complaint):
        CtfOptions(**wrong)  # type: ignore[arg-type]


def test_band_ends_before_nyquist() -> None:
    assert fit_band(1.0, CtfOptions()) == pytest.approx((1 / 30, 1 / 5))
    assert fit_band(3.0, CtfOptions())[1] == pytest.approx(0.97 / 6)


def test_score_is_pearsons_correlation_of_amplitude_and_ctf() -> None:
    """On a flat background nothing has to be taken away; pixels in a loop."""
    fit, optics = CtfParameters(12000.0, 11000.0, 20.0), MicroscopeOptics()
    fy, fx = np.broadcast_arrays(np.fft.fftfreq(400, 1.5)[:, None], np.arange(201)[None, :] / 600)
    power = np.random.default_rng(0).gamma(3, 1 / 3, fx.shape) * (1 + 0.5 * optics.ctf(fx, fy, fit) ** 2)
    rings = Rings.of(sector_spectrum(power, 1.5, 1 / 60, 0.3), optics, 1 / 30, 0.2)
    chosen = [
        (np.sqrt(power[row, column]), abs(optics.ctf(fx[row, column, None], fy[row, column, None], fit)[0]))
        for row in range(400)
        for column in range(2, 201)
        if 20 <= round(float(np.hypot(fx[row, column], fy[row, column])) * 600) <= 120 and 1 < row < 399
    ]
    expected = np.corrcoef(np.array(chosen).T)[0, 1]
    assert amplitude_score(power, rings, fit) == pytest.approx(expected, abs=0.01)
    assert expected > 0.15


def real_estimates(shared_data: Path) -> list[tuple[dict[str, str], CtfEstimate]]:
    with (shared_data / "apoferritin" / "ctf_estimates.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    folder = shared_data / "apoferritin"
    return [(row, estimate_ctf(read_micrograph(folder / row["micrograph"]).values, 1.5)) for row in rows]


def test_real_micrographs(shared_data: Path) -> None:
    """Ten micrographs of apoferritin: within 250 A of independent fits, the astigmatism's angle along."""
    for row, estimate in real_estimates(shared_data):
        fit = estimate.parameters
        assert fit.defocus_u_angstrom == pytest.approx(float(row["Cs2.7_defocusU_A"]), abs=200)
        assert fit.defocus_v_angstrom == pytest.approx(float(row["Cs2.7_defocusV_A"]), abs=200)
        assert fit.defocus_angle_deg == pytest.approx(float(row["Cs2.7_angle_deg"]), abs=12)
        assert estimate.profile.fit_resolution_angstrom is not None
        assert estimate.profile.fit_resolution_angstrom < 6


def test_ctffinds_values_from_its_particles_alone(shared_data: Path) -> None:
    """17 to 29 windows of beta-galactosidase per micrograph give the defocus that CTFFIND found in the whole.

    U - V is below 200 A, so single azimuths are off by 15 degrees; together they tell the sense: CTFFIND's
    angles, and not their mirror images, are met.
    """
    particles = Particles.read(shared_data / "betagal" / "particles.star")
    images, turns, mirrored = particles.images(), [], []
    for micrograph in np.flatnonzero(np.bincount(particles.micrograph_index_i) > 10):
        rows = np.flatnonzero(particles.micrograph_index_i == micrograph)
        power = np.mean([averaged_periodogram(images[row], 192) for row in rows], axis=0)
        optics = MicroscopeOptics(300.0, 2.7, 0.07)
        rings = Rings.of(sector_spectrum(power, 1.274, 1 / 60, 1 / 3), optics, 1 / 20, 1 / 3.2)
        u, v, angle = (
            float(column[rows[0]])
            for column in (
                particles.defocus_u_angstrom_i,
                particles.defocus_v_angstrom_i,
                particles.defocus_angle_deg_i,
            )
        )
        assert rings.correlation(CtfParameters(u, v, angle)) > 15 * rings.noise_correlation
        fit, _ = refine_ctf(rings, coarse_search(rings, (3000.0, 50000.0), False), False)
        assert fit.mean_defocus_angstrom == pytest.approx((u + v) / 2, abs=60)
        turns.append((fit.defocus_angle_deg - angle + 90) % 180 - 90)
        mirrored.append((fit.defocus_angle_deg + angle + 90) % 180 - 90)
    assert len(turns) == 5
    assert np.std(turns) < 20
    assert np.sqrt(np.mean(np.square(turns))) < 0.7 * np.sqrt(np.mean(np.square(mirrored)))
