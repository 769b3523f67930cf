"""Chains with walks as proposals: invariant, convergent, and honest about their autocorrelation."""

import math
from functools import cache

import pytest
import torch
from checks import assert_mean, seeded
from ladders import ModelTarget, assert_same_density, differences, torus_and_plane
from test_smc import Lopsided

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.densities import TargetDensity
from bgdiff.ladder.imh import PathChains, advance, chain_health, independent_chains
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.moves import TorsionJump, mala
from bgdiff.ladder.paths import Ladder, measure_moments

MODEL = torus_and_plane()
SCALE = torch.tensor([0.5, 0.5, 0.4, 0.6], dtype=torch.float64)
MOVES = [mala(SCALE, 1.0), TorsionJump(torch.tensor([2, 3]))]


@cache
def ladder() -> Ladder:
    model, sigma = Lopsided(), noise_levels(6, 0.2, 6.0)
    return Ladder(model, sigma, measure_moments(model, sigma, MODEL.sample(5000, seeded(1)), seeded(2)))


def target() -> TargetDensity:
    return TargetDensity(ModelTarget(MODEL), MODEL.periodic)


def test_chains_over_a_discrete_proposal_reach_the_exact_frequencies() -> None:
    """Three kinds of proposal with weights 1, 2 and 5: the chain holds them as p ∝ q w, for any scale."""
    kind = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 400 * 600, True, generator=seeded(3)).reshape(
        400, 600
    )
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    index = independent_chains(weight[kind].log() - 900, seeded(4))
    assert index.shape == (400, 600)
    assert (index <= torch.arange(600)).all()
    assert (index.diff(dim=1) >= 0).all()
    held = kind.gather(1, index)[:, 50:]
    exact = torch.tensor([0.5, 0.6, 1.0], dtype=torch.float64) / 2.1
    frequency = torch.stack([(held == k).double().mean(1) for k in range(3)], 1)
    assert_mean(frequency, exact)


def test_one_rejection_rule() -> None:
    """Better proposals are always taken, worthless ones never, and a worthless start is left at once."""
    rising = torch.tensor([[0.0, 1.0, 2.0, 2.0]])
    assert independent_chains(rising, seeded(0)).tolist() == [[0, 1, 2, 3]]
    awkward = torch.tensor([[-math.inf, 0.0, -math.inf, math.nan], [0.0, -800.0, 0.0, -900.0]])
    assert independent_chains(awkward, seeded(0)).tolist() == [[0, 1, 1, 1], [0, 0, 2, 2]]
    with pytest.raises(CorrectionError, match=r"chain 1: all 2 proposals have weight zero"):
        independent_chains(torch.tensor([[0.0, 0.0], [-math.inf, math.nan]]), seeded(0))


@pytest.mark.parametrize("moves", [[], MOVES], ids=["walks alone", "with local moves"])
def test_chains_leave_the_target_invariant(moves: list) -> None:
    """From exact samples, under a wrong model: nothing changes, and the chains do move."""
    generator, start = seeded(5), MODEL.sample(5000, seeded(6))
    chains = PathChains.at(ladder(), target(), start, generator)
    chains, rates = advance(chains, ladder(), target(), moves, 5, generator)
    assert_same_density(chains.state.z, MODEL.sample(20_000, seeded(7)), MODEL.periodic)
    assert len(rates) == 1 + len(moves)
    assert all(0.1 < rate < 0.95 for rate in rates)
    assert float((chains.state.z != start).any(1).double().mean()) > 0.7
    fresh = target().evaluate(chains.state.z)
    assert torch.allclose(fresh.log_density, chains.state.log_density, rtol=1e-12)


def test_the_invariance_test_can_fail() -> None:
    """The deliberate bug: proposals are judged by the target's density alone, not by their paths' weights."""
    generator, state = seeded(5), target().evaluate(MODEL.sample(5000, seeded(6)))
    for _ in range(5):
        proposed = target().evaluate(ladder().walk_down(5000, generator).z)
        uniform = torch.rand(5000, generator=generator, dtype=torch.float64)
        state = proposed.where(uniform.log() < proposed.log_density - state.log_density, state)
    score, p = differences(state.z, MODEL.sample(20_000, seeded(7)), MODEL.periodic)
    assert score > 10
    assert p < 1e-6


