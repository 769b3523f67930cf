"""What replica-exchange ladders say: weights for the lowest temperature, and whether they can be believed."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from bgdiff.errors import DataError
from bgdiff.free_energy.quiet import pymbar, quietly
from bgdiff.sampling import effective_draws, rhat

__all__ = [
    "basin_changes",
    "convergence",
    "log_ratio",
    "mbar_log_weights",
    "mixing",
    "profile",
    "start_agreement",
]

log = logging.getLogger(__name__)

_RHAT_LIMIT = 1.01

Array = NDArray[np.float64]


def mbar_log_weights(energy: Array, beta: Array) -> Array:
    """Log weights that turn all samples of a ladder into one sample of its lowest rung, by MBAR.

    All samples enter, correlated as they are: correlation spoils MBAR's own error estimate, which is not
    used here, but not its weights.

    Args:
        energy: ``(n, K)`` energies of the samples of each rung, in kT of the lowest rung.
        beta: ``(K,)`` inverse temperatures relative to the lowest rung, ``beta[0] = 1``.

    Returns:
        ``(n, K)``, normalised: their exponentials sum to 1.
    """
    flat = energy.T.ravel()  # rung by rung, as pymbar wants them
    with quietly():
        mbar = pymbar().MBAR(beta[:, None] * flat, np.full(len(beta), len(energy)))
    log_denominator = logsumexp(mbar.f_k[:, None] - beta[:, None] * flat, axis=0, b=len(energy))
    log_weight = -beta[0] * flat - log_denominator
    return np.asarray((log_weight - logsumexp(log_weight)).reshape(len(beta), len(energy)).T)


def log_ratio(log_weight: Array, initial: NDArray[np.bool_], final: NDArray[np.bool_]) -> float:
    """-ln(p_final / p_initial) under the weights.

    Raises:
        DataError: one of the basins holds no sample.
    """
    if not initial.any() or not final.any():
        raise DataError("one of the two basins was never visited; simulate longer, or raise t_max")
    return float(logsumexp(log_weight[initial]) - logsumexp(log_weight[final]))


def profile(log_weight: Sequence[Array], values: Sequence[Array], bins: int = 72) -> dict[str, Any]:
    """Free-energy profile of a torsion (rad) in kT, its minimum at 0, with errors from the spread of groups.

    Returns:
        ``edges`` in degrees; ``value`` and ``std_error`` of each bin, inf where no group has a sample and
        nan where too few have one for an error.
    """
    edges = np.linspace(-180.0, 180.0, bins + 1)
    density = np.array(
        [
            np.histogram(np.degrees(value), bins=edges, weights=np.exp(weight))[0]
            for weight, value in zip(log_weight, values, strict=True)
        ]
    )
    mean = density.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        free_energy = -np.log(mean / mean.max())
        error = density.std(axis=0, ddof=1) / np.sqrt(len(density)) / mean
    return {"edges": edges, "value": free_energy, "std_error": error}


def basin_changes(
    walker: NDArray[np.int64], initial: NDArray[np.bool_], final: NDArray[np.bool_], lasting: int
) -> int:
    """Count how often the conformations of ladders went from one basin to the other and stayed.

    Args:
        walker: ``(n, M, K)``, which conformation is at each rung of each ladder.
        initial: ``(n, M, K)``, which samples are in the first basin.
        final: the same of the second.
        lasting: samples that a conformation must stay, so that flicker at a border does not count.
    """
    changes = 0
    order = walker.argsort(axis=2)  # rung of each conformation
    state_of = np.where(final, 1, np.where(initial, 0, -1))
    by_walker = np.take_along_axis(state_of, order, axis=2)
    for state in by_walker.reshape(len(walker), -1).T:
        starts = np.flatnonzero(np.diff(state, prepend=-2))
        lengths = np.diff(starts, append=len(state))
        kept = state[starts[(lengths >= lasting) & (state[starts] >= 0)]]
        changes += int(np.count_nonzero(np.diff(kept)))
    return changes


def mixing(groups: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Any]:
    """How well ladders moved, from the records of :class:`~bgdiff.data.replica_ladders.LadderTask`.

    Returns:
        ``swap_acceptance`` of every pair of rungs, ``move_acceptance`` of every rung, and ``round_trips``
        (lowest rung - highest - lowest) in each group.
    """
    total = {
        key: np.sum([group[key].sum(axis=0) for group in groups], axis=0)
        for key in ("exchanged", "tried", "acceptance", "moves")
    }
    return {
        "swap_acceptance": total["exchanged"] / np.maximum(total["tried"], 1),
        "move_acceptance": total["acceptance"] / total["moves"],
        "round_trips": [int(group["trips"].sum()) for group in groups],
    }


def convergence(draws: Mapping[str, Array], periodic: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """R-hat and effective number of draws of some observables, by name; warns if chains disagree.

    Args:
        draws: ``(chains, n)`` of each.
        periodic: names of those that are angles (rad); judged by cosine and sine, of which the worse counts.
    """
    result = {}
    for name, values in draws.items():
        if values.shape[1] < 4:
            continue
        parts = [np.cos(values), np.sin(values)] if name in periodic else [values]
        result[name] = {
            "rhat": max(rhat(part) for part in parts),
            "effective_draws": min(effective_draws(part) for part in parts),
        }
        if result[name]["rhat"] > _RHAT_LIMIT:
            log.warning(
                "%s: R-hat is %.3f, above %g: the ladders have not all seen the same; simulate longer",
                name,
                result[name]["rhat"],
                _RHAT_LIMIT,
            )
    return result


def start_agreement(values: Array, starts: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Mean and standard error of the groups of each start; they agree if the ladders forgot their starts."""
    groups: dict[tuple[tuple[str, float], ...], list[float]] = {}
    for value, start in zip(values, starts, strict=True):
        groups.setdefault(tuple(sorted(start.items())), []).append(float(value))
    return [
        {
            "start": dict(key),
            "value": float(np.mean(group)),
            "std_error": float(np.std(group, ddof=1) / np.sqrt(len(group))) if len(group) > 1 else None,
        }
        for key, group in groups.items()
    ]
