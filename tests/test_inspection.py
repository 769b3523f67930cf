"""Looking at trajectories: units, periodic images, handedness, memory, and the ensemble they come from."""

import mdtraj
import numpy as np
import pytest
import torch
from peptides import peptide, peptide_structure

from bgdiff.data.inspection_ensemble import judge_ensemble
from bgdiff.data.inspection_geometry import bond_lengths, bonds_of, constrained_bonds, make_whole
from bgdiff.data.inspection_stereo import centres_of, cis_frames, mirrored, peptide_bonds, relabel
from bgdiff.data.inspection_time import measure_memory
from bgdiff.data.observables import dihedral
from bgdiff.systems import load_system


@pytest.fixture(scope="module")
def molecule():
    return load_system("alanine_dipeptide_vacuum")


@pytest.fixture(scope="module")
def data(molecule):
    return molecule.load_data()


@pytest.fixture(scope="module")
def chain(molecule):
    """Threonine, isoleucine and proline: second stereocentres, prochiral groups, a ring."""
    topology = peptide("THR", "ILE", "PRO")
    return mdtraj.Topology.from_openmm(topology), peptide_structure(topology)


def test_images_in_a_triclinic_box_are_undone(molecule, data):
    x = data.x[:200].numpy()
    box = np.array([[1.9, 0, 0], [0.3, 1.8, 0], [-0.4, 0.5, 1.7]])
    generator = np.random.default_rng(3)
    shift = generator.integers(-2, 3, size=(200, 22, 3)) @ box
    whole, broken = make_whole(x + shift, np.tile(box, (200, 1, 1)), molecule.topology)
    assert broken == 200
    np.testing.assert_allclose(whole - whole.mean(1, keepdims=True), x - x.mean(1, keepdims=True), atol=1e-5)
    same, none = make_whole(x, np.tile(box, (200, 1, 1)), molecule.topology)
    assert none == 0
    assert same is x


def test_constrained_bonds_are_those_that_do_not_vary(molecule, data):
    x = data.x[:400].numpy().copy()
    assert constrained_bonds(molecule, x, 300.0) == []
    bonds = bonds_of(molecule.topology)
    first, second = bonds[0]
    arm = x[:, second] - x[:, first]
    x[:, second] = x[:, first] + 0.109 * arm / np.linalg.norm(arm, axis=1, keepdims=True)
    assert constrained_bonds(molecule, x, 300.0) == [bonds[0]]
    rounded = np.round(x, 3)  # as in an XTC file
    assert constrained_bonds(molecule, rounded, 300.0) == [bonds[0]]
    assert bond_lengths(x, bonds)[:, 0] == pytest.approx(0.109)


def test_stereocentres_are_atoms_with_four_different_groups(chain):
    topology, _ = chain
    names = {centre.name for centre in centres_of(topology) if centre.stereogenic}
    assert names == {"THR2-CA", "THR2-CB", "ILE3-CA", "ILE3-CB", "PRO4-CA"}
    pairs = {centre.name: centre.equal for centre in centres_of(topology) if not centre.stereogenic}
    atoms = {str(atom): atom.index for atom in topology.atoms}
    assert pairs["ILE3-CG1"] == (atoms["ILE3-HG12"], atoms["ILE3-HG13"])
    assert pairs["PRO4-CD"] == (atoms["PRO4-HD2"], atoms["PRO4-HD3"])
    assert len(pairs) == 9  # four CH2, and five methyl groups with the caps


def test_peptide_bonds_are_found_without_names_of_caps(chain):
    topology, x = chain
    bonds = peptide_bonds(topology)
    assert [bond.name for bond in bonds] == ["ACE1-THR2", "THR2-ILE3", "ILE3-PRO4", "PRO4-NME5"]
    assert [topology.atom(bonds[2].atoms[k]).name for k in range(4)] == ["CA", "C", "N", "CA"]
    for bond in bonds:
        assert bool(cis_frames(x[None], bond)[0]) == (abs(dihedral(x[None], bond.atoms)[0]) < np.pi / 2)


