"""Energy models: closed-form ladders are what they say; the network starts and ends at exact Gaussians."""

import math

import pytest
import torch
from checks import assert_mean, level, mixture, seeded
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from bgdiff.ladder.kernels import NormalStep, Prior
from bgdiff.models import (
    EnergyModel,
    EnergyNetwork,
    GaussianModel,
    NetworkShape,
    QuadraticNetwork,
    log_density_and_score,
    network_from_description,
)

SIGMA_MIN, SIGMA_MAX = 0.02, 12.0
PERIODIC = torch.tensor([False, False, False, True, True])
SMALL = NetworkShape(width=24, depth=2, harmonics=3)


KINDS = pytest.mark.parametrize("kind", [EnergyNetwork, QuadraticNetwork], ids=lambda kind: kind.kind)


def untrained(
    periodic: Tensor = PERIODIC, seed: int = 0, kind: type[EnergyNetwork] = EnergyNetwork
) -> EnergyNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(periodic, SIGMA_MIN, SIGMA_MAX, SMALL)


def trained(
    periodic: Tensor = PERIODIC, seed: int = 0, kind: type[EnergyNetwork] = EnergyNetwork
) -> EnergyNetwork:
    """A network with all its weights away from their initial values."""
    network = untrained(periodic, seed, kind)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(seed))
    return network


def points(n: int, seed: int, periodic: Tensor = PERIODIC) -> Tensor:
    return Prior(1.0, periodic).sample(n, seeded(seed))


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_gaussian_model(sigma: float) -> None:
    """On real axes against scipy; normalised on a periodic one; wrapped there."""
    mean, variance = torch.tensor([0.3, 2.9]), torch.tensor([0.4, 0.8])
    model = GaussianModel(mean, variance, torch.tensor([False, True]))
    n = 300
    angle = -math.pi + 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    z = torch.stack([torch.full_like(angle, -0.8), angle], -1)
    value = model.log_density(z, level(sigma))
    marginal = torch.logsumexp(value, 0) + math.log(2 * math.pi / n)
    assert float(marginal) == pytest.approx(norm.logpdf(-0.8, 0.3, math.sqrt(0.4 + sigma**2)), abs=1e-7)
    assert torch.allclose(model.log_density(z + torch.tensor([0.0, 2 * math.pi]), level(sigma)), value)
    assert float(angle[value.argmax()]) == pytest.approx(2.9, abs=2 * math.pi / n)


def test_gaussian_model_draws() -> None:
    """Clean draws, noised by a step, have the moments of the noisier rung."""
    variance = torch.tensor([0.4, 0.8, math.inf], dtype=torch.float64)
    mean = torch.tensor([0.3, 2.9, 0.0], dtype=torch.float64)
    model = GaussianModel(mean, variance, torch.tensor([False, True, True]))
    clean = model.sample(20_000, seeded(0))
    noised = NormalStep.isotropic(0.5, model.periodic).sample(clean, seeded(1))
    for z, added in ((clean, 0.0), (noised, 0.5)):
        assert_mean((z[:, 0] - 0.3) ** 2, 0.4 + added)
        assert_mean(torch.cos(z[:, 1] - 2.9), math.exp(-0.5 * (0.8 + added)))
        assert_mean(torch.sin(z[:, 1] - 2.9), 0.0)
        assert_mean(torch.cos(z[:, 2]), 0.0)
        assert ((z[:, 1:] >= -math.pi) & (z[:, 1:] < math.pi)).all()


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_mixture_model(sigma: float) -> None:
    model = mixture()
    z = 2 * torch.randn(50, 2, generator=seeded(2), dtype=torch.float64)
    expected = torch.zeros(50, dtype=torch.float64)
    for weight, mean, covariance in zip(model.weights, model.means, model.covariances, strict=True):
        noisy = (covariance + sigma**2 * torch.eye(2, dtype=torch.float64)).numpy()
        expected += weight * torch.from_numpy(multivariate_normal.pdf(z.numpy(), mean.numpy(), noisy))
    assert torch.allclose(model.log_density(z, level(sigma)), expected.log(), rtol=1e-10)


