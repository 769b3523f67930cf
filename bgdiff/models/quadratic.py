"""The learned energy around a learned centre: for data in several narrow modes."""

import math

import torch
from torch import Tensor, nn

from bgdiff.models.ebm import EMBEDDING, EnergyNetwork, NetworkShape

__all__ = ["QuadraticNetwork"]


class QuadraticNetwork(EnergyNetwork):
    """A dense network whose Gaussian follows the point it is asked about.

    With y = z/√(1+σ²) on real axes, features φ as for :class:`~bgdiff.models.EnergyNetwork` and outputs c, v
    and g of one network,

        log p̃ = log N(y; a c(φ, σ), (e^v(σ) + σ²)/(1 + σ²)) - ½ n_real log(1+σ²)
                - n_periodic log 2π + a ⟨φ, g(φ, σ)⟩.

    Where modes are far narrower than the data are wide, a network that adds to one fixed Gaussian must give
    log p as the difference of two large numbers; a relative error of 10⁻⁴ in either is one of kT. Here c need
    only be near the mode's centre, as a denoiser's output is, and e^v is the modes' common variance before
    noise: what noise adds to it is known, so that v has little to learn from one level to the next. Half the
    squared distance from a network's reconstruction as an energy: Salimans & Ho, Should EBMs model the energy
    or the score?, ICLR 2021 workshop on energy-based models.

    c, v and g start at zero, and a and v are zero at σ_max: the same exact starting point and prior as there.
    """

    kind = "quadratic"

    def __init__(self, periodic: Tensor, sigma_min: float, sigma_max: float, shape: NetworkShape) -> None:
        super().__init__(periodic, sigma_min, sigma_max, shape)
        self.centre = nn.Linear(shape.width, self.n_real)
        self.width = nn.Linear(EMBEDDING, self.n_real)
        for layer in (self.centre, self.width):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        z, sigma = z.to(self.enter.weight.dtype), sigma.to(self.enter.weight.dtype)
        spread = 1 + sigma[:, None] ** 2
        features, embedding = self._features(z, spread), self._embedding(sigma)
        hidden = self._hidden(features, embedding)
        amplitude = self._amplitude(spread)
        share = 1 - spread / (1 + self.sigma_max**2)
        variance = (torch.exp(share * self.width(embedding)) + spread - 1) / spread
        off = features[:, : self.n_real] - amplitude * self.centre(hidden)
        gauss = -0.5 * (off**2 / variance + torch.log(2 * math.pi * spread * variance)).sum(-1)
        learned = (features * self.leave(hidden)).sum(-1)
        return gauss - self.n_periodic * math.log(2 * math.pi) + amplitude[:, 0] * learned
