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
from bgdiff.ladder.levels import even_levels, interpolate_moments
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

__all__ = ["MoveRecipe", "respaced", "tuned_plan"]

_FIRST_ROUNDS = 40


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
    moments = interpolate_moments(sigma, ladder.sigma, ladder.moments)
    return Ladder(ladder.model, sigma, moments), measured


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
    """A plan with moves whose steps a pilot population has adapted, then frozen.

    Steps are adapted at ``knots`` rungs along the ladder and interpolated between them on log scales:
    relative to the width of its rung, a step varies slowly.

    Args:
        recipes: the moves of one rung, in order.
        n: particles of the pilot.
        every: make moves at every so many rungs, counted from rung 1.
        rounds: of adaptation at each knot.

    Raises:
        CorrectionError: a move is never accepted at some rung, or the pilot's weights collapse.
    """
    top = ladder.n_rungs
    knot_rungs = sorted(
        {round(k) for k in torch.linspace(1, top - 1, min(knots, top - 1)).tolist()}, reverse=True
    )
    plan, always = Plan(ladder, resampler=resampler), Resampler(1.0)
    steps: list[dict[int, float]] = [{} for _ in recipes]
    population = enter(plan, n, generator)
    for k in range(top - 1, 0, -1):
        weighed = step_down(plan, population, k, generator)
        density = plan.density(k)
        resample = always if k in knot_rungs else resampler
        population = settle(weighed, density, (), resample, generator)
        if k in knot_rungs:
            for recipe, found in zip(recipes, steps, strict=True):
                move = recipe.at_rung(ladder, k)
                if not isinstance(move, AdaptiveMove):
                    continue
                times = rounds if found else _FIRST_ROUNDS
                if found:
                    move = move.with_step(found[min(found)])
                tuned, state = adapt_step(move, population.state, density, generator, times)
                population = replace(population, state=state)
                found[k] = tuned.step
        progress(top - k, top - 1)
    moves: list[tuple[Move, ...]] = [()]
    for k in range(1, top):
        chosen: list[Move] = []
        if (k - 1) % every == 0:
            for recipe, found in zip(recipes, steps, strict=True):
                move = recipe.at_rung(ladder, k)
                if move is None:
                    continue
                if isinstance(move, AdaptiveMove):
                    move = move.with_step(_between(found, k))
                chosen += [move] * recipe.repeats
        moves.append(tuple(chosen))
    return Plan(ladder, tuple(moves), resampler)


def _between(steps: dict[int, float], k: int) -> float:
    """The step at rung k, log-linear between the rungs where it is known."""
    known = sorted(steps)
    above = next((i for i, rung in enumerate(known) if rung >= k), len(known) - 1)
    high, low = known[above], known[max(above - 1, 0)]
    if high == low or k >= high:
        return steps[high]
    share = (k - low) / (high - low)
    return math.exp((1 - share) * math.log(steps[low]) + share * math.log(steps[high]))
