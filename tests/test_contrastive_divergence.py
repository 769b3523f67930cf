"""Persistent contrastive divergence: its chains sample the rungs, its gradient vanishes at the truth."""

import math

import pytest
import torch
from checks import seeded, z_scores
from objective_families import (
    AT_TRUTH,
    PERIODIC,
    PERTURBED,
    SIGMA,
    TRUTH,
    Gaussian,
    assert_minimum_at_truth,
    gradients,
    problem,
    setup,
)
from torch import Tensor

from bgdiff.errors import ConfigError, DataError
from bgdiff.objectives.contrastive import ContrastiveDivergence, run_chains
from bgdiff.objectives.langevin import RungsDensity
from bgdiff.objectives.likelihood import likelihood_loss
from bgdiff.objectives.registry import check_options, make_objective

MEAN, VARIANCE = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 2.0])


def equilibrated(kernel: str, chains: int = 400) -> ContrastiveDivergence:
    """With chains drawn exactly from the truth's rungs."""
    options = {"chains": chains, "kernel": kernel, "restart": 0.0, "moves": 2, "step": 0.8}
    objective = make_objective("contrastive_divergence", setup(TRUTH, SIGMA), options)
    assert isinstance(objective, ContrastiveDivergence)
    for k in range(1, len(SIGMA)):
        objective.pool.z[k] = TRUTH.sample(chains, seeded(50 + k), float(SIGMA[k]))
    return objective


def test_minimum_at_truth() -> None:
    objective = equilibrated("mala", 1000).eval()  # chains are left as they were drawn
    assert_minimum_at_truth(gradients(objective, AT_TRUTH), gradients(objective, PERTURBED))


def test_likelihood_gradient_is_exact_with_exact_samples() -> None:
    """-∇ E_data[log p] of a normalised family, by the samples' average and by autograd."""
    at = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    model, sigma = Gaussian(MEAN, VARIANCE, at), torch.zeros(1, dtype=torch.float64)
    rows = []
    for seed in range(30):
        noise = torch.randn(2, 500, 2, generator=seeded(seed), dtype=torch.float64)
        data = MEAN + VARIANCE.sqrt() * noise[0]
        samples = (model.mean + model.variance.sqrt() * noise[1]).detach()
        loss = likelihood_loss(model.log_density(data, sigma), model.log_density(samples, sigma))
        rows.append(torch.autograd.grad(loss, at, retain_graph=True)[0])
    v = VARIANCE[0] * at[1].exp()
    (truth,) = torch.autograd.grad(0.5 * ((VARIANCE[0] + at[0] ** 2) / v + v.log()), at)
    assert (z_scores(torch.stack(rows), truth).abs() < 4).all()


def test_unadjusted_chains_have_their_known_bias() -> None:
    """Langevin steps of length ℓ on a spring k settle at the variance 1/(k (1 - k ℓ²/4)); MALA at 1/k."""
    n, sigma = 20_000, torch.full((20_000,), 0.5, dtype=torch.float64)
    model = Gaussian(torch.zeros(1), torch.full((1,), 0.75))  # of variance 1 at this noise
    length = torch.full((n, 1), 1.2, dtype=torch.float64)
    start = torch.randn(n, 1, generator=seeded(1), dtype=torch.float64)
    for adjust, variance in ((True, 1.0), (False, 1 / (1 - 1.2**2 / 4))):
        density = RungsDensity(model, sigma)
        end = run_chains(density, start * math.sqrt(variance), length, 2, seeded(2), adjust=adjust)
        assert abs(float(z_scores(end**2, variance))) < 4
        assert float((end - start * math.sqrt(variance)).abs().mean()) > 0.5


def test_chains_move_to_the_model() -> None:
    """From the prior to a narrower normal, at every rung, on a periodic axis too."""
    objective = make_objective("contrastive_divergence", setup(TRUTH.parts[1], SIGMA), {"moves": 30})
    assert isinstance(objective, ContrastiveDivergence)
    model = TRUTH.parts[1]
    for step in range(3):
        objective.loss(problem(model, model.sample(1500, seeded(step)), SIGMA, step, create_graph=False))
    first = objective.pool.z[1]
    angle = first[:, PERIODIC][:, 1] - model.mean[3]
    resultant = math.exp(-0.5 * float(model.variance[3] + SIGMA[1] ** 2))
    assert abs(float(z_scores(angle.cos(), resultant))) < 4
    spread = (first[:, 0] - model.mean[0]) ** 2
    assert abs(float(z_scores(spread, model.variance[0] + SIGMA[1] ** 2))) < 4


def test_restarts_come_from_the_prior() -> None:
    model = Gaussian(torch.full((2,), 50.0), torch.ones(2))
    options = {"restart": 1.0, "step": 1e-6, "chains": 500}
    objective = make_objective("contrastive_divergence", setup(model, SIGMA), options)
    assert isinstance(objective, ContrastiveDivergence)
    objective.pool.z.fill_(1e3)
    objective.loss(problem(model, torch.full((4000, 2), 50.0).double(), SIGMA, 1, create_graph=False))
    used = objective.pool.z[3][(objective.pool.z[3] < 900).all(1)]
    assert len(used) > 300
    assert (z_scores(used**2, 1 + SIGMA[3] ** 2).abs() < 4).all()


def look(objective: ContrastiveDivergence, seed: int) -> float:
    seen = problem(TRUTH, TRUTH.sample(50, seeded(seed)), SIGMA, seed, create_graph=False)
    return float(objective.loss(seen))


def test_state_is_kept_in_training_alone_and_restored() -> None:
    first, other = equilibrated("ula", 8), equilibrated("mala", 8)
    before = look(first, 3)
    stored = {name: value.clone() for name, value in first.state_dict().items()}
    assert set(stored) == {"pool.z", "pool.moment"}
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in stored.items())
    first.eval()
    assert look(first, 4) == look(first, 4)
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in stored.items())
    again = equilibrated("ula", 8)
    again.load_state_dict(stored)
    assert look(first, 4) == look(again, 4) != before


class Cliff:
    """A slope that throws unadjusted walkers out of the numbers."""

    periodic = torch.zeros(1, dtype=torch.bool)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return -(z**4).sum(1)


def test_diverged_chains_are_reported() -> None:
    options = {"kernel": "ula", "step": 10.0, "moves": 30}
    objective = make_objective("contrastive_divergence", setup(Cliff(), SIGMA), options)
    with pytest.raises(DataError, match="infinity"):
        objective.loss(problem(Cliff(), torch.zeros(50, 1, dtype=torch.float64), SIGMA, 1))


@pytest.mark.parametrize("wrong", [{"chains": 0}, {"kernel": "hmc"}, {"restart": 1.5}, {"moves": 0}])
def test_options_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"contrastive_divergence.{next(iter(wrong))}"):
        check_options("contrastive_divergence", wrong)
