"""Torsions of new systems against mdtraj's, their starts, and complements of intervals by counting."""

import itertools

import mdtraj
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openmm import app

from bgdiff.observable_spec import ObservableSpec
from bgdiff.setup.basins import complement, example_basins
from bgdiff.setup.lengths import simulation_lengths
from bgdiff.setup.molecule import Molecule
from bgdiff.setup.starts import conformations, proposals
from bgdiff.setup.torsions import Torsion, molecular_torsions
from tests.peptides import AMINO_ACIDS, peptide, peptide_structure, peptide_system


def molecule(*residues: str, capped: bool = True) -> Molecule:
    topology = peptide(*residues, capped=capped)
    x = np.random.default_rng(0).normal(size=(topology.getNumAtoms(), 3))
    return Molecule(topology, peptide_system(topology, "ff14SB", "vacuum"), x, "", "", ())


class TestTorsions:
    @pytest.mark.parametrize("residues", [AMINO_ACIDS[:10], AMINO_ACIDS[10:]], ids=["first", "second"])
    def test_they_are_mdtrajs(self, residues: tuple[str, ...]) -> None:
        made = molecule(*residues)
        torsions = molecular_torsions(made)
        trajectory = mdtraj.Trajectory(made.positions[None], mdtraj.Topology.from_openmm(made.topology))
        functions = {
            "phi": [mdtraj.compute_phi],
            "psi": [mdtraj.compute_psi],
            "chi": [getattr(mdtraj, f"compute_chi{order}") for order in (1, 2, 3, 4)],
        }
        for kind, functions_of in functions.items():
            ours = {torsion.atoms for torsion in torsions if torsion.kind == kind}
            theirs = {tuple(map(int, row)) for function in functions_of for row in function(trajectory)[0]}
            if kind == "chi":  # those of proline turn no part of the molecule
                ring = {a.index for a in made.topology.atoms() if a.residue.name == "PRO"}
                theirs = {atoms for atoms in theirs if not set(atoms) <= ring}
            assert ours == theirs

    def test_names_are_numbered_by_residue(self) -> None:
        assert [t.name for t in molecular_torsions(molecule("ALA"))] == ["phi", "psi"]
        names = [t.name for t in molecular_torsions(molecule("GLY", "SER", "ALA", capped=False))]
        assert names == ["psi_1", "phi_2", "psi_2", "phi_3", "chi1"]

    def test_rings_are_watched_but_not_turned(self) -> None:
        by_name = {torsion.name: torsion for torsion in molecular_torsions(molecule("ALA", "PRO"))}
        assert not by_name["phi_2"].turnable
        assert by_name["psi_2"].turnable
        assert all("phi_2" not in start for start in proposals([t for t in by_name.values() if t.turnable]))

    def test_other_molecules_have_their_rotatable_bonds(self) -> None:
        """Phenyl ethyl ketone, built by hand: three bonds turn, the ring's and the double bond do not."""
        topology = app.Topology()
        residue = topology.addResidue("LIG", topology.addChain())
        ring = [topology.addAtom(f"C{k}", app.element.carbon, residue) for k in range(1, 7)]
        chain = [topology.addAtom(f"C{k}", app.element.carbon, residue) for k in range(7, 10)]
        oxygen = topology.addAtom("O1", app.element.oxygen, residue)
        hydrogens = [topology.addAtom(f"H{k}", app.element.hydrogen, residue) for k in range(1, 11)]
        bonds = [*itertools.pairwise([*ring, ring[0]]), (ring[0], chain[0]), (chain[0], oxygen)]
        bonds += list(itertools.pairwise(chain))
        carriers = [*ring[1:], *[chain[1]] * 2, *[chain[2]] * 3]
        for bond in bonds + list(zip(carriers, hydrogens, strict=True)):
            topology.addBond(*bond)
        x = np.random.default_rng(0).normal(size=(topology.getNumAtoms(), 3))
        torsions = molecular_torsions(Molecule(topology, None, x, "", "", ()))  # type: ignore[arg-type]
        turned = {frozenset(torsion.atoms[1:3]) for torsion in torsions}
        assert turned == {frozenset((0, 6)), frozenset((6, 7))}  # the ethyl's last bond turns hydrogens only
        assert [torsion.name for torsion in torsions] == ["torsion_1", "torsion_2"]
        assert [torsion.folds for torsion in torsions] == [2, 2]


class TestStarts:
    def test_every_residue_is_in_every_basin(self) -> None:
        starts = proposals(molecular_torsions(molecule("ALA", "GLY", "ALA")))
        assert len(starts) <= 24
        for number in (1, 2, 3):
            found = {(start[f"phi_{number}"], start[f"psi_{number}"]) for start in starts}
            assert found >= {(-75, 145), (-70, -30), (60, 45), (65, -60), (-150, 155)}

    def test_pairs_of_side_chain_bonds_see_all_their_forms(self) -> None:
        torsions = [Torsion(f"chi{k}", "chi", (0, 1, 2, 3), 1, "", 3, True) for k in (1, 2)]
        backbone = [t for t in molecular_torsions(molecule("ALA", "ALA", "ALA")) if t.kind != "chi"]
        starts = proposals([*backbone, *torsions])
        assert len({(start["chi1"], start["chi2"]) for start in starts}) == 9

    def test_starts_are_built_as_asked(self) -> None:
        topology = peptide("VAL")
        x = peptide_structure(topology)
        made = Molecule(topology, peptide_system(topology, "ff14SB", "OBC2"), x, "", "", ())
        torsions = molecular_torsions(made)
        told: dict[str, str] = {}
        starts = conformations(made, torsions, told.__setitem__)
        assert told["starts"].startswith(f"{len(starts)} conformations")
        assert len(starts) >= 4
        assert {name for start in starts for name in start} == {"phi", "psi", "chi1"}

    def test_a_molecule_without_torsions_starts_from_its_minimum(self) -> None:
        assert proposals([]) == [{}]
        assert not example_basins([]).basins


class TestComplement:
    @given(
        st.lists(
            st.tuples(st.integers(-360, 350), st.integers(1, 359)).map(lambda pair: (pair[0], sum(pair))),
            min_size=1,
            max_size=4,
        )
    )
    def test_arcs_of_the_circle(self, arcs: list[tuple[int, int]]) -> None:
        spec = ObservableSpec(dihedral=(0, 1, 2, 3))
        rest = complement(arcs, spec)
        for degree in np.arange(-179.5, 180):
            inside = any((degree - lo) % 360 < hi - lo for lo, hi in arcs)
            outside = any((degree - lo) % 360 < hi - lo for lo, hi in rest)
            assert inside != outside
        if rest:
            spec.check_intervals(rest)

    def test_lengths(self) -> None:
        spec = ObservableSpec(distance=(0, 1))
        assert complement([(0.2, 0.3), (0.5, 0.6)], spec) == [(0, 0.2), (0.3, 0.5), (0.6, np.inf)]
        assert complement([(0.0, np.inf)], spec) == []


@pytest.mark.parametrize("n_atoms", [4, 22, 42, 138, 400])
@pytest.mark.parametrize("batched", [True, False])
def test_there_are_enough_frames_for_the_coordinates(n_atoms: int, batched: bool) -> None:
    lengths = simulation_lengths(n_atoms, 12, batched=batched, implicit=True)
    per_chain = round(1000 * lengths.length_ns / lengths.spacing_ps)
    assert 12 * lengths.chains_per_start * per_chain >= 10 * (3 * n_atoms - 6)
    assert lengths.temperatures >= 3
