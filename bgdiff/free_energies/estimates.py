"""Every estimate that the samples of a run allow of a difference between regions, and of log Z."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.chains import chain_difference
from bgdiff.errors import DataError
from bgdiff.free_energies.samples import SampleSet
from bgdiff.free_energy.bootstrap import block_bootstrap, bootstrap_error
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.importance import by_family, free_energy_difference, log_z, scaled_weights
from bgdiff.free_energy.judgement import Candidate
from bgdiff.free_energy.perturbation import kish
from bgdiff.free_energy.pooling import PooledSets, WeightedSet

__all__ = [
    "POOLED",
    "Found",
    "Repeats",
    "corrected_difference",
    "corrected_log_z",
    "pooled_difference",
    "pooled_log_z",
]

Mask = NDArray[np.bool_]
Masks = tuple[Mask, Mask]

POOLED = "all rounds pooled"


@dataclass(frozen=True)
class Repeats:
    """Resamplings for the errors; none: asymptotic errors."""

    bootstrap: int = 0
    seed: int = 0


@dataclass
class Found:
    """What could be estimated of one quantity, and what could not and why."""

    candidates: list[Candidate] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, make: Callable[[], Candidate | None]) -> None:
        """Add an estimate; what the samples cannot tell is noted with its reason."""
        try:
            candidate = make()
        except DataError as problem:
            self.missing[name] = str(problem)
        else:
            if candidate is not None:
                self.candidates.append(candidate)


def corrected_difference(
    samples: SampleSet, masks: Masks, names: tuple[str, str], repeats: Repeats
) -> Candidate:
    """F_final - F_initial from weighted samples, or from draws of chains.

    The overlap is the Kish fraction of the samples in the region where it is smaller.

    Raises:
        EmptyBasinError: a region has no sample of non-zero weight.
    """
    if samples.n_chains:
        estimate = chain_difference(*masks, samples.n_chains, names=names)
    else:
        estimate = free_energy_difference(samples.log_weight, *masks, names=names, family=samples.family)
    weight, _ = scaled_weights(samples.log_weight)
    fractions = [kish(by_family(weight * mask, samples.family)) / max(int(mask.sum()), 1) for mask in masks]
    estimate = replace(estimate, overlap=None if samples.n_chains else min(fractions))

    def statistic(rows: list[NDArray[np.intp]]) -> float:
        a, b = ((weight * mask)[rows[0]].sum() for mask in masks)
        return float(np.log(a / b)) if a > 0 and b > 0 else math.nan

    return _candidate(samples, _bootstrapped(estimate, statistic, [samples], repeats))


def corrected_log_z(samples: SampleSet, repeats: Repeats) -> Candidate | None:
    """log Z from weighted samples; None for chains, which do not know it.

    The overlap is the Kish fraction.
    """
    if samples.n_chains:
        return None
    estimate = log_z(samples.log_weight, family=samples.family)
    estimate = replace(estimate, overlap=estimate.n_eff / len(samples))
    weight, scale = scaled_weights(samples.log_weight)

    def statistic(rows: list[NDArray[np.intp]]) -> float:
        return scale + float(np.log(weight[rows[0]].mean()))

    return _candidate(samples, _bootstrapped(estimate, statistic, [samples], repeats))


def pooled_difference(
    sets: Sequence[SampleSet], masks: Mapping[str, Masks], names: tuple[str, str], repeats: Repeats
) -> Candidate:
    """F_final - F_initial from the samples and the walks of all rounds before, pooled region by region."""
    initial, final = (np.concatenate([masks[one.name][end] for one in sets]) for end in (0, 1))
    estimate = _pool(sets).difference(initial, final, names)

    def statistic(rows: list[NDArray[np.intp]]) -> float:
        a, b = (
            np.concatenate([masks[one.name][end][r] for one, r in zip(sets, rows, strict=True)])
            for end in (0, 1)
        )
        try:
            return _pool(sets, rows).difference(a, b, names).value
        except DataError:
            return math.nan

    return _pooled(sets, _bootstrapped(estimate, statistic, sets, repeats))


def pooled_log_z(sets: Sequence[SampleSet], repeats: Repeats) -> Candidate:
    """log Z from the samples and the walks of all rounds before."""

    def statistic(rows: list[NDArray[np.intp]]) -> float:
        return _pool(sets, rows).log_z().value

    return _pooled(sets, _bootstrapped(_pool(sets).log_z(), statistic, sets, repeats))


def _pool(sets: Sequence[SampleSet], rows: Sequence[NDArray[np.intp]] | None = None) -> PooledSets:
    if rows is None:
        return PooledSets([WeightedSet(one.log_weight, one.family) for one in sets])
    return PooledSets([WeightedSet(one.log_weight[r]) for one, r in zip(sets, rows, strict=True)])


def _pooled(sets: Sequence[SampleSet], estimate: Estimate) -> Candidate:
    samples = {one.name: len(one) for one in sets}
    return Candidate(POOLED, replace(estimate, overlap=estimate.n_eff / sum(samples.values())), samples)


def _candidate(samples: SampleSet, estimate: Estimate) -> Candidate:
    return Candidate(samples.estimator, estimate, {samples.name: len(samples)})


def _bootstrapped(
    estimate: Estimate,
    statistic: Callable[[list[NDArray[np.intp]]], float],
    sets: Sequence[SampleSet],
    repeats: Repeats,
) -> Estimate:
    """The estimate with the error of a bootstrap over the independent units, if that was asked for."""
    if not repeats.bootstrap:
        return estimate
    units = [np.arange(len(one)) if one.unit is None else one.unit for one in sets]
    error, _ = bootstrap_error(block_bootstrap(statistic, units, repeats.bootstrap, repeats.seed), units)
    asymptotic = {"asymptotic_std_error": estimate.std_error}
    name = estimate.method.split(",")[0]
    return replace(
        estimate,
        std_error=float(error),
        method=f"{name}, bootstrap error ({repeats.bootstrap} resamplings of independent units)",
        diagnostics={**estimate.diagnostics, **asymptotic},
    )
