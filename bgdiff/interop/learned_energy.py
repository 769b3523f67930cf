"""The energy that was learned, as a potential on Cartesian coordinates."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bgdiff.coordinates import Coordinates
from bgdiff.models.base import EnergyModel, log_density_and_score

if TYPE_CHECKING:
    from bgdiff.generator import BoltzmannGenerator

__all__ = ["LearnedEnergy", "one_thread"]


class LearnedEnergy:
    """u(x) = -log p̃_θ(z(x), σ) - log|det dz/dx|: what a model has learned at one noise level, seen in x.

    Conformations x are ``(B, N, D)``, nm for molecules; energies ``(B,)`` and forces -du/dx ``(B, N, D)``
    are reduced, as those of a target, of which u is an approximation up to a constant (log Z of both). At
    the lowest rung it differs from it by what was not learned and by the blur σ_1.

    Bonds, angles and torsions are all it sees, so it does not change when x is moved or turned. It knows
    nothing of places where the data have never been; in particular it goes to -∞ where three atoms of an
    angle become collinear (as -log sin θ does), and jumps where a stiff torsion turns by half a turn.

    Everything is float64 on the CPU, the network included: forces are then the gradient of the energy to
    12 digits, which dynamics needs to conserve energy.

    Args:
        model: learned log densities; it is copied.
        coordinates: between x and the model's z.
        sigma: noise level.
    """

    def __init__(self, model: EnergyModel, coordinates: Coordinates, sigma: float) -> None:
        if isinstance(model, nn.Module):
            model = copy.deepcopy(model).to("cpu", torch.float64).requires_grad_(False)
        self.model, self.coordinates = model, coordinates
        self.sigma = torch.tensor([sigma], dtype=torch.float64)

    @classmethod
    def of(cls, generator: "BoltzmannGenerator") -> "LearnedEnergy":
        """What a generator has learned at its lowest rung."""
        ladder = generator.ladder
        return cls(ladder.model, generator.coordinates, float(ladder.sigma[1]))

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)`` of x ``(B, N, D)``."""
        with torch.no_grad():
            z, log_det = self.coordinates.to_z(x.to("cpu", torch.float64))
            return -self.model.log_density(z, self.sigma).to(torch.float64) - log_det

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, N, D)``; neither is differentiable further.

        The score is brought to x by a vector-Jacobian product:
        -∇u = (dz/dx)ᵀ ∇_z log p̃ + ∇ log|det dz/dx|.
        """
        x = x.detach().to("cpu", torch.float64).requires_grad_(True)
        with torch.enable_grad():
            z, log_det = self.coordinates.to_z(x)
            value, score = log_density_and_score(self.model, z, self.sigma)
            surrogate = (z * score.to(torch.float64)).sum() + log_det.sum()
            (force,) = torch.autograd.grad(surrogate, x)
        return -value.to(torch.float64) - log_det.detach(), force


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: for a single conformation more are slower, and OpenMM has its own."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
