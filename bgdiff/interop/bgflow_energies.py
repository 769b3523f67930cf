"""bgdiff's densities and coordinates as bgflow's classes. Importing this imports bgflow."""

from typing import Any

import torch
from torch import Tensor

from bgdiff.coordinates import Coordinates
from bgdiff.errors import ConfigError
from bgdiff.interop.bgflow_shims import import_bgflow
from bgdiff.models.base import EnergyModel
from bgdiff.targets.base import Target
from bgdiff.targets.differentiable import differentiable_energy

__all__ = ["CoordinatesFlow", "RungEnergy", "TargetEnergy"]

_bgflow: Any = import_bgflow()


class TargetEnergy(_bgflow.Energy):
    """The reduced energy u(x) of a bgdiff target, ``(..., 1)`` as bgflow has it.

    Energies and forces are bgdiff's own, computed for every call: there is no cache. They are computed in
    float64 and returned in the precision of x. Gradients are the analytic forces; a second derivative is a
    central difference of them.

    Args:
        target: the density.
        flat: whether events are flat ``(N·D,)``, as most of bgflow's flows yield them, or ``(N, D)``.
    """

    def __init__(self, target: Target, *, flat: bool = True) -> None:
        particles, dimensions = target.event_shape
        super().__init__([particles * dimensions] if flat else [particles, dimensions])
        self.target = target

    def _energy(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.ndim - len(self.event_shape)]
        conformations = x.reshape(-1, *self.target.event_shape).to(torch.float64)
        energy = differentiable_energy(self.target.energy_and_force, conformations)
        return energy.reshape(*batch, 1).to(x.dtype)


class RungEnergy(_bgflow.Energy):
    """-log p̃_θ(z, σ) of one rung of a trained ladder, ``(..., 1)``, over latents z ``(..., d)``.

    It is known up to a constant, as learned energies are: the learned f_k normalises it approximately.

    Args:
        model: the time-dependent energy model.
        sigma: noise of the rung, above 0.
    """

    def __init__(self, model: EnergyModel, sigma: float) -> None:
        if not sigma > 0:
            raise ConfigError(
                "the rung without noise is the target itself, not a learned energy; use target_energy"
            )
        super().__init__([len(model.periodic)])
        self.model = model
        self.sigma = float(sigma)

    def _energy(self, z: Tensor) -> Tensor:
        flat = z.reshape(-1, z.shape[-1])
        sigma = torch.full((1,), self.sigma, dtype=flat.dtype, device=flat.device)
        return -self.model.log_density(flat, sigma).reshape(*z.shape[:-1], 1).to(z.dtype)


class CoordinatesFlow(_bgflow.Flow):
    """A bgdiff coordinate map as the last layer of a bgflow flow: z → x, with log|det dx/dz| ``(B, 1)``.

    Args:
        coordinates: the map.
        shape: ``(N, D)`` of conformations.
        flat: whether conformations are flat ``(B, N·D)``, or ``(B, N, D)``.
    """

    def __init__(self, coordinates: Coordinates, shape: tuple[int, int], *, flat: bool = True) -> None:
        super().__init__()
        self.coordinates, self.shape, self.flat = coordinates, shape, flat

    def _forward(self, z: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        x, log_det = self.coordinates.to_x(z.to(torch.float64))
        return (x.flatten(1) if self.flat else x).to(z.dtype), log_det[:, None].to(z.dtype)

    def _inverse(self, x: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        z, log_det = self.coordinates.to_z(x.reshape(-1, *self.shape).to(torch.float64))
        return z.to(x.dtype), log_det[:, None].to(x.dtype)
