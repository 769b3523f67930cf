"""Sequential Monte Carlo down the ladder (Del Moral, Doucet & Jasra, J. R. Stat. Soc. B 68, 411, 2006).

Particles take the same reverse steps as independent walks, but their weights are split rung by rung, with the
model's own rungs as intermediate densities:

    w_k = p̃_θ(z_k, σ_k) q(z_{k+1}|z_k) / (p̃_θ(z_{k+1}, σ_{k+1}) p_θ(z_k|z_{k+1})).

That makes it possible to resample on the way, and to move particles at a rung without changing their weights.
The mean of the final weights estimates Z without bias for every number of particles, wherever the
decisions to resample come from, as long as moves and rungs were chosen before. Without resampling and moves
the weights multiply to the path weights of :mod:`bgdiff.ladder.paths`.

One population is one piece of work: a pure function of the plan, N and the generator. Pooling the weighted
particles of several populations is again unbiased, so memory need not grow with the number of samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.ladder.densities import Density, RungDensity, State
from bgdiff.ladder.failures import check_energies, check_weights
from bgdiff.ladder.genealogy import Genealogy
from bgdiff.ladder.moves import Move, apply_moves
from bgdiff.ladder.paths import Ladder, Paths
from bgdiff.ladder.resampling import SCHEMES, effective_size, log_mean_weight, shares
from bgdiff.progress import Progress, silent

__all__ = [
    "Arrivals",
    "Plan",
    "Population",
    "Resampler",
    "StageRecord",
    "conditional_fraction",
    "descend",
    "enter",
    "land",
    "reweighted",
    "settle",
    "smc",
    "step_down",
]


@dataclass(frozen=True)
class Resampler:
    """When and how to resample.

    Args:
        threshold: resample when the effective fraction of the particles falls below it; 0 never, 1 always.
        scheme: a key of :data:`bgdiff.ladder.resampling.SCHEMES`.
    """

    threshold: float = 0.5
    scheme: str = "systematic"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"the resampling threshold must lie in [0, 1], not {self.threshold}")
        if self.scheme not in SCHEMES:
            raise ConfigError(
                f"unknown resampling scheme {self.scheme!r}; choose one of: {', '.join(SCHEMES)}"
            )


@dataclass(frozen=True)
class Plan:
    """Everything that decides how particles come down, fixed before the run.

    Args:
        moves: those of each rung, ``moves[k]`` for rung k; an empty or missing entry means none. Entry 0 is
            not used: the target belongs to the bridge.
    """

    ladder: Ladder
    moves: Sequence[Sequence[Move]] = ()
    resampler: Resampler = Resampler()

    def density(self, k: int) -> RungDensity:
        """Rung k ≥ 1 of the model."""
        return RungDensity(self.ladder.model, k, self.ladder.sigma[k])

    def moves_at(self, k: int) -> Sequence[Move]:
        return self.moves[k] if k < len(self.moves) else ()


@dataclass(frozen=True)
class StageRecord:
    """What happened at one rung or one place on the bridge."""

    stage: str
    effective_fraction: float
    """Kish's fraction of the weights before any resampling here."""
    conditional_fraction: float
    """The same of this stage's factor alone, under the weights so far (conditional ESS): its overlap with
    the stage before."""
    n_nonfinite: int
    """Particles whose energy is not finite; they weigh nothing."""
    resampled: bool = False
    acceptance: tuple[float, ...] = ()
    """Mean acceptance of each move."""


@dataclass(frozen=True)
class Population:
    """N weighted particles at one stage.

    Args:
        log_weight: ``(N,)`` float64; the mean of the weights estimates the stage's normaliser.
    """

    state: State
    log_weight: Tensor
    genealogy: Genealogy
    records: tuple[StageRecord, ...] = ()


@dataclass(frozen=True)
class Arrivals:
    """Particles at rung 0, as weighted walks, with their history.

    ``paths.log_ratio`` lacks the target's log density, as for independent walks.
    """

    paths: Paths
    genealogy: Genealogy
    records: tuple[StageRecord, ...]
    target_evaluations: int = 0
    """Target energies, with or without forces, that were spent on the way."""


def smc(plan: Plan, n: int, generator: torch.Generator, progress: Progress = silent) -> Arrivals:
    """One population of n particles from the prior to rung 0. No target energy is computed.

    Raises:
        CorrectionError: no particle, or one, is left, or the model's energies are not finite; says where.
    """
    low, weighed = descend(plan, n, generator, progress)
    return land(plan, low, weighed, generator)


