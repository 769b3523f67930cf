"""Parallel tempering: populations against quadrature, the exchange rule, bookkeeping, resuming."""

import numpy as np
import pytest
import torch
from checks import assert_mean, seeded, z_scores
from scipy.integrate import quad

from bgdiff.errors import ConfigError
from bgdiff.sampling import HamiltonianMonteCarlo, Ladders, LangevinMiddle, Walkers, exchange, temper
from bgdiff.targets.double_well import DoubleWell

ONE = torch.ones(1, 1, dtype=torch.float64)
TEMPERATURES = torch.tensor([1.0, 1.8, 3.2, 6.0])


def right_population(target, temperature):
    def density(x):
        return np.exp(-(target.a * x + target.b * x**2 + target.c * x**4) / temperature)

    right, left = quad(density, 0, 8)[0], quad(density, -8, 0)[0]
    return right / (right + left)


def ladders_of(target, copies, start=(-1.7, 0.0)):
    x = torch.tensor(start, dtype=torch.float64).expand(copies * len(TEMPERATURES), 1, 2)
    return Ladders.in_order(Walkers.at(target, x), len(TEMPERATURES))


@pytest.mark.parametrize("dynamics", ["hmc", "langevin"])
@pytest.mark.parametrize("start", [-1.7, 1.7])
def test_populations_of_separated_wells_at_every_temperature(dynamics, start):
    """Barrier of 9 kT, every walker started in one well: only exchanges can fill the other."""
    target, generator = DoubleWell(1.0, -6.0, 1.0), seeded(1)
    moves = {
        "hmc": HamiltonianMonteCarlo(target, ONE, 0.25, 5),
        "langevin": LangevinMiddle(target, ONE, 0.06, 1.0, 10),
    }
    ladders = ladders_of(target, 96, (start, 0.0))
    temper(moves[dynamics], ladders, TEMPERATURES, 500, generator)
    right, moments = torch.zeros(96, 4), torch.zeros(96, 4)

    def observe(ladders, _):
        x = ladders.by_rung(ladders.walkers.x)
        right.add_(x[:, :, 0, 0] > 0)
        moments.add_(x[:, :, 0, 1] ** 2)

    rounds = 1200
    temper(moves[dynamics], ladders, TEMPERATURES, rounds, generator, observe)
    exact = torch.tensor([right_population(target, float(t)) for t in TEMPERATURES])
    assert exact[0] < 0.04
    assert_mean(right / rounds, exact)
    assert_mean(moments / rounds, TEMPERATURES)
    assert ladders.trips.sum(1).min() > 0
    assert ladders.rounds == 500 + rounds


def test_velocities_follow_the_temperature():
    target, generator = DoubleWell(0.0, 0.5, 0.1), seeded(2)
    ladders = ladders_of(target, 500, (0.0, 0.0))
    squares = torch.zeros(500, 4, dtype=torch.float64)

    def observe(ladders, _):
        squares.add_(ladders.by_rung(ladders.walkers.velocity).square().mean((2, 3)))

    temper(LangevinMiddle(target, ONE, 0.05, 2.0, 20), ladders, TEMPERATURES, 20, generator)
    move = LangevinMiddle(target, ONE, 0.05, 0.1, 2)  # too few steps to forget a wrong velocity
    temper(move, ladders, TEMPERATURES, 100, generator, observe)
    assert_mean(squares / 100, TEMPERATURES)


def test_exchanges_follow_metropolis():
    beta = torch.tensor([1.0, 0.5, 0.25])
    # The colder conformation has more energy: always exchanged. Then a hopeless one. Then no energy at all.
    energy = torch.tensor([[5.0, 1.0, 9.0], [1.0, 900.0, 9.0], [1.0, torch.nan, 9.0]])
    order, exchanged = exchange(energy, beta, 0, seeded(0))
    assert order.tolist() == [[1, 0, 2], [0, 1, 2], [0, 1, 2]]
    assert exchanged[:, 0].tolist() == [1, 0, 0]
    assert exchanged[:, 1].isnan().all()
    tries = exchange(torch.tensor([[1.0, 2.0, 5.0]]).repeat(40_000, 1), beta, 1, seeded(1))[1]
    assert tries[:, 0].isnan().all()
    assert_mean(tries[:, 1], float(np.exp((0.5 - 0.25) * (2.0 - 5.0))))


