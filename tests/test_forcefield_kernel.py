"""The compiled kernel's numbers: against OpenMM group by group, formulas, and the torch version."""

import math

import numpy as np
import pytest
import torch
from forcefield_tables import born_pair, one_angle, one_pair, one_torsion, only
from openmm_reference import reference_groups
from peptides import obc_force_system, peptide, peptide_structure, peptide_system

from bgdiff.targets.forcefield.dense import dense_energies, dense_energy
from bgdiff.targets.forcefield.kernel import KernelEvaluator, kernel_status, load_kernel
from bgdiff.targets.forcefield.parser import parse_system

VARIANTS = kernel_status().usable
SINGLE, DOUBLE = torch.float32, torch.float64

pytestmark = pytest.mark.skipif(not VARIANTS, reason="no compiled kernel on this machine")

CHIGNOLIN = ("GLY", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "GLY")
ALL_TERMS = ("SER", "MET", "PRO", "CYS", "GLY")  # CMAPs, sulphurs (negative scaled radii in GBn2)

# sequence, capped, force field, solvent, conformations
SYSTEMS = {
    "alanine vacuum": (("ALA",), True, "ff96", "vacuum", 200),
    "alanine OBC1": (("ALA",), True, "ff96", "OBC1", 200),
    "alanine OBC2": (("ALA",), True, "ff99SBildn", "OBC2", 200),
    "tetra-alanine OBC1": (("ALA",) * 4, True, "ff14SB", "OBC1", 200),
    "chignolin OBC1": (CHIGNOLIN, False, "ff14SB", "OBC1", 20),
    "pentapeptide GBSAOBCForce": (ALL_TERMS, True, "amber96", "GBSAOBCForce", 50),
    "pentapeptide HCT": (ALL_TERMS, True, "ff19SB", "HCT", 20),
    "pentapeptide GBn": (ALL_TERMS, True, "ff19SB", "GBn", 20),
    "pentapeptide GBn2": (ALL_TERMS, True, "ff19SB", "GBn2", 20),
}


def example(name):
    """An OpenMM System and perturbed conformations of it."""
    sequence, capped, force_field, solvent, rows = SYSTEMS[name]
    topology = peptide(*sequence, capped=capped)
    if solvent == "GBSAOBCForce":
        system = obc_force_system(topology, force_field)
    else:
        system = peptide_system(topology, force_field, solvent)
    structure = peptide_structure(topology)
    noise = np.random.default_rng(1).normal(size=(rows, *structure.shape))
    return system, structure + 0.005 * noise


def evaluate(tables, x, variant=None, dtype=DOUBLE):
    evaluator = KernelEvaluator(tables, dtype, 1, load_kernel(variant))
    energy, force = evaluator.energy_and_force(torch.as_tensor(x))
    assert energy.dtype == force.dtype == dtype
    return energy.double().numpy(), force.double().numpy()


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_group_is_that_of_openmm(name):
    """In kJ/mol and kJ/mol/nm: 1e-9 in float64; 1e-2 and 0.1 in float32."""
    system, x = example(name)
    tables = parse_system(system)
    expected = reference_groups(system, x)
    assert len(expected) == 4 + ("vacuum" not in name) + (len(tables.cmaps.atoms) > 0)
    for group, (energy, force) in expected.items():
        for variant in VARIANTS:
            for dtype, of_energy, of_force in ((DOUBLE, 1e-9, 1e-9), (SINGLE, 1e-2, 0.1)):
                found = evaluate(only(tables, group), x, variant, dtype)
                where = f"{group}, {variant}, {dtype}"
                np.testing.assert_allclose(found[0], energy, rtol=0, atol=of_energy, err_msg=where)
                np.testing.assert_allclose(found[1], force, rtol=0, atol=of_force, err_msg=where)


@pytest.mark.parametrize("name", ["alanine vacuum", "pentapeptide GBn2"])
def test_the_whole_is_the_sum_of_the_groups(name):
    system, x = example(name)
    tables = parse_system(system)
    expected = reference_groups(system, x)
    for variant in VARIANTS:
        for dtype, of_energy, of_force in ((DOUBLE, 1e-9, 1e-9), (SINGLE, 2e-2, 0.2)):
            energy, force = evaluate(tables, x, variant, dtype)
            total = [sum(group[k] for group in expected.values()) for k in (0, 1)]
            np.testing.assert_allclose(energy, total[0], rtol=0, atol=of_energy)
            np.testing.assert_allclose(force, total[1], rtol=0, atol=of_force)


