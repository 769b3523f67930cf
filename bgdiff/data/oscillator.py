"""A harmonic cluster: the density with a known normaliser that others of mean-free particles start from."""

import math

import torch
from torch import Tensor

__all__ = ["MeanFreeOscillator"]


class MeanFreeOscillator:
    """u = ½ k Σ_i |x_i - x̄|²: a normal density on the mean-free subspace, a target.

    Args:
        particles, dimensions: N and D.
        stiffness: k, kT per squared length.
    """

    def __init__(self, particles: int, dimensions: int, stiffness: float) -> None:
        self.event_shape = (particles, dimensions)
        self.stiffness = float(stiffness)

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)`` of positions ``(B, N, D)``."""
        return self.energy_and_force(x)[0]

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, N, D)``."""
        centred = (x - x.mean(1, keepdim=True)).to(torch.float64)
        return 0.5 * self.stiffness * centred.square().sum((1, 2)), -self.stiffness * centred

    def log_z(self) -> float:
        """log Z = ½ (N-1) D log(2π/k), in the convention of :mod:`bgdiff.coordinates.mean_free`."""
        particles, dimensions = self.event_shape
        return 0.5 * (particles - 1) * dimensions * math.log(2 * math.pi / self.stiffness)

    def __repr__(self) -> str:
        particles, dimensions = self.event_shape
        return f"MeanFreeOscillator({particles}, {dimensions}, stiffness={self.stiffness:g})"
