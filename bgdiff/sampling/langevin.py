"""Langevin dynamics of many walkers with the middle scheme."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.sampling.walkers import UnstableDynamicsError, Walkers, relative_temperatures
from bgdiff.targets.base import Target

__all__ = ["LangevinMiddle", "kinetic_temperature"]


@dataclass(frozen=True)
class LangevinMiddle:
    """Langevin dynamics, leap-frog middle scheme (Zhang et al., J. Phys. Chem. A 123, 6056, 2019).

    One step, as OpenMM's ``LangevinMiddleIntegrator``::

        v ← v + h F/m,   x ← x + ½ h v,   v ← a v + √(1 - a²) √(kT/m) ξ,   x ← x + ½ h v,   a = exp(-γ h)

    Configurations of harmonic motion are sampled exactly for every stable h; otherwise the error is of order
    h², and at 1 fs without constraints below what a nanosecond can show. The noise is single precision, so
    no draw exceeds 5.8 standard deviations.

    Args:
        target: what exerts the force.
        speed: √(kT/m) ``(N, 1)`` at the target's temperature, from
            :func:`~bgdiff.sampling.walkers.thermal_speed`; ones for a density in reduced units.
        step: h in ps (or reduced time).
        friction: γ in 1/ps.
        steps: how many in one call.
    """

    target: Target
    speed: Tensor
    step: float
    friction: float
    steps: int

    def __post_init__(self) -> None:
        if not (self.step > 0 and self.friction > 0 and self.steps >= 0):
            raise ConfigError("Langevin dynamics needs a positive step and friction, and no negative steps")

    def __call__(
        self, walkers: Walkers, generator: torch.Generator, temperature: Tensor | None = None
    ) -> Tensor:
        """Advance by ``steps``; as :class:`~bgdiff.sampling.walkers.Move` says.

        Raises:
            UnstableDynamicsError: the energy of a walker is no longer finite.
        """
        if walkers.velocity is None:
            walkers.draw_velocities(self.speed, generator, temperature)
        assert walkers.velocity is not None
        tau = relative_temperatures(temperature, walkers)
        # Rows of N·D numbers: torch vectorises only over a contiguous last axis.
        x, v = walkers.x.flatten(1), walkers.velocity.flatten(1)
        speed = self.speed.to(x).expand(walkers.x.shape[1:]).reshape(1, -1)
        damping = math.exp(-self.friction * self.step)
        kick = speed * (tau[:, None] * (1 - damping**2)).sqrt().to(x)
        acceleration = self.step * speed.square()
        noise = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        random = noise if x.dtype == torch.float32 else torch.empty_like(x)
        half = self.step / 2
        for _ in range(self.steps):
            noise.normal_(generator=generator)
            torch.mul(noise, kick, out=random)
            v.addcmul_(walkers.force.reshape(x.shape), acceleration)
            x.add_(v, alpha=half * (1 + damping))  # both half steps at once: v before and a·v + ξ after
            x.add_(random, alpha=half)
            torch.add(random, v, alpha=damping, out=v)
            walkers.energy, force = self.target.energy_and_force(walkers.x)
            walkers.force = force.to(x.dtype)
        if len(bad := walkers.non_finite()):
            raise UnstableDynamicsError(
                f"the dynamics of walker {bad[0]} exploded (its energy is not finite); reduce the time step"
            )
        return torch.ones_like(tau)


def kinetic_temperature(walkers: Walkers, speed: Tensor) -> Tensor:
    """Temperature ``(B,)`` of the velocities, in units of the target's: mean of v²/(kT/m) over components."""
    assert walkers.velocity is not None
    return (walkers.velocity.double() / speed).square().mean(dim=(1, 2))
