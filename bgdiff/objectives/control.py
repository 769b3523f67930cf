"""The network that steers a diffusion from the prior to the data: a vector at every point and noise level."""

import torch
from torch import Tensor, nn

from bgdiff.models.pairs import N_NOISE_FEATURES, noise_features

__all__ = ["ControlNetwork"]


class ControlNetwork(nn.Module):
    """A time-dependent vector field u_φ(z, σ), not necessarily a gradient, on real and periodic axes.

    With h = z/√(1+σ²) on real axes and cos z, sin z on periodic ones as features φ,

        u_i(z, σ) = -z_i/(1+σ²) [real axes] + (c_i + σ²)^(-1/2) net_i(φ, log σ).

    The last layer starts at zero: training starts at the score of the normal density that whitened data have.

    Args:
        periodic: bool ``(d,)``.
        width: c ``(d,)``, variance of the data as their forces see it.
        sigma_min, sigma_max: noise of the lowest and of the top rung.
    """

    periodic: Tensor
    data_width: Tensor

    def __init__(
        self, periodic: Tensor, width: Tensor, sigma_min: float, sigma_max: float, hidden: int, depth: int
    ) -> None:
        super().__init__()
        self.register_buffer("periodic", periodic.clone())
        self.register_buffer("data_width", width.to(torch.float32).clone())
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        n_features = len(periodic) + int(periodic.sum())
        self.embed = nn.Sequential(nn.Linear(N_NOISE_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.enter = nn.Linear(n_features, hidden)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth))
        self.leave = nn.Linear(hidden, len(periodic))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """u ``(B, d)`` at z ``(B, d)``, σ ``(B,)``, in the network's precision."""
        z, sigma = z.to(self.enter.weight.dtype), sigma.to(self.enter.weight.dtype)
        spread = 1 + sigma[:, None] ** 2
        real, angle = z[:, ~self.periodic], z[:, self.periodic]
        hidden = self.enter(torch.cat([real * spread.rsqrt(), angle.cos(), angle.sin()], 1))
        noise = self.embed(noise_features(sigma, self.sigma_min, self.sigma_max))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            hidden = hidden + outer(nn.functional.silu(inner(nn.functional.silu(hidden)) + noise))
        learned: Tensor = self.leave(nn.functional.silu(hidden))
        normal = torch.where(self.periodic, 0.0, -z / spread)
        return normal + (self.data_width + sigma[:, None] ** 2).rsqrt() * learned
