"""What the parser reads, what it makes of it, and that it refuses everything else by name."""

import math
import re

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from openmm_reference import reference_groups
from peptides import find_force, peptide, peptide_structure, peptide_system
from scipy.interpolate import CubicSpline

from bgdiff.errors import UnsupportedSystem
from bgdiff.systems import load_system
from bgdiff.targets.forcefield.cmap import spline_coefficients
from bgdiff.targets.forcefield.dense import dense_energies, dense_energy
from bgdiff.targets.forcefield.parser import parse_system
from bgdiff.targets.openmm import read_system

ALANINE = peptide("ALA")


def alanine(solvent="OBC1", **options):
    return peptide_system(ALANINE, "ff19SB", solvent, **options)


def refused(system, message):
    with pytest.raises(UnsupportedSystem, match=re.escape(message)):
        parse_system(system)


@pytest.fixture(scope="module")
def x():
    structure = peptide_structure(ALANINE)
    return structure + 0.01 * np.random.default_rng(1).normal(size=(4, *structure.shape))


def test_shipped_molecule_is_read():
    system = read_system(load_system("alanine_dipeptide_vacuum").path / "system.xml")
    tables = parse_system(system)
    assert tables.n_atoms == 22
    assert len(tables.bonds.atoms) == 21
    assert len(tables.angles.atoms) == 36
    assert len(tables.pairs.atoms) == 22 * 21 // 2 - 21 - 36  # 1-2 and 1-3 pairs do not interact
    assert len(tables.cmaps.atoms) == 0
    assert tables.cmaps.coefficients.shape == (0, 0, 0, 4, 4)
    assert tables.born is None
    assert tables.mass.sum() == pytest.approx(144.17, abs=0.1)


def test_arrays_are_what_a_kernel_can_read():
    for solvent in ("vacuum", "OBC1", "GBn2"):
        tables = parse_system(alanine(solvent))
        parts = [tables.bonds, tables.angles, tables.torsions, tables.cmaps, tables.pairs, tables.born]
        arrays = [tables.mass] + [
            value for part in parts if part for value in vars(part).values() if isinstance(value, np.ndarray)
        ]
        assert all(array.flags.c_contiguous for array in arrays)
        assert {array.dtype for array in arrays} == {np.dtype(np.int32), np.dtype(np.float64)}


def test_torsions_on_the_same_atoms_are_merged_and_keep_their_phases():
    system = openmm.System()
    for _ in range(5):
        system.addParticle(12.0)
    force = openmm.PeriodicTorsionForce()
    force.addTorsion(0, 1, 2, 3, 2, 3.14159, 4.0)
    force.addTorsion(3, 2, 1, 0, 6, 0.5, 2.0)
    force.addTorsion(4, 3, 2, 1, 1, 0.0, 0.0)
    force.addTorsion(2, 1, 0, 4, 3, 0.0, 1.0)
    system.addForce(force)
    table = parse_system(system).torsions
    assert table.atoms.tolist() == [[0, 1, 2, 3], [2, 1, 0, 4]]
    expected = np.zeros((2, 2, 7))
    expected[0, 0, [0, 2, 6]] = 6.0, 4 * math.cos(3.14159), 2 * math.cos(0.5)
    expected[0, 1, [2, 6]] = 4 * math.sin(3.14159), 2 * math.sin(0.5)
    expected[1, 0, [0, 3]] = 1.0
    np.testing.assert_array_equal(np.stack([table.cosine, table.sine], axis=1), expected)


def test_exceptions_replace_the_mixed_parameters():
    system = openmm.System()
    force = openmm.NonbondedForce()
    for charge, sigma, epsilon in [(1.0, 0.2, 1.0), (-1.0, 0.4, 4.0), (0.5, 0.3, 0.0), (0.0, 0.3, 0.0)]:
        system.addParticle(12.0)
        force.addParticle(charge, sigma, epsilon)
    force.addException(2, 0, 0.25, 0.1, 3.0)
    force.addException(1, 2, 0.0, 1.0, 0.0)
    system.addForce(force)
    table = parse_system(system).pairs
    assert table.atoms.tolist() == [[0, 1], [0, 2]]
    np.testing.assert_allclose(table.charge_product, 138.93545764438198 * np.array([-1.0, 0.25]), rtol=1e-14)
    np.testing.assert_allclose(table.c12, [4 * 2 * 0.3**12, 4 * 3 * 0.1**12], rtol=1e-12)
    np.testing.assert_allclose(table.c6, [4 * 2 * 0.3**6, 4 * 3 * 0.1**6], rtol=1e-12)


