"""What the parser reads, what it makes of it, and that it refuses everything else by name."""

import math
import re

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from openmm_reference import reference_groups
from peptides import peptide, peptide_structure, peptide_system
from scipy.interpolate import CubicSpline

from bgdiff.errors import BgdiffError, UnsupportedSystem
from bgdiff.systems import load_system
from bgdiff.targets.forcefield.cmap import spline_coefficients
from bgdiff.targets.forcefield.dense import dense_energies, dense_energy
from bgdiff.targets.forcefield.expressions import match_expression
from bgdiff.targets.forcefield.parser import parse_system
from bgdiff.targets.openmm import read_system

ALANINE = peptide("ALA")


def alanine(solvent="OBC1", force_field="ff19SB", **options):
    return peptide_system(ALANINE, force_field, solvent, **options)


def find(system, name):
    """The first force of that kind; it lives no longer than ``system``."""
    return next(force for force in system.getForces() if type(force).__name__ == name)


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


def test_coefficients_of_the_solvents_are_the_published_ones():
    born = {
        solvent: parse_system(alanine(solvent)).born for solvent in ("HCT", "OBC1", "OBC2", "GBn", "GBn2")
    }
    assert [born[name].rescaled for name in born] == [False, True, True, True, True]
    published = {
        "OBC1": (0.8, 0.0, 2.909125),
        "OBC2": (1.0, 0.8, 4.85),
        "GBn": (1.09511284, 1.907992938, 2.50798245),
    }
    for name, values in published.items():
        assert (born[name].alpha[0], born[name].beta[0], born[name].gamma[0]) == values
    assert len(set(born["GBn2"].alpha)) == 4  # one for each element
    for name, table in born.items():
        assert table.prefactor == pytest.approx(138.935485 * (1 - 1 / 78.5), rel=1e-12)
        assert (table.surface, table.probe, table.engulf) == (28.3919551, 0.14, False)
        offset = 0.0195141 if name == "GBn2" else 0.009
        np.testing.assert_allclose(table.radius - table.offset_radius, offset, atol=1e-15)
        assert (table.neck_strength is not None) == name.startswith("GBn")


def test_necks_are_directed():
    """m₀ of a small sphere beside a large one is not that of the large beside the small."""
    born = parse_system(alanine("GBn")).born
    hydrogen, carbon = np.argmin(born.radius), np.argmax(born.radius)
    assert born.neck_strength[hydrogen, carbon] != born.neck_strength[carbon, hydrogen]
    np.testing.assert_allclose(born.neck_cutoff, born.radius[:, None] + born.radius + 0.68)
    assert (np.diag(born.neck_strength) == 0).all()


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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("*", " * "),
        ("0.25", ".250"),
        ("; offset=0.009", ""),
        ("78.5", "7.85e1"),
        ("; soluteDielectric=1", ";\tsoluteDielectric = 1.0 "),
    ],
)
def test_spelling_of_expressions_does_not_matter(old, new):
    expected = parse_system(alanine()).born
    system = alanine()
    force = find(system, "CustomGBForce")
    changed = 0
    for i in range(force.getNumComputedValues()):
        name, text, kind = force.getComputedValueParameters(i)
        force.setComputedValueParameters(i, name, rewrite(text, old, new), kind)
        changed += text != rewrite(text, old, new)
    for i in range(force.getNumEnergyTerms()):
        text, kind = force.getEnergyTermParameters(i)
        force.setEnergyTermParameters(i, rewrite(text, old, new), kind)
        changed += text != rewrite(text, old, new)
    assert changed
    found = parse_system(system).born
    for field, number in vars(expected).items():
        if number is not None:
            np.testing.assert_allclose(vars(found)[field], number, rtol=1e-12, err_msg=field)


def rewrite(text, old, new):
    if not new:  # the definition is written out instead
        text = text.replace("+offset", "+0.009")
    return text.replace(old, new)


def test_expressions_match_whole_and_in_order():
    template = "a*x+{k}; x = y/2"
    assert match_expression("a * x + 3.5e1 ;x=y / 2.0", template) == {"k": 35.0}
    assert match_expression("a*x+c; x=y/2; c=-4; unused=1", template) == {"k": -4.0}
    assert match_expression("x+{k}+{k}", "x+{k}+{k}") is None
    assert match_expression("x+1+1", "x+{k}+{k}") == {"k": 1.0}
    for other in (
        "a*x+1+0; x=y/2",
        "x*a+1; x=y/2",
        "a*x+b; x=y/2",
        "a*x+1; x=y/3",
        "a*x+1; x=y/2; z=x",
        "a*x+1; x=2",
        "a*x+1",
        "a*x+1; x=y/2; x=y/2",
        "a*x+1; x",
        "a+x*1; x=y/2",
    ):
        assert match_expression(other, template) is None, other
    assert match_expression("x+1+2", "x+{k}+{k}") is None


