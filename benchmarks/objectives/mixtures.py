"""Mixtures of equal normals whose density, score and mode weights are known at every noise level."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.random import generator_for

__all__ = ["IsotropicMixture", "gmm40", "two_modes"]


@dataclass(frozen=True)
class IsotropicMixture:
    """Σ_j w_j N(μ_j, v) with the same variance per axis in all components; noise σ adds σ² to it.

    Args:
        weight: ``(m,)``, summing to 1.
        mean: ``(m, d)``.
        variance: ``(d,)``.
    """

    weight: Tensor
    mean: Tensor
    variance: Tensor

    @property
    def dim(self) -> int:
        return self.mean.shape[1]

    def standardised(self) -> "IsotropicMixture":
        """The same in coordinates of mean 0 and variance 1 per axis."""
        mean = self.weight @ self.mean
        variance = self.variance + self.weight @ (self.mean - mean) ** 2
        return IsotropicMixture(self.weight, (self.mean - mean) / variance.sqrt(), self.variance / variance)

    def sample(self, n: int, generator: torch.Generator, component: Tensor | None = None) -> Tensor:
        """n draws ``(n, d)`` float64, of the given components ``(n,)`` if any."""
        if component is None:
            component = torch.multinomial(self.weight, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return self.mean[component] + self.variance.sqrt() * noise

    def component_log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """log w_j N(z; μ_j, v + σ²), ``(B, m)``, for z ``(B, d)`` and σ ``(B,)`` or ``(1,)``."""
        variance = self.variance + sigma.to(torch.float64)[:, None] ** 2
        scaled = z.to(torch.float64) / variance.sqrt()
        if len(sigma) == 1:
            squares = torch.cdist(scaled, self.mean / variance.sqrt()) ** 2
        else:
            squares = ((z[:, None].to(torch.float64) - self.mean) ** 2 / variance[:, None]).sum(-1)
        return self.weight.log() - 0.5 * squares - 0.5 * torch.log(2 * math.pi * variance).sum(-1)[:, None]

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """log p_σ(z) ``(B,)``, float64, normalised."""
        return torch.logsumexp(self.component_log_density(z, sigma), -1)

    def score(self, z: Tensor, sigma: Tensor) -> Tensor:
        """∇ log p_σ(z) ``(B, d)``, float64."""
        share = torch.softmax(self.component_log_density(z, sigma), -1)
        variance = self.variance + sigma.to(torch.float64)[:, None] ** 2
        return (share @ self.mean - z.to(torch.float64)) / variance

    @property
    def width(self) -> Tensor:
        """1/E[(∂_i log p)²] ``(d,)`` as components that do not overlap have it."""
        return self.variance


def gmm40(dim: int) -> IsotropicMixture:
    """40 equal components, means uniform in [-40, 40]^d, variance softplus(1), standardised.

    The benchmark of the DiffCLF paper (arXiv 2601.21025).
    """
    uniform = torch.rand(40, dim, generator=generator_for(0, "gmm40", dim), dtype=torch.float64)
    variance = torch.full((dim,), math.log1p(math.e), dtype=torch.float64)
    return IsotropicMixture(
        torch.full((40,), 1 / 40, dtype=torch.float64), 80 * uniform - 40, variance
    ).standardised()


def two_modes(dim: int, distance: float = 5.0) -> IsotropicMixture:
    """⅔ N(-a·1, 0.05) + ⅓ N(a·1, 0.05), standardised; a is ``distance``."""
    mean = torch.tensor([[-distance], [distance]], dtype=torch.float64).expand(2, dim)
    weight = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    return IsotropicMixture(weight, mean, torch.full((dim,), 0.05, dtype=torch.float64)).standardised()
