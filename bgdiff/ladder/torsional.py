"""Reverse steps whose variance on the torsions follows the torsions.

A reverse step has the variance v = D (1 + D h) that the curvature h = ∂²log p of the rung above asks for.
On real, whitened axes h varies little and its mean -E[s²] serves. On a torsion it changes sign between wells
and barriers, which makes it the largest part of what scatters path weights. It is mostly a function of the
torsions themselves, so -h_i is fitted linearly in cos mθ_j and sin mθ_j, m = 1 … 3, at every rung. Any
variance is exact; a good one costs fewer rungs.
"""

import torch
from torch import Tensor

from bgdiff.models.base import EnergyModel

__all__ = ["fit_curvature", "smooth_curvature", "torsion_features"]

_HARMONICS = 3
_RIDGE = 1e-3
_NEIGHBOURS = 5  # rungs over which coefficients are averaged; they vary slowly, their sampling errors do not


def torsion_features(z: Tensor, periodic: Tensor) -> Tensor:
    """1, cos mθ, sin mθ of the P periodic axes of z ``(B, d)``: ``(B, 1 + 6 P)``."""
    angle = z[:, periodic]
    waves = [wave(m * angle) for m in range(1, _HARMONICS + 1) for wave in (torch.cos, torch.sin)]
    return torch.cat([torch.ones_like(z[:, :1]), *waves], 1)


def fit_curvature(model: EnergyModel, z: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """What torsions add to the mean of -∂_i² log p̃ on each periodic axis i: coefficients ``(1 + 6 P, P)``.

    One Hessian-vector product with random signs estimates all P diagonal elements (Hutchinson).

    Args:
        z: points of the rung ``(n, d)``.
        sigma: its noise ``(1,)``.
    """
    periodic = model.periodic
    with torch.enable_grad():
        point = z.detach().requires_grad_(True)
        value = model.log_density(point, sigma).sum()
        (score,) = torch.autograd.grad(value, point, create_graph=True)
        bits = torch.randint(0, 2, z.shape, generator=generator, device=z.device)
        sign = (2.0 * bits - 1) * periodic
        (product,) = torch.autograd.grad((score * sign).sum(), point)
    curvature = -(product * sign)[:, periodic].to(torch.float64)
    features = torsion_features(z.to(torch.float64), periodic)
    gram = features.T @ features
    ridge = _RIDGE * len(z) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    ridge[0, 0] = 0.0
    found = torch.linalg.solve(gram + ridge, features.T @ curvature)
    found[0] -= curvature.mean(0)
    return found


def smooth_curvature(sigma: Tensor, coefficients: Tensor) -> Tensor:
    """Average coefficients ``(K, F, P)`` of rungs 1..K over their neighbours, where (1 + σ²) scales them."""
    scaled = coefficients * (1 + sigma[1:] ** 2)[:, None, None]
    size = min(_NEIGHBOURS, 2 * ((len(scaled) - 1) // 2) + 1)
    rows = scaled.flatten(1).T[:, None]
    mean = torch.nn.functional.avg_pool1d(rows, size, 1, size // 2, count_include_pad=False)
    return mean[:, 0].T.reshape(coefficients.shape).contiguous() / (1 + sigma[1:] ** 2)[:, None, None]