def test_exchanges_leave_the_joint_density_unchanged():
    """Independent harmonic energies at each temperature: exchanged sets have the same distribution."""
    beta = torch.tensor([1.0, 0.6, 0.36, 0.2])
    x = torch.randn(200_000, 4, generator=seeded(3), dtype=torch.float64) / beta.sqrt()
    energy = x**2 / 2
    for parity in (0, 1):
        order, exchanged = exchange(energy, beta, parity, seeded(4 + parity))
        after = energy.gather(1, order)
        assert exchanged.nanmean() > 0.3
        assert_mean(after - 0.5 / beta, 0.0)
        assert_mean(after[:, :-1] * after[:, 1:] - 0.25 / (beta[:-1] * beta[1:]), 0.0)
        # Exchanging without the rule would be seen:
        swapped = energy.clone()
        swapped[:, [parity, parity + 1]] = energy[:, [parity + 1, parity]]
        assert z_scores(swapped[:, parity], 0.5 / float(beta[parity])).abs() > 100


def test_bookkeeping_of_a_known_walk(monkeypatch):
    """walker 0: rungs 0 1 2 2 1 0, one trip; walker 1: 1 0 0 1 2 2; walker 2: 2 2 1 0 0 1."""
    target = DoubleWell()
    ladders = Ladders.in_order(Walkers.at(target, torch.zeros(3, 1, 2, dtype=torch.float64)), 3)
    walk = [[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1], [0, 2, 1], [0, 2, 1]]
    orders = [
        [walk[k].index(walker) for walker in walk[k + 1]]  # old rung of what each rung holds next
        for k in range(6)
    ]
    monkeypatch.setattr(
        "bgdiff.sampling.tempering.exchange",
        lambda energy, beta, parity, generator: (torch.tensor([orders.pop(0)]), torch.zeros(1, 2)),
    )
    seen = []
    temper(
        lambda walkers, generator, temperature: torch.ones(3),
        ladders,
        TEMPERATURES[:3],
        6,
        seeded(0),
        lambda ladders, result: seen.append((result.index, ladders.at_rung[0].tolist())),
    )
    assert seen == list(enumerate(walk[:6], start=1))
    assert ladders.trips.tolist() == [[1, 0, 0]]
    assert ladders.rung.tolist() == [[0, 2, 1]]


def test_stopping_and_resuming_changes_nothing():
    target = DoubleWell()
    move = LangevinMiddle(target, ONE, 0.1, 1.0, 5)
    whole = ladders_of(target, 8)
    for chunk in range(3):
        temper(move, whole, TEMPERATURES, 7, seeded(chunk))
    parts = ladders_of(target, 8)
    for chunk in range(3):
        temper(move, parts, TEMPERATURES, 7, seeded(chunk))
        walkers = Walkers.at(target, parts.walkers.x, parts.walkers.velocity)
        parts = Ladders(
            walkers, parts.at_rung.clone(), parts.rounds, parts.heading.clone(), parts.trips.clone()
        )
    assert torch.equal(parts.walkers.x, whole.walkers.x)
    assert torch.equal(parts.walkers.velocity, whole.walkers.velocity)
    assert torch.equal(parts.at_rung, whole.at_rung)
    assert torch.equal(parts.trips, whole.trips)


def test_ladders_that_make_no_sense():
    target = DoubleWell()
    walkers = Walkers.at(target, torch.zeros(6, 1, 2, dtype=torch.float64))
    with pytest.raises(ConfigError, match="6 walkers do not fill ladders of 4 rungs"):
        Ladders.in_order(walkers, 4)
    with pytest.raises(ConfigError, match=r"6 walkers do not fill ladders \(2, 2\)"):
        Ladders(walkers, torch.zeros(2, 2, dtype=torch.int64))
    move = HamiltonianMonteCarlo(target, ONE, 0.1, 1)
    for temperatures in ([1.0, 2.0], [1.0, 3.0, 2.0]):
        with pytest.raises(ConfigError, match="temperatures must ascend"):
            temper(move, Ladders.in_order(walkers, 3), torch.tensor(temperatures), 1, seeded(0))
