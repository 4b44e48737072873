"""Maps of atomic models: every atom a Gaussian whose weight is its element's electron scattering."""

from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from posterion.errors import PosterionError
from posterion.physics.fourier import resample

__all__ = ["Atoms", "choose_sampling", "map_from_atoms", "read_atoms"]

_CUTOFF_SIGMA = 4.5
_SIGMA_PER_VOXEL = (
    0.8  # a Gaussian of 0.8 voxels sd is at 4 % at Nyquist: the sampled sum has no other aliases
)
_BOX_OVER_DIAMETER = 1.5
_DEFAULT_PIXEL_ANGSTROM = 1.5


class Atoms(NamedTuple):
    """Point scatterers, centred on their centre of mass.

    Attributes
    ----------
    positions_angstrom : (n, 3) float64
        Coordinates (x, y, z), Angstrom.
    weights : (n,) float64
        Electron scattering factor at zero angle times occupancy, Angstrom.
    bfactors_angstrom2 : (n,) float64
        B of each Gaussian exp(-B s^2 / 4), scattering factor and displacement together, Angstrom^2.
    """

    positions_angstrom: NDArray[np.float64]
    weights: NDArray[np.float64]
    bfactors_angstrom2: NDArray[np.float64]

    def diameter_angstrom(self) -> float:
        """Diameter of the smallest centred sphere that holds all atoms, Angstrom."""
        return float(2 * np.linalg.norm(self.positions_angstrom, axis=1).max())


def read_atoms(
    path: str | Path, assembly: str | None = None, bfactor_angstrom2: float | None = None
) -> Atoms:
    """Atoms of a PDB or mmCIF file's first model, with the operators of a biological assembly applied.

    Waters are left out. Each element is one Gaussian f(0) exp(-B_e s^2 / 4) through its electron scattering
    factor at s = 0 and 0.2 / Angstrom (for H, C, N, O, P and S within 7 % of the table up to 0.3 / Angstrom).

    Parameters
    ----------
    path : str or Path
        PDB or mmCIF file, plain or .gz.
    assembly : str, optional
        Name of the assembly; the file's first where None, the atoms as they are where the file defines none.
    bfactor_angstrom2 : float, optional
        One displacement B for all atoms, Angstrom^2, in place of the B of each atom in the file.

    Raises
    ------
    PosterionError
        When the file is missing, is no model, holds no atoms, or has no such assembly.

    Notes
    -----
    Scattering factors: International Tables C, table 4.3.2.2, through gemmi.
    """
    structure = _read_structure(Path(path))
    rows = [
        (*atom.pos.tolist(), atom.occ * scattering, scattering_b + displacement_b)
        for atom in _atoms_of(_assembled(structure, Path(path), assembly))
        for scattering, scattering_b in [_scattering(atom.element)]
        for displacement_b in [atom.b_iso if bfactor_angstrom2 is None else bfactor_angstrom2]
    ]
    if not rows:
        raise PosterionError(f"{path}: holds no atoms besides water; give a PDB or mmCIF model")
    table = np.array(rows, np.float64)
    positions, weights = table[:, :3], table[:, 3]
    centre = weights @ positions / weights.sum()
    return Atoms(positions - centre, weights, np.maximum(table[:, 4], 1.0))


def choose_sampling(
    atoms: Atoms, box_px: int | None = None, pixel_size_angstrom: float | None = None
) -> tuple[int, float]:
    """Box and pixel size that hold a model; what is not given is chosen so that box edge = 1.5 diameters.

    Parameters
    ----------
    atoms : Atoms
        The model.
    box_px : int, optional
        Box, pixels.
    pixel_size_angstrom : float, optional
        Pixel size, Angstrom; 1.5 where neither is given.

    Returns
    -------
    box_px, pixel_size_angstrom : int, float
        A chosen box is even and its FFT fast.

    Raises
    ------
    PosterionError
        When the model is larger than the given box.
    """
    edge = _BOX_OVER_DIAMETER * atoms.diameter_angstrom()
    if box_px is None:
        pixel = pixel_size_angstrom or _DEFAULT_PIXEL_ANGSTROM
        box_px = 2 * scipy.fft.next_fast_len(int(np.ceil(edge / pixel / 2)))
    else:
        pixel = pixel_size_angstrom or edge / box_px
    if atoms.diameter_angstrom() > box_px * pixel:
        raise PosterionError(
            f"the model is {atoms.diameter_angstrom():.0f} A across, more than the box of {box_px} px x "
            f"{pixel:g} A; give a larger --box or --pixel-size"
        )
    return box_px, pixel


