"""Markov moves that leave a density invariant, on real and periodic axes together.

All are Metropolised, so they are exact for any step; the step decides only how far they get. On periodic axes
they move in the covering space and wrap the result, which preserves volume, so no correction is needed.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.densities import Density, State, wrapped

__all__ = [
    "LONGEST_STEP",
    "AdaptiveMove",
    "Hamiltonian",
    "Move",
    "RandomWalk",
    "TorsionJump",
    "adapt_step",
    "apply_moves",
    "mala",
    "move_scale",
]

_LOG = logging.getLogger(__name__)

LONGEST_STEP = 3.0
"""In units of a move's scale. Where longer steps are accepted too, the density is flat: nothing is gained."""
_SHORTEST_STEP = 1e-4
_NEVER, _ALWAYS = 0.01, 0.999


class Move(Protocol):
    """Advances points by one Markov step that leaves the density invariant."""

    @property
    def name(self) -> str: ...

    @property
    def evaluations(self) -> int:
        """How often the density is evaluated per point."""
        ...

    def __call__(self, state: State, density: Density, generator: torch.Generator) -> tuple[State, Tensor]:
        """New points, and the probability ``(B,)`` with which each proposal was to be accepted."""
        ...


@runtime_checkable
class AdaptiveMove(Move, Protocol):
    """A move with a step length."""

    @property
    def step(self) -> float: ...

    @property
    def best_acceptance(self) -> float:
        """Mean acceptance near which the move is most efficient."""
        ...

    def with_step(self, step: float) -> Self: ...


@dataclass(frozen=True)
class Hamiltonian:
    """Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011) with a diagonal mass matrix.

    Args:
        scale: typical width of each axis ``(d,)``; masses are its inverse squares.
        step: leapfrog step in units of the scale.
        leapfrog_steps: evaluations per move. One makes it MALA (Roberts & Tweedie 1996).
        jitter: each trajectory's step is uniform on step · [1 - jitter, 1 + jitter]; a fixed length can be a
            whole number of periods of some vibration.
    """

    scale: Tensor
    step: float
    leapfrog_steps: int = 1
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not (self.step > 0 and self.leapfrog_steps >= 1 and 0 <= self.jitter < 1):
            raise ConfigError("HMC needs a positive step, at least one leapfrog step, and jitter in [0, 1)")

    @property
    def name(self) -> str:
        return "MALA" if self.leapfrog_steps == 1 else f"HMC with {self.leapfrog_steps} leapfrog steps"

    @property
    def evaluations(self) -> int:
        return self.leapfrog_steps

    @property
    def best_acceptance(self) -> float:
        return 0.574 if self.leapfrog_steps == 1 else 0.8

    def with_step(self, step: float) -> "Hamiltonian":
        return replace(self, step=step)

    def __call__(self, state: State, density: Density, generator: torch.Generator) -> tuple[State, Tensor]:
        start = _normal(state.z, generator)
        length = torch.full_like(state.z[:, :1], self.step)
        if self.jitter:
            length = length * (1 + self.jitter * (2 * _uniform(state.z[:, :1], generator) - 1))
        length = length * self.scale.to(state.z)
        new, momentum = state, start + 0.5 * length * state.score
        for index in range(self.leapfrog_steps):
            new = density.evaluate(wrapped(new.z + length * momentum, density.periodic))
            last = index + 1 == self.leapfrog_steps
            momentum = momentum + (0.5 if last else 1.0) * length * new.score
        kinetic = 0.5 * (start.square().sum(1) - momentum.square().sum(1))
        return _metropolis(state, new, kinetic, generator)


def mala(scale: Tensor, step: float) -> Hamiltonian:
    """The Metropolis-adjusted Langevin step z' = z + ½ (h s)² ∇log p + h s ξ, s = ``scale``, h = ``step``."""
    return Hamiltonian(scale, step)


@dataclass(frozen=True)
class RandomWalk:
    """Normal displacements, symmetric, without forces (Metropolis et al. 1953).

    Args:
        scale: typical width of each axis ``(d,)``; zero keeps an axis where it is.
        step: standard deviation in units of the scale.
    """

    scale: Tensor
    step: float

    def __post_init__(self) -> None:
        if self.step <= 0:
            raise ConfigError("a random walk needs a positive step")

    @property
    def name(self) -> str:
        return "random walk"

    @property
    def evaluations(self) -> int:
        return 1

    @property
    def best_acceptance(self) -> float:
        return 0.234

    def with_step(self, step: float) -> "RandomWalk":
        return replace(self, step=step)

    def __call__(self, state: State, density: Density, generator: torch.Generator) -> tuple[State, Tensor]:
        shifted = state.z + self.step * self.scale.to(state.z) * _normal(state.z, generator)
        new = density.evaluate(wrapped(shifted, density.periodic))
        return _metropolis(state, new, torch.zeros_like(state.log_density), generator)


