"""Mixed potentials and their exchange: forces by autograd, Metropolis' rule, populations by quadrature."""

import math

import pytest
import torch
from checks import assert_mean, seeded, z_scores
from scipy.integrate import quad

from bgdiff.errors import ConfigError
from bgdiff.sampling import (
    HamiltonianMonteCarlo,
    HamiltonianRungs,
    Ladders,
    TemperatureRungs,
    TunedRungs,
    Walkers,
    exchange,
    exchange_replicas,
)
from bgdiff.targets.double_well import DoubleWell
from bgdiff.targets.mixed import MixedTarget, component_energies

ONE = torch.ones(1, 1, dtype=torch.float64)
ENDS = DoubleWell(1.0, -6.0, 1.0), DoubleWell(-0.5, 0.2, 0.3)  # a barrier of 9 kT, and a single well
WEIGHTS = torch.tensor([[1.0, 0.0], [0.7, 0.3], [0.4, 0.6], [0.0, 1.0]], dtype=torch.float64)


def mixed(weights):
    """The same polynomial as Σ w_c u_c."""
    a, b, c = (
        sum(w * getattr(end, key) for w, end in zip(weights, ENDS, strict=True)) for key in ("a", "b", "c")
    )
    return lambda x: math.exp(-(a * x + b * x**2 + c * x**4))


def rungs_of():
    return HamiltonianRungs(
        ENDS, WEIGHTS, lambda target: HamiltonianMonteCarlo(target, ONE, 0.25, 5, persistence=0.5)
    )


def ladders_of(rungs, copies, start=-1.7):
    x = torch.tensor([start, 0.0], dtype=torch.float64).expand(copies * len(WEIGHTS), 1, 2)
    order = torch.arange(len(WEIGHTS)).repeat(copies)
    velocity = torch.randn(x.shape, generator=seeded(0), dtype=torch.float64)
    return Ladders.in_order(Walkers.at(rungs.target(order), x, velocity), len(WEIGHTS))