def test_mixture_model_draws() -> None:
    model = mixture()
    z = model.sample(30_000, seeded(3))
    mean = model.weights @ model.means
    second = torch.einsum("m,mij->ij", model.weights, model.covariances) + torch.einsum(
        "m,mi,mj->ij", model.weights, model.means, model.means
    )
    assert_mean(z, mean)
    assert_mean((z[:, :, None] * z[:, None]).flatten(1), second.flatten())
    # third moments tell the components apart
    variance = model.covariances.diagonal(dim1=1, dim2=2)
    assert_mean(z**3, model.weights @ (model.means**3 + 3 * model.means * variance))


@pytest.mark.parametrize("model", [mixture(), untrained(), trained()], ids=["mixture", "new", "trained"])
def test_models_meet_the_protocol(model: EnergyModel) -> None:
    assert isinstance(model, EnergyModel)
    z = points(6, 4, model.periodic)
    each = torch.full((6,), 0.3, dtype=torch.float64)
    together, apart = model.log_density(z, level(0.3)), model.log_density(z, each)
    assert together.shape == (6,)
    assert torch.allclose(together, apart, rtol=1e-5)
    different = torch.tensor([0.02, 0.1, 0.5, 2.0, 7.0, 12.0], dtype=torch.float64)
    rows = torch.cat([model.log_density(z[i : i + 1], different[i : i + 1]) for i in range(6)])
    assert torch.allclose(model.log_density(z, different), rows, rtol=1e-5, atol=1e-5)


def test_score_is_the_gradient() -> None:
    model, z, h = mixture(), points(20, 5, torch.tensor([False, False])), 1e-5
    value, score = log_density_and_score(model, z, level(0.4))
    assert torch.equal(value, model.log_density(z, level(0.4)))
    shift = h * torch.eye(2, dtype=torch.float64)
    for i in range(2):
        up, down = (model.log_density(z + sign * shift[i], level(0.4)) for sign in (1, -1))
        assert torch.allclose(score[:, i], (up - down) / (2 * h), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.02, 0.5, 3.0, 12.0])
def test_score_of_the_network_is_its_gradient(sigma: float) -> None:
    network = trained().double()
    z, h = points(10, 6), 1e-5
    score = log_density_and_score(network, z, level(sigma))[1]
    for i in range(5):
        shift = torch.zeros(5, dtype=torch.float64)
        shift[i] = h
        up, down = (network.log_density(z + sign * shift, level(sigma)) for sign in (1, -1))
        assert torch.allclose(score[:, i], (up - down) / (2 * h), rtol=1e-6, atol=1e-7)


def test_graphs_are_kept_only_for_training() -> None:
    network, z = trained(), points(4, 7).float()
    value, score = log_density_and_score(network, z, level(0.3))
    assert not value.requires_grad
    assert not score.requires_grad
    value, score = log_density_and_score(network, z, level(0.3), create_graph=True)
    (score**2).sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert all(gradients[name] is not None for name in ("leave.weight", "enter.weight", "embed.0.weight"))
    with torch.no_grad():  # a score is a gradient in any context
        assert torch.allclose(log_density_and_score(network, z, level(0.3))[1], score, rtol=1e-4, atol=1e-4)


def exact(z: Tensor, sigma: float, periodic: Tensor) -> Tensor:
    return Prior(sigma, periodic).log_prob(z)


