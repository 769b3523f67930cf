"""The target seen in latent coordinates: log p(z) = -u(x(z)) + log|det dx/dz|, up to log Z."""

import torch
from torch import Tensor

from bgdiff.coordinates.base import Coordinates
from bgdiff.targets.base import Target

__all__ = ["LatentTarget"]


class LatentTarget:
    """The target's unnormalised log density in z, and its gradient, in float64."""

    def __init__(self, target: Target, coordinates: Coordinates) -> None:
        self.target = target
        self.coordinates = coordinates

    def log_density(self, z: Tensor) -> Tensor:
        """Unnormalised log density ``(B,)`` at z ``(B, d)``.

        -inf where the geometry is impossible or the energy is not finite. One target energy per row
        with a possible geometry.
        """
        return self.log_density_and_x(z)[0]

    def log_density_and_x(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`log_density`, with the conformations ``(B, N, D)`` it was evaluated at."""
        with torch.no_grad():
            x, log_det = self.coordinates.to_x(z.to(torch.float64))
            value = torch.full_like(log_det, -torch.inf)
            possible = torch.isfinite(log_det)
            if possible.any():
                energy = self.target.energy(x[possible])
                log_density = log_det[possible] - energy
                value[possible] = torch.where(torch.isfinite(log_density), log_density, -torch.inf)
            return value, x

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density ``(B,)`` and its gradient with respect to z ``(B, d)``.

        The force is mapped by a vector-Jacobian product: ∇_z log p = (dx/dz)ᵀ F + ∇_z log|det dx/dz|.
        Where the log density is -inf, the gradient means nothing and may not be finite.
        """
        z = z.detach().to(torch.float64).requires_grad_(True)
        with torch.enable_grad():
            x, log_det = self.coordinates.to_x(z)
            energy, force = self.target.energy_and_force(x.detach())
            surrogate = (x * force).sum() + torch.where(torch.isfinite(log_det), log_det, 0.0).sum()
            (score,) = torch.autograd.grad(surrogate, z)
        log_density = (log_det - energy).detach()
        return torch.where(torch.isfinite(log_density), log_density, -torch.inf), score
