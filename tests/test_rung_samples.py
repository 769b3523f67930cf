"""Equilibrium samples of rungs, and their energies."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from checks import assert_mean, seeded
from ladders import ModelTarget, assert_same_density, torus_and_plane
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.ladder.bridge import Bridge
from bgdiff.ladder.densities import TargetDensity
from bgdiff.ladder.levels import noise_levels, statistical_length
from bgdiff.ladder.moves import mala, move_scale
from bgdiff.ladder.paths import Ladder, measure_moments
from bgdiff.ladder.rung_samples import (
    RungSamples,
    chosen_rungs,
    data_width,
    energy_matrix,
    join_samples,
    noise_derivatives,
    rung_samples,
    spaced_rungs,
)
from bgdiff.ladder.smc import Plan, Resampler
from bgdiff.models import EnergyModel, GaussianModel

LOG_Z = -5.2
REAL = torch.zeros(2, dtype=torch.bool)
TRUTH = GaussianModel(torch.tensor([0.3, -0.2]), torch.tensor([0.8, 1.2]), REAL)
TARGET = TargetDensity(ModelTarget(TRUTH, LOG_Z), REAL)


class Unnormalised:
    """A model whose rungs are known but for factors that vary along the ladder, as a network's do."""

    def __init__(self, inner: EnergyModel) -> None:
        self.inner, self.periodic = inner, inner.periodic

    def free_energy(self, sigma: Tensor) -> Tensor:
        return -1.5 * torch.tanh(torch.log(sigma))

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.inner.log_density(z, sigma) - self.free_energy(sigma)


WRONG = GaussianModel(torch.tensor([0.1, 0.0]), torch.tensor([1.0, 1.0]), REAL)


def plan_for(model: EnergyModel, data: Tensor, n_rungs: int, sigma_min: float, every: int) -> Plan:
    sigma = noise_levels(n_rungs, sigma_min, 6.0)
    ladder = Ladder(model, sigma, measure_moments(model, sigma, data, seeded(1)))
    at = [
        (mala(move_scale(ladder.moments[k - 1], float(sigma[k]), model.periodic), 1.2),)
        if k % every == 0
        else ()
        for k in range(1, n_rungs)
    ]
    return Plan(ladder, ((), *at), Resampler(0.5))


@cache
def plan() -> Plan:
    return plan_for(Unnormalised(WRONG), TRUTH.sample(4000, seeded(2)), 6, 0.3, 2)


def populations(count: int, n: int, seed: int, target: TargetDensity | None = TARGET) -> RungSamples:
    generator, rungs = seeded(seed), tuple(range(1, 7))
    return join_samples(
        [rung_samples(plan(), rungs, n, generator, target=target, unit=unit) for unit in range(count)]
    )


def test_rungs_are_chosen_by_statistical_length() -> None:
    length = torch.tensor([0.0, 0.1, 0.5, 1.0, 1.4, 2.5, 2.6, 5.0])
    assert spaced_rungs(length, 1.0) == (1, 3, 4, 5, 6, 7)
    assert spaced_rungs(length, 100.0) == (1, 7)
    sigma = noise_levels(150, 0.02, 12.0)
    model = GaussianModel(torch.zeros(30), torch.full((30,), 0.4))
    ladder = Ladder(model, sigma, measure_moments(model, sigma, model.sample(500, seeded(3)), seeded(4)))
    assert torch.allclose(data_width(ladder), torch.tensor(0.4, dtype=torch.float64), rtol=0.3)
    rungs = chosen_rungs(ladder, 1.0)
    steps = statistical_length(sigma, data_width(ladder))[list(rungs)].diff()
    assert float(steps.max()) <= 1.0
    assert float((steps[1:] + steps[:-1]).min()) > 1.0, "none could be left out"
    with pytest.raises(ConfigError, match="must be positive"):
        spaced_rungs(length, 0.0)


