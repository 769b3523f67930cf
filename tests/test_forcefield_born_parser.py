"""Implicit solvents: what the parser makes of OpenMM's expressions, and which ones it refuses."""

import math
import re

import numpy as np
import openmm
import pytest
from peptides import find_force, obc_force_system, peptide, peptide_system

from bgdiff.errors import UnsupportedSystem
from bgdiff.targets.forcefield.expressions import match_expression
from bgdiff.targets.forcefield.parser import parse_system

ALANINE = peptide("ALA")


def alanine(solvent="OBC1", **options):
    return peptide_system(ALANINE, "ff19SB", solvent, **options)


def refused(system, message):
    with pytest.raises(UnsupportedSystem, match=re.escape(message)):
        parse_system(system)


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
    force = find_force(system, "CustomGBForce")
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


@pytest.mark.parametrize("method", ["CutoffNonPeriodic", "CutoffPeriodic"])
@pytest.mark.parametrize("name", ["CustomGBForce", "GBSAOBCForce"])
def test_cutoffs_of_solvents_are_refused(name, method):
    system = alanine() if name == "CustomGBForce" else obc_force_system(ALANINE)
    find_force(system, name).setNonbondedMethod(getattr(openmm.CustomGBForce, method))
    refused(system, f"{name}: has the method {method}")


def test_two_solvents_are_refused():
    system = alanine()
    other = obc_force_system(ALANINE)
    system.addForce(openmm.XmlSerializer.clone(find_force(other, "GBSAOBCForce")))
    refused(system, "GBSAOBCForce and CustomGBForce: more than one implicit solvent")
    system = alanine()
    system.addForce(openmm.XmlSerializer.clone(find_force(system, "CustomGBForce")))
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
    system = obc_force_system(ALANINE)
    change(find_force(system, "GBSAOBCForce"))
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
    change(find_force(system, "CustomGBForce"))
    refused(system, f"CustomGBForce: {message}" if message.startswith("has") else message)
    with pytest.raises(UnsupportedSystem, match="^CustomGBForce: "):
        parse_system(system)


def test_half_a_solvent_is_refused():
    complete, system = alanine(), alanine("vacuum")
    whole = find_force(complete, "CustomGBForce")
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
    force = find_force(system, "CustomGBForce")
    *parameters, _ = force.getParticleParameters(4)
    force.setParticleParameters(4, [*parameters, index])
    refused(system, "CustomGBForce: a radindex is not an index into the tabulated function getd0")


def test_neck_functions_of_another_kind_are_refused():
    solvated, system = alanine("GBn"), alanine("vacuum")
    xml = openmm.XmlSerializer.serialize(find_force(solvated, "CustomGBForce"))
    force = openmm.XmlSerializer.deserialize(xml.replace("getm0", "getm1"))
    system.addForce(force)
    refused(system, "CustomGBForce: has the tabulated functions ['getd0', 'getm1']")
