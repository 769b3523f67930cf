"""Moves that turn part of a molecule about a bond, and moves made of moves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.sampling.walkers import Move, Walkers, relative_temperatures
from bgdiff.targets.base import Target

__all__ = ["InTurn", "Rotor", "TorsionJump"]


@dataclass(frozen=True)
class Rotor:
    """A bond, and the atoms on its far side that turn with it."""

    bond: tuple[int, int]
    far: tuple[int, ...]
    """Atoms that move; neither of the bond's two has to be among them, for those lie on the axis."""


@dataclass(frozen=True)
class TorsionJump:
    """Turns the far side of a bond by an angle uniform on the circle; exp(-u/τ) is exactly stationary.

    Proposals are symmetric and keep volume, so Metropolis' rule needs only the energy. Most are refused, but
    those accepted take a walker to another basin in one step, where dynamics would wait for a barrier. Each
    call turns one bond, chosen at random, of every walker. Velocities stay as they are.

    Args:
        target: the density.
        rotors: bonds to choose from, at least one.
    """

    target: Target
    rotors: Sequence[Rotor]

    def __post_init__(self) -> None:
        if not self.rotors:
            raise ConfigError("torsion jumps need at least one bond to turn")

    def __call__(
        self, walkers: Walkers, generator: torch.Generator, temperature: Tensor | None = None
    ) -> Tensor:
        """Propose one turn to every walker; as :class:`~bgdiff.sampling.walkers.Move` says."""
        tau = relative_temperatures(temperature, walkers)
        draws = torch.rand(2 * len(walkers) + 1, generator=generator, dtype=torch.float64, device=tau.device)
        rotor = self.rotors[int(draws[-1] * len(self.rotors))]
        angle, uniform = 2 * math.pi * draws[: len(walkers)], draws[len(walkers) : -1]
        proposed = _turned(walkers.x, rotor, angle.to(walkers.x))
        energy, force = self.target.energy_and_force(proposed)
        log_ratio = (walkers.energy.double() - energy.double()) / tau
        accept = (uniform.log() < log_ratio) & torch.isfinite(energy)
        walkers.x[accept] = proposed[accept]
        walkers.force[accept] = force[accept].to(walkers.x.dtype)
        walkers.energy[accept] = energy[accept]
        return torch.where(torch.isfinite(energy), log_ratio.clamp(max=0).exp(), 0.0).nan_to_num(nan=0.0)


@dataclass(frozen=True)
class InTurn:
    """Several moves, at least one, made one after the other. Their acceptance is that of the first."""

    moves: Sequence[Move]

    def __call__(
        self, walkers: Walkers, generator: torch.Generator, temperature: Tensor | None = None
    ) -> Tensor:
        """Make every move once; as :class:`~bgdiff.sampling.walkers.Move` says."""
        acceptance, *_ = [move(walkers, generator, temperature) for move in self.moves]
        return acceptance


def _turned(x: Tensor, rotor: Rotor, angle: Tensor) -> Tensor:
    """Conformations ``(B, N, 3)`` with the far side turned by ``angle`` ``(B,)`` rad (Rodrigues' formula)."""
    near, pivot = x[:, rotor.bond[0]], x[:, rotor.bond[1]]
    axis = torch.nn.functional.normalize(pivot - near, dim=1)[:, None]
    arm = x[:, rotor.far] - pivot[:, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along = (arm * axis).sum(2, keepdim=True)
    result = x.clone()
    result[:, rotor.far] = (
        pivot[:, None]
        + arm * cos
        + torch.linalg.cross(axis.expand_as(arm), arm) * sin
        + axis * along * (1 - cos)
    )
    return result