def test_mirror_images_and_exchanged_labels(molecule, data):
    centres = centres_of(molecule.topology)
    x = data.x[:50].numpy()
    assert not mirrored(molecule, x, centres).any()
    assert mirrored(molecule, x * [1, 1, -1], centres).all()
    exchanged = x.copy()
    exchanged[10:, [11, 12]] = x[10:, [12, 11]]  # two hydrogens of the methyl group
    restored, counts = relabel(molecule, exchanged, centres)
    assert counts == {"ALA2-CB": 40}
    np.testing.assert_array_equal(restored, x)
    mirror, counts = relabel(molecule, x * [1, 1, -1], centres)  # chirality is not a matter of labels
    assert set(counts) == {"ACE1-CH3", "ALA2-CB", "NME3-C"}
    wrong = mirrored(molecule, mirror, centres)
    assert [centre.name for centre, bad in zip(centres, wrong.T, strict=True) if bad.any()] == ["ALA2-CA"]


def test_labels_of_atoms_that_are_not_equal_to_the_force_field_are_kept(molecule, data, monkeypatch):
    real = molecule.target

    class Uneven:
        event_shape = real.event_shape

        def energy(self, x):
            return real.energy(x) + x[:, 11, 0] - x[:, 11].mean()

    x = data.x[:20].numpy().copy()
    x[:, [11, 12]] = x[:, [12, 11]]
    other = load_system("alanine_dipeptide_vacuum")
    monkeypatch.setitem(other.__dict__, "target", Uneven())
    kept, counts = relabel(other, x, centres_of(other.topology))
    assert counts == {}
    np.testing.assert_array_equal(kept, x)


def test_memory_of_an_autoregressive_series():
    generator = np.random.default_rng(5)
    n, a = 40_000, 0.9
    noise = generator.normal(size=n)
    series = np.empty(n)
    series[0] = noise[0]
    for index in range(1, n):
        series[index] = a * series[index - 1] + noise[index]
    angle = generator.normal(scale=0.3, size=n) + np.pi  # jumps across ±π are no changes
    drift = np.where(np.arange(n) < 4000, 12 * np.exp(-np.arange(n) / 800), 0)
    memory = measure_memory(
        series + drift, {"angle": (angle + np.pi) % (2 * np.pi) - np.pi, "fixed": np.ones(n)},
        {"angle": True, "fixed": False},
    )  # fmt: skip
    assert 1000 <= memory.burn_in <= 8000
    assert memory.frames == n - memory.burn_in
    exact = (1 + a) / (1 - a)
    # the error of g summed to its first zero is about g √(2 g (2M+1)/N)
    assert memory.inefficiency["energy"] == pytest.approx(exact, rel=0.25)
    assert memory.inefficiency["angle"] == pytest.approx(1.0, abs=0.1)
    assert memory.inefficiency["fixed"] == 1.0
    assert memory.slowest[0] == "energy"
    assert memory.stride == int(memory.inefficiency["energy"])
    assert measure_memory(series[:5], {}, {}).stride == 1


def test_forces_tell_the_temperature_and_the_force_field(molecule):
    solvated = load_system("alanine_dipeptide_obc1")
    data = solvated.load_data()
    rows = torch.linspace(0, len(data) - 1, 3000, dtype=torch.float64).long()
    x, label = data.x[rows].numpy(), data.chain[rows].numpy()
    own = judge_ensemble(solvated, x, label)
    assert abs(own.virial.z_score) < 4
    assert own.virial.expected + 5 == own.n_axes == 60  # φ, ψ and three methyl groups go round
    assert own.n_pulled == 0
    cold = judge_ensemble(solvated.at_temperature(270.0), x, label)
    assert abs(270 * cold.ratio - 300) < 4 * 270 * cold.ratio_error + 0.5
    assert cold.virial.z_score > 10
    assert judge_ensemble(molecule, x, label).n_pulled > 0  # the same molecule without its solvent


def test_the_identities_hold_for_a_density_known_in_closed_form():
    well = load_system("double_well")
    data = well.load_data()
    found = judge_ensemble(well, data.x.numpy(), data.chain.numpy())
    assert abs(found.virial.z_score) < 4
    assert found.virial.expected == found.n_axes == 2
