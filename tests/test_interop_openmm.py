"""Learned forces and moves in OpenMM agree with its own arithmetic and with exact distributions."""

import copy
import pickle
from dataclasses import replace
from functools import cache
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from molecules import TEMPERATURE, TILT, twist_difference
from openmm import app, unit
from scipy.spatial.transform import Rotation
from twist_run import KT, twist_samples

from bgdiff.coordinates import InternalCoordinates, ZMatrix
from bgdiff.errors import BgdiffError, ConfigError
from bgdiff.generator import BoltzmannGenerator
from bgdiff.interop.learned_energy import LearnedEnergy, one_thread
from bgdiff.interop.openmm import (
    LAMBDA,
    GeneratorMoves,
    learned_force,
    learned_system,
)
from bgdiff.models import EnergyNetwork, NetworkShape
from bgdiff.run import Run
from bgdiff.systems import load_system

needs_python_force = pytest.mark.skipif(
    not hasattr(openmm, "PythonForce"), reason="PythonForce came with OpenMM 8.5"
)


@pytest.fixture(scope="module")
def generator(twist_run: Run) -> BoltzmannGenerator:
    return twist_run.generator()


def simulation(system: openmm.System, integrator: openmm.Integrator | None = None) -> app.Simulation:
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for k in range(system.getNumParticles()):
        topology.addAtom(f"C{k}", app.element.carbon, residue)
    integrator = integrator or openmm.LangevinMiddleIntegrator(TEMPERATURE, 1.0, 0.001)
    return app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))


def energy_and_force(context: openmm.Context, x: np.ndarray, groups: int = -1) -> tuple[float, np.ndarray]:
    """Of OpenMM, kJ/mol and kJ/mol/nm."""
    context.setPositions(x)
    state = context.getState(energy=True, forces=True, groups=groups)
    force = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole), force


def test_the_exact_samples_are_those_of_openmm() -> None:
    """What the helper of these tests draws has the basins and bonds that quadrature and series give."""
    x = twist_samples(4000, 5)
    trajectory = mdtraj.Trajectory(x, None)
    phi = mdtraj.compute_dihedrals(trajectory, [[0, 1, 2, 3]])[:, 0]
    cis = np.abs(phi) < np.pi / 2
    truth = 1 / (1 + np.exp(twist_difference()))
    assert abs(cis.mean() - truth) < 4 * np.sqrt(truth * (1 - truth) / len(x))
    r = np.linalg.norm(np.diff(x, axis=1), axis=-1)
    assert r.mean() == pytest.approx(0.15 + 2 * KT / 1e5 / 0.15, abs=4 * np.sqrt(KT / 1e5 / r.size))


# --- learned energy


def test_the_learned_energy_is_the_models(generator: BoltzmannGenerator) -> None:
    learned = LearnedEnergy.of(generator)
    x = torch.as_tensor(twist_samples(20, 1))
    z, log_det = generator.coordinates.to_z(x)
    expected = -generator.ladder.model.log_density(z, generator.ladder.sigma[1:2]) - log_det
    torch.testing.assert_close(learned.energy(x), expected, rtol=1e-5, atol=1e-4)  # the model is float32
    torch.testing.assert_close(learned.energy_and_force(x)[0], learned.energy(x))


@needs_python_force
def test_openmm_has_the_energy_and_its_gradient(generator: BoltzmannGenerator) -> None:
    system = learned_system(generator)
    context = simulation(system).context
    learned = LearnedEnergy.of(generator)
    for x in twist_samples(3, 2):
        energy, force = energy_and_force(context, x)
        assert energy == pytest.approx(KT * float(learned.energy(torch.as_tensor(x)[None])), abs=1e-9)
        step, slope = 1e-6, np.zeros_like(x)
        for place in np.ndindex(x.shape):
            for sign in (1, -1):
                moved = x.copy()
                moved[place] += sign * step
                slope[place] += sign * energy_and_force(context, moved)[0] / (2 * step)
        np.testing.assert_allclose(force, -slope, rtol=1e-6, atol=1e-4 * np.abs(force).max())


