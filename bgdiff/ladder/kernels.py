"""Steps between neighbouring rungs, up (noising) and down (reverse), on real and periodic axes."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bgdiff.ladder.wrapped import wrapped_normal_log_prob

__all__ = ["CorrelatedStep", "NormalStep", "Prior", "ReverseStep", "reverse_step"]


class ReverseStep(Protocol):
    """A step down, from points above that its centre and its covariance may depend on."""

    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """Draw z ``(B, d)`` around ``centre`` ``(B, d)``."""
        ...

    def log_prob(self, z: Tensor, centre: Tensor) -> Tensor:
        """Log density ``(B,)`` of arriving at z from ``centre``."""
        ...


@dataclass(frozen=True)
class NormalStep:
    """Independent normal displacements: plain on the real axes, wrapped on the periodic ones.

    Args:
        variance: ``(d,)``, or ``(B, d)`` if it depends on where a step starts; positive.
        periodic: bool ``(d,)``.
    """

    variance: Tensor
    periodic: Tensor

    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """Draw z ``(B, d)`` around ``centre`` ``(B, d)``; angles are wrapped into [-π, π)."""
        noise = torch.randn(centre.shape, generator=generator, dtype=centre.dtype, device=centre.device)
        z = centre + noise * self.variance.sqrt()
        return torch.where(self.periodic, torch.remainder(z + math.pi, 2 * math.pi) - math.pi, z)

    def log_prob(self, z: Tensor, centre: Tensor) -> Tensor:
        """Log density ``(B,)`` of arriving at z from ``centre``."""
        delta = z - centre
        variance, real = self.variance, ~self.periodic
        normal = delta[:, real] ** 2 / variance[..., real] + torch.log(2 * math.pi * variance[..., real])
        value = -0.5 * normal.sum(-1)
        if bool(self.periodic.any()):
            angle = wrapped_normal_log_prob(delta[:, self.periodic], variance[..., self.periodic])
            value = value + angle.sum(-1)
        return value

    @classmethod
    def isotropic(cls, variance: float, periodic: Tensor) -> "NormalStep":
        """The noising step: the same variance on every axis."""
        full = torch.full((len(periodic),), variance, dtype=torch.float64, device=periodic.device)
        return cls(full, periodic)


@dataclass(frozen=True)
class CorrelatedStep:
    """Normal displacements of particles that depend on each other, on mean-free latents.

    The covariance is v H (L Lᵀ) Hᵀ, with the latents' basis H acting on each dimension of space. L Lᵀ must
    keep the centroid, on which latents do not depend, as it is (eigenvalue 1); then no matrix need be
    projected: determinant and quadratic forms are those of the N particles.

    Args:
        variance: v, positive.
        factor: L, lower triangular ``(B, N D, N D)``, one for each point that a step starts from; rows are
            sorted by particles, then dimensions.
        basis: H ``(N-1, N)``, see :func:`bgdiff.coordinates.mean_free.helmert`.
    """

    variance: float
    factor: Tensor
    basis: Tensor

    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """Draw z ``(B, d)`` around ``centre`` ``(B, d)``."""
        shape = self.factor.shape[:2]
        noise = torch.randn(shape, generator=generator, dtype=centre.dtype, device=centre.device)
        moved = (self.factor.to(centre) @ noise[..., None]).reshape(len(centre), self.basis.shape[1], -1)
        return centre + math.sqrt(self.variance) * (self.basis.to(centre) @ moved).flatten(1)

    def log_prob(self, z: Tensor, centre: Tensor) -> Tensor:
        """Log density ``(B,)`` of arriving at z from ``centre``."""
        delta = (z - centre).reshape(len(z), self.basis.shape[0], -1)
        lifted = (self.basis.T.to(z) @ delta).reshape(len(z), -1, 1)
        factor = self.factor.to(z)
        standard = torch.linalg.solve_triangular(factor, lifted, upper=False)[..., 0]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * z.shape[1] * math.log(2 * math.pi * self.variance)
        return -0.5 * standard.square().sum(-1) / self.variance - log_det - constant


def reverse_step(
    variance: float, moment: Tensor, periodic: Tensor, local: Tensor | None = None
) -> NormalStep:
    """The reverse step of a noising step of variance D, with the best variance per axis.

    v_i = D (1 - D E[s_i²]), where s is the score at the noisier rung: the variance that minimises the
    Kullback-Leibler divergence over all steps with mean z + D s (Analytic-DPM, Bao et al. 2022, theorem
    1, taken axis by axis). Exact for Gaussian data with independent axes, whatever D.

    Args:
        moment: E[s_i²] ``(d,)``.
        local: estimates of E[s_i² | where a step starts] ``(B, d)``, if known; used within a factor of two of
            the variance that ``moment`` gives, as a variance that is far too small ruins weights.
    """
    # An estimate of D E[s²] can exceed 1 by sampling error; the floor keeps the step a density.
    share = (1 - variance * moment).clamp_min(_FLOOR)
    if local is not None:
        share = torch.minimum(torch.maximum(1 - variance * local, share / _FACTOR), share * _FACTOR)
    return NormalStep(variance * share, periodic)


_FLOOR, _FACTOR = 1e-3, 2.0


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