def refused(system, message):
    with pytest.raises(UnsupportedSystem, match=re.escape(message)) as caught:
        parse_system(system)
    assert isinstance(caught.value, BgdiffError)


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
        edit(lambda s: find(s, name).setUsesPeriodicBoundaryConditions(True)),
        f"{name}: uses periodic boundary conditions",
    )


@pytest.mark.parametrize("method", ["CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME"])
def test_cutoffs_are_refused(method):
    def change(system):
        force = find(system, "NonbondedForce")
        force.setNonbondedMethod(getattr(openmm.NonbondedForce, method))

    refused(edit(change), f"NonbondedForce: has the method {method}")


@pytest.mark.parametrize("method", ["CutoffNonPeriodic", "CutoffPeriodic"])
@pytest.mark.parametrize("name", ["CustomGBForce", "GBSAOBCForce"])
def test_cutoffs_of_solvents_are_refused(name, method):
    system = alanine() if name == "CustomGBForce" else old_alanine()
    find(system, name).setNonbondedMethod(getattr(openmm.CustomGBForce, method))
    refused(system, f"{name}: has the method {method}")


def test_a_box_is_refused():
    topology = peptide("ALA")
    topology.setPeriodicBoxVectors(np.eye(3) * 3 * unit.nanometer)
    system = app.ForceField("amber96.xml").createSystem(topology, nonbondedMethod=app.PME)
    refused(system, "NonbondedForce: has the method PME")


def nonbonded(change):
    return edit(lambda system: change(find(system, "NonbondedForce")))


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
    refused(edit(lambda system: change(find(system, name))), message)
    with pytest.raises(UnsupportedSystem, match=f"^{name}: "):
        parse_system(edit(lambda system: change(find(system, name))))


def old_alanine():
    return app.ForceField("amber96.xml", "amber96_obc.xml").createSystem(
        ALANINE, nonbondedMethod=app.NoCutoff, constraints=None
    )


def test_two_solvents_are_refused():
    system = alanine()
    other = old_alanine()
    system.addForce(openmm.XmlSerializer.clone(find(other, "GBSAOBCForce")))
    refused(system, "GBSAOBCForce and CustomGBForce: more than one implicit solvent")
    system = alanine()
    system.addForce(openmm.XmlSerializer.clone(find(system, "CustomGBForce")))
    refused(system, "CustomGBForce and CustomGBForce: more than one implicit solvent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda force: force.addParticle(0.0, 0.1, 1.0), "has 23 particles, the System has 22"),
        (lambda force: force.setSolventDielectric(0.0), "dielectric constants 1 (solute) and 0 (solvent)"),
        (lambda force: force.setParticleParameters(3, 0.0, 0.005, 1.0), "atom 3 has no positive radius"),
        (lambda force: force.setParticleParameters(3, math.nan, 0.1, 1.0), "charge is not finite"),
    ],
)
def test_settings_of_the_obc_force_are_refused(change, message):
    system = old_alanine()
    change(find(system, "GBSAOBCForce"))
    refused(system, f"GBSAOBCForce: {message}")


def value(index, old, new):
    """Replace a piece of a computed value."""

    def change(force):
        name, text, kind = force.getComputedValueParameters(index)
        assert old in text
        force.setComputedValueParameters(index, name, text.replace(old, new), kind)

    return change


def term(index, old, new):
    """Replace a piece of an energy term."""

    def change(force):
        text, kind = force.getEnergyTermParameters(index)
        assert old in text
        force.setEnergyTermParameters(index, text.replace(old, new), kind)

    return change


def retype_value(force):
    name, text, _ = force.getComputedValueParameters(0)
    force.setComputedValueParameters(0, name, text, openmm.CustomGBForce.SingleParticle)


def retype_term(force):
    text, _ = force.getEnergyTermParameters(0)
    force.setEnergyTermParameters(0, text, openmm.CustomGBForce.ParticlePair)


def repeat_term(index):
    return lambda force: force.addEnergyTerm(*force.getEnergyTermParameters(index))


