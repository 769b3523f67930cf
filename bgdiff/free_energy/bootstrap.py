r"""Errors from independent units: the block bootstrap, sums over units, and subsampling of correlated frames.

Samples of one chain, population or batch of paths depend on each other; different units do not. The block
bootstrap draws whole units with replacement and repeats the estimate. With U units both it and sums over
units know the variance only to a relative 1/√(2(U-1)), and z-scores follow Student's t with ν = U - 1
degrees of freedom. :func:`few_units` is the factor √(ν/(ν-2)) that gives such z-scores variance one again;
it is infinite for U ≤ 3, from which no error can be told, and 1 for many.

References: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapters 6 and 8; Cameron & Miller,
J. Human Resources 50, 317 (2015), section VI on few clusters; Chodera, J. Chem. Theory Comput. 12, 1799
(2016) on subsampling.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy.quiet import pymbar, quietly
from bgdiff.random import derive_seed

__all__ = [
    "block_bootstrap",
    "bootstrap_error",
    "effective_subsample",
    "exchangeable_units",
    "few_units",
    "multiplicities",
    "resamples",
    "unit_error",
    "unit_labels",
]

Array = NDArray[np.float64]
Rows = NDArray[np.intp]

_LOST = 0.01  # share of resamples that may have no value before the error counts as unknown


def unit_labels(unit: ArrayLike | None, n: int, name: str = "unit") -> Rows:
    """Labels ``0 … U-1`` (n,) of the independent units; by default every sample is its own.

    Raises:
        DataError: ``unit`` is not n whole numbers.
    """
    if unit is None:
        return np.arange(n)
    labels = np.asarray(unit)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name}: expected whole numbers of shape ({n},), got {labels.dtype} of shape {labels.shape}"
        )
    return np.unique(labels, return_inverse=True)[1].reshape(n)


def few_units(n_units: int) -> float:
    """√(ν/(ν-2)) with ν = n_units - 1, by which an error estimated from few units is widened."""
    return math.sqrt((n_units - 1) / (n_units - 3)) if n_units > 3 else math.inf


def unit_error(influence: Sequence[Array], units: Sequence[Rows]) -> float:
    """Standard error of a statistic from the first-order changes that its samples make.

    Args:
        influence: for every set of samples ``(n_s,)``, what each sample adds to the statistic, to first
            order; the mean of each set is subtracted here.
        units: for every set ``(n_s,)``, labels 0 … U-1 of the independent units (:func:`unit_labels`).

    Returns:
        The square root of the variance of sums over units, widened by :func:`few_units` if units hold more
        than one sample; inf if a set has one unit.
    """
    variance, widening = 0.0, 1.0
    for change, labels in zip(influence, units, strict=True):
        n_units = int(labels.max()) + 1
        if n_units < 2:
            return math.inf
        sums = np.bincount(labels, weights=change - change.mean(), minlength=n_units)
        variance += n_units / (n_units - 1) * float(sums @ sums)
        if n_units < labels.size:
            widening = max(widening, few_units(n_units))
    return math.sqrt(variance) * widening


def resamples(units: Sequence[ArrayLike], repeats: int, seed: int) -> Iterator[list[Rows]]:
    """Draw ``repeats`` times, from every set independently, as many units as it has, with replacement.

    Args:
        units: for every set the labels ``(n_s,)`` of its units (whole numbers, any).

    Yields:
        For every set the row numbers of the drawn units' samples; as many as n_s if units are of one size.
        The same arguments give the same rows.

    Raises:
        ConfigError: fewer than two repeats.
        DataError: a set is empty or its labels are not whole numbers.
    """
    if repeats < 2:
        raise ConfigError(f"bootstrap: expected 0 or at least 2 resamplings, got {repeats}")
    blocks = []
    for number, unit in enumerate(units):
        size = np.asarray(unit).size
        if size == 0:
            raise DataError(f"bootstrap: set {number} of {len(units)} holds no sample")
        labels = unit_labels(unit, size)
        counts = np.bincount(labels)
        blocks.append((np.argsort(labels, kind="stable"), np.cumsum(counts) - counts, counts))
    generator = np.random.default_rng(derive_seed(seed, "bootstrap"))
    for _ in range(repeats):
        yield [_draw(generator, *block) for block in blocks]


def _draw(generator: np.random.Generator, order: Rows, starts: Rows, counts: Rows) -> Rows:
    drawn = generator.integers(counts.size, size=counts.size)
    if counts.size == order.size:
        return order[drawn]
    sizes = counts[drawn]
    ends = np.cumsum(sizes)
    offset = np.repeat(starts[drawn] - (ends - sizes), sizes)
    return order[offset + np.arange(ends[-1])]


def exchangeable_units(labels: Rows, groups: Rows) -> list[Rows]:
    """Rows of samples in parts that no unit crosses: groups are in one part if a unit has samples of both.

    Units within a part may replace each other. If they hold different numbers of each group's samples, those
    numbers vary between resamples.

    Args:
        labels: (n,) units, 0 … U-1.
        groups: (n,) what each sample is of, 0 … G-1; for example its thermodynamic state.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    visits = csr_array((np.ones(labels.size), (labels, groups)))
    _, part = connected_components(visits.T @ visits, directed=False)
    of_sample = part[groups]
    return [np.flatnonzero(of_sample == one) for one in np.unique(of_sample)]


