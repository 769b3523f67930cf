"""Walkers: many conformations of one target that are advanced together."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bgdiff.errors import DataError
from bgdiff.targets.base import Target

__all__ = ["Move", "UnstableDynamicsError", "Walkers", "relative_temperatures", "thermal_speed"]


class UnstableDynamicsError(DataError):
    """A walker of a simulation without rejection left the region where its energy is finite."""


@dataclass
class Walkers:
    """State of B walkers; moves change it in place.

    Everything that decides what happens next is in these tensors and in the generator that a move is given,
    so storing ``x`` and ``velocity`` is enough to continue: energy and force follow from ``x``.
    """

    x: Tensor
    """Conformations ``(B, N, D)``; their dtype is that of the arithmetic."""
    energy: Tensor
    """Reduced energies ``(B,)`` at the target's own temperature, as the target returns them."""
    force: Tensor
    """-du/dx ``(B, N, D)``."""
    velocity: Tensor | None = None
    """``(B, N, D)``, nm/ps for molecules; None for moves that need none between calls."""

    @classmethod
    def at(cls, target: Target, x: Tensor, velocity: Tensor | None = None) -> "Walkers":
        """Walkers at copies of ``x`` with energies and forces evaluated.

        Raises:
            DataError: a conformation has a non-finite energy; no dynamics or Markov chain starts there.
        """
        x = x.clone(memory_format=torch.contiguous_format)
        energy, force = target.energy_and_force(x)
        walkers = cls(x, energy, force.to(x.dtype), None if velocity is None else velocity.clone())
        if len(bad := walkers.non_finite()):
            raise DataError(f"walker {bad[0]}: the energy of its start is not finite")
        return walkers

    def __len__(self) -> int:
        return len(self.x)

    def non_finite(self) -> list[int]:
        """Which walkers have an energy or a coordinate that is not finite."""
        finite = torch.isfinite(self.energy) & torch.isfinite(self.x).flatten(1).all(1)
        return torch.nonzero(~finite).flatten().tolist()

    def draw_velocities(
        self, speed: Tensor, generator: torch.Generator, temperature: Tensor | None = None
    ) -> None:
        """Draw Maxwell-Boltzmann velocities: ``speed`` as :func:`thermal_speed` returns it."""
        noise = torch.randn(self.x.shape, generator=generator, dtype=self.x.dtype, device=self.x.device)
        scale = speed.to(noise)
        if temperature is not None:
            scale = scale * temperature.to(noise).sqrt()[:, None, None]
        self.velocity = noise.mul_(scale)


class Move(Protocol):
    """Advances walkers in place and leaves exp(-u/τ) stationary, exactly or as its class says."""

    def __call__(
        self, walkers: Walkers, generator: torch.Generator, temperature: Tensor | None = None
    ) -> Tensor:
        """Advance every walker at its temperature.

        Args:
            walkers: their ``energy`` and ``force`` belong to their ``x``, before and after.
            generator: the only source of randomness.
            temperature: τ ``(B,)`` in units of the target's temperature; all 1 if None.

        Returns:
            Probability ``(B,)`` that the move was accepted; 1 for dynamics, which never rejects.
        """
        ...


def thermal_speed(masses: Tensor, temperature: float) -> Tensor:
    """Standard deviation √(kT/m) of each velocity component, ``(N, 1)`` nm/ps.

    Args:
        masses: ``(N,)`` in dalton.
        temperature: K.
    """
    from bgdiff.targets.openmm import GAS_CONSTANT  # kJ/(mol K), and 1 kJ/mol is 1 dalton nm²/ps²

    return (GAS_CONSTANT * temperature / masses.to(torch.float64)).sqrt()[:, None]


def relative_temperatures(temperature: Tensor | None, walkers: Walkers) -> Tensor:
    """τ ``(B,)`` float64 with None spelled out."""
    if temperature is None:
        return torch.ones(len(walkers), dtype=torch.float64, device=walkers.x.device)
    return temperature.to(walkers.x.device, torch.float64)
