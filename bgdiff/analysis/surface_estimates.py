"""Free energy over two observables, with its standard error in every cell."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, gaussian_filter, gaussian_filter1d

__all__ = ["PairSample", "Surface", "cells", "plane_surface", "torsion_surface"]

Array = NDArray[np.float64]

_TRUNCATE = 3.0  # widths of the kernel, beyond which it is zero
_FEW_CELLS = 20
_NOTHING = 1e-100
_MANY = 10_000  # independent samples that fill the finest grid


def cells(independent: float, choices: Sequence[int]) -> int:
    """How many cells per axis suit so many independent samples: the most of the choices below the best.

    The error of a histogram in two dimensions is least with n^(1/4) times a constant per axis (Scott,
    Multivariate density estimation, 2015, section 3.4), here the largest choice for 10 000 samples.
    """
    best = max(choices) * (max(independent, 1.0) / _MANY) ** 0.25
    return max((one for one in choices if one <= best), default=min(choices))


class PairSample(NamedTuple):
    """Two observables of n conformations, torsions in radian, with their weights (None: all equal)."""

    x: Array
    y: Array
    weight: Array | None = None
    independent: float = 1.0
    """Share of them that are independent draws, by which squared errors are divided."""


class Surface(NamedTuple):
    """Free energy by cell, in kT, lowest value 0, ``(cells of x, cells of y)``; nan where nothing was seen.

    ``x`` and ``y`` are the edges, in degrees for torsions. ``std_error``, of the same shape, is that of -ln p
    with p normalised over the whole sample.
    """

    x: Array
    y: Array
    energy: Array
    std_error: Array


def torsion_surface(sample: PairSample, bins: int = 72, smoothing: float = 0.8) -> Surface:
    """Free energy -ln p of a pair of torsions on a periodic grid.

    Args:
        sample: the torsions and weights; weights of zero and undefined angles are left out.
        bins: per axis; 72 are 5° wide.
        smoothing: width of the periodic Gaussian kernel, in bins.
    """
    edges = np.linspace(-180.0, 180.0, bins + 1)
    x, y = ((np.degrees(np.asarray(angle, dtype=np.float64)) + 180.0) % 360.0 - 180.0 for angle in sample[:2])
    return _surface(sample._replace(x=x, y=y), (edges, edges), (smoothing, smoothing), "wrap")


def plane_surface(sample: PairSample, edges: tuple[Array, Array], smoothing: float = 0.8) -> Surface:
    """Free energy -ln p of a pair of real observables by cell.

    Args:
        sample: values and weights; weights of zero and values that are not finite are left out.
        edges: of the cells along x and y.
        smoothing: width of the Gaussian kernel, in cells; 0 along an observable with fewer than 20 cells.
    """
    x, y = (smoothing if edge.size > _FEW_CELLS else 0.0 for edge in edges)
    return _surface(sample, edges, (x, y), "constant")


def _surface(
    sample: PairSample, edges: tuple[Array, Array], widths: tuple[float, float], mode: str
) -> Surface:
    r"""Kernel estimate and delta-method error of each cell.

    With kernel values K_i of a cell, the density there is the ratio of Σ w_i K_i to Σ w_i over all samples,
    whose relative variance is, to first order, Σ w_i² (K_i/ΣwK - 1/Σw)² (Owen, Monte Carlo theory, methods
    and examples, 2013, section 9.2): sums of w² K², w² K and w² on the same grid. Unsmoothed and with equal
    weights it is (1 - p)/(n p), the binomial one.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (sample.x, sample.y))
    weight = np.ones(x.size) if sample.weight is None else np.asarray(sample.weight, dtype=np.float64)
    # a weight whose square would be lost to underflow says nothing in any cell
    used = np.isfinite(x) & np.isfinite(y) & (weight > _NOTHING * weight.max(initial=0.0))
    x, y, weight = x[used], y[used], weight[used]

    def histogram(values: Array | None = None) -> Array:
        return np.histogram2d(x, y, bins=list(edges), weights=values)[0]

    def smooth(values: Array) -> Array:
        return np.asarray(gaussian_filter(values, widths, mode=mode, truncate=_TRUNCATE))

    number, square = histogram(), histogram(weight**2)
    mass, total = smooth(histogram(weight)), weight.sum()
    # An empty cell is filled only where its neighbours surround it
    filled = (number > 0) | (smooth(number) > 0.5)
    energy = np.full_like(mass, np.nan)
    error = energy.copy()
    if filled.any():
        energy[filled] = -np.log(mass[filled])
        energy -= np.nanmin(energy)
        share = mass[filled] / total
        both = square
        for axis, width in enumerate(widths):
            both = correlate1d(both, _kernel(width) ** 2, axis=axis, mode=mode)
        spread = both[filled] / share**2 - 2 * smooth(square)[filled] / share + np.square(weight).sum()
        error[filled] = np.sqrt(spread.clip(0) / sample.independent) / total
    return Surface(*edges, energy, error)


def _kernel(width: float) -> Array:
    """Weights of the Gaussian filter of that width."""
    radius = int(_TRUNCATE * width + 0.5)
    single = np.zeros(2 * radius + 1)
    single[radius] = 1.0
    return single if radius == 0 else gaussian_filter1d(single, width, mode="constant", truncate=_TRUNCATE)