def test_proposals_without_energy_are_never_taken() -> None:
    """The chains stay where they are, and say so; a start without energy is left for the first with one."""

    class Nowhere(ModelTarget):
        def log_density_and_score(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((len(z),), math.nan, dtype=torch.float64), torch.zeros_like(z)

    nowhere, generator = TargetDensity(Nowhere(MODEL), MODEL.periodic), seeded(13)
    start = MODEL.sample(20, seeded(14))
    before = PathChains.at(ladder(), target(), start, generator)
    after, rates = advance(before, ladder(), nowhere, [], 4, generator)
    assert rates == [0.0]
    assert torch.equal(after.state.z, start)
    assert torch.equal(after.log_weight, before.log_weight)


def test_one_proposal_taking_everything_is_worth_one_draw_a_chain() -> None:
    """Once a chain holds it nothing moves any more, and health does not take standing still for agreement."""
    log_weight = torch.zeros(4, 200, dtype=torch.float64)
    log_weight[:, 5] = 800.0
    index = independent_chains(log_weight, seeded(15))
    assert (index[:, 5:] == 5).all()
    position = torch.randn(4, 200, generator=seeded(16), dtype=torch.float64).gather(1, index)[:, 5:]
    health = chain_health(position)
    assert health.effective_draws < 10
    assert not health.rhat < 1.5


def test_chains_find_the_target_from_elsewhere() -> None:
    generator = seeded(8)
    start = torch.tensor([0.0, 0.0, 1.5, 1.0], dtype=torch.float64).expand(2000, 4)
    chains, _ = advance(
        PathChains.at(ladder(), target(), start, generator), ladder(), target(), MOVES, 20, generator
    )
    assert_same_density(chains.state.z, MODEL.sample(20_000, seeded(9)), MODEL.periodic)


def test_evaluations_and_observation() -> None:
    counted, seen = ModelTarget(MODEL), []
    density, generator = TargetDensity(counted, MODEL.periodic), seeded(10)
    chains = PathChains.at(ladder(), density, MODEL.sample(7, seeded(11)), generator)
    advance(chains, ladder(), density, MOVES, 3, generator, lambda now: seen.append(now.state.z[:, 0]))
    assert counted.evaluations == 7 * (1 + 3 * (1 + 2))
    assert torch.stack(seen, 1).shape == (7, 3)
    with pytest.raises(ConfigError):
        advance(chains, ladder(), density, [], 0, generator)


def test_health_of_chains() -> None:
    """An autoregressive chain with correlation 0.8 needs 9 steps per draw; antithetic ones gain nothing."""
    noise = torch.randn(4, 6000, generator=seeded(12), dtype=torch.float64)
    for rho, expected in ((0.8, 9.0), (0.0, 1.0), (-0.5, 1.0)):
        x = torch.zeros_like(noise)
        x[:, 0] = noise[:, 0]
        for t in range(1, 6000):
            x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * noise[:, t]
        health = chain_health(x)
        assert health.autocorrelation_time == pytest.approx(expected, rel=0.15)
        assert health.effective_draws == pytest.approx(24_000 / health.autocorrelation_time)
        assert health.rhat < 1.01
    assert chain_health(noise + torch.arange(4)[:, None]).rhat > 1.1


def test_walks_drawn_beforehand_make_the_same_chains() -> None:
    """Given the walks that would have been drawn, nothing else changes; too few are refused."""
    walks = PathChains.walked(ladder(), target(), 50, seeded(13))
    start = PathChains.at(ladder(), target(), MODEL.sample(50, seeded(14)), seeded(15))
    ours, _ = advance(start, ladder(), target(), [], 1, seeded(13))
    theirs, rates = advance(start, ladder(), target(), [], 1, _after_a_walk(13), proposals=walks)
    assert torch.equal(ours.state.z, theirs.state.z)
    assert torch.equal(ours.log_weight, theirs.log_weight)
    assert 0.1 < rates[0] < 0.95
    with pytest.raises(ConfigError, match="2 rounds of 50 chains need 100 proposals, not 50"):
        advance(start, ladder(), target(), [], 2, seeded(13), proposals=walks)


def test_chains_over_walks_drawn_beforehand_leave_the_target_invariant() -> None:
    start = PathChains.at(ladder(), target(), MODEL.sample(4000, seeded(16)), seeded(17))
    proposals = PathChains.walked(ladder(), target(), 5 * 4000, seeded(18))
    chains, _ = advance(start, ladder(), target(), MOVES, 5, seeded(19), proposals=proposals)
    assert_same_density(chains.state.z, MODEL.sample(20_000, seeded(20)), MODEL.periodic)


def _after_a_walk(seed: int) -> torch.Generator:
    generator = seeded(seed)
    ladder().walk_down(50, generator)
    return generator