@dataclass(frozen=True)
class TorsionJump:
    """Turns one periodic axis, chosen at random, by one of a few large angles, either way round.

    Crosses barriers that small steps do not: a third of a turn permutes a methyl group's hydrogens, half a
    turn flips a peptide bond or a ring.

    Args:
        axes: which axes may turn, at least one; indices of periodic axes.
        angles: radian, chosen with equal probability; 0 stands for an angle uniform on the whole circle.
        width: standard deviation of a normal spread about the angle, radian.
    """

    axes: Tensor
    angles: tuple[float, ...] = (2 * math.pi / 3, math.pi, 0.0)
    width: float = 0.1

    def __post_init__(self) -> None:
        if len(self.axes) == 0 or not self.angles or self.width < 0:
            raise ConfigError("torsion jumps need at least one axis and one angle, and a width of 0 or more")

    @property
    def name(self) -> str:
        return "torsion jump"

    @property
    def evaluations(self) -> int:
        return 1

    def __call__(self, state: State, density: Density, generator: torch.Generator) -> tuple[State, Tensor]:
        column = state.z[:, 0]
        axis = self.axes.to(column.device)[_choice(column, len(self.axes), generator)]
        which = _choice(column, len(self.angles), generator)
        angle = torch.tensor(self.angles, dtype=column.dtype, device=column.device)[which]
        sign = 2.0 * _choice(column, 2, generator) - 1
        circle = 2 * math.pi * _uniform(column, generator)
        # each of these displacements is as likely as its opposite, so the proposal is symmetric
        turn = torch.where(angle == 0, circle, sign * angle + self.width * _normal(column, generator))
        shifted = state.z.scatter_add(1, axis[:, None], turn[:, None])
        new = density.evaluate(wrapped(shifted, density.periodic))
        return _metropolis(state, new, torch.zeros_like(state.log_density), generator)


def apply_moves(
    moves: Sequence[Move], state: State, density: Density, generator: torch.Generator
) -> tuple[State, list[float]]:
    """Apply moves one after the other; also returns the mean acceptance of each."""
    rates = []
    for move in moves:
        state, probability = move(state, density, generator)
        rates.append(float(probability.mean()))
    return state, rates


def adapt_step(
    move: AdaptiveMove,
    state: State,
    density: Density,
    generator: torch.Generator,
    rounds: int = 20,
) -> tuple[AdaptiveMove, State]:
    """Run a pilot that adjusts the step to the move's best acceptance; return the move with its step frozen.

    While it adapts, the chain has no exact invariant density, so nothing it visits may enter an estimate.

    Args:
        rounds: moves of all points; the log step is averaged over the second half (Robbins-Monro with Polyak
            averaging).

    Raises:
        CorrectionError: no step is ever accepted: the density, or its gradient, is not what it seems.
    """
    wanted, log_step, kept, rate = move.best_acceptance, math.log(move.step), [], 0.0
    low, high = math.log(_SHORTEST_STEP), math.log(LONGEST_STEP)
    for index in range(rounds):
        move = move.with_step(math.exp(log_step))
        state, probability = move(state, density, generator)
        rate = float(probability.mean())
        change = (rate - wanted) / (wanted * (1 - wanted))
        log_step = min(high, max(low, log_step + max(-1.0, min(1.0, change)) / math.sqrt(1 + index / 4)))
        if index >= rounds // 2:
            kept.append(log_step)
    if rate < _NEVER:
        raise CorrectionError(
            f"{density.name}: {move.name} is accepted in {100 * rate:.1f} % of cases even with step "
            f"{move.step:.2g}; the energy is not smooth there or not finite, or its gradient is wrong: check "
            "the model's training at this noise level, or leave this move out"
        )
    if rate > _ALWAYS:
        _LOG.warning(
            "%s: %s is always accepted even with the longest step; the density is flat there and the move "
            "does little that fresh noise would not do",
            density.name,
            move.name,
        )
    return move.with_step(math.exp(sum(kept) / len(kept))), state


def move_scale(moment: Tensor, sigma: float, periodic: Tensor) -> Tensor:
    """Width ``(d,)`` of each axis as moves need it: E[s²]^(-1/2), and no more than the density's own width.

    E[s²] is the mean stiffness -∂²log p; for a normal axis its inverse is the variance.
    """
    widest = torch.where(periodic, math.pi, math.sqrt(1 + sigma**2)).to(moment)
    return torch.minimum(moment.clamp_min(torch.finfo(moment.dtype).tiny).rsqrt(), widest)


def _metropolis(old: State, new: State, extra: Tensor, generator: torch.Generator) -> tuple[State, Tensor]:
    """Accept with probability min(1, exp(Δ log p + extra)); never what has no finite log density."""
    log_ratio = new.log_density - old.log_density + extra
    possible = torch.isfinite(new.log_density) & ~log_ratio.isnan()
    probability = torch.where(possible, log_ratio.clamp(max=0).exp(), 0.0)
    accept = _uniform(old.log_density, generator) < probability
    return new.where(accept, old), probability


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _choice(like: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(n, like.shape, generator=generator, device=like.device)