def line(distances):
    """Two atoms that far apart, in a direction that is no axis."""
    direction = np.array([0.48, -0.6, 0.64])
    second = distances[:, None] * direction
    return np.array([0.3, -0.2, 0.9]) + np.stack([0 * second, second], 1)


@pytest.mark.parametrize("variant", VARIANTS)
class TestScans:
    """Every elementary function over its whole range, through terms of two to four atoms."""

    def test_pair(self, variant):
        """Down to 0.003 nm."""
        x = line(np.geomspace(0.003, 10, 3000))
        r = np.linalg.norm(x[:, 1] - x[:, 0], axis=-1)
        charge, c12, c6 = 55.6, 2.1e-6, 1.9e-3
        energy = charge / r + c12 / r**12 - c6 / r**6
        force = (charge / r + 12 * c12 / r**12 - 6 * c6 / r**6) / r
        scale = charge / r + c12 / r**12 + c6 / r**6
        for dtype, tolerance in ((DOUBLE, 1e-13), (SINGLE, 1e-5)):
            found = evaluate(one_pair(charge, c12, c6), x, variant, dtype)
            assert (np.abs(found[0] - energy) < tolerance * scale).all()
            along = np.linalg.norm(found[1][:, 1], axis=-1)
            assert (np.abs(along - np.abs(force)) < 12 * tolerance * scale / r).all()
            np.testing.assert_array_equal(found[1][:, 0], -found[1][:, 1])

    def test_angle(self, variant):
        theta = np.linspace(0.002, math.pi - 0.002, 4001)
        x = np.zeros((len(theta), 3, 3))
        x[:, 0, 0] = 0.11
        x[:, 2, 0], x[:, 2, 2] = 0.14 * np.cos(theta), 0.14 * np.sin(theta)
        bend = theta - 1.9
        for dtype, tolerance in ((DOUBLE, 1e-13), (SINGLE, 3e-6)):
            energy, force = evaluate(one_angle(1.9, 2.0), x, variant, dtype)
            np.testing.assert_allclose(energy, bend**2, rtol=0, atol=tolerance)
            np.testing.assert_allclose(
                force[:, 2],
                -2 * (bend / 0.14)[:, None] * direction_of_growth(theta),
                rtol=0,
                atol=2e3 * tolerance,
            )

    def test_torsion(self, variant):
        phi = np.concatenate([np.linspace(-math.pi, math.pi, 2001), [0.0, math.pi / 2]])
        x = np.zeros((len(phi), 4, 3))
        x[:, 0], x[:, 2] = [0.1, -0.03, 0], [0, 0.15, 0]
        x[:, 3] = 0.12 * np.stack([np.cos(phi), 0 * phi + 1.5, -np.sin(phi)], 1)
        generator = np.random.default_rng(3)
        m = np.arange(7)
        for highest in (3, 4, 6):
            cosine, sine = generator.normal(size=(2, 7)) * (m <= highest)
            sine[0] = 0
            energy = np.cos(np.outer(phi, m)) @ cosine + np.sin(np.outer(phi, m)) @ sine
            torque = np.cos(np.outer(phi, m)) @ (m * sine) - np.sin(np.outer(phi, m)) @ (m * cosine)
            for dtype, tolerance in ((DOUBLE, 1e-13), (SINGLE, 2e-5)):
                found = evaluate(one_torsion(cosine, sine), x, variant, dtype)
                np.testing.assert_allclose(found[0], energy, rtol=0, atol=tolerance)
                np.testing.assert_allclose(
                    np.linalg.norm(found[1][:, 3], axis=-1),
                    np.abs(torque) / 0.12,
                    rtol=0,
                    atol=100 * tolerance,
                )

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"rescaled": False},
            {"necks": True},
            {"scaled_radius": (0.10, -0.05)},
            {"offset_radius": (0.05, 0.16), "scaled_radius": (0.04, 0.25)},  # 1 swallows 0
            {"offset_radius": (0.05, 0.16), "scaled_radius": (0.04, 0.25), "engulf": True},
        ],
        ids=lambda options: ", ".join(options) or "plain",
    )
    def test_born(self, variant, options):
        """Near, far, swallowed, touching: against the torch version in float64."""
        tables = born_pair(**options)
        x = torch.tensor(line(np.geomspace(0.003, 4, 3000)), requires_grad=True)
        expected = dense_energy(tables, x)
        (gradient,) = torch.autograd.grad(expected.sum(), x)
        expected = expected.detach().numpy()
        for dtype, tolerance in ((DOUBLE, 1e-12), (SINGLE, 2e-5)):
            energy, force = evaluate(tables, x.detach(), variant, dtype)
            np.testing.assert_allclose(energy, expected, rtol=tolerance, atol=100 * tolerance)
            np.testing.assert_allclose(force, -gradient, rtol=20 * tolerance, atol=2e3 * tolerance)