@needs_python_force
def test_moving_and_turning_change_nothing(generator: BoltzmannGenerator) -> None:
    context = simulation(learned_system(generator)).context
    x = twist_samples(1, 3)[0]
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    energy, force = energy_and_force(context, x)
    assert energy_and_force(context, x @ rotation.T + [0.3, -1.2, 2.0])[0] == pytest.approx(energy, abs=1e-8)
    size = np.abs(force).max()
    np.testing.assert_allclose(force.sum(0), 0, atol=1e-9 * size)
    np.testing.assert_allclose(np.cross(x, force).sum(0), 0, atol=1e-9 * size)


@needs_python_force
def test_modes(generator: BoltzmannGenerator) -> None:
    """Replace: λ U_θ; add: U + λ U_θ; mix: U + λ (U_θ - U); λ can be changed in a Context."""
    x = twist_samples(1, 4)[0]
    field, field_force = energy_and_force(simulation(generator.system.openmm_system).context, x)
    learned, learned_force_ = energy_and_force(simulation(learned_system(generator)).context, x)
    shares = {
        "replace": lambda scale: (0.0, scale),
        "add": lambda scale: (1.0, scale),
        "mix": lambda scale: (1 - scale, scale),
    }
    for mode, share in shares.items():
        context = simulation(learned_system(generator, mode, scale=0.3, group=2)).context  # type: ignore[arg-type]
        for scale in (0.3, 1.0, 0.0, -0.5):
            context.setParameter(LAMBDA, scale)
            a, b = share(scale)
            energy, force = energy_and_force(context, x)
            assert energy == pytest.approx(a * field + b * learned, rel=1e-9, abs=1e-8)
            np.testing.assert_allclose(force, a * field_force + b * learned_force_, atol=1e-6)
            added, _ = energy_and_force(context, x, groups=1 << 2)
            assert added == pytest.approx(energy - (0 if mode == "replace" else field), rel=1e-9, abs=1e-8)


@needs_python_force
def test_a_molecule_of_a_larger_system_can_be_biased(generator: BoltzmannGenerator) -> None:
    system, x = openmm.System(), twist_samples(1, 9)[0]
    for _ in range(6):
        system.addParticle(12.0)
    force = learned_force(generator, scale=0.5)
    force.setParticles([5, 1, 3, 2])
    system.addForce(force)
    positions = np.zeros((6, 3))
    positions[[5, 1, 3, 2]] = x
    energy, found = energy_and_force(simulation(system).context, positions)
    expected, slope = LearnedEnergy.of(generator).energy_and_force(torch.as_tensor(x)[None])
    assert energy == pytest.approx(0.5 * KT * float(expected))
    np.testing.assert_allclose(found[[5, 1, 3, 2]], 0.5 * KT * slope[0].numpy(), rtol=1e-9, atol=1e-6)
    assert (found[[0, 4]] == 0).all()


@needs_python_force
def test_dynamics_in_the_learned_energy_conserves_energy(generator: BoltzmannGenerator) -> None:
    """The error of leapfrog energies is of second order in the step, and does not grow."""
    errors = []
    for step in (0.0005, 0.00025):
        run = simulation(learned_system(generator), openmm.VerletIntegrator(step))
        run.context.setPositions(twist_samples(1, 6)[0])
        run.context.setVelocitiesToTemperature(TEMPERATURE, 3)
        total = []
        for _ in range(50):
            run.step(round(0.001 / step))
            state = run.context.getState(energy=True)
            total.append((state.getPotentialEnergy() + state.getKineticEnergy())._value)
        errors.append(np.std(total) / KT)
    assert errors[0] < 0.05
    assert errors[1] < 0.5 * errors[0]


@needs_python_force
def test_a_system_with_the_learned_energy_can_be_serialised(generator: BoltzmannGenerator) -> None:
    system = learned_system(generator, "mix", scale=0.7)
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    x = twist_samples(1, 7)[0]
    energy = energy_and_force(simulation(system).context, x)[0]
    assert energy_and_force(simulation(again).context, x)[0] == energy


