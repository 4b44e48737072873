"""Freeze what RELION 3.1 makes of our own phantom (CTFs, projections, reconstructions) as relion_*.npz here.

Needs relion_project and relion_reconstruct on PATH. Run: python tests/references/make_relion_fixtures.py
Angles in degrees, lengths in Angstrom, voltage in kV, Cs in mm. Everything is drawn from one seed.
"""

import runpy
import subprocess
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

from posterion.physics.atomic_model import map_from_atoms
from posterion.physics.phantom import phantom_atoms

FOLDER = Path(__file__).parent
OPTICS = np.array([[300.0, 2.7, 0.1], [200.0, 1.4, 0.07], [120.0, 0.01, 0.2]])  # voltage, Cs, Q0
OPTICS_COLUMNS = (
    "OpticsGroupName OpticsGroup MicrographOriginalPixelSize Voltage SphericalAberration "
    "AmplitudeContrast ImagePixelSize ImageSize ImageDimensionality"
)
PARTICLE_COLUMNS = (
    "DefocusU DefocusV DefocusAngle PhaseShift CtfBfactor CtfScalefactor AngleRot AngleTilt AnglePsi "
    "OriginXAngst OriginYAngst ImageName OpticsGroup RandomSubset"
)


def smooth_phantom(box: int) -> np.ndarray:
    """The phantom at 5 A a pixel, blurred so that little is left at Nyquist, where conventions differ."""
    atoms = phantom_atoms()
    return map_from_atoms(atoms._replace(bfactors_angstrom2=atoms.bfactors_angstrom2 + 700), box, 5.0)


def star_loop(block: str, columns: str, rows: list[str]) -> str:
    """One STAR table."""
    labels = "\n".join(f"_rln{name} #{i}" for i, name in enumerate(columns.split(), start=1))
    return f"\ndata_{block}\n\nloop_\n{labels}\n" + "\n".join(rows) + "\n\n"


def write_star(
    path: Path, box: int, pixel: float, ctf: np.ndarray, poses: np.ndarray, group: np.ndarray
) -> None:
    """Particles of ``images.mrcs`` with CTF (n, 6) and poses (n, 5), half sets alternating."""
    optics = [
        f"og{i} {i} {pixel} {v} {cs} {q} {pixel} {box} 2" for i, (v, cs, q) in enumerate(OPTICS, start=1)
    ]
    rows = [
        " ".join(repr(float(value)) for value in (*ctf[i], *poses[i]))
        + f" {i + 1:06d}@images.mrcs {group[i] + 1} {1 + i % 2}"
        for i in range(len(ctf))
    ]
    path.write_text(
        star_loop("optics", OPTICS_COLUMNS, optics) + star_loop("particles", PARTICLE_COLUMNS, rows)
    )


