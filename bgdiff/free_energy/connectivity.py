"""Which states share samples: without that, nothing connects their free energies."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from bgdiff.free_energy.estimate import NoOverlapError

__all__ = ["require_connection", "require_support", "shared_samples", "state_links", "widest_ways"]

Array = NDArray[np.float64]

_SHARED = 0.01  # samples that could be of either state; with fewer the error is above 10 kT


def require_support(energy: Array, counts: NDArray[np.int64]) -> None:
    """Refuse states that no solution can connect, whatever the values of the finite energies.

    A solution exists if every sampled state can be reached from every other by steps from a state to one in
    which some sample of the first has a finite energy (Gill, Vardi & Wellner, Ann. Statist. 16, 1069, 1988).

    Args:
        energy: (K, N), +inf where a sample is outside of a state.
        counts: (K,) samples of each state, in this order.

    Raises:
        NoOverlapError: they are not connected, or a state without samples has no finite energy.
    """
    finite = np.isfinite(energy)
    for state in np.flatnonzero(~finite.any(axis=1)):
        raise NoOverlapError(f"state {state}: none of {energy.shape[1]} samples has a finite energy in it")
    sampled = np.flatnonzero(counts)
    starts = (np.cumsum(counts) - counts)[sampled]
    reached = np.add.reduceat(finite[sampled], starts, axis=1, dtype=np.int64) > 0
    n_groups, group = connected_components(reached.T, directed=True, connection="strong")
    if n_groups > 1:
        first = group == group[0]
        raise NoOverlapError(
            f"states {_numbers(sampled[first])} and {_numbers(sampled[~first])} do not connect: the samples "
            "of one side have infinite energy on the other; put states between them"
        )


def shared_samples(energy: Array, counts: NDArray[np.int64], free_energies: Array) -> Array:
    """For every pair of states (K, K), how many samples of the two could be of either, given free energies.

    This is Σ f(1-f) of Bennett's equation over the samples of both; 0 for states without samples.
    """
    with np.errstate(divide="ignore"):
        log_density = (np.log(counts) + free_energies)[:, None] - energy  # -inf: no samples, or outside
    mixed = np.zeros((counts.size, counts.size))
    stops = np.cumsum(counts)
    for state in np.flatnonzero(counts):
        own = log_density[:, stops[state] - counts[state] : stops[state]]
        other = expit(own - own[state])
        mixed[state] = (other * (1 - other)).sum(axis=1)
    np.fill_diagonal(mixed, 0.0)
    return mixed + mixed.T


def require_connection(shared: Array, counts: NDArray[np.int64]) -> None:
    """Refuse sampled states that :func:`shared_samples` do not connect to one network.

    Raises:
        NoOverlapError: naming the states on both sides of the gap.
    """
    sampled = np.flatnonzero(counts)
    among = shared[np.ix_(sampled, sampled)]
    n_groups, group = connected_components(among >= _SHARED, directed=False)
    if n_groups == 1:
        return
    inside = group == group[0]
    gap = among[np.ix_(inside, ~inside)]
    i, j = np.unravel_index(gap.argmax(), gap.shape)
    why = "no sample of one side could be of the other"
    if gap[i, j] > 0:
        why = f"the nearest, {sampled[inside][i]} and {sampled[~inside][j]}, share {gap[i, j]:.2g} samples"
    raise NoOverlapError(
        f"states {_numbers(sampled[inside])} and {_numbers(sampled[~inside])} do not connect: {why}; put "
        "states between them"
    )


def state_links(energy: Array, counts: NDArray[np.int64], shared: Array) -> Array:
    """Overlap (K, K) from 0 to 1 of every pair of states.

    Of two sampled states as pymbar measures it for them alone, S (1/n_i + 1/n_j) with S the shared samples;
    of a sampled state and one without, the Kish fraction of perturbation from the first to the second.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1.0 / counts
        links = np.minimum(np.where(shared > 0, shared * (inverse[:, None] + inverse), 0.0), 1.0)
    stops = np.cumsum(counts)
    for empty in np.flatnonzero(counts == 0):
        for state in np.flatnonzero(counts):
            own = slice(stops[state] - counts[state], stops[state])
            log_weight = energy[state, own] - energy[empty, own]
            weight = np.exp(log_weight - log_weight.max()) if np.isfinite(log_weight).any() else np.zeros(1)
            square = counts[state] * float(weight @ weight)
            links[state, empty] = links[empty, state] = weight.sum() ** 2 / square if square else 0.0
    np.fill_diagonal(links, 1.0)
    return links


def widest_ways(links: Array, counts: NDArray[np.int64]) -> Array:
    """For every pair (K, K) the weakest link of the best way between them by way of sampled states."""
    widest = links.copy()
    for state in np.flatnonzero(counts):
        np.maximum(widest, np.minimum(widest[:, state, None], widest[None, state]), out=widest)
    return widest


def _numbers(states: NDArray[np.intp]) -> str:
    """``0-3, 7`` for 0, 1, 2, 3, 7."""
    runs = np.split(states, np.flatnonzero(np.diff(states) != 1) + 1) if states.size else []
    return ", ".join(f"{run[0]}-{run[-1]}" if run.size > 1 else f"{run[0]}" for run in runs)
