r"""Free-energy profiles: -log of the density of one variable in kT, with pointwise and simultaneous errors.

The density is the histogram of weighted samples over a bin's width. A bin's standard error is for that bin
alone; the simultaneous band covers the profile in all bins at once with the stated probability. Its half
width is the same number of standard errors everywhere, the quantile of max_bins |p* - p|/error over the block
bootstrap (the sup-t band).

References: Montiel Olea & Plagborg-Møller, J. Appl. Econometrics 34, 1 (2019), on the sup-t band.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy.bootstrap import block_bootstrap, bootstrap_error, few_units, unit_labels
from bgdiff.free_energy.importance import scaled_weights

__all__ = ["FreeEnergyProfile", "free_energy_profile"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FreeEnergyProfile:
    """A profile over B bins.

    Attributes:
        edges: (B + 1,) of the bins, in the variable's unit.
        free_energy: (B,) -log of the density per unit of the variable, kT; inf in empty bins.
        std_error: (B,) of each bin alone, kT; inf in empty bins.
        n_eff: (B,) effective number of independent units in each bin (Kish); 0 in empty bins.
        level: probability with which the simultaneous band covers all bins that are not empty.
        band_errors: half width of that band in standard errors; nan without bootstrap.
        outside: share of the weight outside of all bins. The density is normalised with it.
    """

    edges: Array
    free_energy: Array
    std_error: Array
    n_eff: Array
    level: float
    band_errors: float
    outside: float

    @property
    def band(self) -> tuple[Array, Array]:
        """Lower and upper end (B,) of the simultaneous band; nan and inf in empty bins, which say nothing."""
        empty = np.isinf(self.free_energy)
        with np.errstate(invalid="ignore"):
            half = np.where(empty, np.inf, self.band_errors * self.std_error)
            return np.where(empty, np.nan, self.free_energy - half), self.free_energy + half


def free_energy_profile(
    values: ArrayLike,
    edges: ArrayLike,
    *,
    log_weight: ArrayLike | None = None,
    period: float | None = None,
    unit: ArrayLike | None = None,
    bootstrap: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> FreeEnergyProfile:
    """Estimate the free energy along a variable.

    Args:
        values: (n,) of the variable at the samples.
        edges: (B + 1,) ascending edges of the bins.
        log_weight: (n,) log weights; by default all equal. Not finite: weight zero.
        period: of the variable, if it is periodic (2π for a torsion in radian): values are moved by multiples
            of it into the range that begins at the first edge.
        unit: (n,) labels of the independent units; by default every sample is its own.
        bootstrap: number of resamplings of units, for standard errors and the simultaneous band; 0: errors
            by the delta method and no band.
        level: of the simultaneous band.

    Raises:
        ConfigError: ``level`` is not between 0 and 1, or edges span more than a period.
        DataError: shapes differ, edges do not ascend, or a sample of non-zero weight has no finite value.
        ZeroWeightsError: no weight is finite.
    """
    x, bounds = np.asarray(values, dtype=np.float64), np.asarray(edges, dtype=np.float64)
    if bounds.ndim != 1 or bounds.size < 2 or not (np.diff(bounds) > 0).all():
        raise DataError("edges: expected at least two, ascending")
    if not 0 < level < 1:
        raise ConfigError(f"level: expected a probability between 0 and 1, got {level}")
    weight, _ = scaled_weights(np.zeros(x.shape) if log_weight is None else log_weight)
    if x.shape != weight.shape:
        raise DataError(f"values: shape {x.shape} does not match log_weight {weight.shape}")
    bad = ~np.isfinite(x) & (weight > 0)
    if bad.any():
        raise DataError(
            f"values: {int(bad.sum())} samples of non-zero weight have no finite value "
            f"(first: sample {int(bad.argmax())}); check the variable"
        )
    labels = unit_labels(unit, x.size)
    in_bin, total = _sums_by_unit(x, weight, labels, bounds, period)
    probability = in_bin.sum(axis=0) / total.sum()
    filled = probability > 0
    p = probability[filled]
    inside = in_bin[:, filled]
    # every unit's share of its bin; weights themselves may be too small to be squared
    share = csr_array(inside / inside.sum(axis=0))
    squares = share.multiply(share).sum(axis=0)
    n_units = total.size
    factor = float("nan")
    if bootstrap:
        replicates = _replicates(inside, total, bootstrap, seed) / p
        relative, _ = bootstrap_error(replicates, [np.arange(n_units)])
        spread = replicates.std(axis=0, ddof=1)  # before few units widen it
        farthest = np.abs(replicates - 1) / np.where(spread > 0, spread, np.inf)
        factor = float(np.quantile(farthest.max(axis=1), level))
    else:
        of_all = total / total.sum()
        variance = squares - 2 * (share.T @ of_all) + of_all @ of_all
        relative = np.full(p.size, np.inf)
        if n_units > 1:
            relative = np.sqrt(np.maximum(variance, 0.0) * n_units / (n_units - 1))
            relative *= few_units(n_units) if n_units < labels.size else 1.0
    shape = probability.shape
    free_energy, error, n_eff = np.full(shape, np.inf), np.full(shape, np.inf), np.zeros(shape)
    free_energy[filled] = -np.log(p / np.diff(bounds)[filled])
    error[filled] = relative
    n_eff[filled] = 1 / squares
    outside = max(1 - float(probability.sum()), 0.0)
    return FreeEnergyProfile(bounds, free_energy, error, n_eff, level, factor, outside)


def _sums_by_unit(
    x: Array, weight: Array, labels: NDArray[np.intp], edges: Array, period: float | None
) -> tuple[csr_array, Array]:
    """Weight of every unit in every bin (U, B), and of every unit (U,)."""
    if period is not None:
        if edges[-1] - edges[0] > period * (1 + 1e-12):
            raise ConfigError(f"edges: they span {edges[-1] - edges[0]:g}, more than the period {period:g}")
        x = edges[0] + np.mod(x - edges[0], period)
    used = weight > 0
    number = np.searchsorted(edges, x[used], side="right") - 1
    number[x[used] == edges[-1]] = edges.size - 2  # the last bin holds its upper edge, as in numpy
    within = (number >= 0) & (number < edges.size - 1)
    units = labels[used][within]
    shape = int(labels.max()) + 1, edges.size - 1
    sums = csr_array((weight[used][within], (units, number[within])), shape=shape)
    total: Array = np.bincount(labels, weights=weight, minlength=shape[0]).astype(np.float64)
    return sums, total


def _replicates(inside: csr_array, total: Array, repeats: int, seed: int) -> Array:
    """Probabilities (repeats, B) of resampled units."""

    by_bin = inside.T.tocsr()

    def statistic(rows: list[NDArray[np.intp]]) -> Array:
        drawn = np.bincount(rows[0], minlength=total.size).astype(np.float64)
        return np.asarray(by_bin @ drawn / (drawn @ total))

    return block_bootstrap(statistic, [np.arange(total.size)], repeats, seed)