def test_map_is_the_periodic_spline_through_its_points():
    """Values at the corners, and along both axes the cubic spline of another program."""
    grid = np.random.default_rng(0).normal(size=(6, 6))
    coefficients = spline_coefficients(grid)
    np.testing.assert_allclose(coefficients[:, :, 0, 0], grid)
    closed = np.concatenate([grid, grid[:1]])
    spline = CubicSpline(np.arange(7), closed, bc_type="periodic")
    u = np.linspace(0, 1, 5)
    for cell in range(6):
        along = (u[:, None] ** np.arange(4)) @ coefficients[cell, :, :, 0].T
        np.testing.assert_allclose(along, spline(cell + u), atol=1e-12)
    np.testing.assert_allclose(spline_coefficients(grid.T), coefficients.transpose(1, 0, 3, 2), atol=1e-12)


def test_forces_of_one_kind_add_up(x):
    """Every force twice, but for the solvent, beside what does not matter: groups and the centre of mass."""
    system = alanine()
    for force in list(system.getForces()):
        if not isinstance(force, openmm.CustomGBForce | openmm.CMMotionRemover):
            twin = openmm.XmlSerializer.clone(force)
            twin.setForceGroup(7)
            system.addForce(twin)
    system.addForce(openmm.CMMotionRemover())
    doubled = dense_energies(parse_system(system), torch.from_numpy(x))
    for group, energy in dense_energies(parse_system(alanine()), torch.from_numpy(x)).items():
        factor = 1 if group == "born" else 2
        torch.testing.assert_close(doubled[group], factor * energy, rtol=1e-12, atol=1e-10)
    expected = reference_groups(system, x)["pairs"][0]
    np.testing.assert_allclose(doubled["pairs"], expected, atol=1e-9)


def test_a_system_without_forces_has_no_energy():
    system = openmm.System()
    system.addParticle(12.0)
    assert dense_energy(parse_system(system), torch.ones(1, 1, 3)).tolist() == [0.0]


def edit(change):
    """A solvated alanine with ``change`` applied to it."""
    system = alanine()
    change(system)
    return system


def test_no_atoms_are_refused():
    refused(openmm.System(), "System: has no atoms")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.addConstraint(0, 1, 0.1), "System: has 1 constraints"),
        (
            lambda s: s.setVirtualSite(3, openmm.TwoParticleAverageSite(1, 2, 0.5, 0.5)),
            "atom 3 is a virtual site",
        ),
        (lambda s: s.setParticleMass(4, 0.0), "System: atom 4 has no mass"),
    ],
)
def test_particles_that_are_not_free_are_refused(change, message):
    refused(edit(change), message)


def test_constraints_of_a_force_field_are_refused():
    system = app.ForceField("amber96.xml").createSystem(ALANINE, constraints=app.HBonds)
    refused(system, "System: has 12 constraints")


@pytest.mark.parametrize(
    "force",
    [
        openmm.MonteCarloBarostat(1.0, 300.0),
        openmm.AndersenThermostat(300.0, 1.0),
        openmm.RBTorsionForce(),
        openmm.CustomBondForce("r"),
        openmm.CustomAngleForce("theta"),
        openmm.CustomTorsionForce("theta"),
        openmm.CustomExternalForce("x"),
        openmm.CustomNonbondedForce("r"),
        openmm.CustomHbondForce("distance(a1, d1)"),
        openmm.CustomCVForce("1"),
        openmm.AmoebaMultipoleForce(),
        openmm.DrudeForce(),
        openmm.GayBerneForce(),
    ],
    ids=lambda force: type(force).__name__,
)
def test_forces_that_are_not_covered_are_refused(force):
    name = type(force).__name__
    refused(edit(lambda s: s.addForce(openmm.XmlSerializer.clone(force))), f"{name}: is not among the forces")


@pytest.mark.parametrize(
    "name", ["HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce", "CMAPTorsionForce"]
)
def test_periodic_boundary_conditions_are_refused(name):
    refused(
        edit(lambda s: find_force(s, name).setUsesPeriodicBoundaryConditions(True)),
        f"{name}: uses periodic boundary conditions",
    )


