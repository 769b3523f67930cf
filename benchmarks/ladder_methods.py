"""The methods of correction of a trained generator, each for so many seconds of CPU time."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.outcomes import Outcome, from_chains, from_weights, within
from bgdiff.chains import ChainPlan, ChainSampler, ExchangeChains, WalkChains
from bgdiff.correction import Corrector, run_pilot
from bgdiff.generator import BoltzmannGenerator, Proposal, join_paths
from bgdiff.ladder.paths import Paths

__all__ = ["LADDER_METHODS", "importance_sampling", "path_chains", "replica_exchange", "sequential"]

_FOREVER = 100_000  # stretches; the time runs out before


def importance_sampling(generator: BoltzmannGenerator, z: Tensor, seed: int, seconds: float) -> Outcome:
    """Independent walks down the ladder, weighted."""
    started, n = time.process_time(), generator.config.sampling.chunk
    parts = [_weigh(generator, generator.walk(index, n, seed=seed)) for index in within(seconds)]
    return _weighted("IS", generator, parts, 0, started)


def sequential(generator: BoltzmannGenerator, z: Tensor, seed: int, seconds: float) -> Outcome:
    """Sequential Monte Carlo with the moves and the bridge that the run's settings ask for."""
    started, n = time.process_time(), generator.config.sampling.chunk
    config = generator.config.correction
    pilot = run_pilot(generator, config, seed=seed)
    corrector, parts, families = Corrector(generator, config, pilot), [], []
    evaluations = pilot.target_evaluations
    for index in within(seconds - (time.process_time() - started)):
        arrivals = corrector.population(index, n, seed=seed)
        parts.append(_weigh(generator, arrivals.paths))
        families.append(arrivals.genealogy.ancestors().cpu().numpy() + index * n)
        evaluations += arrivals.target_evaluations
    return _weighted("SMC", generator, parts, evaluations, started, np.concatenate(families))


def path_chains(generator: BoltzmannGenerator, z: Tensor, seed: int, seconds: float) -> Outcome:
    """Independent Metropolis-Hastings with walks as proposals."""
    config = generator.config.correction
    plan = _endless(generator)
    sampler = WalkChains(generator, config, plan, seed, _Walks(generator, seed))
    return _chained("IMH", generator, sampler, plan, seconds)


def replica_exchange(generator: BoltzmannGenerator, z: Tensor, seed: int, seconds: float) -> Outcome:
    """Replica exchange over rungs."""
    plan = _endless(generator)

    def points(n: int) -> Tensor:
        return z[torch.linspace(0, len(z) - 1, min(n, len(z)), dtype=torch.float64).round().long()]

    sampler = ExchangeChains(generator, generator.config.correction, plan, seed, points)
    return _chained("replica exchange", generator, sampler, plan, seconds)


Method = Callable[[BoltzmannGenerator, Tensor, int, float], Outcome]

LADDER_METHODS: dict[str, Method] = {
    "is": importance_sampling,
    "smc": sequential,
    "imh": path_chains,
    "replica-exchange": replica_exchange,
}
"""By name; called with the generator, training points ``(n, d)``, a seed and the seconds."""


class _Walks:
    """Walks by their number, drawn when they are asked for, chunk by chunk."""

    def __init__(self, generator: BoltzmannGenerator, seed: int) -> None:
        self._generator, self._seed = generator, seed
        self._held: tuple[int, Paths] | None = None

    def __call__(self, start: int, stop: int) -> Paths:
        size, parts = self._generator.config.sampling.chunk, []
        for chunk in range(start // size, -(-stop // size)):
            if self._held is None or self._held[0] != chunk:
                self._held = chunk, self._generator.walk(chunk, size, seed=self._seed)
            rows = slice(max(start - chunk * size, 0), min(stop - chunk * size, size))
            parts.append(Paths(*(values[rows] for values in vars(self._held[1]).values())))
        return join_paths(parts)


def _endless(generator: BoltzmannGenerator) -> ChainPlan:
    chains = generator.config.correction.chains
    stretch = max(generator.config.sampling.chunk // chains, 1)
    return ChainPlan(chains, stretch * _FOREVER, 0, stretch)


def _chained(
    method: str, generator: BoltzmannGenerator, sampler: ChainSampler, plan: ChainPlan, seconds: float
) -> Outcome:
    """Stretch after stretch; the burn-in is left out of the draws, not of their cost."""
    started = time.process_time()
    pilot = sampler.pilot()
    evaluations, state, ends, energies = pilot.target_evaluations, None, [], []
    for index in within(seconds - (time.process_time() - started)):
        stretch = sampler.stretch(index, pilot, state)
        state = stretch.state
        evaluations += stretch.target_evaluations
        ends.append(stretch.z.cpu())
        energies.append(stretch.log_density.cpu())
    spent = time.process_time() - started
    z, energy = torch.cat(ends), torch.cat(energies)
    first = plan.chains * int(generator.config.correction.burn_in * len(z) / plan.chains)
    x = torch.cat([generator.coordinates.to_x(part)[0] for part in z[first:].split(5000)])
    return from_chains(
        method,
        generator.system,
        generator.system.observables(x),
        plan.chains,
        evaluations,
        spent,
        n_states=len(energy[first:].unique()),
    )


Part = tuple[np.ndarray, dict[str, np.ndarray]]


def _weigh(generator: BoltzmannGenerator, paths: Paths) -> Part:
    ensemble = Proposal(generator.system, generator.coordinates, paths).reweight()
    return ensemble.log_weight, ensemble.observables


def _weighted(
    method: str,
    generator: BoltzmannGenerator,
    parts: list[Part],
    evaluations: int,
    started: float,
    family: np.ndarray | None = None,
) -> Outcome:
    spent = time.process_time() - started
    log_weight = np.concatenate([weights for weights, _ in parts])
    observables = {name: np.concatenate([found[name] for _, found in parts]) for name in parts[0][1]}
    evaluations += len(log_weight)
    return from_weights(method, generator.system, log_weight, observables, evaluations, spent, family)
