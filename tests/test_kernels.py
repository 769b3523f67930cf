"""Steps of the ladder and the prior: their densities and their draws agree, and reverse steps are best."""

import math

import numpy as np
import pytest
import torch
from checks import assert_mean, level, mixture, seeded
from scipy.stats import kstest, norm
from torch import Tensor

from bgdiff.ladder.kernels import NormalStep, Prior, reverse_step
from bgdiff.ladder.wrapped import wrapped_normal_log_prob
from bgdiff.models import GaussianModel, log_density_and_score

PERIODIC = torch.tensor([False, True, True, False])
VARIANCE = torch.tensor([0.04, 0.09, 3.0, 25.0], dtype=torch.float64)
CENTRE = torch.tensor([0.5, 3.0, -1.0, -40.0], dtype=torch.float64)
N = 20_000


def wrapped_cdf(variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative distribution of the wrapped normal around 0 on [-π, π), by quadrature."""
    grid = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)
    density = wrapped_normal_log_prob(grid, torch.tensor(variance, dtype=torch.float64)).exp()
    return grid.numpy(), np.append(0.0, torch.cumulative_trapezoid(density, grid).numpy())


def test_density_is_the_product_over_axes() -> None:
    step = NormalStep(VARIANCE, PERIODIC)
    z = 3 * torch.randn(100, 4, generator=seeded(0), dtype=torch.float64)
    expected = torch.zeros(100, dtype=torch.float64)
    for axis in range(4):
        delta = z[:, axis] - CENTRE[axis]
        if PERIODIC[axis]:
            expected += wrapped_normal_log_prob(delta, VARIANCE[axis])
        else:
            expected += torch.from_numpy(norm.logpdf(delta.numpy(), scale=math.sqrt(VARIANCE[axis])))
    assert torch.allclose(step.log_prob(z, CENTRE.expand(100, 4)), expected, rtol=1e-12)


@pytest.mark.parametrize("periodic", [[False, True], [True, True], [False, False]])
def test_density_is_normalised(periodic: list[bool]) -> None:
    step = NormalStep(torch.tensor([0.7, 1.1], dtype=torch.float64), torch.tensor(periodic))
    centre = torch.tensor([0.4, -2.9], dtype=torch.float64)
    n = 400
    axes, volume = [], 1.0
    for angle, middle in zip(periodic, centre, strict=True):
        half = math.pi if angle else 12.0
        start = 0.0 if angle else middle
        axes.append(start - half + 2 * half * torch.arange(n, dtype=torch.float64) / n)
        volume *= 2 * half / n
    grid = torch.cartesian_prod(*axes)
    assert float(step.log_prob(grid, centre).exp().sum() * volume) == pytest.approx(1.0, abs=1e-9)


def test_draws_follow_the_density() -> None:
    step = NormalStep(VARIANCE, PERIODIC)
    z = step.sample(CENTRE.expand(N, 4), seeded(1))
    assert ((z[:, PERIODIC] >= -math.pi) & (z[:, PERIODIC] < math.pi)).all()
    assert (z[:, 3] < -math.pi).all(), "real axes are not wrapped"
    delta = z - CENTRE
    for axis in range(4):
        if PERIODIC[axis]:
            grid, cumulative = wrapped_cdf(float(VARIANCE[axis]))
            angle = torch.remainder(delta[:, axis] + math.pi, 2 * math.pi) - math.pi
            uniform = np.interp(angle.numpy(), grid, cumulative)
            for m in (1, 2):
                assert_mean(torch.cos(m * angle), math.exp(-0.5 * m**2 * VARIANCE[axis]))
                assert_mean(torch.sin(m * angle), 0.0)
        else:
            uniform = norm.cdf(delta[:, axis].numpy(), scale=math.sqrt(VARIANCE[axis]))
            assert_mean(delta[:, axis] ** 2, VARIANCE[axis])
        assert kstest(uniform, "uniform").pvalue > 1e-4
    correlation = torch.corrcoef(torch.cat([torch.cos(delta), delta], -1).T)[:4, 4:]
    correlation.fill_diagonal_(0)
    assert float(correlation.abs().max()) < 4.5 / math.sqrt(N), "axes are independent"


def test_draws_are_those_of_the_generator() -> None:
    step = NormalStep(VARIANCE, PERIODIC)
    first, again = (step.sample(CENTRE.expand(5, 4), seeded(2)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, step.sample(CENTRE.expand(5, 4), seeded(3)))


def test_noising_steps_compose() -> None:
    """Two steps in a row are one step of the summed variance, on real and periodic axes."""
    first, second = (NormalStep.isotropic(variance, PERIODIC) for variance in (0.8, 1.3))
    z = second.sample(first.sample(CENTRE.expand(N, 4), seeded(4)), seeded(5))
    delta = z - CENTRE
    assert_mean(torch.cos(delta[:, PERIODIC]), math.exp(-0.5 * 2.1))
    assert_mean(delta[:, ~PERIODIC] ** 2, 2.1)


@pytest.mark.parametrize("low", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("gap", [1e-4, 0.5, 30.0])
def test_reverse_step_is_exact_for_gaussians(low: float, gap: float) -> None:
    """p(z_k|z_{k+1}) = p_k q / p_{k+1}, point by point, for Gaussian data of any widths and any step."""
    width = torch.tensor([0.3, 1.0, 5.0], dtype=torch.float64)
    mean = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    model = GaussianModel(mean, width)
    sigma_low, sigma_high = level(math.sqrt(low)), level(math.sqrt(low + gap))
    moment = 1 / (width + low + gap)
    step = reverse_step(gap, moment, model.periodic)
    lower, upper = (3 * torch.randn(50, 3, generator=seeded(s), dtype=torch.float64) for s in (6, 7))
    log_density, score = log_density_and_score(model, upper, sigma_high)
    bayes = model.log_density(lower, sigma_low) - log_density
    bayes = bayes + NormalStep.isotropic(gap, model.periodic).log_prob(upper, lower)
    assert torch.allclose(step.log_prob(lower, upper + gap * score), bayes, rtol=1e-9, atol=1e-9)


def test_reverse_step_is_exact_for_uniform_angles() -> None:
    step = reverse_step(0.7, torch.zeros(2, dtype=torch.float64), torch.tensor([True, True]))
    assert torch.equal(step.variance, torch.full((2,), 0.7, dtype=torch.float64))


def test_reverse_variance_is_the_mean_squared_error_of_its_centre() -> None:
    """For any data, the best variance is E[(z_k - centre)²]; D(1 - D E[s²]) equals it."""
    model = mixture()
    z = model.sample(N, seeded(8))
    gap, low = 0.4, 0.2
    lower = NormalStep.isotropic(low, model.periodic).sample(z, seeded(9))
    upper = NormalStep.isotropic(gap, model.periodic).sample(lower, seeded(10))
    _, score = log_density_and_score(model, upper, level(math.sqrt(low + gap)))
    error = (lower - upper - gap * score) ** 2
    assert_mean(error - gap * (1 - gap * score**2), 0.0)
    step = reverse_step(gap, (score**2).mean(0), model.periodic)
    assert_mean(error, step.variance)


def test_a_noisy_moment_still_gives_a_density() -> None:
    step = reverse_step(2.0, torch.tensor([0.4999, 0.5, 0.6], dtype=torch.float64), torch.zeros(3).bool())
    assert (step.variance > 0).all()


@pytest.fixture(scope="module")
def prior() -> Prior:
    return Prior(2.5, torch.tensor([False, True, False]))


def test_prior_density(prior: Prior) -> None:
    z = torch.tensor([[0.3, 2.0, -4.0], [5.0, -3.1, 0.0]], dtype=torch.float64)
    expected = norm.logpdf(z[:, [0, 2]].numpy(), scale=math.sqrt(1 + 2.5**2)).sum(1) - math.log(2 * math.pi)
    assert np.allclose(prior.log_prob(z).numpy(), expected, rtol=1e-13)


def test_prior_draws(prior: Prior) -> None:
    z = prior.sample(N, seeded(11))
    assert z.shape == (N, 3)
    assert z.dtype == torch.float64
    uniform: list[Tensor] = [(z[:, 1] + math.pi) / (2 * math.pi)]
    uniform += [torch.special.ndtr(z[:, axis] / math.sqrt(1 + 2.5**2)) for axis in (0, 2)]
    for column in uniform:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-4
    assert float(torch.corrcoef(torch.stack(uniform)).triu(1).abs().max()) < 4.5 / math.sqrt(N)


def test_prior_is_noised_gaussian_data(prior: Prior) -> None:
    """Whitened Gaussian data and uniform angles, noised to the top, are distributed as the prior."""
    infinite = torch.tensor([1.0, math.inf, 1.0], dtype=torch.float64)
    model = GaussianModel(torch.zeros(3), infinite, prior.periodic)
    z = prior.sample(20, seeded(12))
    assert torch.allclose(prior.log_prob(z), model.log_density(z, level(2.5)), rtol=1e-12)
