"""Moves of many walkers: Langevin dynamics, HMC and MALA against exact moments and against OpenMM."""

import math

import numpy as np
import openmm
import pytest
import torch
from checks import assert_mean, seeded, z_scores
from scipy.linalg import solve_discrete_lyapunov

from bgdiff.errors import ConfigError, DataError
from bgdiff.sampling import (
    HamiltonianMonteCarlo,
    LangevinMiddle,
    UnstableDynamicsError,
    Walkers,
    adapt_step,
    kinetic_temperature,
    mala,
    thermal_speed,
)
from bgdiff.systems import load_system
from bgdiff.targets.double_well import DoubleWell
from bgdiff.targets.openmm import OpenMMTarget

ONE = torch.ones(1, 1, dtype=torch.float64)


class Springs:
    """u = ½ Σ k x² over two particles on a line."""

    event_shape = (2, 1)

    def __init__(self, *stiffness):
        self.k = torch.tensor(stiffness, dtype=torch.float64)[:, None]

    def energy(self, x):
        return self.energy_and_force(x)[0]

    def energy_and_force(self, x):
        return (0.5 * self.k * x.double().square()).sum((1, 2)), -self.k * x.double()


class HalfSpring(Springs):
    """The same where every x is positive; elsewhere there is no energy."""

    def energy_and_force(self, x):
        energy, force = super().energy_and_force(x)
        outside = (x < 0).any(2).any(1)
        energy[outside], force[outside] = math.nan, math.nan
        return energy, force


class Scaled:
    """A target at another temperature."""

    def __init__(self, target, tau):
        self.target, self.tau = target, tau

    def energy(self, x):
        return self.target.energy(x) / self.tau


def double_well_draws(target, n, generator):
    """Exact, independent draws by inverting the distribution function on a grid."""
    grid = torch.linspace(-4, 4, 40_001, dtype=torch.float64)
    points = torch.stack([grid, torch.zeros_like(grid)], 1)[:, None]
    cumulative = torch.cumsum((-target.energy(points)).exp(), 0)
    uniform = torch.rand(n, generator=generator, dtype=torch.float64) * cumulative[-1]
    x = grid[torch.searchsorted(cumulative, uniform)]
    return torch.stack([x, torch.randn(n, generator=generator, dtype=torch.float64)], 1)[:, None]


def run(move, walkers, generator, rounds):
    for _ in range(rounds):
        move(walkers, generator)


def averages(move, walkers, generator, rounds, *functions):
    """Time average of each function of the walkers, per walker: ``(B, functions)``."""
    total = 0.0
    for _ in range(rounds):
        move(walkers, generator)
        total = total + torch.stack([function(walkers).double() for function in functions], 1)
    return total / rounds


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_langevin_samples_springs_exactly_at_large_steps(dtype):
    k, friction, step = (1.0, 3.0), 1.5, 0.9  # step · frequency up to 1.56; leap-frog is unstable at 2
    target, generator = Springs(*k), seeded(1)
    walkers = Walkers.at(target, torch.zeros(512, 2, 1, dtype=dtype))
    move = LangevinMiddle(target, ONE, step, friction, steps=2)
    run(move, walkers, generator, 30)
    found = averages(
        move,
        walkers,
        generator,
        300,
        lambda w: w.x[:, 0, 0] ** 2,
        lambda w: w.x[:, 1, 0] ** 2,
        lambda w: w.velocity[:, 0, 0] ** 2,
        lambda w: w.velocity[:, 1, 0] ** 2,
        lambda w: w.x[:, 1, 0] * w.velocity[:, 1, 0],
    )
    assert walkers.x.dtype == walkers.velocity.dtype == dtype
    assert_mean(found[:, :2], torch.tensor([1.0, 1 / 3], dtype=torch.float64))
    # The linear map of one step has an exact stationary covariance, for the velocities as well.
    a = math.exp(-friction * step)
    exact = []
    for stiffness in k:
        kicked = np.array([[1.0, 0.0], [-step * stiffness, 1.0]])
        drift = np.array([[1.0, step * (1 + a) / 2], [0.0, a]])
        noise = np.sqrt(1 - a**2) * np.array([step / 2, 1.0])
        exact.append(solve_discrete_lyapunov(drift @ kicked, np.outer(noise, noise)))
    assert exact[1][0, 0] == pytest.approx(1 / 3)
    assert_mean(found[:, 2:4], torch.tensor([exact[0][1, 1], exact[1][1, 1]]))
    assert_mean(found[:, 4], exact[1][0, 1])