def multiplicities(strata: Sequence[Rows], labels: Rows, repeats: int, seed: int) -> Iterator[Array]:
    """How often (n,) each sample is drawn in every resampling of units, stratum by stratum."""
    for drawn in resamples([labels[rows] for rows in strata], repeats, seed):
        rows = np.concatenate([rows[part] for rows, part in zip(strata, drawn, strict=True)])
        yield np.bincount(rows, minlength=labels.size).astype(np.float64)


def block_bootstrap(
    statistic: Callable[[list[Rows]], ArrayLike], units: Sequence[ArrayLike], repeats: int, seed: int
) -> Array:
    """Values of a statistic over resampled units, ``(repeats, ...)``.

    Args:
        statistic: takes the row numbers of one resample, an array for every set, and returns a number or an
            array. Rows repeat and change in number if units differ in size. It may return nan where a
            resample has no value, for example because it lost a region.
        units: for every set of samples the labels ``(n_s,)`` of its independent units. Sets are resampled
            independently; what shares a set is resampled together.

    Raises:
        ConfigError: fewer than two repeats.
        DataError: a set is empty or its labels are not whole numbers.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([statistic(rows) for rows in resamples(units, repeats, seed)], dtype=np.float64)


def bootstrap_error(replicates: ArrayLike, units: Sequence[ArrayLike]) -> tuple[Array, int]:
    """Standard errors ``(...)`` from replicates ``(repeats, ...)``, and how many resamples had no value.

    Resampling U units misses the share 1/U of the variance, and few units tell it badly: errors are scaled
    by √(U/(U-1)) and :func:`few_units` with U that of the poorest set, so they are infinite for U ≤ 3. Where
    more than 1 % of the resamples are not finite, whatever is estimated hangs on a few units and its error is
    infinite; fewer are left out and counted.
    """
    values = np.asarray(replicates, dtype=np.float64)
    poorest = min(np.unique(np.asarray(unit)).size for unit in units)
    finite = np.isfinite(values)
    lost = (~finite).sum(axis=0)
    widening = few_units(poorest) * math.sqrt(poorest / (poorest - 1)) if poorest > 3 else math.inf
    kept = finite.sum(axis=0)
    usable = (lost <= _LOST * len(values)) & (kept > 1)
    filled = np.where(finite, values, 0.0)
    mean = filled.sum(axis=0) / np.maximum(kept, 1)
    spread = np.where(finite, values - mean, 0.0) if finite.any() else filled
    deviation = np.sqrt((spread**2).sum(axis=0) / np.maximum(kept - 1, 1))
    with np.errstate(invalid="ignore"):
        error = np.where(usable & np.isfinite(widening), deviation * widening, np.inf)
    return error, int(np.max(lost))


def effective_subsample(chains: Sequence[ArrayLike], *, discard_start: bool = False) -> list[Rows]:
    """Row numbers of nearly independent frames of correlated chains, by ``pymbar.timeseries``.

    All chains are thinned by one statistical inefficiency, estimated from all of them together about their
    common mean, so that chains which stay apart count as slow and not as still.

    Args:
        chains: for every chain ``(T_c,)`` values of an observable, or ``(T_c, d)`` of several, of which the
            slowest counts (give cosine and sine of a torsion).
        discard_start: leave out the frames before equilibration of each chain first (detect_equilibration).

    Returns:
        For every chain the kept rows, ascending; at least one, and no more if no observable ever changes.

    Raises:
        DataError: there is no chain, one is shorter than 2 frames, or a value is not finite.
    """
    series = [np.asarray(chain, dtype=np.float64) for chain in chains]
    columns = [one[:, None] if one.ndim == 1 else one for one in series]
    if not columns or any(one.ndim != 2 or len(one) < 2 for one in columns):
        raise DataError("chains: expected at least one, each of shape (T,) or (T, d) with 2 frames or more")
    if len({one.shape[1] for one in columns}) > 1:
        raise DataError("chains: they hold different numbers of observables")
    for number, one in enumerate(columns):
        if not np.isfinite(one).all():
            raise DataError(f"chain {number}: a value is not finite")
    timeseries = pymbar().timeseries
    first = [0] * len(columns)
    slowest = 0.0
    with quietly():
        if discard_start:
            first = [_equilibrated(timeseries, one) for one in columns]
        kept = [one[start:] for one, start in zip(columns, first, strict=True)]
        for part in zip(*(one.T for one in kept), strict=True):
            if np.ptp(np.concatenate(part)) > 0:
                slowest = max(slowest, float(timeseries.statistical_inefficiency_multiple(list(part))))
        slowest = max(slowest, 1.0) if slowest else math.inf
        return [
            start
            + np.asarray(
                timeseries.subsample_correlated_data(one[:, 0], g=min(slowest, len(one))), dtype=np.intp
            )
            for one, start in zip(kept, first, strict=True)
        ]


def _equilibrated(timeseries: object, columns: Array) -> int:
    """First frame after equilibration by the observable that takes longest; still ones say nothing."""
    starts = [0]
    for one in columns.T:
        if np.ptp(one) > 0:
            starts.append(int(timeseries.detect_equilibration(one)[0]))  # type: ignore[attr-defined]
    return min(max(starts), len(columns) - 2)
