"""Shipped alanine peptides and chignolin: definition, energies, data and reference values."""

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from numpy.typing import NDArray
from openmm import unit
from openmm.app import ForceField, NoCutoff, PDBFile

from bgdiff.analysis.virial import virial
from bgdiff.data.dataset import Dataset
from bgdiff.systems import System, load_system

ALANINES = {"alanine_dipeptide_sbildn_obc": 1, "tri_alanine": 2, "tetra_alanine": 3}
"""How many residues lie between the caps."""
PEPTIDES = [*ALANINES, "chignolin"]
FORCES = [
    "HarmonicBondForce",
    "HarmonicAngleForce",
    "PeriodicTorsionForce",
    "NonbondedForce",
    "GBSAOBCForce",
]


@pytest.fixture(scope="module")
def systems() -> dict[str, System]:
    return {name: load_system(name) for name in PEPTIDES}


@pytest.fixture(scope="module", params=ALANINES)
def shipped(request: pytest.FixtureRequest, systems: dict[str, System]) -> tuple[System, Dataset]:
    system = systems[request.param]
    return system, system.load_data()


@pytest.mark.parametrize("name", PEPTIDES)
def test_the_force_field_is_that_of_the_name(systems: dict[str, System], name: str) -> None:
    system = systems[name].openmm_system
    assert sorted(type(force).__name__ for force in system.getForces()) == sorted(FORCES)
    assert system.getNumConstraints() == 0
    made = ForceField("amber99sbildn.xml", "amber99_obc.xml").createSystem(
        PDBFile(str(systems[name].path / "topology.pdb")).topology,
        nonbondedMethod=NoCutoff,
        constraints=None,
        removeCMMotion=False,
    )
    structure = systems[name].structure
    x = structure + np.random.default_rng(0).normal(scale=0.005, size=structure.shape)
    shipped, expected = _energies(system, x), _energies(made, x)
    assert shipped.keys() == expected.keys()
    for force in FORCES:
        assert shipped[force] == pytest.approx(expected[force], abs=1e-6)
    kT = (unit.MOLAR_GAS_CONSTANT_R * 300 * unit.kelvin).value_in_unit(unit.kilojoule_per_mole)
    reduced = systems[name].target.energy(torch.from_numpy(x)[None])
    assert float(reduced) == pytest.approx(sum(expected.values()) / kT, abs=1e-6)


@pytest.mark.parametrize(("name", "residues"), ALANINES.items())
def test_topologies_are_capped_alanines(systems: dict[str, System], name: str, residues: int) -> None:
    topology = systems[name].topology
    assert topology is not None
    assert [residue.name for residue in topology.residues] == ["ACE", *["ALA"] * residues, "NME"]
    assert systems[name].target.event_shape == (12 + 10 * residues, 3)
    assert topology.n_bonds == topology.n_atoms - 1
    structure = mdtraj.Trajectory(systems[name].structure, topology)
    torsions = [mdtraj.compute_phi(structure)[0], mdtraj.compute_psi(structure)[0]]
    specs = systems[name].spec.observables
    for kind, indices in zip(("phi", "psi"), torsions, strict=True):
        names = [kind] if residues == 1 else [f"{kind}_{number}" for number in range(1, residues + 1)]
        assert [specs[key].dihedral for key in names] == [tuple(row) for row in indices.tolist()]
    assert len(specs) == 2 * residues


@pytest.mark.parametrize("name", PEPTIDES)
def test_structures_are_of_the_natural_form(systems: dict[str, System], name: str) -> None:
    topology = systems[name].topology
    assert topology is not None
    structure = mdtraj.Trajectory(systems[name].structure, topology)
    assert (_handedness(structure) < 0).all()
    assert (np.cos(mdtraj.compute_dihedrals(structure, _peptide_bonds(topology))) < -0.9).all()


def test_chignolin_is_the_folded_hairpin(systems: dict[str, System]) -> None:
    system = systems["chignolin"]
    assert system.topology is not None
    assert system.topology.to_fasta() == ["GYDPETGTWG"]
    assert system.topology.n_atoms == 138
    nonbonded = next(f for f in system.openmm_system.getForces() if isinstance(f, openmm.NonbondedForce))
    charges = [nonbonded.getParticleParameters(atom)[0] for atom in range(138)]
    assert sum(charge.value_in_unit(unit.elementary_charge) for charge in charges) == pytest.approx(-2)
    x = torch.from_numpy(system.structure)[None]
    observables = system.observables(x)
    assert system.basin("folded", observables).all()
    assert not system.basin("unfolded", observables).any()
    structure = mdtraj.Trajectory(system.structure, system.topology)
    bonds = {(donor, acceptor) for donor, _, acceptor in mdtraj.baker_hubbard(structure).tolist()}
    assert system.spec.observables["strands"].distance in bonds  # Asp 3 N to Thr 8 O


