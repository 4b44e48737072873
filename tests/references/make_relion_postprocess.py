"""Freeze what relion_postprocess says of our phantom in relion_postprocess.npz (needs RELION 3.1 on PATH).

Run from any folder: python tests/references/make_relion_postprocess.py
"""

import subprocess
import tempfile
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from posterion.data.mrc import write_map
from posterion.mapping.masks import soft_sphere

BOX, PIXEL_SIZE = 64, 1.8
ATOM_B, N_ATOMS, BLOB_RADIUS_PX = 150.0, 600, 16
NOISE = 1.5

Real = NDArray[np.float32]


def phantom() -> Real:
    """Atoms as Gaussians of B-factor ``ATOM_B``, made in Fourier space, so that the fall-off is exact."""
    rng = np.random.default_rng(7)
    positions = rng.uniform(-1, 1, (4 * N_ATOMS, 3))
    positions = BLOB_RADIUS_PX * positions[np.linalg.norm(positions, axis=1) < 1][:N_ATOMS]
    volume = np.zeros((BOX,) * 3)
    np.add.at(volume, tuple(np.rint(positions).astype(int).T + BOX // 2), 1.0)
    k = np.fft.fftfreq(BOX, PIXEL_SIZE)
    squared = k[:, None, None] ** 2 + k[:, None] ** 2 + np.fft.rfftfreq(BOX, PIXEL_SIZE) ** 2
    damped = np.fft.rfftn(volume) * np.exp(-ATOM_B / 4 * squared)
    return np.fft.irfftn(damped, s=volume.shape, axes=(0, 1, 2)).astype(np.float32)


def halves_and_mask() -> tuple[Real, Real, Real]:
    """Two noisy copies of the phantom and a soft sphere about it."""
    truth, rng = phantom(), np.random.default_rng(8)
    halves = [truth + NOISE * truth.std() * rng.standard_normal(truth.shape, np.float32) for _ in range(2)]
    return halves[0], halves[1], soft_sphere(BOX, BLOB_RADIUS_PX + 3, 6)


def run(folder: Path, *options: str) -> gemmi.cif.Document:
    """Run relion_postprocess; without Ghostscript it fails, but only after all its numbers are written."""
    command = [
        "relion_postprocess",
        "--i",
        "half1.mrc",
        "--i2",
        "half2.mrc",
        "--mask",
        "mask.mrc",
        "--o",
        "out",
    ]
    command += [
        "--angpix",
        str(PIXEL_SIZE),
        "--auto_bfac",
        "--autob_lowres",
        "10",
        "--random_seed",
        "1",
        *options,
    ]
    subprocess.run(command, cwd=folder, check=False, capture_output=True)
    return gemmi.cif.read(str(folder / "out.star"))


def main() -> None:
    """Write relion_postprocess.npz beside this file; the fit runs to the resolution of a first pass."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, volume in zip(("half1", "half2", "mask"), halves_and_mask(), strict=True):
            write_map(folder / f"{file}.mrc", volume, PIXEL_SIZE)
        resolution = float(run(folder)[0].find_value("_rlnFinalResolution"))
        document = run(folder, "--autob_highres", str(resolution - 1e-3))
    general, fsc = document[0], document[1]

    def column(name: str) -> NDArray[np.float64]:
        return np.array(list(fsc.find_loop(f"_rlnFourierShellCorrelation{name}")), float)

    np.savez_compressed(
        Path(__file__).with_name("relion_postprocess.npz"),
        resolution=float(general.find_value("_rlnFinalResolution")),
        bfactor=float(general.find_value("_rlnBfactorUsedForSharpening")),
        randomised_from=float(general.find_value("_rlnRandomiseFrom")),
        unmasked=column("UnmaskedMaps"),
        masked=column("MaskedMaps"),
        corrected=column("Corrected"),
    )


if __name__ == "__main__":
    main()
