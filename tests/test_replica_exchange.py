"""Replica exchange: invariance, arrivals from the prior, rungs that exchange evenly, clear failures."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from checks import seeded
from ladders import ModelTarget, assert_same_density, differences, torus_and_plane
from test_smc import Lopsided
from torch import Tensor

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.densities import State, TargetDensity
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.moves import LONGEST_STEP
from bgdiff.ladder.paths import Ladder, measure_moments
from bgdiff.ladder.replica_exchange import (
    Exchange,
    Replicas,
    exchange_ladder,
    run_exchange,
    tune_exchange,
)
from bgdiff.models import GaussianModel

MODEL = torus_and_plane()
SIGMA = noise_levels(5, 0.3, 9.0)


@cache
def exact_rungs() -> Exchange:
    """Every rung is known and can be sampled; only the top is the prior instead of the model."""
    moments = measure_moments(MODEL, SIGMA, MODEL.sample(5000, seeded(1)), seeded(2))
    target = TargetDensity(ModelTarget(MODEL), MODEL.periodic)
    return replace(
        Exchange.untuned(Ladder(MODEL, SIGMA, moments), target), steps=torch.full((5,), 0.8).double()
    )


@cache
def wrong_rungs() -> Exchange:
    model = Lopsided()
    moments = measure_moments(model, SIGMA, MODEL.sample(5000, seeded(1)), seeded(2))
    target = TargetDensity(ModelTarget(MODEL), MODEL.periodic)
    return replace(
        Exchange.untuned(Ladder(model, SIGMA, moments), target), steps=torch.full((5,), 0.8).double()
    )


def exact_start(sets: int, seed: int) -> Tensor:
    exchange, generator = exact_rungs(), seeded(seed)
    rungs = [MODEL.sample(sets, generator, float(sigma)) for sigma in SIGMA[:-1]]
    return torch.stack([*rungs, exchange.ladder.prior.sample(sets, generator)], 1)


@pytest.mark.parametrize("stretch", [True, False])
def test_every_rung_is_left_invariant(stretch: bool) -> None:
    exchange = replace(exact_rungs(), stretch=stretch)
    replicas = Replicas.at(exchange, exact_start(3000, 3))
    run_exchange(exchange, replicas, 6, seeded(4))
    fresh = exact_start(12_000, 5)
    for k in range(6):
        assert_same_density(replicas.z[:, k], fresh[:, k], MODEL.periodic)
    state = exchange.evaluate(replicas.state.z, torch.arange(6).repeat(3000))
    assert torch.allclose(state.log_density, replicas.state.log_density, rtol=1e-10, atol=1e-10)
    assert torch.allclose(state.score, replicas.state.score, rtol=1e-8, atol=1e-10)


def test_the_invariance_test_can_fail() -> None:
    """The deliberate bug: exchanges stretch one of the two points only."""

    class HalfStretched(Exchange):
        def evaluate(self, z: Tensor, rungs: Tensor) -> State:
            swapped = len(z) % 6 != 0 or bool((rungs[:1] == 1).all())
            return super().evaluate(torch.where(rungs[:, None] == 2, 0.8 * z, z) if swapped else z, rungs)

    exchange = HalfStretched(**vars(exact_rungs()))
    replicas = Replicas.at(exchange, exact_start(3000, 3))
    run_exchange(exchange, replicas, 6, seeded(4))
    score, p = differences(replicas.z[:, 2], exact_start(12_000, 5)[:, 2], MODEL.periodic)
    assert score > 6
    assert p < 1e-6


def test_the_target_is_found_from_the_prior_under_a_wrong_model() -> None:
    exchange = wrong_rungs()
    replicas = Replicas.from_walks(exchange, 1500, seeded(6))
    run_exchange(exchange, replicas, 40, seeded(7))
    assert_same_density(replicas.z[:, 0], MODEL.sample(20_000, seeded(8)), MODEL.periodic)
    assert replicas.arrivals > 1500
    assert replicas.rounds == 40


def test_gaussian_rungs_always_exchange_when_stretched() -> None:
    """And seldom when not: that is what stretching is for."""
    d, sigma = 30, noise_levels(4, 0.1, 8.0)
    model = GaussianModel(torch.zeros(d), torch.ones(d))
    ladder = Ladder(model, sigma, (1 / (1 + sigma[1:, None] ** 2)).expand(-1, d))
    target = TargetDensity(ModelTarget(model), model.periodic)
    for stretch in (True, False):
        exchange = replace(Exchange.untuned(ladder, target), stretch=stretch)
        replicas = Replicas.from_walks(exchange, 200, seeded(9))
        run_exchange(exchange, replicas, 10, seeded(10))
        rates = replicas.swap_rates[1:]  # the target's width is that of rung 1 to 0.5 %
        assert (rates > 0.999).all() if stretch else (rates[1:] < 0.05).all()
        assert replicas.arrivals == 0 if not stretch else replicas.arrivals > 200


def test_counts() -> None:
    exchange = exact_rungs()
    counted = ModelTarget(MODEL)
    exchange = replace(exchange, target=TargetDensity(counted, MODEL.periodic))
    replicas, rounds = Replicas.at(exchange, exact_start(50, 11)), []
    run_exchange(exchange, replicas, 7, seeded(12), lambda now: rounds.append(now.rounds))
    assert rounds == list(range(1, 8))
    assert replicas.tried.tolist() == [200, 150, 200, 150, 200]
    assert counted.evaluations == replicas.target_evaluations == 50 * (1 + 7 * 3 + 4)
    assert ((replicas.swap_rates > 0) & (replicas.swap_rates <= 1)).all()
    assert ((replicas.acceptance > 0.3) & (replicas.acceptance < 1)).all()
    with pytest.raises(ConfigError, match="do not fill"):
        Replicas.at(exchange, exact_start(5, 0)[:, :4])


def test_the_same_seed_gives_the_same_replicas() -> None:
    results = []
    for _ in range(2):
        replicas = Replicas.from_walks(exact_rungs(), 20, seeded(13))
        run_exchange(exact_rungs(), replicas, 5, seeded(14))
        results.append(replicas.state.z)
    assert torch.equal(*results)


def test_steps_are_tuned_at_every_rung() -> None:
    exchange = Exchange.untuned(wrong_rungs().ladder, wrong_rungs().target, leapfrog_steps=1)
    replicas = Replicas.from_walks(exchange, 300, seeded(15))
    tuned = tune_exchange(exchange, replicas, 60, seeded(16))
    assert replicas.rounds == 0
    rates = []
    run_exchange(tuned, replicas, 10, seeded(17), lambda now: rates.append(now.acceptance))
    assert torch.allclose(torch.stack(rates).mean(0), torch.full((5,), 0.574).double(), atol=0.08)


def test_moves_that_are_always_accepted_get_the_longest_step() -> None:
    """On uniform angles nothing is ever refused, and steps do not run away."""
    periodic = torch.tensor([True, True])
    model = GaussianModel(torch.zeros(2), torch.full((2,), math.inf), periodic)
    ladder = Ladder(model, SIGMA, torch.zeros(5, 2, dtype=torch.float64))
    exchange = Exchange.untuned(ladder, TargetDensity(ModelTarget(model), periodic))
    replicas = Replicas.from_walks(exchange, 50, seeded(28))
    tuned = tune_exchange(exchange, replicas, 40, seeded(29))
    assert torch.allclose(tuned.steps, torch.full((5,), LONGEST_STEP).double())
    assert (replicas.acceptance > 0.999).all()


def test_rungs_are_thinned_to_exchange_evenly() -> None:
    model, sigma = MODEL, noise_levels(80, 0.1, 9.0)
    fine = Ladder(model, sigma, measure_moments(model, sigma, model.sample(3000, seeded(18)), seeded(19)))
    thin = exchange_ladder(fine, model.sample(400, seeded(20)), 0.6, seeded(21))
    assert 2 < thin.n_rungs < 20
    assert float(thin.sigma[1]) == float(sigma[1])
    assert float(thin.sigma[-1]) == float(sigma[-1])
    target = TargetDensity(ModelTarget(model), model.periodic)
    exchange = Exchange.untuned(thin, target)
    replicas = Replicas.from_walks(exchange, 400, seeded(22))
    run_exchange(exchange, replicas, 20, seeded(23))
    inner = replicas.swap_rates[1:-2]
    assert ((inner > 0.5) & (inner < 0.75)).all(), inner
    with pytest.raises(ConfigError):
        exchange_ladder(fine, fine.moments, 1.0, seeded(0))


def broken_rung() -> Exchange:
    """Its model has no energy at rung 2."""

    class Broken(Lopsided):
        def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
            here = (sigma - SIGMA[2]).abs() < 1e-6
            return torch.where(here, math.nan, super().log_density(z, sigma))

    ladder = exact_rungs().ladder
    return Exchange.untuned(Ladder(Broken(), ladder.sigma, ladder.moments), exact_rungs().target)


def test_rungs_that_do_not_overlap_end_the_pilot() -> None:
    class Shifted(ModelTarget):
        def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
            value, score = super().log_density_and_score(z - torch.tensor([40.0, 0.0, 0.0, 0.0]))
            return value, score

    exchange = Exchange.untuned(exact_rungs().ladder, TargetDensity(Shifted(MODEL), MODEL.periodic))
    replicas = Replicas.from_walks(exchange, 50, seeded(24))
    with pytest.raises(
        CorrectionError, match=r"rungs 0 and 1 \(sigma = 0 and 0\.3\).*nothing passes; use more rungs"
    ):
        tune_exchange(exchange, replicas, 40, seeded(25))

    class Nowhere(ModelTarget):
        def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return torch.full((len(z),), math.nan, dtype=torch.float64), torch.zeros_like(z)

    with pytest.raises(CorrectionError, match=r"rung 2 \(sigma = .*0\.0 % of.*train longer"):
        tune_exchange(broken_rung(), Replicas.at(broken_rung(), exact_start(50, 26)), 5, seeded(27))

    exchange = Exchange.untuned(exact_rungs().ladder, TargetDensity(Nowhere(MODEL), MODEL.periodic))
    replicas = Replicas.from_walks(exchange, 50, seeded(24))
    with pytest.raises(CorrectionError, match=r"rung 0 \(sigma = 0\): moves are accepted in 0\.0 %"):
        tune_exchange(exchange, replicas, 5, seeded(25))
