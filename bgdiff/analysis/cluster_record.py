"""What the report of a cluster shows beyond observables, gathered while a run's samples pass by once.

Distances of all pairs as histograms with errors, and a handful of structures to draw.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "STRUCTURES",
    "ClusterRecord",
    "Distribution",
    "PairHistogram",
    "distance_bins",
    "distances_of_data",
    "pair_densities",
    "read_pairs",
]

Array = NDArray[np.float64]

STRUCTURES = 6
"""Drawn in a report: the lowest energy, the largest weight, and draws of the corrected ensemble."""

_AT_ONCE = 2_000_000  # distances in memory
_FRAMES = 20_000  # of a data set, evenly spaced; more would change nothing that can be seen
_BLOCKS = 20


@dataclass(frozen=True)
class Distribution:
    """Density of the distances of all pairs by bin, per unit of length, and its standard error, ``(bins,)``.

    It is normalised over all pairs; what lies outside the bins is missing from its integral.
    """

    edges: Array
    density: Array
    std_error: Array

    @property
    def outside(self) -> float:
        """Share of the pairs whose distance is in no bin."""
        return max(0.0, float(1 - (self.density * np.diff(self.edges)).sum()))


class PairHistogram:
    """Weighted mean over samples of how their pair distances are distributed, updated sample by sample.

    The mean in a bin is Σ w h / Σ w, h the density in one sample, and its squared error by the delta method
    Σ w² (h - mean)² / (Σ w)². Sums are kept with the largest weight so far as unit, so that any log weights
    will do.
    """

    def __init__(self, edges: ArrayLike) -> None:
        self.edges = np.asarray(edges, dtype=np.float64)
        bins = self.edges.size - 1
        self._unit = -np.inf
        self._sums = np.zeros((2, bins + 1))  # of w h and w² h; the last column of w and w²
        self._squares = np.zeros(bins)  # of w² h²

    def add(self, densities: Array, log_weight: ArrayLike) -> None:
        """Take samples: ``(n, bins)`` as :func:`pair_densities` gives them, log weights ``(n,)``."""
        log_weight = np.asarray(log_weight, dtype=np.float64)
        used = np.isfinite(log_weight)
        if not used.any():
            return
        unit = max(self._unit, float(log_weight[used].max()))
        shrink = np.exp(self._unit - unit)
        self._unit = unit
        weight, h = np.exp(log_weight[used] - unit), densities[used]
        powers = np.stack([weight, weight**2])
        news = np.concatenate([powers @ h, powers.sum(1, keepdims=True)], axis=1)
        self._sums = self._sums * np.array([[shrink], [shrink**2]]) + news
        self._squares = self._squares * shrink**2 + powers[1] @ h**2

    def result(self) -> Distribution:
        """The mean and its error; nan if no sample had any weight."""
        (*first, total), (*second, total_of_squares) = self._sums
        with np.errstate(invalid="ignore"):
            mean = np.array(first) / total
            spread = self._squares - 2 * mean * np.array(second) + mean**2 * total_of_squares
            return Distribution(self.edges, mean, np.sqrt(np.maximum(spread, 0.0)) / total)


def pair_densities(x: Array, edges: Array) -> Array:
    """Density of the pair distances in each of ``x`` ``(n, N, D)``, per unit of length: ``(n, bins)``.

    Bins are of equal width; distances that are in none, or not finite, count in the normalisation.
    """
    bins, width = edges.size - 1, edges[1] - edges[0]
    first, second = np.triu_indices(x.shape[1], 1)
    parts = []
    for start in range(0, len(x), rows := max(1, _AT_ONCE // max(first.size, 1))):
        points = x[start : start + rows]
        distance = np.linalg.norm(points[:, first] - points[:, second], axis=2)
        column = np.full(distance.shape, -1, dtype=np.intp)
        inside = (edges[0] <= distance) & (distance < edges[-1])
        column[inside] = np.minimum((distance[inside] - edges[0]) / width, bins - 1).astype(np.intp)
        flat = (column + bins * np.arange(len(points))[:, None])[inside]
        parts.append(np.bincount(flat, minlength=bins * len(points)).reshape(-1, bins))
    counts = np.concatenate(parts) if parts else np.zeros((0, bins))
    return np.asarray(counts / (first.size * width))


def distance_bins(x: Array, bins: int | None = None) -> Array:
    """Edges ``(bins + 1,)`` over all but the rarest pair distances of a data set ``(n, N, D)``.

    By default bins are a thirtieth of the shortest distances wide, at least 40 and at most 200.
    """
    first, second = np.triu_indices(x.shape[1], 1)
    rows = np.linspace(0, len(x) - 1, min(len(x), max(1, _AT_ONCE // first.size))).astype(np.intp)
    distance = np.linalg.norm(x[rows][:, first] - x[rows][:, second], axis=2)
    low, high = np.quantile(distance, [1e-5, 1 - 1e-5])
    margin = 0.04 * (high - low)
    start, stop = max(0.0, low - margin), high + margin
    number = bins or int(np.clip(30 * (stop - start) / max(low, 1e-9), 40, 200))
    return np.linspace(start, stop, number + 1)


def distances_of_data(x: Array, chain: ArrayLike, edges: Array) -> Distribution:
    """Of a data set ``(n, N, D)``, with errors from the spread between its chains.

    Frames of a chain are correlated, so a data set of fewer than eight chains is cut into 20 blocks of
    consecutive frames; if their correlation is longer than a block, the errors are too small.
    """
    rows = np.linspace(0, len(x) - 1, min(len(x), _FRAMES)).astype(np.intp)
    label = np.asarray(chain)[rows]
    densities = pair_densities(np.asarray(x, dtype=np.float64)[rows], edges)
    if np.unique(label).size < 8:
        label = np.arange(rows.size) * _BLOCKS // max(rows.size, 1)
    _, block, size = np.unique(label, return_inverse=True, return_counts=True)
    total = np.zeros((size.size, densities.shape[1]))
    np.add.at(total, block, densities)
    mean = total.sum(0) / rows.size
    # ratio of the sums of blocks of unequal size; Bessel's correction for their number
    spread = ((total - size[:, None] * mean) ** 2).sum(0) * size.size / max(size.size - 1, 1)
    return Distribution(edges, mean, np.sqrt(spread) / rows.size)


@dataclass
class ClusterRecord:
    """Gathers pair distances and structures of a run's samples, which come chunk by chunk.

    Args:
        edges: bins of the distances.
        generator: decides which samples are drawn from the corrected ensemble.
        types: ``(N,)``, particles with the same number are equal.
    """

    edges: Array
    generator: np.random.Generator
    types: NDArray[np.int64]
    _proposal: PairHistogram = field(init=False)
    _corrected: PairHistogram = field(init=False)
    _lowest: tuple[float, Array, float] | None = field(init=False, default=None)
    _heaviest: tuple[float, Array, float] | None = field(init=False, default=None)
    _draws: list[tuple[float, Array, float]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._proposal, self._corrected = PairHistogram(self.edges), PairHistogram(self.edges)

    def add(self, x: Array, energy: Array, log_weight: Array) -> None:
        """Take samples ``(n, N, D)`` with their reduced energies and log weights ``(n,)``."""
        densities = pair_densities(x, self.edges)
        self._proposal.add(densities, np.zeros(len(x)))
        self._corrected.add(densities, log_weight)
        used = np.flatnonzero(np.isfinite(log_weight) & np.isfinite(energy))
        # the largest log weights plus Gumbel noise are draws in proportion to the weights, without
        # replacement (Efraimidis and Spirakis 2006)
        keys = log_weight + self.generator.gumbel(size=len(x))
        if used.size == 0:
            return
        low, heavy = used[np.argmin(energy[used])], used[np.argmax(log_weight[used])]
        if self._lowest is None or energy[low] < self._lowest[0]:
            self._lowest = (float(energy[low]), x[low].copy(), float(energy[low]))
        if self._heaviest is None or log_weight[heavy] > self._heaviest[0]:
            self._heaviest = (float(log_weight[heavy]), x[heavy].copy(), float(energy[heavy]))
        best = used[np.argsort(-keys[used])[:STRUCTURES]]
        self._draws += [(float(keys[row]), x[row].copy(), float(energy[row])) for row in best]
        self._draws.sort(key=lambda draw: -draw[0])
        del self._draws[STRUCTURES:]

    def arrays(self, data: Distribution, *, weighted: bool = True) -> dict[str, NDArray[np.generic]]:
        """What ``cluster.npz`` holds.

        ``pairs_<kind>`` and ``pairs_<kind>_error`` ``(bins,)`` between ``edges`` are what :func:`read_pairs`
        reads; ``structures`` ``(k, N, D)`` come with ``structure_energy`` and ``structure_label``.

        Args:
            data: of the data set, with the same bins.
            weighted: the samples have weights; else they are draws of chains, and there is no proposal.
        """
        found: dict[str, Distribution] = {"data": data}
        if weighted:
            found["proposal"] = self._proposal.result()
        found["reweighted" if weighted else "chains"] = self._corrected.result()
        arrays: dict[str, NDArray[np.generic]] = {"edges": self.edges, "types": self.types}
        for name, one in found.items():
            arrays |= {f"pairs_{name}": one.density, f"pairs_{name}_error": one.std_error}
        chosen = [("lowest energy", self._lowest)]
        chosen += [("largest weight", self._heaviest)] if weighted else []
        kept = [(label, one) for label, one in chosen if one is not None]
        kept += [("random draw", draw) for draw in self._draws[: STRUCTURES - len(kept)]]
        if kept:
            arrays["structures"] = np.stack([one[1] for _, one in kept])
            arrays["structure_energy"] = np.array([one[2] for _, one in kept])
            arrays["structure_label"] = np.array([label for label, _ in kept])
        return arrays


def read_pairs(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Distribution]:
    """Distributions by kind of sample from the arrays of ``cluster.npz``, in the order of drawing."""
    names = [name for name in ("data", "proposal", "reweighted", "chains") if f"pairs_{name}" in arrays]
    edges = np.asarray(arrays["edges"], dtype=np.float64) if names else np.zeros(0)
    return {
        name: Distribution(
            edges,
            np.asarray(arrays[f"pairs_{name}"], dtype=np.float64),
            np.asarray(arrays[f"pairs_{name}_error"], dtype=np.float64),
        )
        for name in names
    }