def random_ctf(n: int, rng: np.random.Generator, plain: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of U, V, angle, phase shift, B, scale (``plain``: 0, 0, 1 for the last three); group indices."""
    u = rng.uniform(4e3, 30e3, n)
    extras = [np.zeros(n), np.zeros(n), np.ones(n)]
    if not plain:
        extras = [rng.uniform(0, 150, n), rng.uniform(-20, 150, n), rng.uniform(0.5, 1.5, n)]
    columns = [u, u - rng.uniform(0, 3e3, n), rng.uniform(-180, 180, n), *extras]
    return np.stack(columns, axis=1).round(3), rng.integers(len(OPTICS), size=n)


def random_poses(n: int, rng: np.random.Generator, shift_sd: float) -> np.ndarray:
    """Rows of rot, tilt, psi, origin x, origin y; directions uniform."""
    rot, psi = rng.uniform(-180, 180, (2, n))
    tilt = np.degrees(np.arccos(rng.uniform(-1, 1, n)))
    return np.stack([rot, tilt, psi, *rng.normal(0, shift_sd, (2, n))], axis=1).round(4)


def run_relion(*command: str | Path, folder: Path) -> None:
    """Run one RELION program in a folder."""
    subprocess.run([str(part) for part in command], cwd=folder, check=True, capture_output=True)


def relion_project(
    volume: np.ndarray, pixel: float, ctf: np.ndarray, poses: np.ndarray, group: np.ndarray, *options: str
) -> np.ndarray:
    """Images (n, box, box) float32. For odd boxes RELION shifts them by (+1, +1) pixel: undone here."""
    box = volume.shape[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mrcfile.write(folder / "map.mrc", volume, voxel_size=pixel)
        write_star(folder / "in.star", box, pixel, ctf, poses, group)
        run_relion(
            *(
                "relion_project",
                "--i",
                "map.mrc",
                "--o",
                "out",
                "--ang",
                "in.star",
                "--angpix",
                pixel,
                *options,
            ),
            folder=folder,
        )
        images = mrcfile.read(folder / "out.mrcs")
    return np.roll(images, (-1, -1), axis=(1, 2)) if box % 2 else images


def relion_reconstruct(
    images: np.ndarray, pixel: float, ctf: np.ndarray, poses: np.ndarray, group: np.ndarray, *options: str
) -> np.ndarray:
    """Map (box, box, box) float32."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with mrcfile.new(folder / "images.mrcs") as stack:
            stack.set_data(images.astype(np.float32))
            stack.set_image_stack()
            stack.voxel_size = pixel
        write_star(folder / "in.star", images.shape[1], pixel, ctf, poses, group)
        run_relion("relion_reconstruct", "--i", "in.star", "--o", "map.mrc", *options, folder=folder)
        return np.array(mrcfile.read(folder / "map.mrc"))


def freeze_ctfs(rng: np.random.Generator) -> None:
    """CTFs as half spectra of projections of a point at the origin, whose transform is 1."""
    frozen = {"optics": OPTICS, "pixel_size": np.array(1.3)}
    for box in (32, 33):
        ctf, group = random_ctf(12, rng, plain=False)
        point = np.zeros((box,) * 3, np.float32)
        point[(box // 2,) * 3] = 1
        images = relion_project(point, 1.3, ctf, np.zeros((12, 5)), group, "--ctf")
        spectra = np.fft.rfft2(np.fft.ifftshift(images.astype(np.float64), axes=(1, 2)))
        assert np.abs(spectra.imag).max() < 1e-5, "the transform of a centred point is real"
        frozen |= {
            f"parameters_{box}": ctf,
            f"group_{box}": group,
            f"ctf_{box}": spectra.real.astype(np.float32),
        }
    np.savez_compressed(FOLDER / "relion_ctf.npz", **frozen)


def freeze_projections(rng: np.random.Generator) -> None:
    """Projections of the phantom with random poses and shifts, without and with CTF, even and odd box."""
    frozen = {"optics": OPTICS, "pixel_size": np.array(5.0)}
    for box, n in ((32, 40), (33, 12)):
        volume = smooth_phantom(box)
        ctf, group = random_ctf(n, rng, plain=False)
        poses = random_poses(n, rng, shift_sd=8.0)
        frozen |= {
            f"map_{box}": volume,
            f"parameters_{box}": ctf,
            f"group_{box}": group,
            f"poses_{box}": poses,
        }
        frozen[f"projections_{box}"] = relion_project(volume, 5.0, ctf, poses, group)
        frozen[f"images_{box}"] = relion_project(volume, 5.0, ctf, poses, group, "--ctf")
    np.savez_compressed(FOLDER / "relion_projections.npz", **frozen)


def freeze_reconstructions(rng: np.random.Generator) -> None:
    """Reconstructions from 160 noise-free images with CTF: all, one half set, and symmetrised."""
    volume = smooth_phantom(32)
    ctf, group = random_ctf(160, rng, plain=True)
    poses = random_poses(160, rng, shift_sd=8.0)
    images = relion_project(volume, 5.0, ctf, poses, group, "--ctf").astype(np.float16)
    data = (images, 5.0, ctf, poses, group)
    np.savez_compressed(
        FOLDER / "relion_reconstructions.npz",
        optics=OPTICS,
        pixel_size=5.0,
        parameters=ctf,
        group=group,
        poses=poses,
        images=images,
        truth=volume,
        map=relion_reconstruct(*data, "--ctf"),
        map_half1=relion_reconstruct(*data, "--ctf", "--subset", "1"),
        map_c3=relion_reconstruct(*data, "--ctf", "--sym", "C3"),
        map_t=relion_reconstruct(*data, "--ctf", "--sym", "T"),
    )


def freeze_dense_reconstruction(rng: np.random.Generator) -> None:
    """Reconstruct 1200 noise-free images of ours with CTF; the test makes the images again."""
    sets = runpy.run_path(str(FOLDER / "particle_sets.py"))
    volume = smooth_phantom(32)
    ctf, group = random_ctf(1200, rng, plain=True)
    poses = random_poses(1200, rng, shift_sd=8.0)
    columns = {"optics": OPTICS, "parameters": ctf, "group": group, "poses": poses}
    images = sets["projections"](volume, sets["particle_set"](columns, 5.0, 32))
    np.savez_compressed(
        FOLDER / "relion_reconstruction_dense.npz",
        **columns,
        pixel_size=5.0,
        truth=volume,
        map=relion_reconstruct(images, 5.0, ctf, poses, group, "--ctf"),
    )


if __name__ == "__main__":
    freeze_ctfs(np.random.default_rng(1))
    freeze_projections(np.random.default_rng(2))
    freeze_reconstructions(np.random.default_rng(3))
    freeze_dense_reconstruction(np.random.default_rng(4))
    for path in sorted(FOLDER.glob("relion_*.npz")):
        print(path.name, path.stat().st_size, "bytes")
