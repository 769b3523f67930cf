"""The wrapped normal: normalised, equal to brute-force sums at every width, with the right slope."""

import math

import pytest
import torch
from torch import Tensor

from bgdiff.ladder.wrapped import wrapped_normal_log_prob, wrapped_normal_score
from bgdiff.objectives.score import conditional_score

VARIANCES = [1e-4, 1e-3, 0.02, 0.3, 1.0, 1.4999, 1.5, 1.5001, 2.0, 5.0, 30.0, 1e3]
ANGLES = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)


def images(delta: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """Log density and its slope from 801 images, whatever the width."""
    shifted = delta[:, None] + 2 * math.pi * torch.arange(-400, 401, dtype=torch.float64)
    log_prob = -0.5 * shifted**2 / variance - 0.5 * math.log(2 * math.pi * variance)
    slope = -(torch.softmax(log_prob, -1) * shifted / variance).sum(-1)
    return torch.logsumexp(log_prob, -1), slope


def spread(variance: float) -> Tensor:
    return torch.tensor(variance, dtype=torch.float64)


@pytest.mark.parametrize("variance", VARIANCES)
def test_equals_the_sum_over_images(variance: float) -> None:
    log_prob, slope = images(ANGLES, variance)
    ours = wrapped_normal_log_prob(ANGLES, spread(variance))
    assert torch.allclose(ours, log_prob, rtol=1e-12, atol=1e-12)
    score = wrapped_normal_score(ANGLES[1:-1], spread(variance))  # ±π is a kink for a narrow one
    assert torch.allclose(score, slope[1:-1], rtol=1e-9, atol=1e-14 / min(variance, 1.0))


@pytest.mark.parametrize("variance", VARIANCES)
def test_is_normalised(variance: float) -> None:
    """The mean over an even grid is exact for periodic functions finer than the grid."""
    grid = -math.pi + 2 * math.pi * torch.arange(8192, dtype=torch.float64) / 8192
    total = wrapped_normal_log_prob(grid, spread(variance)).exp().mean() * 2 * math.pi
    assert float(total) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("variance", VARIANCES)
def test_score_is_the_slope(variance: float) -> None:
    delta = ANGLES[50:-50:97]
    h = 1e-4 * min(1.0, math.sqrt(variance))
    log_prob = {m: wrapped_normal_log_prob(delta + m * h, spread(variance)) for m in (-2, -1, 1, 2)}
    numerical = (8 * (log_prob[1] - log_prob[-1]) - (log_prob[2] - log_prob[-2])) / (12 * h)
    score = wrapped_normal_score(delta, spread(variance))
    assert torch.allclose(score, numerical, rtol=1e-6, atol=1e-8)


def test_moments_are_those_of_the_wrapped_normal() -> None:
    """E[cos mδ] = exp(-m² v / 2)."""
    grid = -math.pi + 2 * math.pi * torch.arange(8192, dtype=torch.float64) / 8192
    for variance in VARIANCES:
        density = wrapped_normal_log_prob(grid, spread(variance)).exp() * 2 * math.pi
        for m in (1, 2, 5):
            expected = math.exp(-0.5 * m**2 * variance)
            assert float((density * torch.cos(m * grid)).mean()) == pytest.approx(expected, abs=1e-12)


def test_infinite_variance_is_uniform() -> None:
    infinite = spread(math.inf)
    expected = torch.full_like(ANGLES, -math.log(2 * math.pi))
    assert torch.equal(wrapped_normal_log_prob(ANGLES, infinite), expected)
    assert torch.equal(wrapped_normal_score(ANGLES, infinite), torch.zeros_like(ANGLES))


def test_variances_of_both_kinds_in_one_call() -> None:
    """Narrow, wide and uniform axes side by side are what each gives alone, slopes included."""
    variance = torch.tensor([1e-4, 0.5, 1.5, 1.6, 1e3, math.inf], dtype=torch.float64)
    delta = ANGLES[100:-100:500, None].expand(-1, 6)
    together = wrapped_normal_log_prob(delta, variance), wrapped_normal_score(delta, variance)
    for i in range(6):
        assert torch.equal(together[0][:, i], wrapped_normal_log_prob(delta[:, i], variance[i]))
        assert torch.equal(together[1][:, i], wrapped_normal_score(delta[:, i], variance[i]))


@pytest.mark.parametrize("variance", [1e-3, 1.0, 1.6])
def test_full_turns_do_not_matter(variance: float) -> None:
    delta = ANGLES[1:-1:31]
    for turns in (-3, 1, 7):
        turned = delta + 2 * math.pi * turns
        ours = wrapped_normal_log_prob(turned, spread(variance))
        assert torch.allclose(ours, wrapped_normal_log_prob(delta, spread(variance)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.2, 1.3, 12.0])
def test_single_precision_is_enough_for_training(sigma: float) -> None:
    """The denoising target of float32 noise, in units of its own scale 1/σ."""
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    exact = wrapped_normal_score(sigma * noise.double(), spread(sigma**2))
    single = wrapped_normal_score(sigma * noise, spread(sigma**2).float())
    assert single.dtype == torch.float32
    assert float((single - exact).abs().max()) * sigma < 1e-4


def test_conditional_score_on_mixed_axes() -> None:
    """-δ/σ² on real axes, the wrapped normal's slope on periodic ones, each row at its own noise."""
    generator = torch.Generator().manual_seed(1)
    periodic = torch.tensor([False, True, False, True])
    sigma = torch.tensor([0.05, 0.7, 2.0, 9.0], dtype=torch.float64).repeat(50)
    displacement = sigma[:, None] * torch.randn(200, 4, generator=generator, dtype=torch.float64)
    score = conditional_score(displacement, sigma, periodic)
    assert torch.equal(score[:, ~periodic], -displacement[:, ~periodic] / sigma[:, None] ** 2)
    for row in range(200):
        wrapped = torch.remainder(displacement[row, periodic] + math.pi, 2 * math.pi) - math.pi
        _, slope = images(wrapped, float(sigma[row] ** 2))
        assert torch.allclose(score[row, periodic], slope, rtol=1e-9, atol=1e-12)
    real = conditional_score(displacement, sigma, torch.zeros(4, dtype=torch.bool))
    assert torch.equal(real, -displacement / sigma[:, None] ** 2)
