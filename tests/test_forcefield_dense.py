"""The torch force field: against OpenMM's Reference platform group by group, and against formulas."""

import math
from itertools import combinations_with_replacement, cycle, product

import numpy as np
import openmm
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from openmm_reference import reference_groups
from peptides import (
    AMINO_ACIDS,
    FORCE_FIELDS,
    OTHER_FORMS,
    SOLVENTS,
    obc_force_system,
    peptide,
    peptide_structure,
    peptide_system,
)

from bgdiff.errors import DataError
from bgdiff.targets.forcefield.dense import GROUPS, dense_energies, dense_energy
from bgdiff.targets.forcefield.parser import parse_system
from bgdiff.targets.forcefield.tables import ForceFieldTables

COULOMB = 138.93545764438198  # 1/4πε₀ of OpenMM, kJ nm/(mol e²)


def perturbed(structure, rows, scale=0.01, seed=0):
    """Conformations ``(rows, N, 3)`` around ``structure``."""
    return structure + scale * np.random.default_rng(seed).normal(size=(rows, *structure.shape))


def evaluate(tables: ForceFieldTables, x):
    """Energies and forces of every group, as NumPy."""
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    results = {}
    for group, energy in dense_energies(tables, x).items():
        gradient = torch.zeros_like(x)
        if energy.requires_grad:
            (gradient,) = torch.autograd.grad(energy.sum(), x, retain_graph=True)
        results[group] = energy.detach().numpy(), -gradient.numpy()
    assert tuple(results) == GROUPS
    return results


def assert_agrees(system, x, tolerance=1e-9):
    """Every group is OpenMM's, in kJ/mol and kJ/mol/nm; groups that OpenMM lacks are zero."""
    expected = reference_groups(system, x)
    for group, (energy, force) in evaluate(parse_system(system), x).items():
        reference = expected.get(group, (np.zeros(len(x)), np.zeros_like(x)))
        np.testing.assert_allclose(energy, reference[0], rtol=0, atol=tolerance, err_msg=group)
        np.testing.assert_allclose(force, reference[1], rtol=0, atol=tolerance, err_msg=group)
    return expected


def particles(*charges):
    """A System of free charges, 12 Da each, and its empty NonbondedForce."""
    system = openmm.System()
    force = openmm.NonbondedForce()
    for charge in charges:
        system.addParticle(12.0)
        force.addParticle(charge, 0.3, 0.0)
    system.addForce(force)
    return system


@pytest.fixture(scope="module")
def serine():
    """ACE-ALA-SER-NME and a structure."""
    topology = peptide("ALA", "SER")
    return topology, peptide_structure(topology)


def model_system(topology, model):
    return (
        obc_force_system(topology) if model == "GBSAOBCForce" else peptide_system(topology, "ff19SB", model)
    )


@pytest.mark.parametrize("force_field", FORCE_FIELDS)
def test_every_force_field_and_group_is_openmms(serine, force_field):
    topology, structure = serine
    groups = assert_agrees(peptide_system(topology, force_field, "OBC2"), perturbed(structure, 20))
    assert set(groups) >= {"bonds", "angles", "torsions", "pairs", "born"}
    assert ("cmaps" in groups) == (force_field == "ff19SB")
    assert all((np.abs(energy) > 0.1).all() for energy, _ in groups.values())


@pytest.mark.parametrize("solvent", SOLVENTS)
def test_every_solvent_is_openmms(solvent):
    topology = peptide("MET", "ASP")  # the sulphur of GBn2 has a negative radius
    system = peptide_system(topology, "ff14SB", solvent)
    assert_agrees(system, perturbed(peptide_structure(topology), 20))
    if solvent != "vacuum":
        other = {"soluteDielectric": 2.0, "solventDielectric": 40.0, "sasaMethod": None}
        changed = peptide_system(topology, "ff14SB", solvent, **other)
        assert parse_system(changed).born.surface == 0
        assert_agrees(changed, perturbed(peptide_structure(topology), 2))


def test_obc_force_is_openmms(serine):
    topology, structure = serine
    for name in ("amber96", "amber10"):
        assert_agrees(obc_force_system(topology, name), perturbed(structure, 10))


def test_other_protonation_states_and_zwitterions_are_openmms():
    for sequence, capped in [(OTHER_FORMS, True), (("ARG", "CYS", "GLU"), False)]:
        topology = peptide(*sequence, capped=capped)
        system = peptide_system(topology, "ff19SB" if not capped else "ff14SB", "GBn2")
        assert_agrees(system, perturbed(peptide_structure(topology), 3))