def test_kinetic_temperature_and_temperatures_of_walkers():
    speed = thermal_speed(torch.tensor([1.0, 16.0]), 300.0)
    assert speed.flatten().tolist() == pytest.approx([math.sqrt(2.494338785), math.sqrt(2.494338785 / 16)])
    target = Springs(1e3, 1e3)
    tau = torch.tensor([1.0, 2.5]).repeat(2000)
    walkers = Walkers.at(target, torch.zeros(4000, 2, 1, dtype=torch.float64))
    generator = seeded(2)
    walkers.draw_velocities(speed, generator, tau)
    for start in range(2):
        assert_mean(kinetic_temperature(walkers, speed)[start::2], tau[start].item())
    LangevinMiddle(target, speed, step=0.005, friction=5.0, steps=300)(walkers, generator, tau)
    for start in range(2):
        assert_mean(kinetic_temperature(walkers, speed)[start::2], tau[start].item())
        assert_mean(walkers.x[start::2].square(), tau[start].item() / 1e3)


def test_langevin_takes_the_steps_of_openmm():
    system = load_system("alanine_dipeptide_vacuum")
    step, friction, steps = 0.001, 2.0, 25
    potential = openmm.XmlSerializer.deserialize((system.path / "system.xml").read_text())
    integrator = openmm.LangevinMiddleIntegrator(0.0, friction, step)  # at 0 K nothing is random
    context = openmm.Context(potential, integrator, openmm.Platform.getPlatformByName("Reference"))
    masses = torch.tensor([potential.getParticleMass(i)._value for i in range(22)], dtype=torch.float64)
    target = OpenMMTarget(potential, 300.0)
    x = torch.from_numpy(system.structure).expand(3, -1, -1)
    velocity = 0.3 * torch.randn(x.shape, generator=seeded(3), dtype=torch.float64)
    walkers = Walkers.at(target, x, velocity)
    move = LangevinMiddle(target, thermal_speed(masses, 300.0), step, friction, steps)
    move(walkers, seeded(4), torch.zeros(3))
    for row in range(3):
        context.setPositions(x[row].numpy())
        context.setVelocities(velocity[row].numpy())
        integrator.step(steps)
        state = context.getState(positions=True, velocities=True)
        for found, expected in ((walkers.x, state.getPositions), (walkers.velocity, state.getVelocities)):
            np.testing.assert_allclose(found[row].numpy(), expected(asNumpy=True)._value, atol=1e-9)
    energy, force = target.energy_and_force(walkers.x)
    assert torch.equal(walkers.energy, energy)
    assert torch.equal(walkers.force, force)


@pytest.mark.parametrize("move", ["mala", "hmc", "jittered", "persistent"])
def test_metropolised_moves_are_reversible_at_any_step(move):
    """From exact draws, one move gives exact draws again, and (before, after) is as likely backwards."""
    target, generator = DoubleWell(1.0, -2.0, 0.6), seeded(5)
    moves = {
        "mala": mala(target, ONE, 0.9),
        "hmc": HamiltonianMonteCarlo(target, ONE, 0.55, 4),
        "jittered": HamiltonianMonteCarlo(target, ONE, 0.5, 3, jitter=0.4),
        "persistent": HamiltonianMonteCarlo(target, ONE, 0.55, 3, persistence=0.7),
    }
    before = double_well_draws(target, 100_000, generator)
    walkers = Walkers.at(target, before)
    walkers.draw_velocities(ONE, generator)
    acceptance = moves[move](walkers, generator)
    assert 0.3 < acceptance.mean() < 0.9
    x, y = before[:, 0, 0], walkers.x[:, 0, 0]
    assert_mean((acceptance - (x != y).double()), 0.0)
    powers = torch.stack([y - x, y**2 - x**2, y**3 - x**3, y**4 - x**4], 1)
    assert_mean(powers, 0.0)
    assert_mean(torch.stack([x * y**2 - y * x**2, x * y**3 - y * x**3, (x > 0) * y - (y > 0) * x], 1), 0.0)


