"""Ladders whose every rung is known in closed form: the independent truth for all algorithms."""

import math

import torch
from torch import Tensor

from bgdiff.ladder.wrapped import wrapped_normal_log_prob

__all__ = ["GaussianMixtureModel", "GaussianModel"]


class GaussianModel:
    """A product of independent axes blurred with noise σ: normal axes and wrapped-normal periodic axes.

    Rung σ is N(mean, variance + σ²) on real axes and its wrapped version on periodic axes; an infinite
    variance on a periodic axis means the uniform density. Normalised at every rung.

    Args:
        mean, variance: ``(d,)``.
        periodic: bool ``(d,)``; none by default.
    """

    def __init__(self, mean: Tensor, variance: Tensor, periodic: Tensor | None = None) -> None:
        self.mean = mean.to(torch.float64)
        self.variance = variance.to(torch.float64)
        self.periodic = torch.zeros_like(self.mean, dtype=torch.bool) if periodic is None else periodic

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """log p_σ(z), ``(B,)``, normalised."""
        variance = (self.variance + sigma[:, None] ** 2).expand(z.shape)
        delta = z - self.mean
        real = ~self.periodic
        value = -0.5 * (delta**2 / variance + torch.log(2 * math.pi * variance))[:, real].sum(-1)
        if self.periodic.any():
            angle = wrapped_normal_log_prob(delta[:, self.periodic], variance[:, self.periodic])
            value = value + angle.sum(-1)
        return value

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n exact samples of rung 0, ``(n, d)``."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64)
        uniform = (2 * torch.rand(n, len(self.mean), generator=generator, dtype=torch.float64) - 1) * math.pi
        finite = torch.isfinite(self.variance)
        z = torch.where(finite, self.mean + torch.where(finite, self.variance, 0.0).sqrt() * noise, uniform)
        return torch.where(self.periodic, torch.remainder(z + math.pi, 2 * math.pi) - math.pi, z)


class GaussianMixtureModel:
    """A mixture of normals blurred with noise σ; all axes real; normalised at every rung.

    Args:
        weights: ``(m,)``, positive, summing to 1.
        means: ``(m, d)``.
        covariances: ``(m, d, d)``.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights = weights.to(torch.float64)
        self.means = means.to(torch.float64)
        self.covariances = covariances.to(torch.float64)
        self.periodic = torch.zeros(means.shape[1], dtype=torch.bool)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """log p_σ(z), ``(B,)``, normalised."""
        d = z.shape[1]
        eye = torch.eye(d, dtype=torch.float64)
        covariance = self.covariances + sigma[:, None, None, None] ** 2 * eye
        factor = torch.linalg.cholesky(covariance)
        delta = (z[:, None] - self.means)[..., None]
        whitened = torch.linalg.solve_triangular(factor, delta, upper=False)[..., 0]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_prob = -0.5 * (whitened**2).sum(-1) - log_det - 0.5 * d * math.log(2 * math.pi)
        return torch.logsumexp(self.weights.log() + log_prob, -1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n exact samples of rung 0, ``(n, d)``."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        factor = torch.linalg.cholesky(self.covariances)
        return self.means[which] + (factor[which] @ noise[..., None])[..., 0]
