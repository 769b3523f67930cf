"""Pilot runs: what a production run needs to know beforehand, measured on particles of their own.

How many rungs, how long the steps of the moves: choices that look at particles must not look at those which
end up in an estimate, or its expectation would no longer be exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.ladder.levels import even_levels
from bgdiff.ladder.moves import (
    AdaptiveMove,
    Hamiltonian,
    Move,
    RandomWalk,
    TorsionJump,
    adapt_step,
    move_scale,
)
from bgdiff.ladder.paths import Ladder
from bgdiff.ladder.smc import Plan, Resampler, descend, enter, settle, step_down
from bgdiff.progress import Progress, silent

__all__ = ["MoveRecipe", "Steps", "moves_with_steps", "respaced", "tuned_plan", "tuned_steps"]

_FIRST_ROUNDS = 40

Steps = dict[int, float]
"""Step of a move at some rungs; between them it is interpolated on log scales."""


@dataclass(frozen=True)
class MoveRecipe:
    """A kind of move, to be fitted to the width and stiffness of each rung.

    Args:
        kind: which.
        repeats: how often it is applied at a rung.
        leapfrog_steps: of ``hmc``.
    """

    kind: Literal["mala", "hmc", "random_walk", "torsion_jump"]
    repeats: int = 1
    leapfrog_steps: int = 5

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ConfigError(f"a move must be repeated at least once, not {self.repeats} times")

    def make(self, scale: Tensor, periodic: Tensor) -> Move | None:
        """The move with an untuned step; None for torsion jumps where no axis is periodic."""
        if self.kind == "torsion_jump":
            axes = torch.nonzero(periodic)[:, 0]
            return TorsionJump(axes) if len(axes) else None
        # best for MALA on independent normal axes (Roberts & Rosenthal, J. R. Stat. Soc. B 60, 255, 1998)
        start = 1.65 * len(scale) ** (-1 / 6)
        if self.kind == "random_walk":
            return RandomWalk(scale, 2.38 / math.sqrt(len(scale)))
        if self.kind == "mala":
            return Hamiltonian(scale, start)
        return Hamiltonian(scale, 0.7 * start, self.leapfrog_steps, 0.2)

    def at_rung(self, ladder: Ladder, k: int) -> Move | None:
        """The move for rung k ≥ 1 of a ladder, its step not tuned yet."""
        periodic = ladder.model.periodic
        return self.make(move_scale(ladder.moments[k - 1], float(ladder.sigma[k]), periodic), periodic)


def respaced(
    ladder: Ladder, overlap: float, n: int, generator: torch.Generator, *, most: int = 5000
) -> tuple[Ladder, list[float]]:
    """As many rungs, so placed, that every step keeps the same conditional effective fraction.

    A pilot population measures how far each step scatters the weights; a step of length h in ln σ does so by
    a variance ∝ h², and e^-variance is its conditional effective fraction.

    Args:
        overlap: conditional effective fraction of every step, in (0, 1); 0.99 and above are usual.
        n: particles of the pilot.
        most: rungs at most.

    Returns:
        The new ladder, and what the pilot measured for the steps of the old one, from rung 1 up.

    Raises:
        CorrectionError: the pilot's weights collapse; the rung is named.
    """
    if not 0 < overlap < 1:
        raise ConfigError(f"the overlap of neighbouring rungs must lie between 0 and 1, not {overlap}")
    low, _ = descend(Plan(ladder, resampler=Resampler(0.8)), n, generator)
    measured = [record.conditional_fraction for record in reversed(low.records)]
    variances = -torch.tensor(measured, dtype=torch.float64).clamp(1e-6, 1).log()
    total = float(variances.sqrt().sum())
    n_rungs = min(most, max(2, 1 + math.ceil(total / math.sqrt(-math.log(overlap)))))
    sigma = even_levels(ladder.sigma, variances.to(ladder.sigma.device), n_rungs)
    return ladder.at(sigma), measured


def tuned_steps(
    ladder: Ladder,
    recipes: Sequence[MoveRecipe],
    n: int,
    generator: torch.Generator,
    *,
    resampler: Resampler = Resampler(),  # noqa: B008  (frozen)
    knots: int = 16,
    rounds: int = 12,
    progress: Progress = silent,
) -> list[Steps]:
    """Adapt the steps of moves with a pilot population, at some rungs along the ladder.

    Args:
        recipes: the moves of one rung, in order.
        n: particles of the pilot.
        resampler: for the rungs between those where moves are tuned; at those it always resamples.
        knots: how many rungs.
        rounds: of adaptation at each of them.

    Returns:
        For each recipe the steps found; empty for moves without a step.

    Raises:
        CorrectionError: a move is never accepted at some rung, or the pilot's weights collapse.
    """
    top = ladder.n_rungs
    knot_rungs = {round(k) for k in torch.linspace(1, top - 1, min(knots, top - 1)).tolist()}
    plan, always = Plan(ladder, resampler=resampler), Resampler(1.0)
    steps: list[Steps] = [{} for _ in recipes]
    population = enter(plan, n, generator)
    for k in range(top - 1, 0, -1):
        weighed, density = step_down(plan, population, k, generator), plan.density(k)
        population = settle(weighed, density, (), always if k in knot_rungs else resampler, generator)
        if k in knot_rungs:
            for recipe, found in zip(recipes, steps, strict=True):
                move = recipe.at_rung(ladder, k)
                if not isinstance(move, AdaptiveMove):
                    continue
                if found:
                    move = move.with_step(found[min(found)])
                tuned, state = adapt_step(
                    move, population.state, density, generator, rounds if found else _FIRST_ROUNDS
                )
                population = replace(population, state=state)
                found[k] = tuned.step
        progress(top - k, top - 1)
    return steps


def moves_with_steps(
    ladder: Ladder, recipes: Sequence[MoveRecipe], steps: Sequence[Steps], every: int = 1
) -> tuple[tuple[Move, ...], ...]:
    """The moves of a :class:`~bgdiff.ladder.smc.Plan`, from rung 0 (none) up.

    Args:
        steps: what :func:`tuned_steps` returned. Relative to the width of its rung, a step varies slowly.
        every: make moves at every so many rungs, counted from rung 1.
    """
    moves: list[tuple[Move, ...]] = [()]
    for k in range(1, ladder.n_rungs):
        chosen: list[Move] = []
        if (k - 1) % every == 0:
            for recipe, found in zip(recipes, steps, strict=True):
                move = recipe.at_rung(ladder, k)
                if isinstance(move, AdaptiveMove):
                    move = move.with_step(_between(found, k))
                chosen += [] if move is None else [move] * recipe.repeats
        moves.append(tuple(chosen))
    return tuple(moves)


def tuned_plan(
    ladder: Ladder,
    recipes: Sequence[MoveRecipe],
    n: int,
    generator: torch.Generator,
    *,
    resampler: Resampler = Resampler(),  # noqa: B008  (frozen)
    every: int = 1,
    knots: int = 16,
    rounds: int = 12,
    progress: Progress = silent,
) -> Plan:
    """:func:`tuned_steps` and :func:`moves_with_steps` in one."""
    steps = tuned_steps(
        ladder, recipes, n, generator, resampler=resampler, knots=knots, rounds=rounds, progress=progress
    )
    return Plan(ladder, moves_with_steps(ladder, recipes, steps, every), resampler)


def _between(steps: Steps, k: int) -> float:
    """The step at rung k, log-linear between the rungs where it is known."""
    known = sorted(steps)
    above = next((i for i, rung in enumerate(known) if rung >= k), len(known) - 1)
    high, low = known[above], known[max(above - 1, 0)]
    if high == low or k >= high:
        return steps[high]
    share = (k - low) / (high - low)
    return math.exp((1 - share) * math.log(steps[low]) + share * math.log(steps[high]))
