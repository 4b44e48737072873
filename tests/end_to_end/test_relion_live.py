"""Images and map made by an installed RELION give ours up to Nyquist. Skips where there is none."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import posterion
from posterion.mapping.fsc import fourier_shell_correlation
from posterion.physics.rotations import euler_from_matrices

BOX, PIXEL, COUNT = 32, 5.0, 1500
OPTICS = "rlnOpticsGroupName rlnOpticsGroup rlnVoltage rlnSphericalAberration rlnAmplitudeContrast"
PARTICLES = (
    "rlnOpticsGroup rlnDefocusU rlnDefocusV rlnDefocusAngle rlnAngleRot rlnAngleTilt rlnAnglePsi "
    "rlnOriginXAngst rlnOriginYAngst rlnRandomSubset"
)


def loop(name: str, columns: str, rows: list[str]) -> str:
    labels = "".join(f"_{column}\n" for column in columns.split())
    return f"\n# version 30001\n\ndata_{name}\n\nloop_\n{labels}" + "\n".join(rows) + "\n"


def poses_text() -> str:
    rng = np.random.default_rng(5)
    rot, tilt, psi = euler_from_matrices(Rotation.random(COUNT, random_state=5).as_matrix())
    defocus = rng.uniform(8e3, 2e4, COUNT)
    shift = rng.normal(0, 6, (COUNT, 2))
    rows = [
        f"1 {defocus[i]:.2f} {defocus[i] - 300:.2f} {30 * (i % 5)} {rot[i]:.5f} {tilt[i]:.5f} {psi[i]:.5f} "
        f"{shift[i, 0]:.4f} {shift[i, 1]:.4f} {1 + i % 2}"
        for i in range(COUNT)
    ]
    optics = f"{OPTICS} rlnImagePixelSize rlnImageSize rlnImageDimensionality"
    return loop("optics", optics, [f"og1 1 300 2.7 0.1 {PIXEL} {BOX} 2"]) + loop("particles", PARTICLES, rows)


def test_same_map_as_relion_up_to_nyquist(tmp_path: Path) -> None:
    if shutil.which("relion_project") is None or shutil.which("relion_reconstruct") is None:
        pytest.skip("RELION is not installed")
    truth = posterion.phantom_map(BOX, PIXEL)
    posterion.write_map(tmp_path / "truth.mrc", truth, PIXEL)
    (tmp_path / "poses.star").write_text(poses_text())
    for command in (
        f"relion_project --i truth.mrc --o images --ang poses.star --ctf --angpix {PIXEL} --pad 2",
        f"relion_reconstruct --i images.star --o relion.mrc --ctf --angpix {PIXEL}",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    particles = posterion.Particles.read(tmp_path / "images.star")
    ours = posterion.reconstruct(particles, threads=1)
    relions = posterion.read_map(tmp_path / "relion.mrc")[0]
    assert fourier_shell_correlation(ours.map, relions)[1 : BOX // 2].min() > 0.99
    truth_by_us = fourier_shell_correlation(ours.map, truth)[1 : BOX // 2]
    truth_by_relion = fourier_shell_correlation(relions, truth)[1 : BOX // 2]
    assert (truth_by_us > truth_by_relion - 0.002).all()