def direction_of_growth(theta):
    """Where the third atom of the angle scan moves when the angle grows."""
    return np.stack([-np.sin(theta), 0 * theta, np.cos(theta)], 1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("solvent", ["vacuum", "OBC1", "GBSAOBCForce"])
@pytest.mark.parametrize("spread", [0.003, 0.01, 0.03, 0.1, 0.3])
def test_clashes(variant, solvent, spread):
    """Atoms thrown into a ball: float64 is right to 1e-12, float32 is never nan."""
    topology = peptide("ALA")
    system = (
        obc_force_system(topology) if solvent == "GBSAOBCForce" else peptide_system(topology, "ff96", solvent)
    )
    tables = parse_system(system)
    x = torch.from_numpy(spread * np.random.default_rng(5).normal(size=(200, 22, 3)))
    groups = dense_energies(tables, x)
    expected = sum(groups.values()).numpy()
    scale = sum(group.abs() for group in groups.values()).numpy()
    energy, force = evaluate(tables, x, variant)
    assert np.isfinite(force).all()
    assert (np.abs(energy - expected) < 1e-12 * scale).all()

    single, force = evaluate(tables, x, variant, SINGLE)
    assert not np.isnan(single).any()
    assert not np.isnan(force).any()
    distance = torch.cdist(x, x).add(torch.eye(22)).amin((1, 2)).numpy()
    ordinary = distance > 0.003  # others are limited
    assert ordinary.any() or spread < 0.01
    assert (np.abs(single - expected) < 1e-4 * scale)[ordinary].all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_atoms_in_one_point_or_on_one_line(variant):
    """Without direction a term pulls nowhere; pairs are limited in float32 and not finite in float64."""
    angle, torsion = one_angle(1.9, 300.0), one_torsion(np.ones(7), np.arange(7.0))
    straight = np.outer(np.arange(4), [0.06, 0.1, -0.02])
    for dtype in (DOUBLE, SINGLE):
        for x in (straight, 0 * straight):
            for tables in (angle, torsion):
                energy, force = evaluate(tables, x[None, : tables.n_atoms], variant, dtype)
                assert np.isfinite(energy).all()
                assert np.isfinite(force).all()
    energy, force = evaluate(angle, np.outer(np.arange(3), [0.1, 0, 0])[None], variant)
    np.testing.assert_allclose(energy, 150 * (math.pi - 1.9) ** 2)
    np.testing.assert_array_equal(force, 0)

    pair, together = one_pair(10.0, 1e-6, 1e-3), np.zeros((1, 2, 3))
    assert not np.isfinite(evaluate(pair, together, variant)[0]).any()
    energy, force = evaluate(pair, together, variant, SINGLE)
    assert energy > 1e25
    np.testing.assert_array_equal(force, 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_far_from_the_origin(variant):
    """Coordinates given in float64 lose nothing by where the molecule is."""
    system, x = example("alanine OBC1")
    tables = parse_system(system)
    x = x[:32]
    near = evaluate(tables, x, variant, SINGLE)
    far = evaluate(tables, x + 1000.0, variant, SINGLE)
    np.testing.assert_allclose(far[0], near[0], rtol=0, atol=2e-3)
    np.testing.assert_allclose(far[1], near[1], rtol=0, atol=0.05)