def map_from_atoms(atoms: Atoms, box_px: int, pixel_size_angstrom: float) -> NDArray[np.float32]:
    """Scattering density of a model, rho(x) = sum_j w_j (4 pi / B_j)^(3/2) exp(-4 pi^2 |x - x_j|^2 / B_j).

    The Gaussians are summed on a grid fine enough to sample them; this is Fourier-cropped to the given one.

    Parameters
    ----------
    atoms : Atoms
        The model; its origin goes to voxel ``box_px // 2``.
    box_px : int
        Box, pixels.
    pixel_size_angstrom : float
        Voxel size, Angstrom.

    Returns
    -------
    density : (box_px, box_px, box_px) float32
        Indexed [z, y, x], unit of the weights per Angstrom^3; near zero outside the model.
    """
    sigma = np.sqrt(atoms.bfactors_angstrom2 / (8 * np.pi**2))
    fineness = max(1, int(np.ceil(pixel_size_angstrom * _SIGMA_PER_VOXEL / float(np.percentile(sigma, 1)))))
    spacing = pixel_size_angstrom / fineness
    fine = np.zeros((box_px * fineness,) * 3, np.float32)
    positions_px = atoms.positions_angstrom / spacing + fine.shape[0] // 2
    sigma_px = np.maximum(sigma / spacing, 0.5)
    heights = atoms.weights / (np.sqrt(2 * np.pi) * sigma_px * spacing) ** 3
    _add_gaussians(positions_px, sigma_px, heights, fine)
    return fine if fineness == 1 else resample(fine, box_px)


def _read_structure(path: Path) -> gemmi.Structure:
    if not path.is_file():
        raise PosterionError(f"{path}: no such file; give a PDB or mmCIF model")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise PosterionError(f"{path}: cannot be read as a PDB or mmCIF model ({error})") from error
    if len(structure) == 0:
        raise PosterionError(f"{path}: holds no model; give a PDB or mmCIF file with atoms")
    return structure


def _assembled(structure: gemmi.Structure, path: Path, name: str | None) -> gemmi.Model:
    names = [assembly.name for assembly in structure.assemblies]
    if name is not None and name not in names:
        raise PosterionError(f"{path}: has no assembly {name!r}; it defines {', '.join(names) or 'none'}")
    if not names:
        return structure[0]
    chosen = structure.assemblies[names.index(name) if name is not None else 0]
    return gemmi.make_assembly(chosen, structure[0], gemmi.HowToNameCopiedChain.Short)


def _atoms_of(model: gemmi.Model) -> list[gemmi.Atom]:
    return [atom for chain in model for residue in chain if not residue.is_water() for atom in residue]


def _scattering(element: gemmi.Element) -> tuple[float, float]:
    """Give f(0), Angstrom, and B_e, Angstrom^2, of an element's electron scattering."""
    factor = element.c4322 or gemmi.Element("C").c4322
    at_zero, at_5_angstrom = factor.calculate_sf(0.0), factor.calculate_sf(0.1**2)  # of (s / 2)^2
    return at_zero, -4 * np.log(at_5_angstrom / at_zero) / 0.2**2


@njit(cache=True, nogil=True)
def _add_gaussians(
    positions_px: NDArray[np.float64],
    sigma_px: NDArray[np.float64],
    heights: NDArray[np.float64],
    volume: NDArray[np.float32],
) -> None:
    """Add separable Gaussians, cut off at 4.5 sd and at the walls of the box."""
    n = volume.shape[0]
    profile = np.empty((3, n))
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    for j in range(len(positions_px)):
        for axis in range(3):
            centre, reach = positions_px[j, axis], _CUTOFF_SIGMA * sigma_px[j]
            first[axis] = max(0, int(np.ceil(centre - reach)))
            last[axis] = min(n - 1, int(np.floor(centre + reach)))
            for i in range(first[axis], last[axis] + 1):
                profile[axis, i] = np.exp(-0.5 * ((i - centre) / sigma_px[j]) ** 2)
        for z in range(first[2], last[2] + 1):
            for y in range(first[1], last[1] + 1):
                factor = heights[j] * profile[2, z] * profile[1, y]
                for x in range(first[0], last[0] + 1):
                    volume[z, y, x] += factor * profile[0, x]
