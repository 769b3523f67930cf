"""Equilibrium samples of chosen rungs, for estimators that compare whole ensembles: MBAR, integration, BAR.

Populations of sequential Monte Carlo come down the ladder (:mod:`bgdiff.ladder.smc`). At every chosen rung
they are resampled, so that their weights are equal, and moved. What they then are is a sample of the model's
rung, whatever the reverse steps, up to a bias of order 1/N for N particles, which shrinks as neighbouring
rungs overlap. The prior's samples are exact. The particles of one population depend on each other at all
rungs: one population is one independent unit, and errors need several (20 are good).

States are numbered from the target up: 0 the target, then the chosen rungs, the prior last. The prior is
normalised, so free energies relative to it are -log Z of whatever the energies belong to.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.ladder.bridge import Bridge, cross
from bgdiff.ladder.densities import TargetDensity
from bgdiff.ladder.failures import check_weights
from bgdiff.ladder.levels import statistical_length
from bgdiff.ladder.paths import Ladder
from bgdiff.ladder.resampling import SCHEMES
from bgdiff.ladder.smc import Plan, enter, land, settle, step_down
from bgdiff.models.base import EnergyModel
from bgdiff.progress import Progress, silent

__all__ = [
    "RungSamples",
    "chosen_rungs",
    "data_width",
    "energy_matrix",
    "join_samples",
    "noise_derivatives",
    "rung_samples",
    "spaced_rungs",
    "within_reach",
]

Array = NDArray[np.float64]

_ROWS = 4096  # that the network sees at once


@dataclass(frozen=True)
class RungSamples:
    """Points of several states, sorted by state.

    Args:
        ladder: where the rungs belong.
        rungs: of the states, rising: 0 for the target, then rungs of the model, last K for the prior.
        z: ``(N, d)`` float64.
        counts: points of each state, ``(S,)`` of them; the target's may be 0.
        unit: int64 ``(N,)``, which population each point comes from.
        target_evaluations: what the target's points cost.
    """

    ladder: Ladder
    rungs: tuple[int, ...]
    z: Tensor
    counts: tuple[int, ...]
    unit: Tensor
    target_evaluations: int = 0

    @property
    def sigma(self) -> Tensor:
        """Noise of the states ``(S,)``."""
        return self.ladder.sigma[list(self.rungs)]

    def of(self, state: int) -> Tensor:
        """Points of one state ``(n, d)``."""
        return self.z[self.rows(state)]

    def rows(self, state: int) -> slice:
        """Where the points of one state are."""
        start = sum(self.counts[:state])
        return slice(start, start + self.counts[state])


def data_width(ladder: Ladder) -> Tensor:
    """Variances ``(d,)`` that normal axes would need for the scores of rung 1: 1/E[s²] - σ_1²."""
    stiffness = ladder.moments[0].clamp_min(torch.finfo(ladder.moments.dtype).tiny)
    width = 1 / stiffness - ladder.sigma[1].to(stiffness) ** 2
    return width.clamp_min(1e-3 * float(ladder.sigma[1]) ** 2)


def spaced_rungs(length: Tensor, spacing: float) -> tuple[int, ...]:
    """Rung 1, rung K and as few as possible between them that are at most ``spacing`` apart.

    Rungs that are farther from each other to begin with are all taken.

    Args:
        length: position of all rungs ``(K+1,)``, see :func:`bgdiff.ladder.levels.statistical_length`.

    Raises:
        ConfigError: ``spacing`` is not positive.
    """
    if not spacing > 0:
        raise ConfigError(f"the statistical length between rungs must be positive, not {spacing}")
    position, top = length.tolist(), len(length) - 1
    chosen = [1]
    for k in range(2, top + 1):
        if k == top or position[k + 1] - position[chosen[-1]] > spacing:
            chosen.append(k)
    return tuple(chosen)


def chosen_rungs(ladder: Ladder, spacing: float = 1.0) -> tuple[int, ...]:
    """Rungs of a ladder whose neighbours overlap well: rung 1, K, and others ``spacing`` apart."""
    return spaced_rungs(statistical_length(ladder.sigma, data_width(ladder)), spacing)


def within_reach(sigma: Tensor, width: Tensor, periodic: Tensor, reach: float | None) -> Tensor:
    """Which pairs of rungs may overlap, bool ``(K+1, K+1)``: those within a statistical length ``reach``.

    Of the real axes alone: on periodic axes the length is an upper bound only, and rungs that seem far apart
    may be the same uniform density.

    Args:
        sigma, width: as for :func:`bgdiff.ladder.levels.statistical_length`.
        reach: None: all.
    """
    if reach is None or bool(periodic.all()):
        return torch.ones(len(sigma), len(sigma), dtype=torch.bool)
    length = statistical_length(sigma, width[~periodic.to(width.device)]).cpu()
    return (length[:, None] - length).abs() <= reach


def rung_samples(
    plan: Plan,
    rungs: Sequence[int],
    n: int,
    generator: torch.Generator,
    *,
    target: TargetDensity | None = None,
    bridge: Bridge | None = None,
    unit: int = 0,
    progress: Progress = silent,
) -> RungSamples:
    """Samples of some rungs from one population of n particles.

    Args:
        plan: ladder, moves and resampler. Moves matter: without them copies made at one rung are told apart
            by noise alone.
        rungs: rising, from 1 to K; see :func:`chosen_rungs`.
        target: also sample rung 0, by the last reverse step, or over the bridge, and resampling. Without
            it the target is a state without points.
        bridge: from rung 1 to the target with the target's own forces; needs ``target``.
        unit: number of this population.

    Raises:
        ConfigError: rungs are not rising from 1 to K.
        CorrectionError: the weights collapse, or energies are not finite; the rung is named.
    """
    ladder, top = plan.ladder, plan.ladder.n_rungs
    rising = all(a < b for a, b in itertools.pairwise(rungs))
    if len(rungs) < 2 or not rising or rungs[0] != 1 or rungs[-1] != top:
        raise ConfigError(f"the rungs to sample must rise from 1 to {top}, not {list(rungs)}")
    if bridge is not None and target is None:
        raise ConfigError("a bridge leads to the target; give the target's density too")
    always = replace(plan.resampler, threshold=1.0)
    weighed = population = enter(plan, n, generator)
    kept = [population.state.z]
    for k in range(top - 1, 0, -1):
        weighed = step_down(plan, population, k, generator)
        resampler = always if k in rungs else plan.resampler
        population = settle(weighed, plan.density(k), plan.moves_at(k), resampler, generator)
        if k in rungs:
            kept.append(population.state.z)
        progress(top - k, top)
    evaluations = 0
    if target is not None:
        if bridge is None:
            arrivals = land(plan, population, weighed, generator)
            evaluations = n
        else:
            arrivals = cross(plan, bridge, target, population, weighed, generator)
            evaluations = n + arrivals.target_evaluations
        value = target.target.log_density(arrivals.paths.z).to(arrivals.paths.z.device)
        log_weight = arrivals.paths.log_ratio + value
        check_weights(log_weight, target.name)
        kept.append(arrivals.paths.z[SCHEMES[plan.resampler.scheme](log_weight, generator)])
    kept.reverse()
    counts = (*([n] if target is not None else [0]), *[n] * len(rungs))
    z = torch.cat(kept)
    label = torch.full((len(z),), unit, dtype=torch.int64, device=z.device)
    return RungSamples(ladder, (0, *rungs), z, counts, label, evaluations)


def join_samples(populations: Sequence[RungSamples]) -> RungSamples:
    """Several populations of the same rungs as one set."""
    first = populations[0]
    if any(one.rungs != first.rungs for one in populations):
        raise ConfigError("populations of different rungs cannot be joined")
    states = range(len(first.rungs))
    z = [one.of(state) for state in states for one in populations]
    unit = [one.unit[one.rows(state)] for state in states for one in populations]
    counts = tuple(sum(one.counts[state] for one in populations) for state in states)
    evaluations = sum(one.target_evaluations for one in populations)
    return RungSamples(first.ladder, first.rungs, torch.cat(z), counts, torch.cat(unit), evaluations)


def energy_matrix(
    samples: RungSamples,
    target: TargetDensity | None = None,
    *,
    reach: float | None = None,
    progress: Progress = silent,
) -> Array:
    """Energies of all points in all states ``(S, N)``, in kT and float64.

    Row 0 is -log p̃ of the target with its own normalisation (+inf for impossible geometries), the last row
    the normalised prior, and between them -log p̃_θ of the rungs. So MBAR's F_0 - F_prior is -log Z.

    Args:
        target: costs one evaluation per point; without it row 0 is left out, which needs a target without
            points.
        reach: rungs of the model farther than this statistical length from a point's own count as +inf, which
            saves time and is wrong by about e^(-reach²/4); 5 or more. None: all count.

    Raises:
        ConfigError: the target has points, but is not given.
    """
    if target is None and samples.counts[0]:
        raise ConfigError("these samples hold points of the target; give its density")
    ladder, z = samples.ladder, samples.z
    near = within_reach(ladder.sigma, data_width(ladder), ladder.model.periodic, reach)
    energy = np.full((len(samples.rungs), len(z)), np.inf)
    last = len(samples.rungs) - 1
    for state in range(1, last):
        for own in range(len(samples.rungs)):
            if samples.counts[own] and bool(near[samples.rungs[own], samples.rungs[state]]):
                rows = samples.rows(own)
                density = _log_density(ladder.model, z[rows], ladder.sigma[samples.rungs[state]])
                energy[state, rows] = -density.cpu().numpy()
        progress(state, last)
    energy[last] = -ladder.prior.log_prob(z).cpu().numpy()
    if target is None:
        return energy[1:]
    values = [target.target.log_density(part).to("cpu", torch.float64) for part in z.split(_ROWS)]
    energy[0] = -torch.cat(values).numpy()
    return np.where(np.isnan(energy), np.inf, energy)


def noise_derivatives(samples: RungSamples, state: int) -> Tensor:
    """∂u/∂ln σ = -∂ log p̃_θ(z, σ)/∂ ln σ at the points of one state of the model, ``(n,)``, by autograd.

    Its average is dF/d ln σ, F = -log Z_θ(σ): the integrand of thermodynamic integration.
    """
    level = samples.sigma[state]
    found = []
    for part in samples.of(state).split(_ROWS):
        with torch.enable_grad():
            position = level.to(part).log().expand(len(part)).clone().requires_grad_(True)
            value = samples.ladder.model.log_density(part, position.exp()).sum()
            (slope,) = torch.autograd.grad(value, position)
        found.append(-slope.to(torch.float64))
    return torch.cat(found)


def _log_density(model: EnergyModel, z: Tensor, sigma: Tensor) -> Tensor:
    with torch.no_grad():
        parts = [model.log_density(part, sigma.to(part).reshape(1)) for part in z.split(_ROWS)]
    return torch.cat(parts).to(torch.float64)