@pytest.mark.parametrize("method", ["CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME"])
def test_cutoffs_are_refused(method):
    def change(system):
        force = find_force(system, "NonbondedForce")
        force.setNonbondedMethod(getattr(openmm.NonbondedForce, method))

    refused(edit(change), f"NonbondedForce: has the method {method}")


def test_a_box_is_refused():
    topology = peptide("ALA")
    topology.setPeriodicBoxVectors(np.eye(3) * 3 * unit.nanometer)
    system = app.ForceField("amber96.xml").createSystem(topology, nonbondedMethod=app.PME)
    refused(system, "NonbondedForce: has the method PME")


def nonbonded(change):
    return edit(lambda system: change(find_force(system, "NonbondedForce")))


def offset_of_particle(force):
    force.addGlobalParameter("scale", 0.0)
    force.addParticleParameterOffset("scale", 0, 1.0, 0.0, 0.0)


def offset_of_exception(force):
    force.addGlobalParameter("scale", 0.0)
    force.addExceptionParameterOffset("scale", 0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (offset_of_particle, "particle parameter offsets"),
        (offset_of_exception, "exception parameter offsets"),
        (lambda force: force.addGlobalParameter("scale", 0.0), "global parameters"),
        (lambda force: force.setUseSwitchingFunction(True), "a switching function"),
        (lambda force: force.setExceptionsUsePeriodicBoundaryConditions(True), ""),
        (lambda force: force.setIncludeDirectSpace(False), "its direct interactions turned off"),
        (lambda force: force.addParticle(0, 1, 0), "has 23 particles, the System has 22"),
        (lambda force: force.setParticleParameters(5, math.nan, 0.3, 0.5), "atom 5 has the parameters [nan"),
        (
            lambda force: force.setParticleParameters(5, 0.0, 0.3, -0.5),
            "atom 5 has the parameters [0.0, 0.3, -0.5]",
        ),
        (lambda force: force.setExceptionParameters(0, 1, 1, 0, 1, 0), "term 0 (atoms 1-1"),
        (lambda force: force.setExceptionParameters(0, 1, 22, 0, 1, 0), "term 0 (atoms 1-22"),
        (lambda force: force.setExceptionParameters(0, 1, 0, math.inf, 1, 0), "term 0 (atoms 1-0"),
    ],
)
def test_settings_of_the_nonbonded_force_are_refused(change, message):
    with pytest.raises(UnsupportedSystem, match="^NonbondedForce: .*" + re.escape(message)):
        parse_system(nonbonded(change))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "HarmonicBondForce",
            lambda f: f.setBondParameters(2, 0, 30, 0.1, 1),
            "term 2 (atoms 0-30, parameters",
        ),
        ("HarmonicBondForce", lambda f: f.addBond(1, 2, math.nan, 1), "parameters [nan, 1.0]"),
        ("HarmonicAngleForce", lambda f: f.addAngle(1, 2, 1, 1.0, 1), "(atoms 1-2-1"),
        ("PeriodicTorsionForce", lambda f: f.addTorsion(1, 2, 3, -1, 1, 1.0, 1), "(atoms 1-2-3--1"),
        (
            "PeriodicTorsionForce",
            lambda f: f.addTorsion(1, 2, 3, 4, 7, 1.0, 1),
            "(atoms 1-2-3-4) has periodicity 7",
        ),
        (
            "PeriodicTorsionForce",
            lambda f: f.addTorsion(1, 2, 3, 4, 0, 1.0, 1),
            "(atoms 1-2-3-4) has periodicity 0",
        ),
        ("CMAPTorsionForce", lambda f: f.addTorsion(99, 1, 2, 3, 4, 2, 3, 4, 5), "term 1 uses map 99"),
        ("CMAPTorsionForce", lambda f: f.addTorsion(0, 1, 2, 3, 4, 2, 3, 4, 4), "(atoms 1-2-3-4-2-3-4-4"),
        ("CMAPTorsionForce", lambda f: f.addMap(4, [0.0] * 16), "maps of different sizes: [4, 24]"),
        ("CMAPTorsionForce", lambda f: f.addMap(24, [math.nan] * 576), "energies that are not finite"),
    ],
)
def test_terms_that_make_no_sense_are_refused(name, change, message):
    refused(edit(lambda system: change(find_force(system, name))), message)
    with pytest.raises(UnsupportedSystem, match=f"^{name}: "):
        parse_system(edit(lambda system: change(find_force(system, name))))
