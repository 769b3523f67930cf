r"""One estimate from several sets of weighted samples of the same target, each with a proposal of its own.

Every set r alone estimates the partition function of a region A without bias, Ẑ_A^r = (1/n_r) Σ_A w_i. They
are pooled region by region,

    Ẑ_A = Σ_r α_A^r Ẑ_A^r,   α_A^r ∝ (Σ_A w_i)² / Σ_A w_i²,

since a proposal that is good for one basin may hardly visit another. The shares α are near those of least
variance. As they are estimated too, the result has a bias of order 1/n, far below its error of order 1/√n,
like any self-normalised estimate. F_B - F_A = log Ẑ_A - log Ẑ_B; errors come from the delta method, the sets
being independent.

References: Douc, Guillin, Marin & Robert, Ann. Statist. 35, 420 (2007); Cornuet, Marin, Mira & Robert,
Scand. J. Statist. 39, 798 (2012).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.errors import DataError
from bgdiff.free_energy.estimate import EmptyBasinError, Estimate, ZeroWeightsError
from bgdiff.free_energy.importance import by_family

__all__ = ["PooledSets", "WeightedSet"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class WeightedSet:
    """Samples of one proposal.

    Args:
        log_weight: ``(n,)``, on the scale that all sets share (log of exp(-u)/q); not finite: weight zero.
        family: ``(n,)`` numbers of the families that are independent; by default every sample is.
    """

    log_weight: ArrayLike
    family: ArrayLike | None = None


class PooledSets:
    """Estimates from all sets together. Arrays of n values are for all samples, set after set.

    Raises:
        DataError: there is no set, or one is empty.
        ZeroWeightsError: no sample of any set carries weight.
    """

    def __init__(self, sets: Sequence[WeightedSet]) -> None:
        values = [np.asarray(one.log_weight, dtype=np.float64) for one in sets]
        if not values or any(value.ndim != 1 or value.size == 0 for value in values):
            raise DataError("pooled sets: each needs log weights of shape (n,), and there must be one")
        finite = np.concatenate(values)
        finite = finite[np.isfinite(finite)]
        if finite.size == 0:
            raise ZeroWeightsError(f"all samples of {len(values)} sets have weight zero")
        self.scale = float(finite.max())
        self.weights: list[Array] = [
            np.where(np.isfinite(value), np.exp(np.minimum(value - self.scale, 0.0)), 0.0) for value in values
        ]
        self.families = [one.family for one in sets]
        self._stops = np.cumsum([value.size for value in values])[:-1]

    @property
    def n(self) -> int:
        """Number of samples of all sets."""
        return sum(weight.size for weight in self.weights)

    def log_z(self) -> Estimate:
        """log Z of the target."""
        total, contributions, n_eff = self._region(np.ones(self.n, dtype=np.bool_), "everything")
        return Estimate(
            self.scale + float(np.log(total)), _error(contributions), self._method("log-mean weight"), n_eff
        )

    def difference(
        self, initial: ArrayLike, final: ArrayLike, names: tuple[str, str] = ("initial", "final")
    ) -> Estimate:
        """F_final - F_initial in kT.

        Args:
            initial, final: ``(n,)`` booleans, which samples lie in the basin.
            names: what the basins are called, for the error message.

        Raises:
            EmptyBasinError: no set has a sample of non-zero weight in a basin; it is named.
        """
        z_a, in_a, eff_a = self._region(initial, names[0])
        z_b, in_b, eff_b = self._region(final, names[1])
        influence = [a - b for a, b in zip(in_a, in_b, strict=True)]
        method = self._method("ratio of basin weights")
        return Estimate(float(np.log(z_a / z_b)), _error(influence), method, min(eff_a, eff_b))

    def population(self, members: ArrayLike) -> Estimate:
        """The target's probability of a region; 0 and 1 have no error bar worth the name (0)."""
        mask = np.asarray(members, dtype=np.bool_)
        shares = [bool((self._weight() * part).any()) for part in (mask, ~mask)]
        method = self._method("weighted mean")
        if not all(shares):
            return Estimate(float(shares[0]), 0.0, method, self.log_z().n_eff)
        odds = self.difference(mask, ~mask)
        value = 1 / (1 + float(np.exp(-odds.value)))
        return Estimate(value, value * (1 - value) * odds.std_error, method, odds.n_eff)

    def _weight(self) -> Array:
        return np.concatenate(self.weights)

    def _region(self, members: ArrayLike, name: str) -> tuple[float, list[Array], float]:
        """Ẑ_A, what each independent draw of each set contributes to its logarithm, and effective samples."""
        mask = np.asarray(members)
        if mask.shape != (self.n,) or mask.dtype != np.bool_:
            raise DataError(
                f"basin {name}: expected booleans of shape ({self.n},), got {mask.dtype} {mask.shape}"
            )
        inside = [
            by_family(weight * part, family)
            for weight, part, family in zip(
                self.weights, np.split(mask, self._stops), self.families, strict=True
            )
        ]
        effective = np.array([_kish(part) for part in inside])
        if not effective.any():
            raise EmptyBasinError(
                f"basin {name}: no sample of non-zero weight among {self.n}; draw more samples, or start "
                "from data that visit this basin"
            )
        shares = effective / effective.sum()
        draws = [share * part / part.size for share, part in zip(shares, inside, strict=True)]
        total = float(sum(part.sum() for part in draws))
        return total, [part / total for part in draws], float(effective.sum())

    def _method(self, name: str) -> str:
        sets = len(self.weights)
        over = " over families" if any(family is not None for family in self.families) else ""
        return f"{name}, delta-method error{over}" + (f", pooled over {sets} proposals" if sets > 1 else "")


def _kish(weight: Array) -> float:
    square = float(weight @ weight)
    return float(weight.sum() ** 2 / square) if square > 0 else 0.0


def _error(influence: Sequence[Array]) -> float:
    """Standard error of a sum of independent draws' contributions, set by set."""
    variance = 0.0
    for part in influence:
        n = part.size
        if n < 2:
            return float("inf")
        centred = part - part.mean()
        variance += n / (n - 1) * float(centred @ centred)
    return float(np.sqrt(variance))
