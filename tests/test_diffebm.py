"""DiffEBM: path ratios against joint normal densities and the ladder's weights; both losses at the truth."""

import math

import pytest
import torch
from checks import seeded, z_scores
from ladders import torus_and_plane
from objective_families import Gaussian, problem, setup
from torch import Tensor
from torch.distributions import MultivariateNormal

from bgdiff.errors import ConfigError
from bgdiff.ladder.kernels import Prior, reverse_step
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.paths import Ladder
from bgdiff.models import log_density_and_score
from bgdiff.objectives.diffebm import DiffEBM, energy_loss, generator_loss
from bgdiff.objectives.diffusion_paths import (
    Control,
    log_variance,
    path_log_ratio,
    reverse_variance,
    simulate,
)
from bgdiff.objectives.registry import check_options, make_objective

LEVELS = torch.tensor([0.3, 0.9, 2.5], dtype=torch.float64)
PRIOR = Prior(float(LEVELS[-1]), torch.zeros(1, dtype=torch.bool))
CIRCLE = Prior(float(LEVELS[-1]), torch.ones(1, dtype=torch.bool))


def shrink(factor: float) -> Control:
    """The score of unit-variance normal data, times a factor."""

    def control(z: Tensor, sigma: Tensor) -> Tensor:
        return -factor * z / (1 + sigma[:, None] ** 2)

    return control


def log_normal(x: Tensor, variance: Tensor | float) -> Tensor:
    return -0.5 * (x**2 / variance + torch.log(2 * math.pi * torch.as_tensor(variance, dtype=x.dtype)))


def test_log_variance_vanishes_for_the_exact_control_alone() -> None:
    """Three long steps; real axis and circle."""
    width = torch.ones(1, dtype=torch.float64)
    exact = reverse_variance(LEVELS, width)
    variance = 1 + LEVELS[0] ** 2

    def divergence(factor: float, spread: float, rho: Tensor | float = variance) -> float:
        path = simulate(shrink(factor), LEVELS, spread * exact, PRIOR, 500, seeded(1))
        ratio = path_log_ratio(shrink(factor), LEVELS, spread * exact, PRIOR, path)
        return float(log_variance(ratio, log_normal(path[0, :, 0], rho)))

    assert divergence(1, 1) < 1e-20
    assert divergence(1.2, 1) > 1e-3
    assert divergence(1, 1.2) > 1e-3
    assert divergence(1, 1, 1.2) > 1e-3

    step = (LEVELS[1:] ** 2 - LEVELS[:-1] ** 2)[:, None]
    path = simulate(shrink(0), LEVELS, step, CIRCLE, 500, seeded(2))
    uniform = torch.zeros(500, dtype=torch.float64)
    assert float(log_variance(path_log_ratio(shrink(0), LEVELS, step, CIRCLE, path), uniform)) < 1e-20
    assert float(log_variance(path_log_ratio(shrink(1), LEVELS, step, CIRCLE, path), uniform)) > 1e-3


def test_ratio_of_joint_normal_densities() -> None:
    """Noising and generator are both joint normals of the whole path if the control is linear."""
    control, spread = shrink(0.7), 1.3 * reverse_variance(LEVELS, torch.tensor([0.6], dtype=torch.float64))
    path = simulate(control, LEVELS, spread, PRIOR, 40_000, seeded(3))
    n = len(LEVELS)
    rho, step = 0.8, LEVELS[1:] ** 2 - LEVELS[:-1] ** 2
    up = torch.eye(n, dtype=torch.float64)  # x = L ξ, from the bottom up
    down = torch.eye(n, dtype=torch.float64)
    up[0, 0] = math.sqrt(rho)
    for t in range(n - 1):
        up[t + 1] = up[t] + torch.eye(n, dtype=torch.float64)[t + 1] * step[t].sqrt()
    down[n - 1, n - 1] = math.sqrt(1 + float(LEVELS[-1]) ** 2)
    for t in range(n - 2, -1, -1):
        factor = 1 - 0.7 * step[t] / (1 + LEVELS[t + 1] ** 2)
        down[t] = factor * down[t + 1] + torch.eye(n, dtype=torch.float64)[t] * spread[t, 0].sqrt()
    x = path[..., 0].T
    zero = torch.zeros(n, dtype=torch.float64)
    noising, generator = (MultivariateNormal(zero, covariance_matrix=a @ a.T) for a in (up, down))
    ratio = path_log_ratio(control, LEVELS, spread, PRIOR, path) + log_normal(x[:, 0], rho)
    assert torch.allclose(ratio, noising.log_prob(x) - generator.log_prob(x), atol=1e-9)
    # the paths are the generator's
    products = x[:, :, None] * x[:, None]
    assert (z_scores(products, generator.covariance_matrix).abs() < 4).all()


def test_divergence_is_the_variance_of_the_ladders_path_weights() -> None:
    """With the model's score as the control, it is the walk of the samplers, on real and periodic axes."""
    model = torus_and_plane(shift=0.4)
    sigma = noise_levels(6, 0.2, 6.0)
    moments = torch.stack([1 / (0.8 + sigma[1:] ** 2)] * 4, -1) * torch.tensor([1.0, 0.9, 0.7, 0.5])
    ladder = Ladder(model, sigma, moments)
    paths = ladder.walk_down(300, seeded(4))
    variance = torch.stack(
        [reverse_step(ladder.step_variance(k), moments[k], model.periodic).variance for k in range(1, 6)]
    )

    def control(z: Tensor, level: Tensor) -> Tensor:
        return log_density_and_score(model, z, level)[1]

    ours = simulate(control, sigma[1:], variance, ladder.prior, 300, seeded(4))
    assert torch.allclose(ours[0], paths.z_low)
    ratio = path_log_ratio(control, sigma[1:], variance, ladder.prior, ours)
    energy = model.log_density(ours[0], sigma[1:2])
    assert torch.allclose(ratio + energy, paths.log_weight_low)
    assert torch.allclose(log_variance(ratio, energy), paths.log_weight_low.var())