def test_persistent_velocities_stay_exact():
    """Many moves with a poor step: rejections turn velocities round, and every moment stays."""
    target, generator = DoubleWell(1.0, -1.0, 0.6), seeded(12)
    tau = torch.tensor([1.0, 2.0]).repeat(20_000)
    x = torch.cat([double_well_draws(target, 20_000, generator) for _ in range(2)])
    x[1::2] = double_well_draws(Scaled(target, 2.0), 20_000, generator)
    x[1::2, 0, 1] *= math.sqrt(2)
    walkers = Walkers.at(target, x)
    walkers.draw_velocities(ONE, generator, tau)
    move = HamiltonianMonteCarlo(target, ONE, 0.7, 2, jitter=0.1, persistence=0.8)
    before = [x[start::2, 0, 0].clone() for start in range(2)]
    for _ in range(12):
        acceptance = move(walkers, generator, tau)
    assert 0.3 < acceptance.mean() < 0.9
    for start in range(2):
        after = walkers.x[start::2, 0, 0]
        for power in (1, 2, 3, 4):
            assert_mean(after**power - before[start] ** power, 0.0)
        assert_mean(walkers.x[start::2, 0, 1] ** 2, float(tau[start]))
        assert_mean(walkers.velocity[start::2].square(), float(tau[start]))
    assert ((walkers.x - x).abs().sum((1, 2)) > 0).double().mean() > 0.9


def test_persistence_makes_langevin_dynamics():
    """With small steps the velocity's autocorrelation after n trajectories of length t is exp(-γ n t)."""
    free = Springs(0.0, 0.0)
    walkers = Walkers.at(free, torch.zeros(20_000, 2, 1, dtype=torch.float64))
    walkers.draw_velocities(ONE, seeded(13))
    before = walkers.velocity.clone()
    move = HamiltonianMonteCarlo(free, ONE, 0.1, 5, persistence=math.exp(-0.3 * 0.5))
    run(move, walkers, seeded(14), 4)
    assert_mean(walkers.velocity * before, math.exp(-0.3 * 0.5 * 4))


def test_masses_precondition():
    """With masses that match the stiffness, a stiff and a soft spring are one and the same to HMC."""
    target, generator = Springs(1.0, 1e4), seeded(6)
    speed = torch.tensor([[1.0], [0.01]], dtype=torch.float64)
    walkers = Walkers.at(target, torch.zeros(400, 2, 1, dtype=torch.float64))
    move = HamiltonianMonteCarlo(target, speed, 0.4, 4)
    run(move, walkers, generator, 20)
    tau = torch.full((400,), 2.0)
    for _ in range(20):
        move(walkers, generator, tau)
    squares = 0.0
    for _ in range(100):
        acceptance = move(walkers, generator, tau)
        squares = squares + walkers.x[:, :, 0] ** 2 / 100
    assert acceptance.mean() > 0.9
    assert_mean(squares, 2 * torch.tensor([1.0, 1e-4], dtype=torch.float64))