def descend(
    plan: Plan, n: int, generator: torch.Generator, progress: Progress = silent
) -> tuple[Population, Population]:
    """Bring n particles from the prior to rung 1.

    Returns:
        The population at rung 1, and the same before rung 1's resampling and moves.

    Raises:
        CorrectionError: as :func:`smc` says.
    """
    top = plan.ladder.n_rungs
    weighed = population = enter(plan, n, generator)
    for k in range(top - 1, 0, -1):
        weighed = step_down(plan, population, k, generator)
        population = settle(weighed, plan.density(k), plan.moves_at(k), plan.resampler, generator)
        progress(top - k, top)
    return population, weighed


def enter(plan: Plan, n: int, generator: torch.Generator) -> Population:
    """n particles at the top rung, all of weight 1."""
    prior, top = plan.ladder.prior, plan.ladder.n_rungs
    z = prior.sample(n, generator)
    state = plan.density(top).evaluate(z)
    # they are drawn from the prior itself, whatever the model thinks of its top rung
    state = replace(state, log_density=prior.log_prob(z))
    return Population(state, torch.zeros_like(state.log_density), Genealogy(n))


def step_down(plan: Plan, above: Population, k: int, generator: torch.Generator) -> Population:
    """The reverse step from rung k+1 to rung k ≥ 1, with its factor of the weights."""
    z, ratio = _reverse_step(plan.ladder, above.state, k, generator)
    density = plan.density(k)
    state = density.evaluate(z)
    factor = state.log_density - above.state.log_density + ratio
    return reweighted(above, state, factor, density.name, "model")


def land(plan: Plan, low: Population, weighed: Population, generator: torch.Generator) -> Arrivals:
    """The last reverse step, from rung 1 to rung 0.

    Args:
        low, weighed: what :func:`descend` returned.
    """
    z, ratio = _reverse_step(plan.ladder, low.state, 0, generator)
    log_ratio = low.log_weight - low.state.log_density + ratio
    paths = Paths(z, log_ratio, weighed.state.z, weighed.log_weight)
    return Arrivals(paths, low.genealogy, low.records)


def reweighted(population: Population, state: State, factor: Tensor, stage: str, whose: str) -> Population:
    """Multiply the weights by a stage's factor and note what it does to them.

    Raises:
        CorrectionError: the energies of ``whose`` (model or target) are not finite, or no weight is left.
    """
    bad = check_energies(state.log_density, stage, whose)
    factor = torch.where(torch.isfinite(factor), factor, -torch.inf)
    log_weight = population.log_weight + factor
    check_weights(log_weight, stage)
    record = StageRecord(
        stage,
        effective_size(log_weight) / len(log_weight),
        conditional_fraction(population.log_weight, factor),
        bad,
    )
    return replace(population, state=state, log_weight=log_weight, records=(*population.records, record))


def conditional_fraction(log_weight: Tensor, factor: Tensor) -> float:
    """(Σ W f)²/(Σ W f²) of factors f under weights W that sum to 1, between 0 and 1 (Zhou, Johansen & Aston,
    J. Comput. Graph. Stat. 25, 701, 2016)."""
    log_share = torch.log(shares(log_weight))
    once, twice = torch.logsumexp(log_share + factor, 0), torch.logsumexp(log_share + 2 * factor, 0)
    return float((2 * once - twice).exp())


def settle(
    population: Population,
    density: Density,
    moves: Sequence[Move],
    resampler: Resampler,
    generator: torch.Generator,
) -> Population:
    """Resample if the weights ask for it, then move; the population's last record takes note."""
    record = population.records[-1]
    state, log_weight, genealogy = population.state, population.log_weight, population.genealogy
    resample = record.effective_fraction < resampler.threshold
    if resample:
        parents = SCHEMES[resampler.scheme](log_weight, generator)
        state, genealogy = state.take(parents), genealogy.then(parents, record.stage)
        log_weight = log_mean_weight(log_weight).expand_as(log_weight).clone()
    state, rates = apply_moves(moves, state, density, generator)
    record = replace(record, resampled=resample, acceptance=tuple(rates))
    return Population(state, log_weight, genealogy, (*population.records[:-1], record))


def _reverse_step(ladder: Ladder, above: State, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points at rung k, and log q(z_{k+1}|z_k) - log p_θ(z_k|z_{k+1})."""
    centre, step = above.z + ladder.step_variance(k) * above.score, ladder.down(k, above.z)
    z = step.sample(centre, generator)
    return z, ladder.up(k).log_prob(above.z, z) - step.log_prob(z, centre)