def test_mixed_energies_and_forces():
    x = torch.randn(50, 1, 2, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    weights = torch.rand(50, 2, generator=seeded(2), dtype=torch.float64)
    target = MixedTarget(ENDS, weights)
    energy, force = target.energy_and_force(x.detach())
    exact = sum(weights[:, c] * end.energy(x) for c, end in enumerate(ENDS))
    torch.testing.assert_close(energy, exact.detach())
    torch.testing.assert_close(target.energy(x.detach()), energy)
    torch.testing.assert_close(force, -torch.autograd.grad(exact.sum(), x)[0])
    torch.testing.assert_close(component_energies(ENDS, x.detach())[:, 1], ENDS[1].energy(x.detach()))
    same = MixedTarget(ENDS, weights[0]).energy(x.detach())
    torch.testing.assert_close(same[0], energy[0])
    assert target.event_shape == (1, 2)


def test_a_component_of_weight_zero_does_not_count():
    class Nowhere(DoubleWell):
        def energy(self, x):
            return torch.full((len(x),), torch.inf, dtype=torch.float64)

        def energy_and_force(self, x):
            return self.energy(x), torch.full_like(x, torch.nan)

    x = torch.randn(2, 1, 2, generator=seeded(3), dtype=torch.float64)
    target = MixedTarget([ENDS[0], Nowhere()], torch.tensor([[1.0, 0.0], [0.9, 0.1]]))
    energy, force = target.energy_and_force(x)
    assert energy[0] == ENDS[0].energy(x)[0]
    assert torch.equal(force[0], ENDS[0].energy_and_force(x)[1][0])
    assert energy[1] == torch.inf == target.energy(x)[1]


def test_mixtures_that_make_no_sense():
    class Wide(DoubleWell):
        event_shape = (2, 2)

    with pytest.raises(ConfigError, match="different shapes"):
        MixedTarget([ENDS[0], Wide()], torch.ones(2))
    with pytest.raises(ConfigError, match=r"weights must be \(2,\) or \(B, 2\)"):
        MixedTarget(ENDS, torch.ones(3))
    with pytest.raises(ConfigError, match="4 conformations, but weights for 3"):
        MixedTarget(ENDS, torch.ones(3, 2)).energy(torch.zeros(4, 1, 2))
    with pytest.raises(ConfigError, match="do not fit 2 components"):
        HamiltonianRungs(ENDS, torch.ones(4, 3), lambda target: HamiltonianMonteCarlo(target, ONE, 0.1, 1))
    rungs = rungs_of()
    three = Ladders.in_order(ladders_of(rungs, 3).walkers, 3)
    with pytest.raises(ConfigError, match="4 densities for ladders of 3 rungs"):
        exchange_replicas(rungs, three, 1, seeded(0))


def test_exchanges_of_components_follow_metropolis():
    weights = torch.tensor([[1.0, 0.0], [0.4, 0.6]])
    energy = torch.tensor([[[1.0, 2.0], [4.0, 3.0]]], dtype=torch.float64)
    before = (weights * energy[0]).sum()
    after = (weights * energy[0].flip(0)).sum()
    tries = exchange(energy.repeat(40_000, 1, 1), weights, 0, seeded(1))[1]
    assert_mean(tries[:, 0], float(torch.exp(before - after)))
    lower = exchange(energy.flip(1), weights, 0, seeded(1))
    assert lower[1].tolist() == [[1.0]]
    assert lower[0].tolist() == [[1, 0]]
    energy[0, 0, 1] = torch.inf
    assert exchange(energy, weights, 0, seeded(1))[1].tolist() == [[0.0]]


def test_one_component_is_parallel_tempering():
    beta = torch.tensor([1.0, 0.5, 0.2])
    energy = torch.rand(1000, 3, generator=seeded(5), dtype=torch.float64) * 5
    plain = exchange(energy, beta, 0, seeded(6))
    components = exchange(energy[..., None], beta[:, None], 0, seeded(6))
    assert torch.equal(plain[0], components[0])
    assert torch.equal(plain[1].nan_to_num(2), components[1].nan_to_num(2))


def test_exchanges_leave_the_joint_density_of_potentials_unchanged():
    """Harmonic wells of two stiffnesses and centres: mixtures are harmonic, so samples are exact."""
    weights = torch.tensor([[1.0, 0.0], [0.6, 0.4], [0.3, 0.7], [0.0, 1.0]], dtype=torch.float64)
    stiffness = weights @ torch.tensor([1.0, 3.0], dtype=torch.float64)
    centre = weights @ torch.tensor([0.0, 3.0], dtype=torch.float64) / stiffness  # u_b = 3/2 (x - 1)²
    noise = torch.randn(200_000, 4, generator=seeded(7), dtype=torch.float64)
    x = centre + noise / stiffness.sqrt()
    energy = torch.stack([x**2 / 2, 1.5 * (x - 1) ** 2], dim=2)
    for parity in (0, 1):
        order, exchanged = exchange(energy, weights, parity, seeded(8 + parity))
        after = x.gather(1, order)
        assert exchanged.nanmean() > 0.3
        assert_mean(after, centre)
        assert_mean((after - centre) ** 2, 1 / stiffness)
        independent = (after - centre)[:, :-1] * (after - centre)[:, 1:]
        assert_mean(independent, 0.0)
        # Exchanging without the rule would be seen:
        assert z_scores(x[:, parity + 1], float(centre[parity])).abs() > 100


def test_populations_of_every_mixture():
    """Walkers start in one well; only exchanges with the single well at the other end can fill the other."""
    rungs, generator = rungs_of(), seeded(10)
    ladders = ladders_of(rungs, 96)
    exchange_replicas(rungs, ladders, 150, generator)
    right, energies = torch.zeros(96, 4), torch.zeros(96, 4, 2, dtype=torch.float64)

    def observe(ladders, result):
        right.add_(ladders.by_rung(ladders.walkers.x)[:, :, 0, 0] > 0)
        energies.add_(result.energy)

    rounds = 300
    exchange_replicas(rungs, ladders, rounds, generator, observe)
    exact, means = [], []
    for weights in WEIGHTS.tolist():
        density = mixed(weights)
        whole = quad(density, -6, 6, limit=200)[0]
        exact.append(quad(density, 0, 6)[0] / whole)
        # u holds ½ y², whose mean is ½ in every mixture with weights that sum to one
        means.append(
            [
                0.5
                + quad(lambda x, e=e, d=density: (e.a * x + e.b * x**2 + e.c * x**4) * d(x), -6, 6)[0] / whole
                for e in ENDS
            ]
        )
    assert exact[0] < 0.04
    assert_mean(right / rounds, torch.tensor(exact))
    assert_mean(energies / rounds, torch.tensor(means, dtype=torch.float64))
    assert ladders.trips.sum(1).min() > 0
    kept = ladders.walkers
    fresh, force = rungs.target(ladders.rung.flatten()).energy_and_force(kept.x)
    torch.testing.assert_close(kept.energy, fresh)
    torch.testing.assert_close(kept.force, force)
    assert torch.isfinite(kept.velocity).all()


def test_stopping_and_resuming_changes_nothing():
    rungs = rungs_of()
    whole, parts = ladders_of(rungs, 8), ladders_of(rungs, 8)
    for chunk in range(3):
        exchange_replicas(rungs, whole, 7, seeded(chunk))
        exchange_replicas(rungs, parts, 7, seeded(chunk))
        target = rungs.target(parts.rung.flatten())
        walkers = Walkers.at(target, parts.walkers.x, parts.walkers.velocity)
        parts = Ladders(
            walkers, parts.at_rung.clone(), parts.rounds, parts.heading.clone(), parts.trips.clone()
        )
    assert torch.equal(parts.walkers.x, whole.walkers.x)
    assert torch.equal(parts.walkers.velocity, whole.walkers.velocity)
    assert torch.equal(parts.at_rung, whole.at_rung)


def test_tuned_rungs_of_one_step_are_the_plain_ones():
    """The same numbers to the last bit, for temperatures and for potentials."""
    temperatures = torch.tensor([1.0, 1.7, 3.0, 5.0], dtype=torch.float64)
    steps = torch.full((4,), 0.25, dtype=torch.float64)
    move = HamiltonianMonteCarlo(ENDS[0], ONE, 0.25, 5, jitter=0.2)
    pairs = [
        (TemperatureRungs(move, temperatures), TunedRungs(ENDS[:1], 1 / temperatures[:, None], steps, 5)),
        (
            HamiltonianRungs(ENDS, WEIGHTS, lambda u: HamiltonianMonteCarlo(u, ONE, 0.25, 5, jitter=0.2)),
            TunedRungs(ENDS, WEIGHTS, steps, 5),
        ),
    ]
    for plain, tuned in pairs:
        x = 0.3 * torch.randn(40, 1, 2, generator=seeded(3), dtype=torch.float64)
        target = tuned.target(torch.arange(4).repeat(10))
        one, other = (Ladders.in_order(Walkers.at(target, x), 4) for _ in range(2))
        exchange_replicas(plain, one, 12, seeded(4))
        exchange_replicas(tuned, other, 12, seeded(4))
        assert torch.equal(one.walkers.x, other.walkers.x)
        assert torch.equal(one.at_rung, other.at_rung)


def test_every_rung_has_its_own_step():
    move = HamiltonianMonteCarlo(ENDS[1], ONE, torch.tensor([0.1, 0.5]), 3)
    x = torch.randn(2, 1, 2, generator=seeded(5), dtype=torch.float64)
    both = Walkers.at(ENDS[1], x)
    move(both, seeded(6))
    for row, step in enumerate((0.1, 0.5)):
        alone = Walkers.at(ENDS[1], x)
        HamiltonianMonteCarlo(ENDS[1], ONE, step, 3)(alone, seeded(6))
        torch.testing.assert_close(both.x[row], alone.x[row], rtol=1e-6, atol=0)
        assert (alone.x[row] != x[row]).all()
    steps = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ConfigError, match="3 steps for 4 rungs"):
        TunedRungs(ENDS, WEIGHTS, steps, 5)
    with pytest.raises(ConfigError, match="must be positive"):
        TunedRungs(ENDS[:1], torch.tensor([[1.0], [0.5], [0.0]]), steps, 5)
    with pytest.raises(ConfigError, match="do not fit 2 components"):
        TunedRungs(ENDS, torch.ones(3, 1), steps, 5)
    with pytest.raises(ConfigError, match="positive step"):
        HamiltonianMonteCarlo(ENDS[1], ONE, torch.tensor([0.1, 0.0]), 3)
