"""Data points on their way to noise levels other than the batch's."""

import math

import torch
from torch import Tensor

from bgdiff.ladder.densities import wrapped
from bgdiff.ladder.wrapped import wrapped_normal_log_prob

__all__ = ["log_kernels", "noise_to"]

_BLOCK = 2**21


def noise_to(
    clean: Tensor, sigma: Tensor, periodic: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noised points, wrapped, and the noise before wrapping, both ``(B, d)``.

    Args:
        clean: data points ``(B, d)``, angles up to full turns.
        sigma: noise ``(B,)`` or ``(1,)``.
    """
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
    displacement = sigma.to(clean)[:, None] * noise
    return wrapped(clean + displacement, periodic), displacement


def log_kernels(z: Tensor, sigma: Tensor, clean: Tensor, periodic: Tensor) -> Tensor:
    """log q_σ(z_i | z_j), normal on real and wrapped normal on periodic axes, ``(B, m)`` float64.

    Args:
        z: ``(B, d)``.
        sigma: noise ``(B,)``, positive.
        clean: data points ``(m, d)``, angles up to full turns.
        periodic: bool ``(d,)``.
    """
    z, clean, variance = z.to(torch.float64), clean.to(torch.float64), sigma.to(torch.float64)[:, None] ** 2
    real, other = z[:, ~periodic], clean[:, ~periodic]
    # a difference of squares is off by some 10⁻¹⁶ |z|², which is nothing beside the variance
    square = (real**2).sum(1, keepdim=True) - 2 * real @ other.T + (other**2).sum(1)
    kernel = -0.5 * (square.clamp_min(0) / variance + real.shape[1] * torch.log(2 * math.pi * variance))
    if bool(periodic.any()):
        size = max(1, _BLOCK // (len(clean) * int(periodic.sum())))
        angles, sources = z[:, periodic].split(size), clean[:, periodic]
        parts = [
            wrapped_normal_log_prob(angle[:, None] - sources, part[:, None]).sum(-1)
            for angle, part in zip(angles, variance.split(size), strict=True)
        ]
        kernel = kernel + torch.cat(parts)
    return kernel
