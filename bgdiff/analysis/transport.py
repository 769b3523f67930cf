r"""Distances between weighted sets of samples: Wasserstein, and total variation of histograms.

    W2(p, q)² = min over couplings γ of p and q of E_γ |a - b|²

In one dimension the optimal coupling sorts both sides, and W2 is exact however many samples there are and
whatever their weights; with a matrix of costs it is a linear programme, solved by POT.

References: Peyré & Cuturi, Computational Optimal Transport (2019), arXiv:1803.00567; Flamary et al., POT:
Python Optimal Transport, JMLR 22, 78 (2021).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.errors import DataError

__all__ = ["HISTOGRAM_BINS", "histogram_tvd", "pair_distances", "transport_distance", "wasserstein_1d"]

Array = NDArray[np.float64]

HISTOGRAM_BINS = 200
"""Bins over the reference's range, as in the code of iDEM (arXiv:2402.06121)."""
_CHUNK = 4_000_000  # numbers in the largest intermediate array of pair distances


def wasserstein_1d(
    samples: ArrayLike,
    reference: ArrayLike,
    weights: ArrayLike | None = None,
    reference_weights: ArrayLike | None = None,
) -> float:
    """W2 of two sets of numbers ``(n,)`` and ``(m,)``: the root of the mean squared transport, in their unit.

    Weights need not be normalised; values of weight zero are left out, whatever they are.

    Raises:
        DataError: a set is empty, weighs nothing, or holds a value that is not finite.

    >>> round(wasserstein_1d([0.0, 1.0], [2.0, 3.0]), 6)
    2.0
    """
    import ot

    a, wa = _weighted("samples", samples, weights)
    b, wb = _weighted("reference", reference, reference_weights)
    return math.sqrt(max(float(ot.emd2_1d(a, b, wa, wb, metric="sqeuclidean")), 0.0))


def transport_distance(
    squared_cost: ArrayLike, weights: ArrayLike | None = None, reference_weights: ArrayLike | None = None
) -> float:
    """Root of the least mean cost of a coupling, W2 if the costs ``(n, m)`` are squared distances.

    Raises:
        DataError: the costs are no finite matrix, weights do not fit it, or the solver fails.
    """
    import ot

    cost = np.ascontiguousarray(squared_cost, dtype=np.float64)
    if cost.ndim != 2 or 0 in cost.shape or not np.isfinite(cost).all():
        raise DataError(f"costs of transport must be a finite matrix (n, m), not of shape {cost.shape}")
    a = _shares("samples", weights, cost.shape[0])
    b = _shares("reference", reference_weights, cost.shape[1])
    value, log = ot.emd2(a, b, cost, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise DataError(f"optimal transport of {cost.shape[0]} to {cost.shape[1]} samples: {log['warning']}")
    return math.sqrt(max(float(value), 0.0))


def histogram_tvd(
    samples: ArrayLike,
    reference: ArrayLike,
    weights: ArrayLike | None = None,
    reference_weights: ArrayLike | None = None,
    *,
    bins: int = HISTOGRAM_BINS,
) -> float:
    """Total variation distance ½ Σ |p_i - q_i| of two histograms, between 0 and 1.

    The bins are of equal width over the range of the reference's values, as in the code of iDEM; two more
    hold what lies below and above it, which that code leaves out before it normalises.

    Raises:
        DataError: as for :func:`wasserstein_1d`.

    >>> histogram_tvd([0.1, 0.9], [0.9, 0.1])
    0.0
    """
    a, wa = _weighted("samples", samples, weights)
    b, wb = _weighted("reference", reference, reference_weights)
    edges = np.histogram_bin_edges(b, bins)
    inner = [np.histogram(values, edges, weights=shares)[0] for values, shares in ((a, wa), (b, wb))]
    below, above = float(wa[a < edges[0]].sum()), float(wa[a > edges[-1]].sum())
    return 0.5 * (float(np.abs(inner[0] - inner[1]).sum()) + below + above)


def pair_distances(x: ArrayLike) -> Array:
    """Distances ``(n, N (N-1) / 2)`` between the particles of each conformation ``(n, N, D)``.

    >>> pair_distances([[[0.0, 0.0], [3.0, 4.0]]]).tolist()
    [[5.0]]
    """
    positions = np.asarray(x, dtype=np.float64)
    first, second = np.triu_indices(positions.shape[1], 1)
    found = np.empty((len(positions), len(first)))
    step = max(1, _CHUNK // max(1, len(first) * positions.shape[2]))
    for start in range(0, len(positions), step):
        part = positions[start : start + step]
        found[start : start + step] = np.linalg.norm(part[:, first] - part[:, second], axis=-1)
    return found


def _weighted(what: str, values: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array]:
    """Values of non-zero weight, and weights that sum to 1."""
    numbers = np.asarray(values, dtype=np.float64).ravel()
    share = _shares(what, weights, numbers.size)
    used = share > 0
    numbers, share = numbers[used], share[used]
    if not np.isfinite(numbers).all():
        bad = int(np.count_nonzero(~np.isfinite(numbers)))
        raise DataError(f"{what}: {bad} of {numbers.size} values of non-zero weight are not finite")
    return numbers, share


def _shares(what: str, weights: ArrayLike | None, n: int) -> Array:
    if n == 0:
        raise DataError(f"{what}: there are none; a distance needs at least one on each side")
    if weights is None:
        return np.full(n, 1.0 / n)
    share = np.asarray(weights, dtype=np.float64)
    if share.shape != (n,):
        raise DataError(f"{what}: weights of shape {share.shape} do not belong to {n} values")
    total = share.sum()
    if not (share >= 0).all() or not (total > 0 and math.isfinite(total)):
        raise DataError(f"{what}: weights must be finite, not negative, and not all zero")
    return np.asarray(share / total)
