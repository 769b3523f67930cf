"""Moves and exchanges of a network of particles: float32 energies, float64 states, equal axes."""

import pytest
import torch
from checks import seeded

from bgdiff.config import NetworkConfig, ParticleNetworkConfig
from bgdiff.coordinates import MeanFreeCoordinates
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.pair_fit import measure_pairs
from bgdiff.ladder.paths import Ladder, measure_moments
from bgdiff.ladder.pilot import MoveRecipe, tuned_plan
from bgdiff.ladder.replica_exchange import exchange_ladder
from bgdiff.ladder.smc import descend
from bgdiff.models import is_particle_model, log_density_and_score, make_network

COORDINATES = MeanFreeCoordinates(5, 2, 1.3)
SIZES = ParticleNetworkConfig(
    radial=8, scalars=4, vectors=2, tensors=2, messages=2, width=8, depth=1, embedding=8
)


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    """Of a network whose random weights make it other than Gaussian."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        types = torch.zeros(5, dtype=torch.int64)
        network = make_network(COORDINATES, types, 0.05, 8.0, NetworkConfig(particles=SIZES))
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    network.requires_grad_(False)
    assert is_particle_model(network)
    sigma = noise_levels(12, 0.05, 8.0)
    z = torch.randn(400, COORDINATES.dim, generator=seeded(1), dtype=torch.float64)
    moments = measure_moments(network, sigma, z, seeded(2))
    return Ladder(network, sigma, moments, None, measure_pairs(network, sigma, moments, z, seeded(3)))


def test_what_is_measured_is_the_same_on_all_axes(ladder: Ladder) -> None:
    assert ladder.moments.dtype == torch.float64
    assert torch.equal(ladder.moments, ladder.moments[:, :1].expand_as(ladder.moments))
    other = ladder.at(noise_levels(30, 0.05, 8.0))
    assert torch.equal(other.moments, other.moments[:, :1].expand_as(other.moments))
    for kind in ("mala", "hmc", "random_walk"):
        move = MoveRecipe(kind).at_rung(ladder, 3)  # type: ignore[arg-type]
        assert len(move.scale.unique()) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["mala", "hmc"])
def test_populations_move_at_the_rungs(ladder: Ladder, kind: str) -> None:
    recipe = MoveRecipe(kind, leapfrog_steps=2)  # type: ignore[arg-type]
    plan = tuned_plan(ladder, [recipe], 100, seeded(4), knots=4, rounds=8)
    population, _ = descend(plan, 200, seeded(5))
    state, records = population.state, population.records
    assert state.z.dtype == state.log_density.dtype == state.score.dtype == torch.float64
    assert population.log_weight.dtype == torch.float64
    rates = torch.tensor([rate for record in records for rate in record.acceptance])
    assert len(rates) == ladder.n_rungs - 1
    assert 0.3 < float(rates.mean()) < 0.95
    # a state remembers what its density says of it
    value, score = log_density_and_score(ladder.model, state.z, ladder.sigma[1:2])
    torch.testing.assert_close(state.log_density, value.double(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(state.score, score.double(), rtol=1e-4, atol=1e-3)


def test_exchanges_choose_their_rungs(ladder: Ladder) -> None:
    z = torch.randn(200, COORDINATES.dim, generator=seeded(6), dtype=torch.float64)
    thin = exchange_ladder(ladder, z, 0.4, seeded(7))
    assert 3 <= len(thin.sigma) <= len(ladder.sigma)
    assert torch.equal(thin.moments, thin.moments[:, :1].expand_as(thin.moments))