def test_data_are_whole_molecules_of_the_natural_form(shipped: tuple[System, Dataset]) -> None:
    system, found = shipped
    residues = ALANINES[system.name]
    assert len(found) > 60_000
    assert found.n_dropped == 0
    assert system.data_path is not None
    assert system.data_path.stat().st_size < 16.5e6
    topology = system.topology
    assert topology is not None
    x = found.x[::5].numpy()
    bonds = np.array([(first.index, second.index) for first, second in topology.bonds])
    usual = np.linalg.norm(system.structure[bonds[:, 0]] - system.structure[bonds[:, 1]], axis=1)
    stretch = np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=2) / usual - 1
    assert np.abs(stretch).max() < 0.2  # six standard deviations of a bond with hydrogen
    frames = mdtraj.Trajectory(x, topology)
    handed = _handedness(frames)
    assert handed.shape[1] == residues
    assert ((handed < -0.2) & (handed > -1.2)).all()
    omega = mdtraj.compute_dihedrals(frames, _peptide_bonds(topology))
    assert omega.shape[1] == residues + 1
    assert np.abs(omega).min() > np.pi / 2


def test_data_cover_every_basin_and_are_in_balance_within(shipped: tuple[System, Dataset]) -> None:
    system, found = shipped
    observables = system.observables(found.x)
    for basin in system.spec.basins:
        inside = system.basin(basin, observables)
        assert inside.sum() > 1000
        assert len(np.unique(found.chain[torch.from_numpy(inside)])) > 50  # independent simulations
    rows = torch.linspace(0, len(found) - 1, 4000).long()
    assert abs(virial(system, found.x[rows], chain=found.chain[rows].numpy()).z_score) < 4


@pytest.mark.parametrize("name", ALANINES)
def test_references_are_consistent(systems: dict[str, System], name: str) -> None:
    system = systems[name]
    reference = system.reference  # refuses an answer to another question
    answers = {answer["name"]: answer for answer in reference["free_energy_differences"]}
    assert answers.keys() == {difference.name for difference in system.differences}
    for answer in answers.values():
        groups = np.array(answer["per_group"])
        assert len(groups) >= 4
        assert answer["value"] == pytest.approx(groups.mean())
        assert answer["std_error"] == pytest.approx(groups.std(ddof=1) / np.sqrt(len(groups)))
        assert answer["std_error"] < 0.05
        scores = [
            (start["value"] - answer["value"]) / np.hypot(start["std_error"], answer["std_error"])
            for start in answer["per_start"]
            if start["std_error"]
        ]
        assert np.abs(scores).max() < 4
        assert all(basin["rhat"] < 1.05 for basin in answer["convergence"].values())


def _handedness(frames: mdtraj.Trajectory) -> NDArray[np.float32]:
    """Improper torsions N-C-CB-CA ``(n, residues)`` in radian: about -33 degrees in L forms, 33 in D."""
    residues = [{atom.name: atom.index for atom in residue.atoms} for residue in frames.topology.residues]
    corners = [[names[name] for name in ("N", "C", "CB", "CA")] for names in residues if "CB" in names]
    return mdtraj.compute_dihedrals(frames, corners)


def _peptide_bonds(topology: mdtraj.Topology) -> list[list[int]]:
    """Torsions about the bonds between residues, carbon-C-N-carbon: 180 degrees if trans."""
    carbons: dict[int, list[int]] = {atom.index: [] for atom in topology.atoms}
    for first, second in topology.bonds:
        for atom, other in ((first, second), (second, first)):
            if other.element.symbol == "C" and atom.residue == other.residue:
                carbons[atom.index].append(other.index)
    between = [bond for bond in topology.bonds if bond[0].residue != bond[1].residue]
    ends = [sorted(bond, key=lambda atom: atom.name) for bond in between]
    return [[carbons[c.index][0], c.index, n.index, carbons[n.index][0]] for c, n in ends]


def _energies(system: openmm.System, x: NDArray[np.float64]) -> dict[str, float]:
    """Energy of each force in kJ/mol, by OpenMM in double precision."""
    system = openmm.XmlSerializer.clone(system)
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(x)
    return {
        type(force).__name__: context.getState(energy=True, groups={group})
        .getPotentialEnergy()
        .value_in_unit(unit.kilojoule_per_mole)
        for group, force in enumerate(system.getForces())
    }
