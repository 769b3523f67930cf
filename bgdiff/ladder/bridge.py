"""The last stretch of the ladder: from the model's lowest rung to the target, with the target's own forces.

Annealed importance sampling (Neal 2001) along p_b ∝ p̃_θ(z, σ_1)^(1-b) p̃(z)^b, with resampling where the
weights ask for it. It needs one target evaluation per particle, and one more for every evaluation that a move
makes; in return the moves repair what the model has wrong where it matters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.densities import BridgeDensity, BridgeState, Density, State, TargetDensity
from bgdiff.ladder.moves import AdaptiveMove, Move, adapt_step
from bgdiff.ladder.paths import Paths
from bgdiff.ladder.smc import (
    Arrivals,
    Plan,
    Population,
    Resampler,
    conditional_fraction,
    reweighted,
    settle,
)
from bgdiff.progress import Progress, silent

__all__ = ["Bridge", "cross", "plan_bridge", "traverse"]

_MOST_STEPS, _ENOUGH_TO_JUDGE = 200, 10


@dataclass(frozen=True)
class Bridge:
    """Where the bridge is stepped on, and the moves made there.

    Args:
        places: rising b, the last one 1.
        moves: for each place.
    """

    places: tuple[float, ...] = (1.0,)
    moves: tuple[tuple[Move, ...], ...] = ((),)

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip((0.0, *self.places), self.places, strict=False))
        if not self.places or not rising or self.places[-1] != 1.0 or len(self.moves) != len(self.places):
            raise ConfigError("a bridge needs places rising from above 0 to 1, and moves for each of them")

    @property
    def evaluations(self) -> int:
        """Target evaluations per particle."""
        return 1 + sum(move.evaluations for moves in self.moves for move in moves)


def cross(
    plan: Plan,
    bridge: Bridge,
    target: TargetDensity,
    low: Population,
    weighed: Population,
    generator: torch.Generator,
    progress: Progress = silent,
) -> Arrivals:
    """Take a population from rung 1 to the target; the counterpart of :func:`bgdiff.ladder.smc.land`.

    Args:
        low, weighed: what :func:`bgdiff.ladder.smc.descend` returned.

    Raises:
        CorrectionError: the target's energies are not finite, or the weights collapse. The place is named.
    """
    population = traverse(plan.density(1), target, bridge, low, plan.resampler, generator, progress)
    arrived, log_weight = population.state, population.log_weight
    possible = torch.isfinite(log_weight)
    log_ratio = torch.where(possible, log_weight - arrived.log_density, -torch.inf)
    paths = Paths(arrived.z, log_ratio, weighed.state.z, weighed.log_weight)
    evaluations = len(log_weight) * bridge.evaluations
    return Arrivals(paths, population.genealogy, population.records, evaluations)


def traverse(
    start: Density,
    target: Density,
    bridge: Bridge,
    population: Population,
    resampler: Resampler,
    generator: torch.Generator,
    progress: Progress = silent,
) -> Population:
    """Take a population of any density along the bridge to the target.

    Args:
        population: its state is one of ``start``.

    Raises:
        CorrectionError: as for :func:`cross`.
    """
    state = BridgeDensity(start, target, 0.0).join(population.state, target.evaluate(population.state.z))
    population = Population(state, population.log_weight, population.genealogy, population.records)
    previous = 0.0
    for index, (b, moves) in enumerate(zip(bridge.places, bridge.moves, strict=True)):
        density = BridgeDensity(start, target, b)
        last = index + 1 == len(bridge.places)
        # at the end weights are kept as they are: resampling there would only add noise
        chosen = Resampler(0.0) if last else resampler
        population = settle(_step(population, density, previous), density, moves, chosen, generator)
        previous = b
        progress(index + 1, len(bridge.places))
    return population


def plan_bridge(
    rung: Density,
    target: Density,
    low: Population,
    moves: Callable[[], Sequence[Move]],
    generator: torch.Generator,
    *,
    overlap: float = 0.9,
    places: Sequence[float] = (),
    rounds: int = 20,
) -> Bridge:
    """Choose the places of a bridge and the steps of its moves with a pilot population.

    The next place is where the conditional effective fraction falls to ``overlap``. The pilot must not be
    part of the run that uses the bridge, or log Z would be biased.

    Args:
        rung: the density that the bridge starts from: rung 1, or any other.
        low: a pilot population there.
        moves: makes the moves of one place, with steps to start the adaptation from.
        overlap: conditional effective fraction of each step, in (0, 1).
        places: if given, tune the moves at these places instead of choosing them.
        rounds: of adaptation, per move and place.

    Raises:
        CorrectionError: places would have to lie closer than makes sense, or a move is never accepted.
    """
    if not 0 < overlap < 1:
        raise ConfigError(f"the overlap of two steps of a bridge must lie between 0 and 1, not {overlap}")
    state: State = BridgeDensity(rung, target, 0.0).join(low.state, target.evaluate(low.state.z))
    population = Population(state, low.log_weight, low.genealogy, low.records)
    found: list[float] = []
    chosen: list[tuple[Move, ...]] = []
    always, since = Resampler(1.0), len(low.genealogy)
    while not found or found[-1] < 1:
        b = found[-1] if found else 0.0
        found.append(places[len(found)] if places else _next_place(population, b, overlap))
        density = BridgeDensity(rung, target, found[-1])
        population = settle(_step(population, density, b), density, (), always, generator)
        _check_families(population, since, density, len(found))
        tuned = []
        for move in moves():
            if isinstance(move, AdaptiveMove):
                move, state = adapt_step(move, population.state, density, generator, rounds)
                population = replace(population, state=state)
            tuned.append(move)
        chosen.append(tuple(tuned))
    return Bridge(tuple(found), tuple(chosen))


def _check_families(population: Population, since: int, density: BridgeDensity, steps: int) -> None:
    """Refuse a bridge on which one particle's descendants replace all others, or that has no end."""
    n, families = len(population.log_weight), len(population.genealogy.ancestors(since).unique())
    if steps == _MOST_STEPS or (n >= _ENOUGH_TO_JUDGE and families == 1):
        raise CorrectionError(
            f"{density.name}: {families} of {n} particles have descendants after {steps} steps, so "
            "the target cannot be reached; it hardly overlaps with the density that the bridge starts from: "
            "train longer, or use more particles in the pilot"
        )


def _factor(population: Population) -> Tensor:
    """log p̃ - log p̃_θ, ``(N,)``: what a whole crossing would multiply the weights by."""
    state = population.state
    assert isinstance(state, BridgeState)
    factor = state.target_log_density - state.model_log_density
    return torch.where(factor.isnan(), -torch.inf, factor)


def _step(population: Population, density: BridgeDensity, before: float) -> Population:
    """Move the viewpoint to the density's place; the points stay, their weights change."""
    state = population.state
    assert isinstance(state, BridgeState)
    factor = (density.b - before) * _factor(population)
    return reweighted(population, density.view(state), factor, density.name, "target")


def _next_place(population: Population, b: float, overlap: float) -> float:
    """The largest place, up to 1, that overlaps with the present one at b as asked for."""
    factor = _factor(population)

    def overlaps(place: float) -> bool:
        return conditional_fraction(population.log_weight, (place - b) * factor) >= overlap

    if overlaps(1.0):
        return 1.0
    low, high = b, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if overlaps(middle) else (low, middle)
    return high
