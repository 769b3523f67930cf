"""A learned energy of particles: invariant under rotations, reflections and exchange of equal particles."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bgdiff.coordinates.mean_free import helmert
from bgdiff.models.base import Network

__all__ = ["ParticleNetwork", "ParticleShape"]


@dataclass(frozen=True)
class ParticleShape:
    """Sizes: radial functions of a distance, where the last of them sits, width of the noise network."""

    radial: int = 24
    reach: float = 6.0
    width: int = 64


class ParticleNetwork(Network):
    """Time-dependent energy of particles on mean-free latents: a Gaussian plus learned pair potentials.

    With scaled particles y = Hᵀ z/√(1+σ²) (H: Helmert basis) and their distances r_ij,

        log p̃(z, σ) = log N(z; 0, 1+σ²) + a(σ) Σ_{i<j} Σ_b w_b(σ) exp(-½ ((r_ij - c_b)/h)²),

    with weights w of each pair of types, given by a network of log σ whose last layer starts at zero.
    a(σ) = (1+σ²)^(-1/2) - (1+σ_max²)^(-1/2) vanishes at the top rung, the normalised prior.

    Args:
        event_shape: (N, D).
        types: int64 ``(N,)``, the same number for particles that may be exchanged.
        scale: length of one unit of z, that of the coordinates.
        sigma_min, sigma_max: noise of the lowest and of the top rung.
    """

    kind = "particles"
    types: Tensor
    _differences: Tensor
    _pair_kind: Tensor
    _centres: Tensor

    def __init__(
        self,
        event_shape: tuple[int, int],
        types: Tensor,
        scale: float,
        sigma_min: float,
        sigma_max: float,
        shape: ParticleShape,
    ) -> None:
        super().__init__()
        n, dim = self.event_shape = event_shape
        self.scale, self.shape = scale, shape
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        first, second = torch.triu_indices(n, n, 1)
        self.register_buffer("types", types.clone())
        self.register_buffer("periodic", torch.zeros((n - 1) * dim, dtype=torch.bool), persistent=False)
        basis = helmert(n).T
        self.register_buffer("_differences", basis[first] - basis[second], persistent=False)
        kinds = torch.stack([types[first], types[second]], -1).sort(-1).values
        _, pair_kind = torch.unique(kinds, dim=0, return_inverse=True)
        self.register_buffer("_pair_kind", pair_kind, persistent=False)
        self.register_buffer("_centres", torch.linspace(0, shape.reach, shape.radial), persistent=False)
        self.n_pair_kinds = int(pair_kind.max()) + 1
        self.embed = nn.Sequential(
            nn.Linear(2 * _N_FREQUENCIES + 1, shape.width),
            nn.SiLU(),
            nn.Linear(shape.width, shape.width),
            nn.SiLU(),
        )
        self.weigh = nn.Linear(shape.width, self.n_pair_kinds * shape.radial)
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        dtype = self.weigh.weight.dtype
        z, sigma = z.to(dtype), sigma.to(dtype)
        n, dim = self.event_shape
        spread = 1 + sigma**2
        scaled = z * spread.rsqrt()[:, None]
        gauss = -0.5 * scaled.square().sum(-1) - 0.5 * z.shape[1] * torch.log(2 * math.pi * spread)
        apart = self._differences.to(dtype) @ scaled.reshape(-1, n - 1, dim)
        distance = (apart.square().sum(-1) + _SOFT**2).sqrt()
        spacing = self.shape.reach / (self.shape.radial - 1)
        radial = torch.exp(-0.5 * ((distance[..., None] - self._centres) / spacing) ** 2)
        weight = self._weights(sigma)[:, self._pair_kind]
        amplitude = spread.rsqrt() - 1 / math.sqrt(1 + self.sigma_max**2)
        learned: Tensor = amplitude * (radial * weight).sum((-1, -2))
        return gauss + learned

    def _weights(self, sigma: Tensor) -> Tensor:
        """w ``(B, kinds of pairs, radial functions)``."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        level = 2 * (sigma.log()[:, None] - low) / (high - low) - 1
        wave = level * torch.arange(1, _N_FREQUENCIES + 1, device=level.device) * (0.5 * math.pi)
        weights: Tensor = self.weigh(self.embed(torch.cat([level, wave.cos(), wave.sin()], -1)))
        return weights.reshape(len(sigma), self.n_pair_kinds, self.shape.radial)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "event_shape": list(self.event_shape),
            "types": self.types.tolist(),
            "scale": self.scale,
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "shape": asdict(self.shape),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> "ParticleNetwork":
        n, dim = description["event_shape"]
        return cls(
            (n, dim),
            torch.tensor(description["types"], dtype=torch.int64),
            description["scale"],
            description["sigma_min"],
            description["sigma_max"],
            ParticleShape(**description["shape"]),
        )


_N_FREQUENCIES = 8
_SOFT = 0.05  # rounds off the kink of a distance at 0
