"""Data points on their way to noise levels other than the batch's."""

import torch
from torch import Tensor

from bgdiff.ladder.densities import wrapped

__all__ = ["noise_to"]


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