@needs_python_force
def test_one_thread_for_torch_while_openmm_calls(
    generator: BoltzmannGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = LearnedEnergy.energy_and_force

    def spy(self: LearnedEnergy, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(torch.get_num_threads())
        return original(self, x)

    monkeypatch.setattr(LearnedEnergy, "energy_and_force", spy)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        energy_and_force(simulation(learned_system(generator)).context, twist_samples(1, 8)[0])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(seen) == {1}


def test_an_openmm_without_python_force_is_named(
    generator: BoltzmannGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(openmm, "PythonForce", raising=False)
    with pytest.raises(ConfigError, match=rf"OpenMM {openmm.__version__}.*8\.5.*pip install"):
        learned_force(generator)


def test_bad_modes_are_refused(generator: BoltzmannGenerator) -> None:
    with pytest.raises(ConfigError, match="replace, add, mix"):
        learned_system(generator, "both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="0 to 31"):
        learned_system(generator, group=32)


# --- moves

PULL = 10.0
"""kJ/mol/nm, with which a field turns the molecule upright."""


def pulled_system(generator: BoltzmannGenerator) -> openmm.System:
    """The twist with its torsion's tilt taken away, in a field: another potential than the generator's."""
    system = copy.deepcopy(generator.system.openmm_system)
    torsion = openmm.PeriodicTorsionForce()
    torsion.addTorsion(0, 1, 2, 3, 1, 0.0, -TILT * KT)
    field = openmm.CustomExternalForce("charge*z")
    field.addPerParticleParameter("charge")
    field.addParticle(0, [PULL])
    field.addParticle(3, [-PULL])
    system.addForce(torsion)
    system.addForce(field)
    return system


@cache
def pulled_samples(n: int, seed: int) -> np.ndarray:
    """Exact conformations of :func:`pulled_system`, by rejection."""
    random = np.random.default_rng(seed)
    x = twist_samples(6 * n, seed, tilt=0.0)
    x = np.einsum("bij,bnj->bni", Rotation.random(len(x), rng=random).as_matrix(), x)
    bound = np.linalg.norm(x[:, 3] - x[:, 0], axis=1).max()
    kept = random.random(len(x)) < np.exp(PULL * (x[:, 3, 2] - x[:, 0, 2] - bound) / KT)
    assert kept.sum() >= n
    return x[kept][:n] + np.array([0.4, -0.2, 1.0])


def features(x: np.ndarray) -> dict[str, np.ndarray]:
    arm = x[:, 3] - x[:, 0]
    bonds = np.linalg.norm(np.diff(x, axis=1), axis=-1)
    phi = mdtraj.compute_dihedrals(mdtraj.Trajectory(x, None), [[0, 1, 2, 3]])[:, 0]
    return {
        "cis": (np.abs(phi) < np.pi / 2).astype(float),
        "sine": np.sin(phi),
        "strain": ((bonds - 0.15) ** 2).sum(1),
        "upright": arm[:, 2],
        "sideways": arm[:, 0],
    }


def z_scores(x: np.ndarray) -> dict[str, float]:
    """Of the means over x, against those of many exact conformations."""
    ours, truth = features(x), features(pulled_samples(6000, 77))
    error = {name: values.std() * np.sqrt(1 / len(x) + 1 / 6000) for name, values in truth.items()}
    return {name: (ours[name].mean() - truth[name].mean()) / error[name] for name in truth}


def moved(generator: BoltzmannGenerator, n: int, **options: Any) -> tuple[np.ndarray, GeneratorMoves]:
    """n exact conformations after one move each."""
    one = simulation(pulled_system(generator))
    sigma = generator.ladder.sigma[[0, 1, 5, 9, 12]]  # fewer rungs: faster, and worse
    generator = replace(generator, ladder=generator.ladder.at(sigma))
    moves, after = GeneratorMoves(one, generator, **options), []
    for start in pulled_samples(n, 11):
        one.context.setPositions(start)
        moves.attempt()
        after.append(one.context.getState(positions=True).getPositions(asNumpy=True)._value)
    return np.array(after), moves


def test_moves_leave_the_distribution_of_the_simulation_invariant(generator: BoltzmannGenerator) -> None:
    """That of another potential than the generator's, with a field that is not even isotropic."""
    x, moves = moved(generator, 120, proposals=4)
    scores = z_scores(x)
    assert all(abs(score) < 4 for score in scores.values()), scores
    assert moves.n_moves == 120
    assert moves.n_proposed == 480
    assert 0.02 < moves.acceptance < 0.9
    jumped = np.abs(x - pulled_samples(120, 11)).max((1, 2)) > 1e-6
    assert 0.1 < jumped.mean() < 1  # there is something to be wrong
    mass_centre = x.mean(1)
    np.testing.assert_allclose(mass_centre, pulled_samples(120, 11).mean(1), atol=1e-9)


def test_the_invariance_test_can_fail(generator: BoltzmannGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    weigh = GeneratorMoves._energies
    monkeypatch.setattr(GeneratorMoves, "_energies", lambda self, x: 0 * weigh(self, x))
    x, _ = moved(generator, 60, proposals=4)
    assert max(abs(score) for score in z_scores(x).values()) > 4


def test_molecular_dynamics_goes_on_after_a_move(generator: BoltzmannGenerator) -> None:
    one = simulation(copy.deepcopy(generator.system.openmm_system))
    moves = GeneratorMoves(one, generator, proposals=8, seed=3)
    one.context.setPositions(twist_samples(1, 12)[0])
    one.context.setVelocitiesToTemperature(TEMPERATURE, 1)
    assert np.isnan(moves.acceptance)
    jumps = 0
    for _ in range(10):
        one.step(5)
        before = one.context.getState(positions=True, velocities=True)
        jumped = moves.attempt()
        after = one.context.getState(positions=True, velocities=True)
        jumps += jumped
        same = [
            np.array_equal(
                getattr(before, name)(asNumpy=True)._value, getattr(after, name)(asNumpy=True)._value
            )
            for name in ("getPositions", "getVelocities")
        ]
        assert same == [not jumped] * 2
    assert 0 < jumps <= moves.n_accepted
    assert one.currentStep == 50


def test_a_move_that_fails_leaves_the_simulation_as_it_was(
    generator: BoltzmannGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = simulation(copy.deepcopy(generator.system.openmm_system))
    moves = GeneratorMoves(one, generator, proposals=2)
    x = twist_samples(1, 13)[0]
    one.context.setPositions(x)

    def stopped(*arguments: Any) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(moves, "_weight_of", stopped)
    with pytest.raises(KeyboardInterrupt):
        moves.attempt()
    np.testing.assert_array_equal(one.context.getState(positions=True).getPositions(asNumpy=True)._value, x)
    assert moves.n_moves == 0


def test_moves_know_when_they_cannot_be_made(generator: BoltzmannGenerator) -> None:
    system = copy.deepcopy(generator.system.openmm_system)
    verlet = simulation(system, openmm.VerletIntegrator(0.001))
    with pytest.raises(ConfigError, match="VerletIntegrator has none"):
        GeneratorMoves(verlet, generator)
    assert GeneratorMoves(verlet, generator, temperature=310.0).temperature == 310
    with pytest.raises(ConfigError, match="at least one"):
        GeneratorMoves(verlet, generator, temperature=300.0, proposals=0)
    rigid = copy.deepcopy(system)
    rigid.addConstraint(0, 1, 0.15)
    with pytest.raises(BgdiffError, match="1 constraints"):
        GeneratorMoves(simulation(rigid), generator)
    system.addParticle(1.0)
    with pytest.raises(BgdiffError, match="5 particles, but system twist"):
        GeneratorMoves(simulation(system), generator)


# --- a real molecule


@needs_python_force
def test_the_learned_force_of_alanine_dipeptide() -> None:
    """Many atoms, stiff and rotatable torsions, an untrained network that is not zero: against autograd."""
    system = load_system("alanine_dipeptide_vacuum")
    topology = system.topology
    assert topology is not None
    assert system.data_path is not None
    frames = mdtraj.load_dcd(str(system.data_path), top=topology, stride=80).xyz
    x = torch.as_tensor(frames.astype(np.float64))
    bonds = [(first.index, second.index) for first, second in topology.bonds]
    heavy = [atom.element.symbol != "H" for atom in topology.atoms]
    coordinates = InternalCoordinates.fit(ZMatrix.from_bonds(topology.n_atoms, bonds, heavy), x)
    torch.manual_seed(0)
    model = EnergyNetwork(coordinates.periodic, 0.02, 12.0, NetworkShape(32, 1, 2))
    torch.nn.init.normal_(model.leave.weight, std=0.05)
    learned = LearnedEnergy(pickle.loads(pickle.dumps(model)), coordinates, 0.02)
    some = x[:5].clone().requires_grad_(True)
    z, log_det = coordinates.to_z(some)
    energy = -model.double().log_density(z, torch.tensor([0.02])) - log_det
    (slope,) = torch.autograd.grad(energy.sum(), some)
    found, force = learned.energy_and_force(x[:5])
    torch.testing.assert_close(found, energy.detach())
    torch.testing.assert_close(force, -slope)
    with one_thread():
        torch.testing.assert_close(learned.energy(x[:5]), found)
