"""Maps of atomic models: weights, centring, assemblies, grids, and what is refused."""

from pathlib import Path

import gemmi
import numpy as np
import pytest

from posterion.errors import PosterionError
from posterion.physics.atomic_model import Atoms, choose_sampling, map_from_atoms, read_atoms

AXIS = [("C", (12.0, 0.0, 0.0)), ("N", (10.0, 3.0, 0.0)), ("O", (10.0, 0.0, 5.0)), ("S", (14.0, 4.0, 1.0))]


def write_model(path: Path, assembly: bool = False) -> Path:
    structure = gemmi.Structure()
    model, chain, residue = gemmi.Model(1), gemmi.Chain("A"), gemmi.Residue()
    residue.name, residue.seqid = "CYS", gemmi.SeqId("1")
    for element, position in AXIS:
        atom = gemmi.Atom()
        atom.name, atom.element = element, gemmi.Element(element)
        atom.pos, atom.b_iso, atom.occ = gemmi.Position(*position), 20.0, 1.0
        residue.add_atom(atom)
    chain.add_residue(residue)
    water = gemmi.Residue()
    water.name, water.seqid = "HOH", gemmi.SeqId("2")
    water.add_atom(atom)
    chain.add_residue(water)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    if assembly:
        generator = gemmi.Assembly.Gen()
        generator.chains = ["A"]
        for number, half_turn in enumerate([(1, 1, 1), (-1, -1, 1)], start=1):
            operator = gemmi.Assembly.Operator()
            operator.name = str(number)
            operator.transform = gemmi.Transform(
                gemmi.Mat33(np.diag(half_turn).tolist()), gemmi.Vec3(0, 0, 0)
            )
            generator.operators.append(operator)
        dimer = gemmi.Assembly("1")
        dimer.generators.append(generator)
        structure.assemblies.append(dimer)
    structure.make_mmcif_document().write_file(str(path))
    return path


def test_atoms_are_centred_without_water(tmp_path: Path) -> None:
    atoms = read_atoms(write_model(tmp_path / "m.cif"))
    assert len(atoms.weights) == 4
    np.testing.assert_allclose(atoms.weights @ atoms.positions_angstrom, 0, atol=1e-9)
    tabulated = [2.5088, 2.2135, 1.9826, 5.1604]  # International Tables C, table 4.3.2.2, sums of a_i
    np.testing.assert_allclose(atoms.weights, tabulated, atol=2e-3)
    assert (atoms.bfactors_angstrom2 > 20).all()


def test_assembly_operators_are_applied(tmp_path: Path) -> None:
    atoms = read_atoms(write_model(tmp_path / "m.cif", assembly=True))
    assert len(atoms.weights) == 8
    turned = atoms.positions_angstrom[4:] * [-1, -1, 1]
    np.testing.assert_allclose(turned, atoms.positions_angstrom[:4], atol=1e-6)


def test_one_bfactor_for_all(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.cif")
    difference = (
        read_atoms(path, bfactor_angstrom2=80).bfactors_angstrom2 - read_atoms(path).bfactors_angstrom2
    )
    np.testing.assert_allclose(difference, 60)


@pytest.mark.parametrize(("box", "pixel"), [(40, 0.7), (41, 0.7), (24, 2.0), (25, 2.0)])
def test_map_has_mass_place_and_width(box: int, pixel: float) -> None:
    position, b = np.array([2.1, -3.3, 1.4]), 60.0
    atoms = Atoms(position[None], np.array([3.0]), np.array([b]))
    density = map_from_atoms(atoms, box, pixel).astype(np.float64)
    z, y, x = (np.mgrid[:box, :box, :box] - box // 2) * pixel
    mass = density.sum() * pixel**3
    lowest = [(density * np.exp(-2j * np.pi * axis / (box * pixel))).sum() for axis in (x, y, z)]
    assert mass == pytest.approx(3.0, rel=1e-3)
    np.testing.assert_allclose(-np.angle(lowest) * box * pixel / (2 * np.pi), position, atol=1e-3)
    exact = 3.0 * (4 * np.pi / b) ** 1.5
    exact = exact * np.exp(-4 * np.pi**2 / b * ((x - 2.1) ** 2 + (y + 3.3) ** 2 + (z - 1.4) ** 2))
    if pixel < 1:
        np.testing.assert_allclose(density, exact, atol=2e-3 * exact.max())


def test_sampling_is_chosen_to_hold_the_model() -> None:
    atoms = Atoms(np.array([[-50.0, 0, 0], [50.0, 0, 0]]), np.ones(2), np.full(2, 30.0))
    assert choose_sampling(atoms) == (100, 1.5)
    assert choose_sampling(atoms, box_px=60) == (60, 2.5)
    assert choose_sampling(atoms, pixel_size_angstrom=5.0) == (30, 5.0)
    assert choose_sampling(atoms, 64, 2.0) == (64, 2.0)
    with pytest.raises(PosterionError, match="100 A across, more than the box of 40 px x 2 A"):
        choose_sampling(atoms, 40, 2.0)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PosterionError, match="no such file"):
        read_atoms(tmp_path / "absent.cif")
    (tmp_path / "text.cif").write_text("this is no model")
    with pytest.raises(PosterionError, match=r"text\.cif"):
        read_atoms(tmp_path / "text.cif")
    (tmp_path / "empty.pdb").write_text("END\n")
    with pytest.raises(PosterionError, match="holds no"):
        read_atoms(tmp_path / "empty.pdb")
    with pytest.raises(PosterionError, match="has no assembly '7'; it defines 1"):
        read_atoms(write_model(tmp_path / "m.cif", assembly=True), assembly="7")


def test_apoferritin_has_24_subunits(shared_data: Path) -> None:
    atoms = read_atoms(shared_data / "maps" / "7a4m.cif")
    assert len(atoms.weights) % 24 == 0
    assert 120 < atoms.diameter_angstrom() < 140
