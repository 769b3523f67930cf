"""What an energy model is, and the score that follows from it."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["EnergyModel", "log_density_and_score"]


@runtime_checkable
class EnergyModel(Protocol):
    """Unnormalised log densities of all rungs: log p̃(z, σ) = -E(z, σ), with z ``(B, d)``, σ ``(B,)``.

    ``periodic`` is bool ``(d,)``. A σ of shape ``(1,)`` stands for the whole batch.
    """

    periodic: Tensor

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Unnormalised log density ``(B,)``, differentiable in z."""
        ...


def log_density_and_score(
    model: EnergyModel, z: Tensor, sigma: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Log density ``(B,)`` and score ∇_z log p̃ ``(B, d)`` by automatic differentiation.

    With ``create_graph`` both stay differentiable in the model's parameters (for training); without it
    both are detached.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        value = model.log_density(z, sigma)
        (score,) = torch.autograd.grad(value.sum(), z, create_graph=create_graph)
    return (value, score) if create_graph else (value.detach(), score.detach())
