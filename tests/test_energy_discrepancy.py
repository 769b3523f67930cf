"""Energy discrepancy: its minimiser, its two limits, its estimator against quadrature."""

import math

import numpy as np
import pytest
import torch
from checks import seeded, z_scores
from objective_families import AT_TRUTH, PERTURBED, SIGMA, TRUTH, assert_minimum_at_truth, gradients, setup
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.ladder.wrapped import wrapped_normal_log_prob
from bgdiff.objectives.energy_discrepancy import EnergyDiscrepancy, energy_discrepancy, perturb
from bgdiff.objectives.registry import check_options, make_objective

REAL = torch.zeros(1, dtype=torch.bool)


def normal(n: int, variance: float, seed: int) -> Tensor:
    return math.sqrt(variance) * torch.randn(n, 1, generator=seeded(seed), dtype=torch.float64)


def losses(x: Tensor, points: Tensor, v: Tensor, w: float) -> Tensor:
    """Energy discrepancy of U = x²/2v for each v."""
    own, negative = x[:, 0] ** 2, points[..., 0] ** 2
    return torch.stack([energy_discrepancy(own / (2 * b), negative / (2 * b), w) for b in v])


def exact(s: float, v: Tensor, t: float) -> Tensor:
    """Of data N(0, s) and U = x²/2v, with M → ∞ and w = 0: both potentials are Gaussian integrals."""
    return s / (2 * v) - (s + t) / (2 * (v + t)) - 0.5 * torch.log((v + t) / v)


def test_one_negative_against_quadrature() -> None:
    """M = w = 1 is E[softplus(U(x) - U(x'))] over two correlated normals."""
    s, t, v = 0.8, 0.5, torch.tensor([0.4, 0.8, 2.0], dtype=torch.float64)
    x = normal(100_000, s, 1)
    points = perturb(x, torch.full_like(x, t), 1, REAL, seeded(2))
    nodes, weight = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(80))
    weight = weight / weight.sum()
    first = math.sqrt(s) * nodes[:, None]
    second = first + math.sqrt(2 * t) * nodes
    for b in v:
        difference = (first**2 - second**2) / (2 * b)
        truth = (weight[:, None] * weight * torch.nn.functional.softplus(difference)).sum()
        values = torch.stack(
            [
                losses(part, other, b[None], 1.0)[0]
                for part, other in zip(x.split(2000), points.split(2000), strict=True)
            ]
        )
        error = values.std() / math.sqrt(len(values))
        assert abs(float((values.mean() - truth) / error)) < 4


def test_small_time_is_score_matching() -> None:
    """With w = 1, (loss + log M/(M+1))/t → M/(M+1) E[½ U'² - U''] for any M; here E = s/2v² - 1/v."""
    m, s, t, v = 3, 0.8, 1e-4, torch.tensor([0.4, 0.8, 2.0], dtype=torch.float64)
    x = normal(120_000, s, 3).reshape(60, 2000)
    noise = torch.randn(60, 2000, 1 + m, generator=seeded(4), dtype=torch.float64) * math.sqrt(t)
    both, mirrored = x.repeat(1, 2), torch.cat([noise, -noise], 1)  # opposite noise cancels most scatter
    points = both[..., None] + mirrored[..., :1] + mirrored[..., 1:]
    share = m / (m + 1)
    for b in v:
        rows = zip(both**2 / (2 * b), points**2 / (2 * b), strict=True)
        values = (
            torch.stack([energy_discrepancy(own, other, 1.0) for own, other in rows]) + math.log(share)
        ) / t
        truth = share * (s / (2 * b**2) - 1 / b)
        assert float(values.std() / math.sqrt(len(values))) < 0.1 * max(abs(float(truth)), 0.3)
        assert abs(float(z_scores(values, truth))) < 4
    # and the closed form itself tends to score matching
    assert torch.allclose(exact(s, v, 1e-6) / 1e-6, s / (2 * v**2) - 1 / v, rtol=1e-3, atol=1e-4)


def test_large_time_is_maximum_likelihood() -> None:
    """Differences between models become those of the negative log-likelihood."""
    s, t, v = 0.8, 60.0, torch.tensor([0.5, 0.8, 1.6], dtype=torch.float64)
    likelihood = s / (2 * v) + 0.5 * torch.log(2 * math.pi * v)
    wide = exact(s, v, 1e6)
    assert torch.allclose(wide - wide[1], likelihood - likelihood[1], atol=1e-5)
    x = normal(1500, s, 5)
    points = perturb(x, torch.full_like(x, t), 2048, REAL, seeded(6))
    values = torch.stack([losses(a, b, v, 0.0) for a, b in zip(x.split(50), points.split(50), strict=True)])
    truth = exact(s, v, t)
    differences = values - values[:, 1:2]
    error = differences.std(0) / math.sqrt(len(values))
    for i in (0, 2):
        assert float(error[i]) < 0.05
        assert abs(float((differences[:, i].mean() - (truth[i] - truth[1])) / error[i])) < 4


def test_periodic_kernel_is_symmetric_and_wrapped() -> None:
    """Negatives of a fixed angle have twice the variance of the perturbation, on the circle."""
    angle = torch.full((20_000, 1), 3.0, dtype=torch.float64)
    points = perturb(angle, torch.full_like(angle, 0.7), 1, torch.tensor([True]), seeded(7))[:, 0, 0]
    assert bool(((points >= -math.pi) & (points < math.pi)).all())
    grid = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)
    density = wrapped_normal_log_prob(grid - 3.0, torch.tensor(1.4, dtype=torch.float64)).exp()
    for function in (torch.cos, torch.sin):
        truth = torch.trapezoid(function(grid) * density, grid)
        values = function(points)
        assert abs(float((values.mean() - truth) / (values.std() / math.sqrt(len(values))))) < 4


@pytest.mark.parametrize("negatives", [1, 4])
def test_minimum_at_truth(negatives: int) -> None:
    objective = make_objective("energy_discrepancy", setup(TRUTH, SIGMA), {"negatives": negatives})
    assert isinstance(objective, EnergyDiscrepancy)
    assert_minimum_at_truth(gradients(objective, AT_TRUTH), gradients(objective, PERTURBED))


@pytest.mark.parametrize("wrong", [{"time": 0}, {"negatives": 0}, {"stabilisation": -1}, {"samples": 3}])
def test_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"energy_discrepancy.{next(iter(wrong))}"):
        check_options("energy_discrepancy", wrong)
