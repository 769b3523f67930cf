"""The wrapped normal density on the circle, exact to rounding at every width."""

import math

import torch
from torch import Tensor

__all__ = ["wrapped_normal_log_prob", "wrapped_normal_score"]

_TWO_PI = 2 * math.pi
# Narrower than this variance, images converge fastest; wider, the Fourier series does. At the switch
# the first neglected image is, beside the nearest, e^(-((5π)² - π²)/2v), and the first neglected harmonic
# e^(-9² v/2), where the sum of the others is never below 0.1; both are < 1e-25.
_SWITCH = 1.5
_IMAGES = 2
_HARMONICS = 8


def wrapped_normal_log_prob(delta: Tensor, variance: Tensor) -> Tensor:
    """Log density of the wrapped normal at angular displacement ``delta`` (radian).

    log Σ_n N(δ + 2πn; 0, v), equal to log (1/2π)(1 + 2 Σ_m e^(-m²v/2) cos mδ) (Mardia & Jupp 2000,
    eq. 3.5.64-66). ``variance`` broadcasts against ``delta``; an infinite one gives the uniform density.

    >>> density = wrapped_normal_log_prob(torch.zeros(1), torch.tensor([torch.inf])).exp()
    >>> round(float(density) * 2 * math.pi, 6)  # uniform on the circle
    1.0
    """
    delta = torch.remainder(delta + math.pi, _TWO_PI) - math.pi
    variance = torch.as_tensor(variance, dtype=delta.dtype, device=delta.device)
    wide = variance > _SWITCH
    if bool(wide.all()):
        return _fourier(delta, variance)
    narrow = _images(delta, torch.where(wide, _SWITCH, variance))
    if not bool(wide.any()):
        return narrow
    return torch.where(wide, _fourier(delta, torch.where(wide, variance, _SWITCH)), narrow)


def wrapped_normal_score(delta: Tensor, variance: Tensor) -> Tensor:
    """Derivative of :func:`wrapped_normal_log_prob` with respect to ``delta``; same shapes."""
    with torch.enable_grad():
        delta = delta.detach().requires_grad_(True)
        (score,) = torch.autograd.grad(wrapped_normal_log_prob(delta, variance).sum(), delta)
    return score


def _images(delta: Tensor, variance: Tensor) -> Tensor:
    n = torch.arange(-_IMAGES, _IMAGES + 1, dtype=delta.dtype, device=delta.device)
    shifted = delta[..., None] + _TWO_PI * n
    return torch.logsumexp(-0.5 * shifted**2 / variance[..., None], -1) - 0.5 * torch.log(_TWO_PI * variance)


def _fourier(delta: Tensor, variance: Tensor) -> Tensor:
    m = torch.arange(1, _HARMONICS + 1, dtype=delta.dtype, device=delta.device)
    series = (torch.exp(-0.5 * m**2 * variance[..., None]) * torch.cos(m * delta[..., None])).sum(-1)
    return torch.log1p(2 * series) - math.log(_TWO_PI)
