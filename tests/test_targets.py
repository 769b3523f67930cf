"""Targets: energies and forces against independent evaluations, and input that makes no sense."""

import math
import pickle

import numpy as np
import openmm
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from openmm import unit

from bgdiff.errors import DataError, SystemDefinitionError
from bgdiff.systems import load_system
from bgdiff.targets.base import Target
from bgdiff.targets.double_well import DoubleWell
from bgdiff.targets.openmm import OpenMMTarget, read_system


@pytest.fixture(scope="module")
def molecule():
    return load_system("alanine_dipeptide_vacuum")


@pytest.fixture(scope="module")
def x(molecule):
    """Return distorted conformations ``(8, 22, 3)``."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn((8, 22, 3), generator=generator, dtype=torch.float64)
    return torch.from_numpy(molecule.structure) + 0.005 * noise


def free_particle(mass=1.0):
    system = openmm.System()
    system.addParticle(mass)
    return system


def test_energy_is_what_openmm_says_at_that_temperature(molecule, x):
    context = openmm.Context(
        read_system(molecule.path / "system.xml"),
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )
    kT = unit.MOLAR_GAS_CONSTANT_R * molecule.temperature * unit.kelvin
    for row, energy in zip(x, molecule.target.energy(x), strict=True):
        context.setPositions(row.numpy())
        expected = context.getState(energy=True).getPotentialEnergy() / kT
        assert energy.item() == pytest.approx(expected, rel=1e-9)


def test_forces_are_minus_the_gradient(molecule, x):
    _, force = molecule.target.energy_and_force(x[:1])
    step = 1e-5
    for atom, axis in [(0, 0), (4, 1), (8, 2), (14, 0), (21, 1)]:
        shift = torch.zeros_like(x[:1])
        shift[0, atom, axis] = step
        slope = (molecule.target.energy(x[:1] + shift) - molecule.target.energy(x[:1] - shift)) / (2 * step)
        assert force[0, atom, axis].item() == pytest.approx(-slope.item(), rel=1e-5, abs=1e-3)


def test_energy_ignores_translation_and_rotation(molecule, x):
    rotation = torch.linalg.qr(torch.randn((3, 3), generator=torch.Generator().manual_seed(1)).double())[0]
    rotation *= torch.linalg.det(rotation)
    energy, force = molecule.target.energy_and_force(x)
    moved, turned = molecule.target.energy_and_force(x @ rotation.T + 3.0)
    torch.testing.assert_close(moved, energy, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(turned, force @ rotation.T, rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(force.sum(1), torch.zeros(8, 3, dtype=torch.float64), rtol=0, atol=1e-8)


def test_each_row_is_evaluated_afresh(molecule, x):
    before = molecule.target.energy(x)
    changed = x.clone()
    changed[4, 10, 1] += 0.01  # in the middle, where a printed summary of the batch does not show it
    after = molecule.target.energy(changed)
    assert after[4] != before[4]
    rest = [0, 1, 2, 3, 5, 6, 7]
    assert torch.equal(after[rest], before[rest])


def test_rows_without_sense_leave_the_others_alone(molecule, x):
    energy, force = molecule.target.energy_and_force(x)
    broken = x.clone()
    broken[1, 5, 0] = math.nan
    broken[2, 5, 0] = math.inf
    broken[3] = 0.0  # all atoms in one place
    energy_2, force_2 = molecule.target.energy_and_force(broken)
    assert not torch.isfinite(energy_2[1:4]).any()
    keep = [0, 4, 5, 6, 7]
    assert torch.equal(energy_2[keep], energy[keep])
    assert torch.equal(force_2[keep], force[keep])


def test_batches_empty_float32_and_misshapen(molecule, x):
    energy, force = molecule.target.energy_and_force(x[:0])
    assert energy.shape == (0,)
    assert force.shape == (0, 22, 3)
    assert molecule.target.energy(x.float()).dtype == torch.float64
    for wrong in (x[:, :21], x[0], x[..., :2]):
        with pytest.raises(DataError, match=r"must have shape \(B, 22, 3\)"):
            molecule.target.energy(wrong)


def test_a_target_can_be_sent_to_another_process(molecule, x):
    expected = molecule.target.energy(x)
    assert torch.equal(pickle.loads(pickle.dumps(molecule.target)).energy(x), expected)
    assert isinstance(molecule.target, Target)
    assert molecule.target.event_shape == (22, 3)


def test_platforms_agree(molecule, x):
    cpu = OpenMMTarget(molecule.openmm_system, molecule.temperature, platform="CPU")
    torch.testing.assert_close(cpu.energy(x), molecule.target.energy(x), rtol=1e-4, atol=1e-3)
    with pytest.raises(SystemDefinitionError, match="'Abacus' is not available; choose one of .*Reference"):
        OpenMMTarget(molecule.openmm_system, 300.0, platform="Abacus")


def test_systems_without_a_density_on_all_coordinates_are_refused():
    with pytest.raises(SystemDefinitionError, match="no particles"):
        OpenMMTarget(openmm.System(), 300.0)
    with pytest.raises(SystemDefinitionError, match="frozen"):
        OpenMMTarget(free_particle(mass=0.0), 300.0)
    with pytest.raises(SystemDefinitionError, match="temperature"):
        OpenMMTarget(free_particle(), -1.0)
    constrained = free_particle()
    constrained.addParticle(1.0)
    constrained.addConstraint(0, 1, 0.1)
    with pytest.raises(SystemDefinitionError, match="1 constraints.*constraints=None"):
        OpenMMTarget(constrained, 300.0)
    periodic = free_particle()
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.addParticle(0.0, 0.3, 0.0)
    periodic.addForce(force)
    with pytest.raises(SystemDefinitionError, match="periodic"):
        OpenMMTarget(periodic, 300.0)
    pressed = free_particle()
    pressed.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    with pytest.raises(SystemDefinitionError, match=r"barostat \(MonteCarloBarostat\); remove it"):
        OpenMMTarget(pressed, 300.0)


# Computed once with 10⁶-point trapezoids; F_right - F_left = -ln(p_right / p_left).
@pytest.mark.parametrize(
    ("a", "b", "c", "log_z", "difference"),
    [
        (0, -4, 1, 5.211940, 0.0),
        (1, -4, 1, 5.951223, 2.629382),
        (-0.5, -6, 1, 10.293482, -1.690631),
        (1, -6, 1, 11.020467, 3.379901),
    ],
)
def test_double_well_normalisers(a, b, c, log_z, difference):
    target = DoubleWell(a, b, c)
    left, right = target.log_z_interval(-math.inf, 0), target.log_z_interval(0, math.inf)
    assert target.log_z() == pytest.approx(log_z, abs=3e-6)
    assert left - right == pytest.approx(difference, abs=3e-6)
    assert np.logaddexp(left, right) == pytest.approx(target.log_z(), abs=1e-10)


@given(a=st.floats(-20, 20), b=st.floats(-10, 10), c=st.floats(0.01, 10))
def test_double_well_normaliser_against_a_fine_grid(a, b, c):
    x = np.linspace(-80, 80, 400_001)
    u = a * x + b * x**2 + c * x**4
    log_z = np.log(np.exp(u.min() - u).sum() * (x[1] - x[0])) - u.min() + 0.5 * np.log(2 * np.pi)
    assert DoubleWell(a, b, c).log_z() == pytest.approx(log_z, abs=1e-7)


def test_double_well_forces_are_minus_the_gradient():
    target = DoubleWell(1.0, -4.0, 1.0)
    x = torch.randn((50, 1, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x.requires_grad_()
    energy, force = target.energy_and_force(x)
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    torch.testing.assert_close(force, -gradient)
    assert energy.shape == (50,)
    assert isinstance(target, Target)


def test_double_well_input_without_sense():
    for bad in ((1.0, -4.0, 0.0), (1.0, -4.0, -1.0), (math.nan, 0.0, 1.0)):
        with pytest.raises(SystemDefinitionError, match="c > 0"):
            DoubleWell(*bad)
    target = DoubleWell()
    with pytest.raises(DataError, match=r"\(B, 1, 2\)"):
        target.energy(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="empty"):
        target.log_z_interval(1.0, 1.0)
    assert not torch.isfinite(target.energy(torch.full((1, 1, 2), math.nan))).any()
    assert target.log_z_interval(1e6, math.inf) == -math.inf
