"""What replica-exchange ladders say: weights for the lowest temperature, and whether they can be believed."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from bgdiff.errors import DataError

__all__ = ["basin_changes", "log_ratio", "mbar_log_weights", "profile", "round_trips", "start_agreement"]

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
    mbar = _pymbar().MBAR(beta[:, None] * flat, np.full(len(beta), len(energy)))
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
    """Free-energy profile of a torsion (rad) in kT, its minimum at 0, with errors from the spread of ladders.

    Returns:
        ``edges`` in degrees; ``value`` and ``std_error`` of each bin, inf where no ladder has a sample and
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
    """Count how often the conformations of a ladder went from one basin to the other and stayed.

    Args:
        walker: ``(n, K)``, which conformation is at each rung.
        initial: ``(n, K)``, which samples are in the first basin.
        final: the same of the second.
        lasting: rounds that a conformation must stay, so that flicker at a border does not count.
    """
    changes = 0
    for label in range(walker.shape[1]):
        mine = walker == label
        state = np.where(final[mine], 1, np.where(initial[mine], 0, -1))
        starts = np.flatnonzero(np.diff(state, prepend=-2))
        lengths = np.diff(starts, append=len(state))
        kept = state[starts[(lengths >= lasting) & (state[starts] >= 0)]]
        changes += int(np.count_nonzero(np.diff(kept)))
    return changes


def round_trips(walker: NDArray[np.int64]) -> int:
    """Count how often conformations, ``walker`` ``(n, K)``, went from the lowest rung to the top and back."""
    trips = 0
    for label in range(walker.shape[1]):
        rung = np.nonzero(walker == label)[1]
        ends = rung[(rung == 0) | (rung == walker.shape[1] - 1)]
        visits = ends[np.flatnonzero(np.diff(ends, prepend=-1))]
        trips += max(0, int((visits == 0).sum()) - 1)
    return trips


def start_agreement(values: Array, starts: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Mean and standard error of the ladders of each start; they agree if the ladders forgot their starts."""
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


def _pymbar() -> Any:
    """Import pymbar without its remarks on JAX and on correlated samples."""
    logger = logging.getLogger("pymbar")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pymbar
    finally:
        logger.setLevel(level)
    return pymbar
