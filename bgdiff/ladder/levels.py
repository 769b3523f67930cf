"""The noise of each rung."""

import math

import torch
from torch import Tensor

from bgdiff.errors import ConfigError

__all__ = [
    "even_levels",
    "interpolate_moments",
    "noise_levels",
    "overlap_windows",
    "rung_spacing",
    "statistical_length",
]


def noise_levels(n_rungs: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Noise σ_0 = 0, σ_1 = ``sigma_min``, …, σ_K = ``sigma_max``, log-uniform from σ_1; ``(K+1,)`` float64.

    Args:
        n_rungs: K, the number of noisy rungs, at least 2.

    Raises:
        ConfigError: the arguments do not describe a rising ladder.

    >>> print(noise_levels(4, 0.01, 10.0).numpy().round(6))
    [ 0.    0.01  0.1   1.   10.  ]
    """
    if n_rungs < 2:
        raise ConfigError(f"a ladder needs at least 2 noisy rungs, not {n_rungs}")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ConfigError(f"noise must rise: 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}")
    rising = torch.linspace(math.log(sigma_min), math.log(sigma_max), n_rungs, dtype=torch.float64).exp()
    return torch.cat([torch.zeros(1, dtype=torch.float64), rising])


def even_levels(sigma: Tensor, variances: Tensor, n_rungs: int, *, log_uniform: float = 0.15) -> Tensor:
    """Noise levels between the same ends that spread the scatter of the path weight evenly, ``(K+1,)``.

    A step of length h in ln σ scatters log W by a variance g(σ) h². The sum over ``n_rungs`` steps is
    least when the density of rungs is proportional to √g.

    Args:
        sigma: the pilot's levels ``(P+1,)``.
        variances: what the pilot measured for the steps above its rung 1, ``(P-1,)``;
            see :meth:`bgdiff.ladder.paths.Ladder.step_variances`.
        log_uniform: share of the rungs that is spread evenly in ln σ all the same, since √g is a noisy
            estimate where it is small.
    """
    position = torch.log(sigma[1:].to(torch.float64))
    # √g h is the standard deviation itself; neighbours are averaged over to tame its sampling error
    spread = torch.nn.functional.avg_pool1d(
        variances.to(torch.float64).clamp_min(0).sqrt()[None, None], 5, 1, 2, count_include_pad=False
    )[0, 0]
    step = position.diff()
    total = spread.sum().clamp_min(torch.finfo(spread.dtype).tiny)  # Gaussian data: no scatter at all
    share = (1 - log_uniform) * spread / total + log_uniform * step / step.sum()
    cumulative = torch.cat([torch.zeros_like(share[:1]), share.cumsum(0)])
    wanted = torch.linspace(0, float(cumulative[-1]), n_rungs, dtype=torch.float64, device=sigma.device)
    levels = _interpolate(wanted, cumulative, position).exp()
    levels[0], levels[-1] = sigma[1], sigma[-1]
    return torch.cat([torch.zeros_like(levels[:1]), levels])


def interpolate_moments(sigma: Tensor, known_sigma: Tensor, known: Tensor) -> Tensor:
    """E[s²] on other levels, ``(K, d)``, from ``known`` ``(P, d)`` at levels 1..P of ``known_sigma``.

    (1 + σ²) E[s²] varies slowly; it is interpolated linearly in ln σ.
    """
    old, new = known_sigma[1:], sigma[1:]
    scaled = known * (1 + old**2)[:, None]
    columns = [_interpolate(torch.log(new), torch.log(old), column) for column in scaled.T]
    return torch.stack(columns, -1) / (1 + new**2)[:, None]


def statistical_length(sigma: Tensor, width: Tensor) -> Tensor:
    """Fisher-Rao length of the ladder from σ = 0 to each σ, ``(K+1,)``, for data of variances ``width``.

    A normal axis of variance c blurred to c + σ² moves by ½ √2 d ln(c + σ²); axes add in quadrature, so
    dL/d(σ²) = √(½ Σ_i (c_i + σ²)^-2). Two rungs a length L apart differ by a log density ratio whose standard
    deviation is about L. Periodic axes stop widening once they fill the circle, which is left out:
    there the length is an upper bound.

    Args:
        sigma: rising ``(K+1,)``, from 0.
        width: variances c ``(d,)``.
    """
    sigma, width = sigma.to(torch.float64), width.to(sigma.device, torch.float64)
    # The integrand is smooth in ln σ: Simpson's rule on the grid with one midpoint per interval, after a
    # first interval [0, σ_1] in σ², over which it is nearly constant.
    first = torch.stack([sigma[0], (sigma[1] ** 2 / 2).sqrt(), sigma[1]])
    pieces = [_simpson(first**2, _speed(first, width))]
    low, high = sigma[1:-1], sigma[2:]
    nodes = torch.stack([low, (low * high).sqrt(), high])
    speed = _speed(nodes.reshape(-1), width).reshape(3, -1) * 2 * nodes**2  # dL/d ln σ
    pieces.append(_simpson(torch.log(nodes), speed))
    return torch.cat(
        [torch.zeros_like(sigma[:1]), torch.cat([piece.reshape(-1) for piece in pieces]).cumsum(0)]
    )


def overlap_windows(sigma: Tensor, width: Tensor, reach: float, at_least: int) -> Tensor:
    """First and last rung within statistical length ``reach`` of each rung; int64 ``(K+1, 2)``.

    Every window holds at least ``at_least`` noisy rungs besides its own, whatever their distance.
    """
    length = statistical_length(sigma, width)
    top = len(sigma) - 1
    index = torch.arange(len(sigma), device=sigma.device)
    first = torch.searchsorted(length, length - reach)
    last = torch.searchsorted(length, length + reach, right=True) - 1
    first = torch.minimum(first, (index - at_least).clamp_min(0))
    last = torch.maximum(last, (index + at_least).clamp_max(top))
    # near an end of the ladder the other side makes up for what is missing
    first = torch.minimum(first, (top - at_least) * torch.ones_like(first))
    last = torch.maximum(last, (1 + at_least) * torch.ones_like(last))
    return torch.stack([first, last], -1)


def rung_spacing(sigma: Tensor, width: Tensor) -> Tensor:
    """Share of the ladder's statistical length that lies nearest to each rung, ``(K+1,)``; they sum to it.

    Rungs drawn with this probability are spread evenly over distinguishable densities.
    """
    step = statistical_length(sigma, width).diff()
    nothing = torch.zeros_like(step[:1])
    return 0.5 * (torch.cat([nothing, step]) + torch.cat([step, nothing]))


def _speed(sigma: Tensor, width: Tensor) -> Tensor:
    """dL/d(σ²) at each σ."""
    return (0.5 * (width + sigma[:, None] ** 2).pow(-2).sum(-1)).sqrt()


def _simpson(nodes: Tensor, values: Tensor) -> Tensor:
    """Integral over intervals of which the rows are the start, the middle and the end."""
    return (nodes[2] - nodes[0]) * (values[0] + 4 * values[1] + values[2]) / 6


def _interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Piecewise linear y(x) at new points; x rising."""
    right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    fraction = (at - x[right - 1]) / (x[right] - x[right - 1])
    return y[right - 1] + fraction.clamp(0, 1) * (y[right] - y[right - 1])
