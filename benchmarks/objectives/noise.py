"""Noise whose lengths are balanced within each group of points.

In many dimensions a point tells its noise level by the length of its noise, and by little else. How long the
noise of a group's points happens to be is then most of what the gradient of a classification of levels
scatters by. Lengths that are drawn together, a long one for each short one, leave every single point exactly
normal, and with it what the loss is on average (antithetic, stratified variates: Owen, *Monte Carlo theory,
methods and examples*, chapter 8).
"""

import torch
from scipy.special import gammaincinv
from torch import Tensor

__all__ = ["balanced_noise", "balanced_quantiles"]


def balanced_quantiles(n_groups: int, n: int, generator: torch.Generator) -> Tensor:
    """Uniform variates ``(n_groups, n)`` float64, in every group one in each n-th of (0, 1).

    Those of the lower half are mirrored in the upper one, q and 1 - q; their order is random.
    """
    device = generator.device
    low = n // 2
    uniform = torch.rand(n_groups, n - low, generator=generator, device=device, dtype=torch.float64)
    quantile = (torch.arange(n - low, device=device) + uniform) / n
    both = torch.cat([quantile, 1 - quantile[:, :low]], -1)
    order = torch.rand(n_groups, n, generator=generator, device=device).argsort(-1)
    return both.gather(-1, order)


def balanced_noise(n_groups: int, n: int, dim: int, generator: torch.Generator) -> Tensor:
    """Standard normal noise ``(n_groups, n, dim)`` float32 whose lengths are balanced within groups.

    Each point's noise is exactly normal and its direction independent of everything else; the quantiles of
    the lengths, which are χ distributed, come from :func:`balanced_quantiles`.
    """
    direction = torch.randn(n_groups, n, dim, generator=generator, device=generator.device)
    quantile = balanced_quantiles(n_groups, n, generator)
    length = torch.from_numpy(gammaincinv(dim / 2, quantile.cpu().numpy())).mul(2).sqrt()
    return direction * (length.to(direction) / direction.norm(dim=-1))[..., None]
