"""The same questions asked of weighted samples and of chains: averages and free-energy differences."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.analysis.chains import chain_average, chain_difference
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.importance import expectation, free_energy_difference
from bgdiff.free_energy.pooling import PooledSets

__all__ = ["ChainDraws", "Estimator", "PooledSamples", "WeightedSamples"]

Mask = NDArray[np.bool_]


class Estimator(Protocol):
    """Estimates from n samples, with errors that hold for the way they were drawn."""

    def average(self, values: ArrayLike) -> Estimate:
        """The target's average of an observable, from its values ``(n,)``."""
        ...

    def difference(self, initial: Mask, final: Mask, names: tuple[str, str]) -> Estimate:
        """F_final - F_initial in kT, from masks ``(n,)`` of the samples in two basins.

        Raises:
            EmptyBasinError: a basin is empty; it is named.
        """
        ...


@dataclass(frozen=True)
class WeightedSamples:
    """Samples with log weights ``(n,)``; those of one family ``(n,)`` are not independent."""

    log_weight: NDArray[np.float64]
    family: ArrayLike | None = None

    def average(self, values: ArrayLike) -> Estimate:
        return expectation(self.log_weight, values, family=self.family)

    def difference(self, initial: Mask, final: Mask, names: tuple[str, str]) -> Estimate:
        return free_energy_difference(self.log_weight, initial, final, names=names, family=self.family)


@dataclass(frozen=True)
class PooledSamples:
    """Weighted samples of several proposals, set after set."""

    sets: PooledSets

    def average(self, values: ArrayLike) -> Estimate:
        """As above, for masks only: each region is pooled by itself."""
        return self.sets.population(values)

    def difference(self, initial: Mask, final: Mask, names: tuple[str, str]) -> Estimate:
        return self.sets.difference(initial, final, names)


@dataclass(frozen=True)
class ChainDraws:
    """Unweighted draws of several Markov chains, round by round."""

    n_chains: int

    def average(self, values: ArrayLike) -> Estimate:
        return chain_average(values, self.n_chains)

    def difference(self, initial: Mask, final: Mask, names: tuple[str, str]) -> Estimate:
        return chain_difference(initial, final, self.n_chains, names=names)
