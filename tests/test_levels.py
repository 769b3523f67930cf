"""Where the rungs are: noise levels, their statistical distance, windows, even placement."""

import math

import pytest
import torch
from checks import mixture, seeded
from scipy.integrate import quad
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.ladder.levels import (
    even_levels,
    interpolate_moments,
    noise_levels,
    overlap_windows,
    rung_spacing,
    statistical_length,
)
from bgdiff.ladder.paths import Ladder, measure_moments


def test_noise_levels() -> None:
    sigma = noise_levels(5, 0.02, 12.0)
    assert sigma.dtype == torch.float64
    assert sigma[0] == 0
    assert float(sigma[1]) == pytest.approx(0.02)
    assert float(sigma[-1]) == pytest.approx(12.0)
    ratio = sigma[2:] / sigma[1:-1]
    assert torch.allclose(ratio, torch.full((4,), 600**0.25, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, 0.1, 1.0), "at least 2 noisy rungs, not 1"),
        ((5, 0.0, 1.0), "0 < sigma_min"),
        ((5, 1.0, 1.0), "noise must rise"),
        ((5, 2.0, 1.0), "not 2.0 and 1.0"),
        ((5, 0.1, math.inf), "noise must rise"),
        ((5, math.nan, 1.0), "noise must rise"),
    ],
)
def test_levels_that_do_not_rise_are_refused(arguments: tuple[int, float, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        noise_levels(*arguments)


@pytest.mark.parametrize("d", [1, 7])
@pytest.mark.parametrize("c", [0.05, 1.0])
def test_length_in_closed_form(d: int, c: float) -> None:
    """Equal widths: L = √(d/2) ln(1 + σ²/c)."""
    sigma = noise_levels(128, 0.02, 12.0)
    length = statistical_length(sigma, torch.full((d,), c))
    expected = math.sqrt(d / 2) * torch.log(1 + sigma**2 / c)
    assert length[0] == 0
    assert torch.allclose(length, expected, rtol=1e-4)


def test_length_of_unequal_widths() -> None:
    """Against quadrature of √(½ Σ (c_i + t)⁻²) over t = σ²."""
    width = torch.tensor([0.01, 0.3, 1.0, 2.0], dtype=torch.float64)
    sigma = noise_levels(64, 0.02, 12.0)
    length = statistical_length(sigma, width)
    for k in (1, 20, 64):
        expected, _ = quad(
            lambda t: math.sqrt(0.5 * float(((width + t) ** -2).sum())),
            0,
            float(sigma[k] ** 2),
            epsrel=1e-10,
            points=[0.001, 0.1] if sigma[k] > 1 else None,
            limit=500,
        )
        assert float(length[k]) == pytest.approx(expected, rel=1e-4)


def test_length_is_the_spread_of_the_log_density_ratio() -> None:
    """Neighbouring rungs of Gaussian data differ by a log ratio of standard deviation L."""
    width = torch.tensor([0.2, 1.0, 1.5], dtype=torch.float64)
    sigma = torch.tensor([0.0, 0.5, 0.52], dtype=torch.float64)
    low, high = width + sigma[1] ** 2, width + sigma[2] ** 2
    z = low.sqrt() * torch.randn(100_000, 3, generator=seeded(0), dtype=torch.float64)
    ratio = (-0.5 * z**2 * (1 / low - 1 / high)).sum(-1)
    length = statistical_length(sigma, width).diff()[1]
    assert float(ratio.std()) == pytest.approx(float(length), rel=0.05)  # equal to first order in the step


@pytest.mark.parametrize("reach", [0.0, 0.7, 3.0, 1e6])
@pytest.mark.parametrize("at_least", [1, 3, 9])
def test_windows(reach: float, at_least: int) -> None:
    sigma, width = noise_levels(20, 0.05, 8.0), torch.linspace(0.1, 1.0, 6)
    length = statistical_length(sigma, width)
    windows = overlap_windows(sigma, width, reach, at_least)
    assert windows.shape == (21, 2)
    for k, (first, last) in enumerate(windows.tolist()):
        assert 0 <= first <= k <= last <= 20
        within = [j for j in range(21) if abs(float(length[j] - length[k])) <= reach]
        assert first <= min(within)
        assert last >= max(within)
        noisy = [j for j in range(max(first, 1), last + 1) if j != k]
        assert len(noisy) >= at_least
        if len([j for j in within if 1 <= j < k]) >= at_least <= len([j for j in within if j > k]):
            assert (first, last) == (min(within), max(within)), "no wider than it need be"


def test_spacing_shares_out_the_length() -> None:
    sigma, width = noise_levels(20, 0.05, 8.0), torch.linspace(0.1, 1.0, 6)
    length, spacing = statistical_length(sigma, width), rung_spacing(sigma, width)
    assert float(spacing.sum()) == pytest.approx(float(length[-1]), rel=1e-12)
    assert float(spacing[7]) == pytest.approx(float(length[8] - length[6]) / 2, rel=1e-12)
    assert (spacing > 0).all()


def test_moments_are_kept_at_the_nodes() -> None:
    sigma = noise_levels(9, 0.02, 12.0)
    known = torch.rand(9, 3, generator=seeded(1), dtype=torch.float64)
    assert torch.allclose(interpolate_moments(sigma, sigma, known), known, rtol=1e-12)


def test_moments_of_white_gaussian_data_are_interpolated_exactly() -> None:
    coarse, fine = noise_levels(5, 0.02, 12.0), noise_levels(33, 0.02, 12.0)
    known = (1 / (1 + coarse[1:] ** 2))[:, None].expand(-1, 2)
    expected = (1 / (1 + fine[1:] ** 2))[:, None].expand(-1, 2)
    assert torch.allclose(interpolate_moments(fine, coarse, known), expected, rtol=1e-12)


def test_moments_between_nodes_lie_between() -> None:
    """(1 + σ²) E[s²] is linear in ln σ."""
    coarse = torch.tensor([0.0, 0.1, 1.0, 10.0], dtype=torch.float64)
    middle = torch.tensor([0.0, 0.1**0.5, 10**0.5], dtype=torch.float64)
    known = torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64)
    scaled = known * (1 + coarse[1:, None] ** 2)
    expected = 0.5 * (scaled[1:] + scaled[:-1]) / (1 + middle[1:, None] ** 2)
    assert torch.allclose(interpolate_moments(middle, coarse, known), expected, rtol=1e-12)


def test_even_levels_keep_the_ends_and_rise() -> None:
    sigma = noise_levels(30, 0.02, 12.0)
    variances = torch.rand(29, generator=seeded(2), dtype=torch.float64) ** 4
    for n_rungs in (2, 5, 30, 200):
        levels = even_levels(sigma, variances, n_rungs)
        assert levels.shape == (n_rungs + 1,)
        assert levels[0] == 0
        assert levels[1] == sigma[1]
        assert levels[-1] == sigma[-1]
        assert (levels.diff() > 0).all()


def test_equal_variances_leave_the_levels_log_uniform() -> None:
    sigma = noise_levels(30, 0.02, 12.0)
    levels = even_levels(sigma, torch.full((29,), 0.3), 12)
    assert torch.allclose(levels, noise_levels(12, 0.02, 12.0), rtol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_a_ladder_without_scatter_is_left_log_uniform(scale: float) -> None:
    """Gaussian data: every step is exact and there is nothing to spread."""
    sigma = noise_levels(30, 0.02, 12.0)
    levels = even_levels(sigma, torch.full((29,), scale), 12)
    assert torch.allclose(levels, noise_levels(12, 0.02, 12.0), rtol=1e-9)


def test_the_density_of_rungs_is_the_root_of_the_variance() -> None:
    """Four times the variance per step earns twice the rungs; that minimises the sum."""
    sigma = noise_levels(81, 0.01, 10.0)
    variances = torch.where(torch.arange(80) < 40, 0.01, 0.04)
    spacing = even_levels(sigma, variances, 121, log_uniform=0.0)[1:].log().diff()
    assert float(spacing[10] / spacing[110]) == pytest.approx(2.0, rel=1e-6)


def test_rungs_go_where_the_scatter_is() -> None:
    sigma = noise_levels(41, 0.01, 10.0)
    variances = torch.full((40,), 1e-4, dtype=torch.float64)
    variances[25:32] = 1.0
    levels = even_levels(sigma, variances, 30)
    inside = ((levels >= sigma[26]) & (levels <= sigma[33])).double().mean()
    assert float(inside) > 0.6


def ladder(sigma: Tensor, z: Tensor) -> Ladder:
    model = mixture()
    return Ladder(model, sigma, measure_moments(model, sigma, z, seeded(3)))


def test_even_levels_reduce_the_scatter_of_a_mixture() -> None:
    """The pilot's placement has less total variance than the same number of log-uniform rungs."""
    z = mixture().sample(3000, seeded(4))
    sigma = noise_levels(24, 0.02, 12.0)
    uniform = ladder(sigma, z)
    pilot = uniform.step_variances(z, seeded(5))
    placed = ladder(even_levels(sigma, pilot, 24), z).step_variances(z, seeded(6))
    assert float(placed.sum()) < 0.8 * float(pilot.sum())
    assert float(placed.max()) < 0.8 * float(pilot.max())
