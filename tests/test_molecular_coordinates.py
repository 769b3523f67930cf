"""Internal coordinates of real molecules: rings, bridges, caps, straight groups, topologies without bonds."""

import mdtraj
import numpy as np
import pytest
import torch
from checks import rigid_deviation, seeded
from numpy.typing import NDArray
from openmm import app
from peptides import peptide, peptide_structure, peptide_system
from torch import Tensor

from bgdiff.coordinates import InternalCoordinates, ZMatrix, ZMatrixMap
from bgdiff.errors import DataError, SystemDefinitionError
from bgdiff.preparation import molecular_zmatrix
from bgdiff.targets.forcefield import ForceFieldTarget
from bgdiff.targets.forcefield.parser import parse_system

CHIGNOLIN = ("GLY", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "GLY")


def _bridged() -> app.Topology:
    topology = peptide("CYX", "GLY", "GLY", "CYX")
    topology.addBond(*(atom for atom in topology.atoms() if atom.name == "SG"))
    return topology


BUILDERS = {
    "chignolin": lambda: peptide(*CHIGNOLIN, capped=False),
    "aromatic": lambda: peptide("PHE", "HIE", "PRO"),
    "bridge": _bridged,
}
RINGS = {
    "chignolin": {"TYR2": 1, "PRO4": 1, "TRP9": 2},
    "aromatic": {"PHE2": 1, "HIE3": 1, "PRO4": 1},
    "bridge": {"CYX2-CYX5": 1},
}
"""How many independent rings there are in each residue; numbers count from 1, the cap included."""


class Molecule:
    def __init__(self, name: str) -> None:
        self.name, topology = name, BUILDERS[name]()
        self.topology = mdtraj.Topology.from_openmm(topology)
        self.bonds = [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()]
        self.structure: NDArray[np.float64] = np.array(peptide_structure(topology))
        self.target = ForceFieldTarget(
            parse_system(peptide_system(topology, "ff99SBildn", "OBC2")), 300.0, threads=1
        )
        self.zmatrix = molecular_zmatrix(self.topology)

    def label(self, atom: int) -> str:
        found = self.topology.atom(int(atom))
        return f"{found.residue.name}{found.residue.index + 1}-{found.name}"

    def left_out(self) -> list[frozenset[str]]:
        """Bonds that are no coordinates."""
        z = self.zmatrix
        tree = {frozenset(pair) for pair in zip(z.atom[1:].tolist(), z.bond[1:].tolist(), strict=True)}
        return [frozenset(map(self.label, bond)) for bond in self.bonds if frozenset(bond) not in tree]


@pytest.fixture(scope="module", params=BUILDERS)
def molecule(request: pytest.FixtureRequest) -> Molecule:
    return Molecule(request.param)


