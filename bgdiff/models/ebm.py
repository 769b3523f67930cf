"""The learned energy: a Gaussian that is right by construction, plus what a network adds to it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bgdiff.models.base import Network
from bgdiff.models.pairs import N_NOISE_FEATURES, noise_features

__all__ = ["EMBEDDING", "EnergyNetwork", "NetworkShape"]


@dataclass(frozen=True)
class NetworkShape:
    """Size of the network: hidden width, number of residual blocks, highest angular multiple."""

    width: int = 256
    depth: int = 4
    harmonics: int = 3


class EnergyNetwork(Network):
    """Time-dependent energy-based model on whitened and periodic axes: a dense network.

    With h = z/√(1+σ²) on real axes and cos(m z), sin(m z) on periodic ones as features φ,

        log p̃(z, σ) = log N(z_real; 0, 1+σ²) - n_periodic log 2π + a(σ) ⟨φ, net(φ, log σ)⟩.

    The last layer starts at zero, so training starts at the exact answer for Gaussian data.
    a(σ) = (1+σ²)^(-1/2) - (1+σ_max²)^(-1/2) lets the network's share fade as the noise drowns the data's
    shape and vanish at the top rung, which therefore *is* the normalised prior: it fixes the gauge of
    the learned normalisers.

    Args:
        periodic: bool ``(d,)``; the real axes come first.
        sigma_max: noise of the top rung.
    """

    kind = "dense"

    def __init__(self, periodic: Tensor, sigma_min: float, sigma_max: float, shape: NetworkShape) -> None:
        super().__init__()
        self.register_buffer("periodic", periodic.clone())
        self.shape = shape
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.n_real = int((~periodic).sum())
        self.n_periodic = int(periodic.sum())
        n_features = self.n_real + 2 * shape.harmonics * self.n_periodic
        width = shape.width
        self.embed = nn.Sequential(nn.Linear(N_NOISE_FEATURES, EMBEDDING), nn.SiLU())
        self.scale = nn.ModuleList(nn.Linear(EMBEDDING, width) for _ in range(shape.depth))
        self.shift = nn.ModuleList(nn.Linear(EMBEDDING, width) for _ in range(shape.depth))
        self.enter = nn.Linear(n_features, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(shape.depth))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(shape.depth))
        self.leave = nn.Linear(width, n_features)
        for layer in (*self.scale, *self.shift, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        z, sigma = z.to(self.enter.weight.dtype), sigma.to(self.enter.weight.dtype)
        spread = 1 + sigma[:, None] ** 2
        real = z[:, : self.n_real]
        features = self._features(z, spread)
        gauss = -0.5 * (real**2 / spread).sum(-1) - 0.5 * self.n_real * torch.log(2 * math.pi * spread[:, 0])
        learned = (features * self._network(features, sigma)).sum(-1)
        return gauss - self.n_periodic * math.log(2 * math.pi) + self._amplitude(spread[:, 0]) * learned

    def _amplitude(self, spread: Tensor) -> Tensor:
        """a(σ) of 1 + σ²."""
        return spread.rsqrt() - 1 / math.sqrt(1 + self.sigma_max**2)

    def _features(self, z: Tensor, spread: Tensor) -> Tensor:
        parts = [z[:, : self.n_real] * spread.rsqrt()]
        angle = z[:, self.n_real :]
        for multiple in range(1, self.shape.harmonics + 1):
            parts += [torch.cos(multiple * angle), torch.sin(multiple * angle)]
        return torch.cat(parts, -1)

    def _network(self, features: Tensor, sigma: Tensor) -> Tensor:
        out: Tensor = self.leave(self._hidden(features, self._embedding(sigma)))
        return out

    def _embedding(self, sigma: Tensor) -> Tensor:
        """What the blocks see of the noise, ``(B, 64)``."""
        found: Tensor = self.embed(noise_features(sigma, self.sigma_min, self.sigma_max))
        return found

    def _hidden(self, features: Tensor, embedding: Tensor) -> Tensor:
        """What the last layer sees, ``(B, width)``."""
        hidden = self.enter(features)
        for inner, outer, scale, shift in zip(self.inner, self.outer, self.scale, self.shift, strict=True):
            inside = inner(nn.functional.silu(hidden)) * (1 + scale(embedding)) + shift(embedding)
            hidden = hidden + outer(nn.functional.silu(inside))
        return nn.functional.silu(hidden)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "n_real": self.n_real,
            "n_periodic": self.n_periodic,
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "shape": asdict(self.shape),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> "EnergyNetwork":
        periodic = torch.arange(description["n_real"] + description["n_periodic"]) >= description["n_real"]
        return cls(
            periodic, description["sigma_min"], description["sigma_max"], NetworkShape(**description["shape"])
        )


EMBEDDING = 64
"""Numbers that a dense network makes of a noise level."""