@pytest.mark.parametrize(
    "periodic",
    [PERIODIC, torch.tensor([False, False]), torch.tensor([True, True])],
    ids=["mixed", "real", "angles"],
)
@pytest.mark.parametrize("sigma", [0.02, 0.5, 12.0])
@KINDS
def test_the_network_starts_at_gaussian_data(
    kind: type[EnergyNetwork], periodic: Tensor, sigma: float
) -> None:
    """N(0, 1 + σ²) and uniform, normalised, at every level."""
    z = points(20, 8, periodic)
    value = untrained(periodic, kind=kind).log_density(z, level(sigma))
    assert torch.allclose(value.double(), exact(z, sigma, periodic), rtol=1e-5, atol=1e-5)


@KINDS
def test_the_network_ends_at_the_prior(kind: type[EnergyNetwork]) -> None:
    """Whatever its weights, the top rung is the normalised prior; below it is not."""
    network, z = trained(kind=kind), points(50, 9)
    top = network.log_density(z, level(SIGMA_MAX)).double()
    assert torch.allclose(top, exact(z, SIGMA_MAX, PERIODIC), rtol=1e-5, atol=1e-5)
    score = log_density_and_score(network, z, level(SIGMA_MAX))[1]
    expected = torch.where(PERIODIC, 0.0, -z / (1 + SIGMA_MAX**2))
    assert torch.allclose(score, expected, atol=1e-5)
    below = network.log_density(z, level(1.0)).double().detach()
    assert float((below - exact(z, 1.0, PERIODIC)).abs().mean()) > 0.1


def test_the_network_is_periodic_where_it_should_be() -> None:
    network, z = trained().double(), points(20, 10)
    value = network.log_density(z, level(0.3))
    for axis, same in enumerate(PERIODIC.tolist()):
        turned = z.clone()
        turned[:, axis] += 2 * math.pi
        other = network.log_density(turned, level(0.3))
        assert torch.allclose(other, value, rtol=1e-9) == same


def test_the_network_knows_its_noise() -> None:
    network, z = trained(), points(20, 11)
    levels = torch.tensor([0.02, 0.021, 1.0, 1.05])
    learned = [
        network.log_density(z, level(s)).double().detach() - exact(z, float(s), PERIODIC) for s in levels
    ]
    for low, high in ((0, 1), (2, 3)):
        near = float((learned[low] - learned[high]).abs().mean())
        assert 0 < near < 0.5 * float((learned[0] - learned[2]).abs().mean())


def test_the_quadratic_network_knows_a_narrow_mode() -> None:
    """With the mode's centre and its width before noise it is that normal density at every level."""
    real, width = torch.tensor([False, False]), 0.01**2
    network = untrained(real, kind=QuadraticNetwork).double()
    assert isinstance(network, QuadraticNetwork)
    mode = torch.tensor([3.0, -2.0], dtype=torch.float64)
    for sigma in (0.02, 0.7):
        spread = 1 + sigma**2
        amplitude = spread**-0.5 - (1 + SIGMA_MAX**2) ** -0.5
        with torch.no_grad():
            network.centre.bias.copy_(mode / (math.sqrt(spread) * amplitude))
            network.width.bias.fill_(math.log(width) / (1 - spread / (1 + SIGMA_MAX**2)))
        z = mode + sigma * torch.randn(20, 2, dtype=torch.float64, generator=seeded(13))
        expected = GaussianModel(mode, torch.full((2,), width)).log_density(z, level(sigma))
        assert torch.allclose(network.log_density(z, level(sigma)), expected, rtol=1e-6)


@KINDS
def test_description_round_trip(kind: type[EnergyNetwork]) -> None:
    network = trained(kind=kind)
    again = network_from_description(network.describe())
    assert type(again) is kind
    assert again.describe() == network.describe()
    assert torch.equal(again.periodic, PERIODIC)
    again.load_state_dict(network.state_dict())
    z = points(5, 12)
    assert torch.equal(again.log_density(z, level(0.5)), network.log_density(z, level(0.5)))


def test_initialisation_depends_on_the_seed_only() -> None:
    first, again, other = (untrained(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["enter.weight"], other["enter.weight"])