def table_of_another_kind(force):
    force.addTabulatedFunction("log", openmm.Continuous1DFunction([0.0, 1.0, 2.0], 0.0, 1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda force: force.addParticle([0.0, 0.1, 0.1]), "has 23 particles, the System has 22"),
        (lambda force: force.addExclusion(0, 1), "has exclusions"),
        (lambda force: force.addGlobalParameter("k", 1.0), "has global parameters"),
        (lambda force: force.setParticleParameters(3, [0.1, 0.1]), "particle 3 has 2 parameters, not 3"),
        (table_of_another_kind, "has the tabulated functions ['log']"),
        (lambda force: force.addPerParticleParameter("lambda"), "has the per-particle parameters"),
        (lambda force: force.setPerParticleParameterName(1, "radius"), "has the per-particle parameters"),
        (lambda force: force.addComputedValue("C", "B", 0), "computed values ['I', 'B', 'C']"),
        (retype_value, "I is not a sum over pairs"),
        (value(0, "0.25", "0.26"), "computed value I is an expression that is not known: select"),
        (value(0, "max(or1, D)", "max(or2, D)"), "computed value I is an expression that is not known"),
        (value(1, "tanh", "sinh"), "computed value B is an expression that is not known"),
        (value(1, "psi^3", "psi^4"), "computed value B is an expression that is not known"),
        (value(1, "offset=0.009", "offset=0.01"), "disagree on the offset of the radii: [0.01, 0.009]"),
        (term(0, "-0.5", "0.5"), "energy term 0 is an expression that is not known"),
        (term(0, "charge^2", "charge"), "energy term 0 is an expression that is not known"),
        (term(0, "solventDielectric=78.5", "solventDielectric=80"), "different dielectrics"),
        (term(0, "soluteDielectric=1;", "soluteDielectric=0;"), "dielectric constants 0 (solute)"),
        (term(1, "^6", "^5"), "energy term 1 is an expression that is not known"),
        (term(2, "4*B1", "5*B1"), "energy term 2 is an expression that is not known"),
        (term(2, "-138.935485", "138.935485"), "energy term 2 is an expression that is not known"),
        (retype_term, "energy term 0 is an expression that is not known"),
        (repeat_term(0), "energy term 3 is an expression that is not known"),
        (repeat_term(1), "energy term 3 is an expression that is not known"),
        (
            lambda force: force.addEnergyTerm("charge^2", 0),
            "energy term 3 is an expression that is not known",
        ),
        (lambda force: force.setParticleParameters(2, [0.1, -0.1, 0.1]), "atom 2 has no positive radius"),
        (lambda force: force.setParticleParameters(2, [0.1, math.inf, 0.1]), "is not finite"),
    ],
)
def test_other_solvent_models_are_refused(change, message):
    system = alanine("OBC1")
    change(find(system, "CustomGBForce"))
    refused(system, f"CustomGBForce: {message}" if message.startswith("has") else message)
    with pytest.raises(UnsupportedSystem, match="^CustomGBForce: "):
        parse_system(system)


def test_half_a_solvent_is_refused():
    complete, system = alanine(), alanine("vacuum")
    whole = find(complete, "CustomGBForce")
    half = openmm.CustomGBForce()
    for name in ("charge", "or", "sr"):
        half.addPerParticleParameter(name)
    for i in range(2):
        half.addComputedValue(*whole.getComputedValueParameters(i))
    half.addEnergyTerm(*whole.getEnergyTermParameters(0))
    for i in range(22):
        half.addParticle(whole.getParticleParameters(i))
    system.addForce(half)
    refused(system, "CustomGBForce: lacks the polarisation energy of single atoms or of pairs")


@pytest.mark.parametrize("solvent", ["OBC2", "GBn2"])
def test_salt_is_refused(solvent):
    system = alanine(solvent, implicitSolventKappa=1.0)
    refused(
        system, "CustomGBForce: energy term 0 is an expression that is not known (salt: it depends on kappa)"
    )


def test_other_surface_models_are_refused():
    """LCPO comes as a force of its own."""
    system = alanine("OBC2", sasaMethod="LCPO")
    with pytest.raises(UnsupportedSystem, match="^(Custom|LCPO).*: is not among the forces"):
        parse_system(system)


@pytest.mark.parametrize("index", [0.5, -1.0, 50.0])
def test_necks_of_unknown_radii_are_refused(index):
    system = alanine("GBn")
    force = find(system, "CustomGBForce")
    *parameters, _ = force.getParticleParameters(4)
    force.setParticleParameters(4, [*parameters, index])
    refused(system, "CustomGBForce: a radindex is not an index into the tabulated function getd0")


def test_neck_functions_of_another_kind_are_refused():
    solvated, system = alanine("GBn"), alanine("vacuum")
    xml = openmm.XmlSerializer.serialize(find(solvated, "CustomGBForce"))
    force = openmm.XmlSerializer.deserialize(xml.replace("getm0", "getm1"))
    system.addForce(force)
    refused(system, "CustomGBForce: has the tabulated functions ['getd0', 'getm1']")
