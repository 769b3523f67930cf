"""Langevin steps of many points, each under the model's density at a rung of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.ladder.densities import State
from bgdiff.ladder.kernels import NormalStep
from bgdiff.models.base import EnergyModel, log_density_and_score

__all__ = ["RungsDensity", "alpha", "evaluate_with_graph", "langevin_step"]


@dataclass(frozen=True)
class RungsDensity:
    """The model's densities at the noise σ ``(B,)`` of each point, for :mod:`bgdiff.ladder.moves`."""

    model: EnergyModel
    sigma: Tensor

    @property
    def name(self) -> str:
        return f"rungs from sigma = {float(self.sigma.min()):.3g} to {float(self.sigma.max()):.3g}"

    @property
    def periodic(self) -> Tensor:
        return self.model.periodic

    def evaluate(self, z: Tensor) -> State:
        value, score = log_density_and_score(self.model, z, self.sigma.to(z))
        return State(z, value.to(torch.float64), score.to(torch.float64))


def evaluate_with_graph(model: EnergyModel, z: Tensor, sigma: Tensor) -> tuple[Tensor, State]:
    """log p̃(z, σ) ``(B,)`` that is differentiable in the model's parameters, and the same points as a state.

    One evaluation serves the loss and the move that follows.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        value = model.log_density(z, sigma.to(z))
        (score,) = torch.autograd.grad(value.sum(), z, retain_graph=True)
    return value, State(z.detach(), value.detach().to(torch.float64), score.detach().to(torch.float64))


def langevin_step(state: State, length: Tensor, periodic: Tensor, generator: torch.Generator) -> Tensor:
    """The unadjusted Langevin step z' = z + ½ ℓ² ∇log p + ℓ ξ, ``(B, d)``, wrapped on periodic axes.

    Args:
        length: ℓ ``(B, d)``; ℓ² = 2h in terms of the time step h.
    """
    centre, step = _kernel(state, length, periodic)
    return step.sample(centre, generator)


def alpha(state: State, other: Tensor, length: Tensor, periodic: Tensor) -> Tensor:
    """α(x, y) = U(x) - log q(x → y) ``(B,)`` with the kernel q of :func:`langevin_step`.

    On real axes it is U(x) + ½ (y - x)·∇U(x) + ¼ h |∇U(x)|² but for terms that are symmetric in x and y
    (Carbone et al. 2023, arXiv 2305.19414, proposition 1); on periodic ones the wrapped normal takes
    the place of the normal density.

    Args:
        state: x ``(B, d)`` with its log density -U(x) and score.
        other: y ``(B, d)``.
        length: as in :func:`langevin_step`.
    """
    centre, step = _kernel(state, length, periodic)
    return -state.log_density - step.log_prob(other, centre)


def _kernel(state: State, length: Tensor, periodic: Tensor) -> tuple[Tensor, NormalStep]:
    variance = length**2
    return state.z + 0.5 * variance * state.score, NormalStep(variance, periodic)