SIGMA = noise_levels(8, 0.1, 4.0)
MEAN, VARIANCE = torch.zeros(2), torch.ones(2)  # of which an untrained generator is exact
OPTIONS = {"steps": 4, "paths": 300, "width": 8, "depth": 1}


def both_gradients(theta: Tensor, **options: float) -> tuple[Tensor, Tensor]:
    """Of the energy's θ and of the generator's last bias and spreads, over independent batches."""
    made = make_objective("diffebm", setup(Gaussian(MEAN, VARIANCE), SIGMA), OPTIONS | options)
    assert isinstance(made, DiffEBM)
    energy, generator = [], []
    for seed in range(20):
        at = theta.clone().requires_grad_(True)
        data = torch.randn(300, 2, generator=seeded(100 + seed), dtype=torch.float64)
        loss = made.loss(problem(Gaussian(MEAN, VARIANCE, at), data, SIGMA, seed))
        own = [made.control.leave.bias, made.log_spread]
        first, *rest = torch.autograd.grad(loss, [at, *own])
        energy.append(first)
        generator.append(torch.cat([part.flatten() for part in rest]).to(torch.float64))
    return torch.stack(energy), torch.stack(generator)


def divergence_gradient(theta: Tensor) -> Tensor:
    """Of Var[log p_θ(x)/p(x)] over the lowest rung: what an exact generator leaves of the divergence."""
    at = theta.clone().requires_grad_(True)
    s, u = 1 + SIGMA[1] ** 2, at[1].exp() + SIGMA[1] ** 2
    square, linear = 0.5 * (1 / s - 1 / u), at[0] / u
    return torch.autograd.grad(2 * square**2 * s**2 + linear**2 * s, at)[0]


@pytest.mark.parametrize("match", [0.5, 1.0])
def test_nobody_moves_at_the_truth(match: float) -> None:
    options = {"energy_match": match, "generator_match": match}
    energy, generator = both_gradients(torch.zeros(2, dtype=torch.float64), **options)
    if match < 1:
        assert (z_scores(energy, 0.0).abs() < 4).all()
        assert (z_scores(generator[:, :2], 0.0).abs() < 4).all()
    else:  # no scatter at all: every path has the same weight
        assert float(energy.abs().max()) < 1e-4
        assert float(generator.abs().max()) < 1e-4
    theta = torch.tensor([0.4, 0.5], dtype=torch.float64)
    energy, generator = both_gradients(theta, **options)
    assert (z_scores(energy, match * divergence_gradient(theta)).abs() < 4).all()
    assert float(z_scores(energy, 0.0).abs().max()) > 8
    assert float(z_scores(generator[:, 0], 0.0).abs()) > 8  # the generator follows the energy


def test_without_divergence_the_energy_is_not_determined() -> None:
    """A generator that fits the data and ignores the energy tells nothing of it."""
    with pytest.raises(ConfigError, match="energy_match"):
        check_options("diffebm", {"energy_match": 0, "generator_match": 0})
    theta = torch.tensor([0.8, 0.8], dtype=torch.float64)
    energy, _ = both_gradients(theta, energy_match=0, generator_match=1e-9)
    assert (z_scores(energy, 0.0).abs() < 4).all()


def test_each_side_holds_the_other_fixed() -> None:
    ratio, density = torch.randn(2, 50, generator=seeded(5), dtype=torch.float64).requires_grad_(True)
    score, data = torch.tensor(0.3), torch.zeros(5, dtype=torch.float64)
    first = torch.autograd.grad(
        generator_loss(score, ratio, density, 0.4), [ratio, density], allow_unused=True
    )
    second = torch.autograd.grad(energy_loss(data, density, ratio, 0.4), [ratio, density], allow_unused=True)
    assert [part is None for part in (*first, *second)] == [False, True, True, False]
    # eq. 13: the energy's variance written out, with R the part that depends on the energy
    expanded = density.var() + 2 * 50 / 49 * ((density * ratio).mean() - density.mean() * ratio.mean())
    (truth,) = torch.autograd.grad(0.4 * expanded + 0.6 * density.mean(), density)
    assert torch.allclose(second[1], truth)


def test_levels_are_rungs_and_samples_come_from_the_generator() -> None:
    made = make_objective("diffebm", setup(Gaussian(MEAN, VARIANCE), SIGMA), {"steps": 100, "width": 8})
    assert isinstance(made, DiffEBM)
    assert torch.equal(made.levels, SIGMA[1:])  # as many as there are
    coarse = make_objective("diffebm", setup(Gaussian(MEAN, VARIANCE), SIGMA), OPTIONS)
    assert isinstance(coarse, DiffEBM)
    assert coarse.levels[0] == SIGMA[1]
    assert coarse.levels[-1] == SIGMA[-1]
    assert len(coarse.levels) == 5
    z = coarse.sample(20_000, seeded(6))
    assert (z_scores(z**2, 1 + SIGMA[1] ** 2).abs() < 4).all()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"paths": 1}, {"energy_match": 1.1}, {"depth": 0}])
def test_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"diffebm.{next(iter(wrong))}"):
        check_options("diffebm", wrong)