@settings(max_examples=10)
@given(
    sequence=st.lists(st.sampled_from(AMINO_ACIDS), min_size=2, max_size=2),
    force_field=st.sampled_from(sorted(FORCE_FIELDS)),
    solvent=st.sampled_from(sorted(SOLVENTS)),
    seed=st.integers(0, 2**20),
)
def test_peptides_are_openmms(sequence, force_field, solvent, seed):
    topology = peptide(*sequence)
    x = perturbed(peptide_structure(topology, seed), 2, seed=seed)
    assert_agrees(peptide_system(topology, force_field, solvent), x)


@pytest.mark.slow
def test_all_pairs_of_amino_acids_are_openmms():
    """X-Y-X holds the pairs XY and YX; the peptides go round the 24 force fields with solvents."""
    models = cycle(product(FORCE_FIELDS, SOLVENTS))
    for index, (first, second) in enumerate(combinations_with_replacement(AMINO_ACIDS, 2)):
        topology = peptide(first, second, first)
        system = peptide_system(topology, *next(models))
        assert_agrees(system, perturbed(peptide_structure(topology), 1, seed=index))


@pytest.mark.parametrize("model", [*SOLVENTS, "GBSAOBCForce"])
def test_two_atoms_in_one_place_have_openmms_energy(serine, model):
    """Any pair of atoms, 0.003 nm apart: what a generator without training makes."""
    topology, structure = serine
    system = model_system(topology, model)
    x = np.repeat(structure[None], 30, axis=0)
    generator = np.random.default_rng(5)
    for row in x:
        first, second = generator.choice(len(row), 2, replace=False)
        direction = generator.normal(size=3)
        row[first] = row[second] + 0.003 * direction / np.linalg.norm(direction)
    assert_relative(system, x, 1e-12)


@pytest.mark.parametrize("scale", [0.003, 0.03, 0.3])
@pytest.mark.parametrize("model", ["OBC1", "OBC2", "GBn", "GBn2", "GBSAOBCForce"])
def test_random_clouds_have_openmms_energy(serine, model, scale):
    """Energies up to 1e33 kJ/mol; a cancellation in the Born energy costs a digit, in OpenMM as well."""
    topology, _ = serine
    system = model_system(topology, model)
    x = np.random.default_rng(6).normal(size=(20, topology.getNumAtoms(), 3)) * scale
    # OpenMM bounds the cross product in the denominator of an angle's force from below.
    assert_relative(system, x, 2e-11, inexact={"angles"} if scale == 0.003 else set())
    if model == "GBSAOBCForce" and scale < 0.3:
        born = parse_system(system).born
        distance = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
        assert born.engulf
        assert (born.offset_radius[:, None] < born.scaled_radius - distance).any()


def assert_relative(system, x, tolerance, inexact=frozenset()):
    expected = reference_groups(system, x)
    for group, (energy, force) in evaluate(parse_system(system), x).items():
        assert np.isfinite(energy).all()
        assert np.isfinite(force).all()
        if group in expected:
            np.testing.assert_allclose(
                energy, expected[group][0], rtol=tolerance, atol=tolerance, err_msg=group
            )
        if group in expected and group not in inexact:
            scale = np.abs(expected[group][1]).max(axis=(1, 2), keepdims=True)
            error = np.abs(force - expected[group][1]) / scale
            assert error.max() < 10 * tolerance, group


@pytest.mark.parametrize("size", [2, 3, 4, 24])
def test_maps_are_openmms(size):
    """Random maps, on torsions over the whole circle: both signs, all cells."""
    generator = np.random.default_rng(size)
    system = openmm.System()
    for _ in range(8):
        system.addParticle(12.0)
    force = openmm.CMAPTorsionForce()
    for _ in range(3):
        force.addMap(size, generator.normal(size=size * size).tolist())
    force.addTorsion(2, 0, 1, 2, 3, 4, 5, 6, 7)
    force.addTorsion(0, 3, 2, 1, 0, 2, 3, 4, 5)
    system.addForce(force)
    x = generator.normal(size=(500, 8, 3))
    expected, _ = reference_groups(system, x)["cmaps"]
    energy, _ = evaluate(parse_system(system), x)["cmaps"]
    np.testing.assert_allclose(energy, expected, rtol=0, atol=1e-10)


def test_charges_obey_coulombs_law():
    tables = parse_system(particles(1.0, -0.5))
    x = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.3, 0.4]]], dtype=torch.float64)
    assert dense_energy(tables, x).item() == pytest.approx(-0.5 * COULOMB / 0.5, rel=1e-14)


