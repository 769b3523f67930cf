"""What ``bgdiff.setup`` refuses or tells: of OpenMM Systems, inverted centres, unusual forms."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest

from bgdiff.data.starts import set_torsion
from bgdiff.errors import SystemDefinitionError
from bgdiff.setup import FromStructure, FromSystem, new_system
from bgdiff.setup.checks import check_molecule
from bgdiff.setup.geometry import unusual_forms
from bgdiff.setup.molecule import bond_pairs
from tests.molecules import twist_folder
from tests.peptides import peptide, peptide_structure
from tests.structures import Told, atom_line, pdb_lines, write_pdb


class TestSystems:
    """What a System must not have; the topology names the atoms."""

    @staticmethod
    def refusal(folder: Path, change: Any) -> str:
        path = twist_folder(folder / "twist")
        system = openmm.XmlSerializer.deserialize((path / "system.xml").read_text())
        change(system)
        (path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
        with pytest.raises(SystemDefinitionError) as caught:
            new_system("a", FromSystem(path / "system.xml", path / "topology.pdb"), out=folder / "a")
        assert not (folder / "a").exists()
        return str(caught.value)

    def test_constraints(self, tmp_path: Path) -> None:
        message = self.refusal(tmp_path, lambda system: system.addConstraint(1, 2, 0.15))
        assert "1 constraints, the first between C2 of TW 1" in message
        assert "constraints=None" in message

    def test_virtual_sites(self, tmp_path: Path) -> None:
        def change(system: openmm.System) -> None:
            system.setParticleMass(3, 0.0)
            system.setVirtualSite(3, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))

        assert "1 virtual sites: C4 of TW 1" in self.refusal(tmp_path, change)

    def test_frozen_atoms(self, tmp_path: Path) -> None:
        message = self.refusal(tmp_path, lambda system: system.setParticleMass(2, 0.0))
        assert "1 frozen atoms (of mass 0): C3 of TW 1" in message

    def test_barostats(self, tmp_path: Path) -> None:
        barostat = openmm.MonteCarloBarostat(1.0, 300.0)
        message = self.refusal(tmp_path, lambda system: system.addForce(barostat))
        assert "has a barostat (MonteCarloBarostat)" in message

    def test_periodic_boxes(self, tmp_path: Path) -> None:
        def change(system: openmm.System) -> None:
            force = openmm.NonbondedForce()
            for _ in range(4):
                force.addParticle(0.0, 0.1, 0.0)
            force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
            system.addForce(force)

        assert "is periodic; create it with nonbondedMethod=NoCutoff" in self.refusal(tmp_path, change)

    def test_energies_that_are_not_finite(self, tmp_path: Path) -> None:
        def change(system: openmm.System) -> None:
            force = openmm.CustomBondForce("log(r - 1)")
            force.addBond(0, 3)
            system.addForce(force)

        message = self.refusal(tmp_path, change)
        assert "the energy is not finite; the closest atoms are" in message

    def test_bonds_that_nothing_holds(self, tmp_path: Path) -> None:
        def change(system: openmm.System) -> None:
            force = openmm.CustomBondForce("-1e7*r")
            force.addBond(0, 1)
            system.addForce(force)

        message = self.refusal(tmp_path, change)
        assert "tears the bond of C1 of TW 1" in message

    def test_straight_angles(self, tmp_path: Path) -> None:
        def change(system: openmm.System) -> None:
            force = system.getForce(1)
            force.setAngleParameters(0, 0, 1, 2, np.pi, 4000.0)

        assert "is straight, where internal coordinates break down" in self.refusal(tmp_path, change)

    @pytest.mark.parametrize(
        ("elements", "said"),
        [
            ("CCC", "has 3 atoms, but the System has 4 particles"),
            ("CHCC", "atom 1, H2 of TW 1 of chain A, is hydrogen, but particle 1 of the System has mass 12"),
        ],
    )
    def test_a_topology_of_other_atoms(self, tmp_path: Path, elements: str, said: str) -> None:
        folder = twist_folder(tmp_path / "twist")
        lines = [
            f"HETATM{k:5d}  {e}{k}  TW  A   1    {1.5 * k:8.3f}{k % 2:8.3f}   0.000" + f"{e:>24}\n"
            for k, e in enumerate(elements, start=1)
        ]
        pdb = write_pdb(tmp_path / "other.pdb", [*lines, "CONECT    1    2\n", "CONECT    2    3\n"])
        with pytest.raises(SystemDefinitionError, match=said):
            FromSystem(folder / "system.xml", pdb).build(Told())

    def test_bonds_between_other_atoms(self, tmp_path: Path) -> None:
        folder = twist_folder(tmp_path / "twist")
        text = (folder / "topology.pdb").read_text().replace("CONECT    3    2    4", "CONECT    3    2    1")
        text = text.replace("CONECT    4    3", "CONECT    4    1")
        pdb = write_pdb(tmp_path / "other.pdb", [text])
        with pytest.raises(SystemDefinitionError, match="has no bond of C3 of TW 1 .* with C4 of TW 1"):
            FromSystem(folder / "system.xml", pdb).build(Told())

    def test_xml_that_is_cut_off(self, tmp_path: Path) -> None:
        folder = twist_folder(tmp_path / "twist")
        text = (folder / "system.xml").read_text()
        for content, said in (
            (text[: len(text) // 2], "is not a serialised OpenMM System"),
            ("", "is empty"),
        ):
            (folder / "system.xml").write_text(content)
            with pytest.raises(SystemDefinitionError, match=said):
                FromSystem(folder / "system.xml", folder / "topology.pdb").build(Told())

    def test_what_the_engine_lacks_is_told(self, tmp_path: Path) -> None:
        folder = twist_folder(tmp_path / "twist")
        system = openmm.XmlSerializer.deserialize((folder / "system.xml").read_text())
        force = openmm.CustomCompoundBondForce(2, "distance(p1, p2)")
        force.addBond([0, 3])
        system.addForce(force)
        (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
        told = Told()
        new_system(
            "a", FromSystem(folder / "system.xml", folder / "topology.pdb"), out=tmp_path / "a", tell=told
        )
        assert "OpenMM's Reference platform" in told["evaluated by"]
        assert "CustomCompoundBondForce" in told["evaluated by"]

    def test_a_knot_is_told(self, tmp_path: Path) -> None:
        """Like an atom pulled through a ring: an angle that minimisation cannot mend."""
        folder = twist_folder(tmp_path / "twist")
        system = openmm.XmlSerializer.deserialize((folder / "system.xml").read_text())
        force = openmm.CustomBondForce("1e7*(r-0.15)^2")
        force.addBond(0, 2)
        system.addForce(force)
        (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
        molecule = FromSystem(folder / "system.xml", folder / "topology.pdb").build(Told())
        told = Told()
        check_molecule(molecule, "x", 300.0, told)
        assert told["strain"].startswith("the angle C1-C2-C3 of TW 1")


def test_inverted_centres_are_refused(tmp_path: Path) -> None:
    """A Cα pushed through the plane of its heavy neighbours goes back when the energy is minimised."""
    lines = pdb_lines("ALA")
    place = {
        name: np.array([float(lines[atom_line(lines, name, "ALA")][k : k + 8]) for k in (30, 38, 46)])
        for name in ("N", "C", "CB", "CA")
    }
    normal = np.cross(place["C"] - place["N"], place["CB"] - place["N"])
    normal /= np.linalg.norm(normal)
    beyond = place["CA"] - ((place["CA"] - place["N"]) @ normal) * 1.2 * normal
    index = atom_line(lines, "CA", "ALA")
    lines[index] = lines[index][:30] + "".join(f"{value:8.3f}" for value in beyond) + lines[index][54:]
    source = FromStructure(write_pdb(tmp_path / "x.pdb", lines), ("amber96.xml",))
    with pytest.raises(SystemDefinitionError, match="turns the handedness of CA of ALA 2 of chain A around"):
        new_system("x", source, out=tmp_path / "x")


@pytest.mark.parametrize("mirrored", [False, True])
def test_forms_that_are_unusual_are_told(mirrored: bool) -> None:
    """The mirror image of an L residue is D; a chain folded back at a peptide bond is cis."""
    topology = peptide("ALA", "GLY")
    x = peptide_structure(topology) * np.array([1, 1, -1 if mirrored else 1])
    at = {(atom.residue.index, atom.name): atom.index for atom in topology.atoms()}
    carbons = [(0, "CH3"), (1, "CA"), (2, "CA"), (3, "CH3")]
    for (first, before), (second, after) in itertools.pairwise(carbons):
        omega = (at[first, before], at[first, "C"], at[second, "N"], at[second, after])
        x = set_torsion(x, bond_pairs(topology), omega, np.pi)
    assert unusual_forms(topology, x) == (["D form of ALA 2 of chain 1"] if mirrored else [])
    omega = (at[1, "CA"], at[1, "C"], at[2, "N"], at[2, "CA"])
    turned = set_torsion(x, bond_pairs(topology), omega, 0.3)
    assert unusual_forms(topology, turned)[-1] == "cis bond between ALA 2 of chain 1 and GLY 3 of chain 1"
