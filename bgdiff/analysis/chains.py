"""Estimates from several Markov chains, with errors that know how long the chains remember.

Draws are unweighted and come round by round: sample number t C + c is draw t of chain c. Means are plain
means; their variance is that of one draw divided by the effective number of draws, which is found from
autocorrelations within the chains and from how far the chains are apart (Geyer, Statist. Sci. 7, 473, 1992;
Vehtari et al., Bayesian Analysis 16, 667, 2021).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.errors import DataError
from bgdiff.free_energy.estimate import EmptyBasinError, Estimate
from bgdiff.sampling.diagnostics import effective_draws, mean_error, rhat

__all__ = [
    "ChainDiagnostics",
    "ChainRecord",
    "chain_average",
    "chain_diagnostics",
    "chain_difference",
]

Array = NDArray[np.float64]

_MEAN = "mean over chains, error from autocorrelation"
_RATIO = "ratio of counts in chains, error from autocorrelation"


@dataclass(frozen=True, slots=True)
class ChainRecord:
    """What is known about chains apart from their draws.

    Attributes:
        n_chains: C.
        acceptance: mean probability of acceptance, of walks as proposals or of moves at the target.
        round_trips: points that came from the prior to the target while draws were kept.
        swap_rates: mean probability of exchange of each pair of neighbouring rungs.
    """

    n_chains: int
    acceptance: float
    round_trips: int | None = None
    swap_rates: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class ChainDiagnostics:
    """Health of the chains, judged by whichever quantity is worst.

    Attributes:
        effective_draws: independent draws that the chains are worth for the slowest quantity; no more than
            they have draws, or different states.
        slowest: which quantity that is.
        rhat: largest rank-normalised split R-hat; inf if chains stay where they are, None if nothing varies.
    """

    effective_draws: float
    slowest: str
    rhat: float | None


def chain_diagnostics(quantities: Mapping[str, ArrayLike], n_chains: int, n_states: int) -> ChainDiagnostics:
    """Judge chains by several quantities, each ``(n,)``; those that never change are left out.

    Args:
        n_states: different states among the draws: repeating one is no new draw.

    Raises:
        DataError: fewer than four draws per chain, or draws that are not finite.
    """
    worst, slowest, largest = math.inf, "number of different states", -math.inf
    for name, values in quantities.items():
        draws = _by_chain(values, n_chains)
        if draws.min() == draws.max():
            continue
        size = effective_draws(draws)
        if size < worst:
            worst, slowest = size, name
        found = rhat(draws)
        largest = max(largest, math.inf if math.isnan(found) else found)
    if n_states < worst:
        worst, slowest = float(n_states), "number of different states"
    return ChainDiagnostics(worst, slowest, largest if largest > -math.inf else None)


def chain_average(values: ArrayLike, n_chains: int) -> Estimate:
    """Average of an observable from its values ``(n,)``.

    Raises:
        DataError: a value is not finite, or chains have fewer than four draws.
    """
    draws = _by_chain(values, n_chains)
    error, size = mean_error(draws)
    return Estimate(float(draws.mean()), error, _MEAN, size)


def chain_difference(
    initial: ArrayLike, final: ArrayLike, n_chains: int, *, names: tuple[str, str] = ("initial", "final")
) -> Estimate:
    """F_final - F_initial = -log(p_final/p_initial) in kT, from booleans ``(n,)``: which draws are where.

    The error is that of the mean of the first-order change 1_final/p_final - 1_initial/p_initial, so that
    what the basins have in common cancels.

    Raises:
        EmptyBasinError: a basin was never visited; it is named.
    """
    in_a, in_b = (_by_chain(basin, n_chains) for basin in (initial, final))
    for part, name in zip((in_a, in_b), names, strict=True):
        if not part.any():
            raise EmptyBasinError(
                f"basin {name}: no chain was ever there in {part.size} draws; draw more samples, or start "
                "from data that visits this basin"
            )
    share_a, share_b = in_a.mean(), in_b.mean()
    error, _ = mean_error(in_b / share_b - in_a / share_a)
    visits = min(share * mean_error(part)[1] for part, share in ((in_a, share_a), (in_b, share_b)))
    return Estimate(float(np.log(share_a / share_b)), error, _RATIO, float(visits))


def _by_chain(values: ArrayLike, n_chains: int) -> Array:
    """Draws ``(C, T)``."""
    flat = np.asarray(values, dtype=np.float64)
    if flat.ndim != 1 or flat.size % n_chains:
        raise DataError(f"draws of shape {flat.shape} are not those of {n_chains} chains")
    return np.ascontiguousarray(flat.reshape(-1, n_chains).T)
