"""Densities that particles live under: a rung of the model, the target, and mixtures of the two on a bridge.

A density is evaluated once at a point, value and gradient together; the result travels with the particle as
its :class:`State`, so that nothing is computed twice.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from bgdiff.models.base import EnergyModel, log_density_and_score

__all__ = [
    "BridgeDensity",
    "BridgeState",
    "Density",
    "LatentDensity",
    "RungDensity",
    "State",
    "TargetDensity",
    "wrapped",
]


@dataclass(frozen=True)
class State:
    """Points with the log density and the score they have under one density.

    Args:
        z: ``(B, d)`` float64.
        log_density: ``(B,)`` float64, up to a constant.
        score: ``(B, d)`` float64; means nothing where the log density is not finite.
    """

    z: Tensor
    log_density: Tensor
    score: Tensor

    def __len__(self) -> int:
        return len(self.z)

    def take(self, rows: Tensor) -> Self:
        """The points of some rows ``(M,)``."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def where(self, chosen: Tensor, other: Self) -> Self:
        """These points where ``chosen`` ``(B,)`` is true, the other ones elsewhere."""

        def pick(ours: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(chosen.reshape(-1, *[1] * (ours.ndim - 1)), ours, theirs)

        return replace(
            self, **{f.name: pick(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        )


class Density(Protocol):
    """An unnormalised density on real and periodic axes."""

    @property
    def name(self) -> str:
        """In words, for messages."""
        ...

    @property
    def periodic(self) -> Tensor:
        """bool ``(d,)``."""
        ...

    def evaluate(self, z: Tensor) -> State:
        """Log density and score at z ``(B, d)``."""
        ...


class LatentDensity(Protocol):
    """The target in latent coordinates: what :class:`~bgdiff.coordinates.latent.LatentTarget` is."""

    def log_density(self, z: Tensor) -> Tensor:
        """Unnormalised log density ``(B,)``, -inf where it is zero."""
        ...

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density ``(B,)`` and its gradient ``(B, d)``."""
        ...


@dataclass(frozen=True)
class RungDensity:
    """The model's density at one noise level; costs no target energy."""

    model: EnergyModel
    rung: int
    sigma: Tensor

    @property
    def name(self) -> str:
        return f"rung {self.rung} (sigma = {float(self.sigma):.3g})"

    @property
    def periodic(self) -> Tensor:
        return self.model.periodic

    def evaluate(self, z: Tensor) -> State:
        value, score = log_density_and_score(self.model, z, self.sigma.to(z).reshape(1))
        return State(z, value.to(torch.float64), score.to(torch.float64))


@dataclass(frozen=True)
class TargetDensity:
    """The target itself; one energy and force per point."""

    target: LatentDensity
    periodic: Tensor
    name: str = "rung 0 (the target)"

    def evaluate(self, z: Tensor) -> State:
        value, score = self.target.log_density_and_score(z)
        return State(z, value.to(z.device), score.to(z.device))


@dataclass(frozen=True)
class BridgeState(State):
    """Points that remember both ends of the bridge, so that they can be seen from any place on it."""

    model_log_density: Tensor
    model_score: Tensor
    target_log_density: Tensor
    target_score: Tensor


@dataclass(frozen=True)
class BridgeDensity:
    """(1-b) log p̃_θ(z, σ_1) + b log p̃(z): from the lowest rung, b = 0, to the target, b = 1.

    Each point costs one target energy and force, wherever on the bridge.
    """

    low: Density
    target: Density
    b: float

    @property
    def name(self) -> str:
        return f"bridge from {self.low.name} to the target at b = {self.b:.3g}"

    @property
    def periodic(self) -> Tensor:
        return self.low.periodic

    def evaluate(self, z: Tensor) -> BridgeState:
        return self.join(self.low.evaluate(z), self.target.evaluate(z))

    def join(self, low: State, high: State) -> BridgeState:
        """The state of points that have been evaluated at both ends."""
        ends = low.log_density, low.score, high.log_density, high.score
        return BridgeState(low.z, *self._mixed(*ends), *ends)

    def view(self, state: BridgeState) -> BridgeState:
        """The same points seen from this place on the bridge; nothing is evaluated."""
        value, score = self._mixed(
            state.model_log_density, state.model_score, state.target_log_density, state.target_score
        )
        return replace(state, log_density=value, score=score)

    def _mixed(
        self, low: Tensor, low_score: Tensor, high: Tensor, high_score: Tensor
    ) -> tuple[Tensor, Tensor]:
        # an impossible geometry has density zero for every b > 0, and 0 · inf would be nan at b = 0
        if self.b == 0:
            return low, low_score
        return (1 - self.b) * low + self.b * high, (1 - self.b) * low_score + self.b * high_score


def wrapped(z: Tensor, periodic: Tensor) -> Tensor:
    """Periodic axes brought into [-π, π)."""
    return torch.where(periodic, torch.remainder(z + math.pi, 2 * math.pi) - math.pi, z)
