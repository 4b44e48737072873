"""The CTF against RELION's frozen output, the slow reference, and what every CTF must be."""

import runpy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from posterion.data.particles import OpticsGroup
from posterion.physics.ctf import contrast_transfer, ctf_at, ctf_half_spectrum, wavelength_angstrom
from posterion.physics.fourier import frequencies_2d

REFERENCES = Path(__file__).parents[1] / "references"
RELION = dict(np.load(REFERENCES / "relion_ctf.npz"))


ctf_reference = runpy.run_path(str(REFERENCES / "ctf_reference.py"))["ctf_reference"]


@dataclass
class Table:
    """The columns of Particles that the CTF reads."""

    parameters: NDArray[np.float64]
    optics_index_i: NDArray[np.int32]
    optics: list[OpticsGroup] = field(default_factory=list)

    def __post_init__(self) -> None:
        columns = ["defocus_u_angstrom_i", "defocus_v_angstrom_i", "defocus_angle_deg_i"]
        columns += ["phase_shift_deg_i", "ctf_bfactor_i", "ctf_scale_i"]
        for name, values in zip(columns, self.parameters.T, strict=True):
            setattr(self, name, values)

    def __len__(self) -> int:
        return len(self.parameters)


def relion_table(box: int, pixel_sizes: tuple[float, float, float] | None = None) -> Table:
    sizes = pixel_sizes or (float(RELION["pixel_size"]),) * 3
    optics = [OpticsGroup("og", *row, pixel, box) for row, pixel in zip(RELION["optics"], sizes, strict=True)]
    return Table(RELION[f"parameters_{box}"], RELION[f"group_{box}"], optics)


@pytest.mark.parametrize("box", [32, 33])
def test_agrees_with_relion(box: int) -> None:
    kx, ky = frequencies_2d(box)
    known = np.hypot(kx, ky) <= (box - 1) // 2  # relion_project leaves the corners empty
    ours = ctf_half_spectrum(box, relion_table(box))
    assert np.abs(ours - RELION[f"ctf_{box}"])[:, known].max() < 1e-4


def test_each_group_has_its_pixel_size() -> None:
    sizes = (1.0, 1.7, 2.4)
    table = relion_table(32, sizes)
    kx, ky = np.array([0, 3, 16, 7]), np.array([0, -5, 2, -16])
    indices = np.array([5, 0, 11, 3, 3])
    ours = ctf_at(kx, ky, 40, table, indices)
    for row, i in zip(ours, indices, strict=True):
        group = table.optics_index_i[i]
        edge = 40 * sizes[group]
        expected = ctf_reference(kx / edge, ky / edge, table.parameters[i], RELION["optics"][group])
        np.testing.assert_allclose(row, expected, atol=1e-6)


@settings(max_examples=30)
@given(
    defocus=st.floats(-5e4, 1e5),
    astigmatism=st.floats(0, 1e4),
    voltage=st.sampled_from([100.0, 200.0, 300.0]),
    cs=st.floats(0, 5),
    seed=st.integers(0, 1000),
)
def test_fast_form_is_the_equation(
    defocus: float, astigmatism: float, voltage: float, cs: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    fx, fy = rng.uniform(-0.5, 0.5, (2, 500))  # to 1.4 A: thousands of turns of phase
    parameters = np.array([defocus, defocus - astigmatism, *rng.uniform(-200, 200, 3), rng.uniform(0, 2)])
    parameters[4] = abs(parameters[4])
    fast = contrast_transfer(
        fx,
        fy,
        *parameters[:3],
        voltage_kv=voltage,
        spherical_aberration_mm=cs,
        amplitude_contrast=0.1,
        phase_shift_deg=parameters[3],
        bfactor_angstrom2=parameters[4],
        scale=parameters[5],
    )
    slow = ctf_reference(fx, fy, parameters, np.array([voltage, cs, 0.1]))
    assert fast.shape == (1, 500)
    assert fast.dtype == np.float32
    np.testing.assert_allclose(fast[0], slow, atol=2e-6)


def test_positive_at_low_resolution() -> None:
    ctf = contrast_transfer(
        np.array([0.0, 0.01]),
        np.zeros(2),
        1.5e4,
        1.5e4,
        0.0,
        voltage_kv=300,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    assert ctf[0, 0] == pytest.approx(0.1)
    assert ctf[0, 1] > 0.1


def test_symmetric_under_inversion() -> None:
    fx, fy = np.random.default_rng(1).uniform(-0.3, 0.3, (2, 50))
    optics = {"voltage_kv": 200, "spherical_aberration_mm": 2.0, "amplitude_contrast": 0.07}
    ctf = contrast_transfer(fx, fy, 2e4, 1.8e4, 33.0, **optics)
    np.testing.assert_allclose(contrast_transfer(-fx, -fy, 2e4, 1.8e4, 33.0, **optics), ctf, atol=1e-6)
    np.testing.assert_allclose(contrast_transfer(fx, fy, 1.8e4, 2e4, 123.0, **optics), ctf, atol=1e-6)


def test_wavelengths_are_the_textbooks() -> None:
    expected = [0.0370, 0.0251, 0.0197]  # Reimer & Kohl, Transmission Electron Microscopy, table 2.2
    np.testing.assert_allclose(wavelength_angstrom([100, 200, 300]), expected, atol=5e-5)