def test_energies_survive_the_round_trip(molecule: Molecule) -> None:
    generator = seeded(0)
    x = torch.from_numpy(molecule.structure)
    x = x + 0.003 * torch.randn(20, *x.shape, generator=generator, dtype=torch.float64)
    map_ = ZMatrixMap(molecule.zmatrix)
    again = map_.to_cartesian(*map_.to_internal(x))
    assert rigid_deviation(again, x) < 1e-11
    before, after = molecule.target.energy(x), molecule.target.energy(again)
    assert torch.isfinite(before).all()
    torch.testing.assert_close(after, before, rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_the_jacobian_is_that_of_autograd(molecule: Molecule) -> None:
    """Over the 3N - 6 Cartesians that are not fixed, times r₁² y₃ (see test_coordinates)."""
    map_, n = ZMatrixMap(molecule.zmatrix), len(molecule.structure)
    parts = map_.to_internal(torch.from_numpy(molecule.structure)[None])
    first, second, third = molecule.zmatrix.atom[:3]
    fixed = {(first, 0), (first, 1), (first, 2), (second, 1), (second, 2), (third, 2)}
    free = [i for i in range(3 * n) if (i // 3, i % 3) not in fixed]

    def place(q: Tensor) -> Tensor:
        return map_.to_cartesian(*(part[None] for part in q.split([n - 1, n - 2, n - 3])))[0]

    q = torch.cat([part[0] for part in parts])
    jacobian = torch.func.jacfwd(lambda q: place(q).flatten()[free])(q)
    x = place(q)
    value = torch.linalg.slogdet(jacobian).logabsdet + 2 * torch.log(x[second, 0]) + torch.log(x[third, 1])
    assert float(map_.log_det(*parts[:2])) == pytest.approx(float(value), abs=1e-9)


def test_one_bond_of_each_ring_is_left_out(molecule: Molecule) -> None:
    left_out = [tuple(sorted(bond)) for bond in molecule.left_out()]
    residues = ["-".join(sorted({label.split("-")[0] for label in bond})) for bond in left_out]
    assert {name: residues.count(name) for name in residues} == RINGS[molecule.name]
    for first, second in left_out:
        if "PRO" in first:  # far from the backbone, whichever of its two atoms the ring hangs on
            assert (first[5:], second[5:]) in {("CB", "CG"), ("CD", "CG")}
        if "CYX" in first:
            assert (first, second) == ("CYX2-SG", "CYX5-SG")


def test_each_rotatable_bond_is_one_coordinate(molecule: Molecule) -> None:
    """A bond turns something if it is in no ring and both of its atoms have further neighbours."""
    z, n = molecule.zmatrix, len(molecule.structure)
    proper = [tuple(sorted((int(z.bond[k]), int(z.angle[k])))) for k in range(3, n) if not z.improper[k]]
    assert len(set(proper)) == len(proper)
    inner = {
        tuple(sorted(bond))
        for bond in molecule.bonds
        if _is_bridge(n, molecule.bonds, bond) and all(sum(i in b for b in molecule.bonds) > 1 for i in bond)
    }
    assert inner <= set(proper)
    in_ring = set(proper) - inner
    assert all(not _is_bridge(n, molecule.bonds, bond) for bond in in_ring)


def _is_bridge(n: int, bonds: list[tuple[int, int]], bond: tuple[int, ...]) -> bool:
    """Whether the molecule falls in two without the bond."""
    group = np.arange(n)
    for i, j in bonds:
        if {i, j} != set(bond):
            group[group == group[i]] = group[j]
    return bool(group[bond[0]] != group[bond[1]])


def test_substituents_of_a_ring_follow_it(molecule: Molecule) -> None:
    """At both ends of a bond that closes a ring dihedrals are relative to the other end, not to the chain."""
    z = molecule.zmatrix
    rows = [
        (molecule.label(z.bond[k]), molecule.label(z.torsion[k]), bool(z.improper[k]))
        for k in range(3, z.n_atoms)
    ]
    ends = [tuple(bond) for bond in molecule.left_out()]
    for here, there in ends + [end[::-1] for end in ends]:
        mine = [(torsion, improper) for bond, torsion, improper in rows if bond == here]
        assert all(row == (there, True) for row in mine), (here, mine)


def test_a_topology_without_bonds() -> None:
    topology = mdtraj.Topology()
    residue = topology.add_residue("LIG", topology.add_chain())
    for i in range(5):
        topology.add_atom(f"C{i + 1}", mdtraj.element.carbon, residue)
    with pytest.raises(SystemDefinitionError, match=r"no bonds \(first atoms LIG0-C1 \(atom 0\).*CONECT"):
        molecular_zmatrix(topology)


def test_several_fragments() -> None:
    """A peptide with two waters."""
    topology = peptide("GLY")
    chain = topology.addChain()
    for _ in range(2):
        water = topology.addResidue("HOH", chain)
        oxygen, *hydrogens = (
            topology.addAtom(name, app.Element.getBySymbol(name[0]), water) for name in ("O", "H1", "H2")
        )
        for hydrogen in hydrogens:
            topology.addBond(oxygen, hydrogen)
    message = (
        r"HOH4-O \(atom 19\) is not bonded to the fragment of ACE1-HH31 \(atom 0\).*not 3 .*"
        r"HOH5-O \(atom 22\) and 2 more.*Remove water.*CONECT.*SSBOND"
    )
    with pytest.raises(SystemDefinitionError, match=message):
        molecular_zmatrix(mdtraj.Topology.from_openmm(topology))


@pytest.mark.parametrize("bond", [(1, 1), (0, 3), (-1, 0)])
def test_bonds_that_cannot_be(bond: tuple[int, int]) -> None:
    with pytest.raises(SystemDefinitionError, match=f"bond {bond[0]}-{bond[1]}, of 3 atoms"):
        ZMatrix.from_bonds(3, [(0, 1), (1, 2), bond])


def test_a_weak_bond_outside_of_rings_stays() -> None:
    z = ZMatrix.from_bonds(4, [(0, 1), (1, 2), (2, 3)], weak=[(1, 2)])
    assert {frozenset(pair) for pair in zip(z.atom[1:], z.bond[1:], strict=True)} == {
        frozenset(pair) for pair in [(0, 1), (1, 2), (2, 3)]
    }


def test_a_nitrile_is_refused() -> None:
    """Acetonitrile: the angle C-C-N is a few degrees from straight, in any direction."""
    generator, n = seeded(1), 500
    ideal = torch.tensor(
        [
            [0, 0, 0],
            [0.146, 0, 0],
            [0.262, 0, 0],
            [-0.036, 0.103, 0],
            [-0.036, -0.051, 0.089],
            [-0.036, -0.051, -0.089],
        ],
        dtype=torch.float64,
    )
    x = ideal + 0.004 * torch.randn(n, 6, 3, generator=generator, dtype=torch.float64)
    zmatrix = ZMatrix.from_bonds(6, [(0, 1), (1, 2), (0, 3), (0, 4), (0, 5)], [True] * 3 + [False] * 3)
    names = ["C2", "C1", "N1", "H1", "H2", "H3"]
    with pytest.raises(DataError, match=r"angle N1-C1-C2 is within 5 degrees of straight.*mean_free"):
        InternalCoordinates.fit(zmatrix, x, names=names)