def test_a_proposal_without_energy_is_rejected():
    target, generator = HalfSpring(1.0, 4.0), seeded(7)
    walkers = Walkers.at(target, torch.full((400, 2, 1), 0.5, dtype=torch.float64))
    move = HamiltonianMonteCarlo(target, ONE, 0.3, 3)
    run(move, walkers, generator, 100)
    found = averages(move, walkers, generator, 400, lambda w: w.x[:, 0, 0], lambda w: w.x[:, 1, 0])
    assert_mean(found, math.sqrt(2 / math.pi) * torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert walkers.non_finite() == []
    acceptance = move(walkers, generator)
    assert torch.isfinite(acceptance).all()
    assert (acceptance == 0).any()  # some proposals did leave


def test_dynamics_without_energy_are_an_error():
    target = HalfSpring(1.0, 4.0)
    x = torch.full((8, 2, 1), 20.0, dtype=torch.float64)
    x[5] = 0.01
    velocity = torch.zeros_like(x)
    velocity[5] = -1.0
    move = LangevinMiddle(target, ONE, 0.01, 1.0, steps=20)
    with pytest.raises(UnstableDynamicsError, match="walker 5 exploded .* reduce the time step"):
        move(Walkers.at(target, x, velocity), seeded(8))
    with pytest.raises(DataError, match="walker 1: the energy of its start is not finite"):
        Walkers.at(target, torch.tensor([[[1.0], [1.0]], [[1.0], [-1.0]]]))


@pytest.mark.parametrize(("leapfrog_steps", "wanted"), [(1, 0.574), (8, 0.8)])
def test_the_pilot_finds_the_step(leapfrog_steps, wanted):
    target, generator = DoubleWell(0.3, 0.5, 0.4), seeded(9)
    walkers = Walkers.at(target, torch.zeros(500, 1, 2, dtype=torch.float64))
    for first in (1e-3, 30.0):
        pilot = HamiltonianMonteCarlo(target, ONE, first, leapfrog_steps)
        move = adapt_step(pilot, walkers, generator)
        run(move, walkers, generator, 50)
        reached = torch.stack([move(walkers, generator) for _ in range(100)]).mean().item()
        assert reached == pytest.approx(wanted, abs=0.05)
    assert reached is not None
    flat = Springs(0.0, 0.0)
    walkers = Walkers.at(flat, torch.zeros(10, 2, 1, dtype=torch.float64))
    with pytest.raises(ConfigError, match=r"no step gives an acceptance of 0\.8"):
        adapt_step(HamiltonianMonteCarlo(flat, ONE, 1.0, 2), walkers, generator, rounds=2000)


def test_moves_are_functions_of_state_and_generator():
    """Stopping between chunks and starting again from the stored numbers changes nothing."""
    target = Springs(1.0, 4.0)
    x = torch.randn(64, 2, 1, generator=seeded(10), dtype=torch.float64)
    for move in (
        LangevinMiddle(target, ONE, 0.1, 1.0, steps=10),
        HamiltonianMonteCarlo(target, ONE, 0.5, 3, jitter=0.2),
        HamiltonianMonteCarlo(target, ONE, 0.5, 3, persistence=0.5),
    ):
        whole = Walkers.at(target, x)
        for chunk in range(4):
            move(whole, seeded(100 + chunk))
        stored = x.numpy().copy(), None
        for chunk in range(4):
            velocity = None if stored[1] is None else torch.from_numpy(stored[1])
            walkers = Walkers.at(target, torch.from_numpy(stored[0]), velocity)
            move(walkers, seeded(100 + chunk))
            stored = (
                walkers.x.numpy().copy(),
                None if walkers.velocity is None else walkers.velocity.numpy().copy(),
            )
        assert torch.equal(torch.from_numpy(stored[0]), whole.x)


def test_settings_without_meaning():
    target = Springs(1.0, 1.0)
    for settings in ((0.0, 1.0, 1), (0.1, 0.0, 1), (0.1, 1.0, -1)):
        with pytest.raises(ConfigError, match="positive step and friction"):
            LangevinMiddle(target, ONE, *settings)
    for settings in ((0.0, 1, 0.0), (0.1, 0, 0.0), (0.1, 1, 1.0)):
        with pytest.raises(ConfigError, match="HMC needs"):
            HamiltonianMonteCarlo(target, ONE, *settings)
    with pytest.raises(ConfigError, match="persistence in"):
        HamiltonianMonteCarlo(target, ONE, 0.1, 1, persistence=1.0)


def test_z_scores_would_notice_a_wrong_temperature():
    """The checks above have teeth: 3 % of temperature is visible in the statistics they use."""
    target, generator = Springs(1.0, 3.0), seeded(11)
    walkers = Walkers.at(target, torch.zeros(512, 2, 1, dtype=torch.float64))
    dynamics = LangevinMiddle(target, ONE, 0.9, 1.5, steps=2)

    def hotter(walkers, generator):
        return dynamics(walkers, generator, torch.full((512,), 1.03))

    run(hotter, walkers, generator, 30)
    found = averages(hotter, walkers, generator, 300, lambda w: w.x[:, 0, 0] ** 2)
    assert z_scores(found, 1.0).item() > 4