def test_far_ions_have_borns_energy():
    """-½ P q²/B, with B the offset radius of an ion that nothing descreens, screened Coulomb between them."""
    system = particles(1.0, -2.0)
    force = openmm.GBSAOBCForce()
    force.setSolventDielectric(80.0)
    force.setSurfaceAreaEnergy(0.0)
    radii = (0.15, 0.2)
    for charge, radius in zip((1.0, -2.0), radii, strict=True):
        force.addParticle(charge, radius, 0.8)
    system.addForce(force)
    distance = 1e6
    x = torch.tensor([[[0.0, 0.0, 0.0], [distance, 0.0, 0.0]]], dtype=torch.float64)
    P = COULOMB * (1 - 1 / 80)
    expected = -0.5 * P * (1 / (radii[0] - 0.009) + 4 / (radii[1] - 0.009)) + 2 * P / distance
    assert dense_energies(parse_system(system), x)["born"].item() == pytest.approx(expected, rel=1e-12)


def test_torsion_is_its_cosine():
    system = openmm.System()
    for _ in range(4):
        system.addParticle(12.0)
    force = openmm.PeriodicTorsionForce()
    k, phase = [2.0, 1.5, 3.0, 0.5, 0.7, 1.1], [0.3, -1.2, math.pi, 2.0, 3.14159, 0.0]
    for m in range(6):
        force.addTorsion(0, 1, 2, 3, m + 1, phase[m], k[m])
    system.addForce(force)
    phi = np.linspace(-3.1, 3.1, 50)
    x = np.zeros((50, 4, 3))
    x[:, 0], x[:, 2] = (0.1, 0.0, 0.0), (0.0, 0.0, 0.15)
    x[:, 3] = np.stack([0.1 * np.cos(phi), 0.1 * np.sin(phi), np.full(50, 0.2)], axis=1)
    expected = sum(k[m] * (1 + np.cos((m + 1) * phi - phase[m])) for m in range(6))
    np.testing.assert_allclose(reference_groups(system, x)["torsions"][0], expected, atol=1e-12)
    np.testing.assert_allclose(dense_energy(parse_system(system), torch.from_numpy(x)), expected, atol=1e-13)


def test_derivatives_are_those_of_the_energy():
    """First and second, by finite differences along random directions, with every group at work."""
    topology = peptide("GLY")
    tables = parse_system(peptide_system(topology, "ff19SB", "GBn2"))
    x = torch.from_numpy(perturbed(peptide_structure(topology), 1)).requires_grad_()

    def energy(x):
        return dense_energy(tables, x) / 1000  # of order one, as gradcheck's tolerances expect

    assert torch.autograd.gradcheck(energy, x, eps=1e-6, rtol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, x, eps=1e-6, rtol=1e-5, fast_mode=True)


def test_batches_have_any_shape(serine):
    topology, structure = serine
    tables = parse_system(peptide_system(topology, "ff19SB", "GBn2"))
    x = torch.from_numpy(perturbed(structure, 6))
    energy = dense_energy(tables, x)
    assert energy.shape == (6,)
    for row in range(6):
        torch.testing.assert_close(dense_energy(tables, x[row]), energy[row], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dense_energy(tables, x.reshape(2, 3, -1, 3)), energy.reshape(2, 3))
    assert dense_energy(tables, x[:0]).shape == (0,)
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    torch.testing.assert_close(dense_energy(tables, strided), energy)


def test_single_precision_is_close(serine):
    topology, structure = serine
    tables = parse_system(peptide_system(topology, "ff19SB", "OBC2"))
    x = torch.from_numpy(perturbed(structure - structure.mean(0), 20))
    single = dense_energies(tables, x.float())
    for group, energy in dense_energies(tables, x).items():
        assert single[group].dtype == torch.float32
        torch.testing.assert_close(single[group].double(), energy, rtol=0, atol=1e-2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_leaves_the_others_alone(serine, bad):
    topology, structure = serine
    tables = parse_system(peptide_system(topology, "ff19SB", "GBn2"))
    x = torch.from_numpy(perturbed(structure, 3))
    spoilt = x.clone()
    spoilt[1, 4, 2] = bad
    x.requires_grad_()
    spoilt.requires_grad_()
    energy, damaged = dense_energy(tables, x), dense_energy(tables, spoilt)
    assert not damaged[1].isfinite()
    torch.testing.assert_close(damaged[[0, 2]], energy[[0, 2]], rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    (damaged_gradient,) = torch.autograd.grad(damaged.sum(), spoilt)
    torch.testing.assert_close(damaged_gradient[[0, 2]], gradient[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize(
    "x",
    [torch.zeros(2, 3, 3), torch.zeros(2, 1, 3), torch.zeros(2, 2), torch.zeros(1, 2, 3, dtype=torch.int64)],
)
def test_input_of_another_shape_is_refused(x):
    with pytest.raises(DataError, match=r"\(..., 2, 3\)"):
        dense_energy(parse_system(particles(1.0, -1.0)), x)
