"""Steps between neighbouring rungs, up (noising) and down (reverse), on real and periodic axes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.ladder.wrapped import wrapped_normal_log_prob

__all__ = ["NormalStep", "Prior", "reverse_step"]


@dataclass(frozen=True)
class NormalStep:
    """A normal displacement on the real axes, and a wrapped normal one on the periodic axes.

    The real axes come first. ``factor`` is the lower Cholesky factor ``(r, r)`` of their covariance, or
    its diagonal ``(r,)``; ``angular_variance`` is ``(p,)``.
    """

    factor: Tensor
    angular_variance: Tensor

    @property
    def n_real(self) -> int:
        return self.factor.shape[0]

    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """Draw z ``(B, d)`` around ``centre`` ``(B, d)``; angles are wrapped into [-π, π)."""
        noise = torch.randn(centre.shape, generator=generator, dtype=centre.dtype, device=centre.device)
        real, angle = noise[:, : self.n_real], noise[:, self.n_real :]
        real = real @ self.factor.T if self.factor.ndim == 2 else real * self.factor
        z = centre + torch.cat([real, angle * self.angular_variance.sqrt()], -1)
        z[:, self.n_real :] = torch.remainder(z[:, self.n_real :] + math.pi, 2 * math.pi) - math.pi
        return z

    def log_prob(self, z: Tensor, centre: Tensor) -> Tensor:
        """Log density ``(B,)`` of arriving at z from ``centre``."""
        delta = z - centre
        real, angle = delta[:, : self.n_real], delta[:, self.n_real :]
        if self.factor.ndim == 2:
            whitened = torch.linalg.solve_triangular(self.factor, real.T, upper=False).T
            log_det = self.factor.diagonal().log().sum()
        else:
            whitened = real / self.factor
            log_det = self.factor.log().sum()
        value = -0.5 * (whitened**2).sum(-1) - log_det - 0.5 * self.n_real * math.log(2 * math.pi)
        if angle.shape[1]:
            value = value + wrapped_normal_log_prob(angle, self.angular_variance).sum(-1)
        return value

    @classmethod
    def isotropic(cls, variance: float, periodic: Tensor) -> "NormalStep":
        """The noising step: variance ``variance`` on every axis of a space with ``periodic`` axes."""
        n_real = int((~periodic).sum())
        full = torch.full((len(periodic),), variance, dtype=torch.float64, device=periodic.device)
        return cls(full[:n_real].sqrt(), full[n_real:])


def reverse_step(variance: float, moment: Tensor, periodic: Tensor) -> NormalStep:
    """The reverse step of a noising step of variance D, with the best constant covariance.

    v = D (1 - D E[s sᵀ]), where s is the score at the noisier rung: the covariance that minimises the
    Kullback-Leibler divergence over all steps with mean z + D s (Analytic-DPM, Bao et al. 2022, theorem
    1, here with E[s sᵀ] measured instead of its trace). Exact for Gaussian data, whatever D.

    Args:
        moment: E[s sᵀ] ``(d, d)``, or its diagonal ``(d,)`` for a variance per axis. Periodic axes
            always use the diagonal.
    """
    n_real = int((~periodic).sum())
    diagonal = moment if moment.ndim == 1 else moment.diagonal()
    # An estimate of D E[s²] can exceed 1 by sampling error; the floor keeps the step a density.
    shrink = (1 - variance * diagonal).clamp_min(_FLOOR)
    angular = variance * shrink[n_real:]
    if moment.ndim == 1:
        return NormalStep((variance * shrink[:n_real]).sqrt(), angular)
    block = moment[:n_real, :n_real]
    values, vectors = torch.linalg.eigh(block)
    values = variance * (1 - variance * values).clamp_min(_FLOOR)
    return NormalStep(torch.linalg.cholesky((vectors * values) @ vectors.T), angular)


_FLOOR = 1e-3


@dataclass(frozen=True)
class Prior:
    """The top rung: N(0, 1 + σ²) on whitened real axes, uniform on periodic ones. Normalised."""

    sigma: float
    periodic: Tensor

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent draws ``(n, d)``, float64."""
        shape, device = (n, len(self.periodic)), self.periodic.device
        normal = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        return torch.where(self.periodic, (2 * uniform - 1) * math.pi, math.sqrt(1 + self.sigma**2) * normal)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density ``(B,)``."""
        variance = 1 + self.sigma**2
        normal = -0.5 * z**2 / variance - 0.5 * math.log(2 * math.pi * variance)
        return torch.where(self.periodic, -math.log(2 * math.pi), normal).sum(-1)