def test_every_state_holds_samples_of_its_density() -> None:
    """Modes on real and periodic axes; with the target reached by a reverse step or over a bridge."""
    model = torus_and_plane()
    target = TargetDensity(ModelTarget(model), model.periodic)
    one = plan_for(Unnormalised(model), model.sample(4000, seeded(5)), 12, 0.15, 1)
    rungs = (1, 4, 8, 12)
    local = tuple(one.moves_at(1))
    for bridge in (None, Bridge((0.5, 1.0), (local, ()))):
        found = join_samples(
            [
                rung_samples(one, rungs, 2000, seeded(6 + i), target=target, bridge=bridge, unit=i)
                for i in range(2)
            ]
        )
        assert found.rungs == (0, *rungs)
        assert found.counts == (4000,) * 5
        assert found.target_evaluations == (4000 if bridge is None else 12_000)
        for state, sigma in enumerate(found.sigma[:-1].tolist()):
            assert_same_density(found.of(state), model.sample(8000, seeded(8), sigma), model.periodic)
        prior = one.ladder.prior.sample(8000, seeded(9))
        assert_same_density(found.of(4), prior, model.periodic)
        assert torch.equal(found.unit[found.rows(2)], torch.arange(2).repeat_interleave(2000))


def test_energies_are_those_of_the_states() -> None:
    samples = populations(2, 30, 10)
    energy = energy_matrix(samples, TARGET)
    assert energy.shape == (7, 60 * 7)
    z = samples.z
    np.testing.assert_allclose(energy[0], -TARGET.target.log_density(z))
    np.testing.assert_allclose(energy[-1], -plan().ladder.prior.log_prob(z))
    for state, sigma in enumerate(samples.sigma[1:-1], 1):
        np.testing.assert_allclose(energy[state], -plan().ladder.model.log_density(z, sigma.reshape(1)))
    assert np.isfinite(energy).all()
    near = energy_matrix(samples, TARGET, reach=0.8)
    assert np.isinf(near).any()
    kept = np.isfinite(near)
    np.testing.assert_array_equal(near[kept], energy[kept])
    for state in range(7):
        assert kept[state, samples.rows(state)].all()
    without = populations(2, 30, 10, target=None)
    assert without.counts[0] == 0
    assert energy_matrix(without).shape == (6, 60 * 6)
    with pytest.raises(ConfigError, match="give its density"):
        energy_matrix(samples)


def test_derivatives_are_finite_differences() -> None:
    samples, step = populations(1, 50, 11), 1e-5
    for state in (1, 3):
        sigma, z = samples.sigma[state], samples.of(state)
        model = plan().ladder.model
        above, below = (model.log_density(z, (sigma * math.exp(h)).reshape(1)) for h in (step, -step))
        wanted = -(above - below) / (2 * step)
        assert torch.allclose(noise_derivatives(samples, state), wanted, atol=1e-6)


def test_wrong_requests_are_refused() -> None:
    for rungs in ((1, 3), (2, 6), (1, 3, 3, 6), (1,)):
        with pytest.raises(ConfigError, match="must rise from 1 to 6"):
            rung_samples(plan(), rungs, 10, seeded(0))
    with pytest.raises(ConfigError, match="leads to the target"):
        rung_samples(plan(), (1, 6), 10, seeded(0), bridge=Bridge())
    with pytest.raises(ConfigError, match="different rungs"):
        join_samples([rung_samples(plan(), rungs, 10, seeded(0)) for rungs in ((1, 6), (1, 3, 6))])


def test_populations_estimate_each_rung_without_much_bias() -> None:
    """Means over 60 small populations: the bias of resampling 30 particles is below their error."""
    samples = populations(60, 30, 13)
    for state, sigma in enumerate(samples.sigma[:-1].tolist()):
        model = TRUTH if state == 0 else WRONG
        by_population = samples.of(state).reshape(60, 30, 2).mean(1)
        assert_mean(by_population, model.mean)
        assert sigma >= 0
