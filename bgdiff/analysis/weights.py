r"""How good importance weights are: effective sample sizes and the shape of the weights' tail.

A large effective sample size measured on the proposal's own samples says nothing about regions that the
proposal never visits. The forward effective sample size, measured on held-out data, does; print both.

References: L. Kish, Survey Sampling (1965); Vehtari, Simpson, Gelman, Yao & Gabry, Pareto smoothed
importance sampling, JMLR 25 (2024), arXiv:1507.02646; J. Zhang & M. A. Stephens, Technometrics 51, 316
(2009).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.errors import DataError
from bgdiff.free_energy.importance import normalised_weights, scaled_weights

__all__ = [
    "CLIPPED_FRACTION",
    "TRIMMED_FRACTION",
    "ParetoTail",
    "WeightDiagnostics",
    "ess_clipped",
    "ess_forward",
    "ess_kish",
    "ess_trimmed",
    "normalised_weights",
    "pareto_k",
    "pareto_tail",
    "weight_diagnostics",
]

CLIPPED_FRACTION = 1e-4
TRIMMED_FRACTION = 0.002
_MIN_TAIL = 5  # fewer exceedances do not determine a shape

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WeightDiagnostics:
    """Summary of n log weights; every ESS is a fraction between 0 and 1.

    Attributes:
        n_samples: how many samples were drawn, those of weight zero included.
        n_nonfinite: how many have no finite log weight; they count as weight zero.
        ess_kish: (Σw)²/(N Σw²), unmodified.
        ess_forward: 1/(E_p[w] E_p[1/w]) over held-out data; None without them.
        ess_clipped_1e4: Kish's, after the largest 1e-4 of the weights are set to the smallest of them.
        ess_trimmed_0p2pct: Kish's, after the largest 0.2 % of the weights are dropped.
        max_weight_share: the largest weight over the sum of all.
        pareto_k: shape of the generalised Pareto distribution of the largest weights. Below 0.5 their
            variance exists, below 1 their mean; None when fewer than 5 weights form the tail.
    """

    n_samples: int
    n_nonfinite: int
    ess_kish: float
    ess_forward: float | None
    ess_clipped_1e4: float
    ess_trimmed_0p2pct: float
    max_weight_share: float
    pareto_k: float | None


@dataclass(frozen=True, slots=True)
class ParetoTail:
    """Generalised Pareto fit to the weights above a threshold.

    Attributes:
        shape: k, regularised towards 0.5 with the strength of ten samples.
        scale: in units of the largest weight.
        log_threshold: log weight above which the tail starts.
        log_weight: (m,) the log weights of the tail, ascending.
    """

    shape: float
    scale: float
    log_threshold: float
    log_weight: Array


def weight_diagnostics(
    log_weight: ArrayLike, held_out_log_weight: ArrayLike | None = None
) -> WeightDiagnostics:
    """Summarise log weights (n,), and those of held-out data if given.

    Raises:
        DataError: an array is empty or not one-dimensional.
        ZeroWeightsError: no log weight is finite.
    """
    values = np.asarray(log_weight, dtype=np.float64)
    share = normalised_weights(values)
    return WeightDiagnostics(
        n_samples=int(values.size),
        n_nonfinite=int(np.count_nonzero(~np.isfinite(values))),
        ess_kish=ess_kish(values),
        ess_forward=None if held_out_log_weight is None else ess_forward(held_out_log_weight),
        ess_clipped_1e4=ess_clipped(values),
        ess_trimmed_0p2pct=ess_trimmed(values),
        max_weight_share=float(share.max()),
        pareto_k=pareto_k(values),
    )


def ess_kish(log_weight: ArrayLike) -> float:
    """Return Kish's effective sample size as a fraction, (Σw)²/(N Σw²).

    >>> float(ess_kish([0.0, 0.0, 0.0, 0.0]))  # equal weights
    1.0
    >>> float(ess_kish([0.0, -800.0, -800.0, -800.0]))  # one sample carries everything
    0.25
    """
    return _kish_fraction(scaled_weights(log_weight)[0])


def ess_clipped(log_weight: ArrayLike, fraction: float = CLIPPED_FRACTION) -> float:
    """Return Kish's fraction after the largest ⌊fraction·N⌋ weights are set to the smallest of them.

    A convention of the literature. It hides exactly the weights that make an estimate unreliable and is
    reported for comparison only; no estimate of bgdiff uses clipped weights.
    """
    weight = np.sort(scaled_weights(log_weight)[0])
    count = _count(fraction, weight.size)
    return _kish_fraction(np.minimum(weight, weight[-count]) if count else weight)


def ess_trimmed(log_weight: ArrayLike, fraction: float = TRIMMED_FRACTION) -> float:
    """Return Kish's fraction among the samples left when the largest ⌊fraction·N⌋ weights are dropped.

    A convention of the literature, reported for comparison only; see :func:`ess_clipped`.
    """
    weight = np.sort(scaled_weights(log_weight)[0])
    kept = weight[: weight.size - _count(fraction, weight.size)]
    return _kish_fraction(kept) if kept.any() else 0.0


def ess_forward(held_out_log_weight: ArrayLike, log_importance: ArrayLike | None = None) -> float:
    """Return 1/(E_p[w] E_p[1/w]) over samples of the target, a fraction.

    It equals Kish's fraction in expectation when the proposal covers the target, and is far below it when
    the target has regions that the proposal rarely reaches. A row of -inf (the proposal's density is
    infinitely larger) or +inf (it is zero) gives 0.

    Args:
        held_out_log_weight: (m,) log weights of held-out data.
        log_importance: (m,) log weights that turn the held-out data into samples of the target, when
            their basins are known to be in wrong proportion; default all equal.

    Raises:
        DataError: empty, not one-dimensional, or a log weight is nan.

    >>> float(ess_forward([0.0, 0.0]))
    1.0
    """
    values = np.asarray(held_out_log_weight, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise DataError(
            f"held_out_log_weight: expected a non-empty array of shape (m,), got shape {values.shape}"
        )
    if np.isnan(values).any():
        raise DataError(
            f"held_out_log_weight: {int(np.isnan(values).sum())} of {values.size} are nan; the energy of a "
            "held-out frame could not be evaluated"
        )
    share = normalised_weights(np.zeros(values.size) if log_importance is None else log_importance)
    if share.shape != values.shape:
        raise DataError(f"log_importance: shape {share.shape} does not match {values.shape}")
    used = share > 0
    values, share = values[used], share[used]
    if not np.isfinite(values).all():
        return 0.0
    log_share = np.log(share)
    return float(np.exp(-_log_sum_exp(log_share + values) - _log_sum_exp(log_share - values)))


def pareto_k(log_weight: ArrayLike) -> float | None:
    """Return the generalised Pareto shape of the largest weights, None if they are too few to tell."""
    tail = pareto_tail(log_weight)
    return None if tail is None else tail.shape


def pareto_tail(log_weight: ArrayLike) -> ParetoTail | None:
    """Fit a generalised Pareto distribution to the M = min(0.2 N, 3 √N) largest weights (PSIS).

    Returns None when fewer than five weights exceed the threshold: too few samples, or weights that are
    all equal.
    """
    weight, scale = scaled_weights(log_weight)
    weight = np.sort(weight)
    size = int(np.ceil(min(0.2 * weight.size, 3.0 * np.sqrt(weight.size))))
    if weight.size <= size:
        return None
    threshold = max(float(weight[-size - 1]), float(np.finfo(np.float64).tiny))
    exceeding = weight[-size:][weight[-size:] > threshold]
    if exceeding.size < _MIN_TAIL or exceeding[0] == exceeding[-1]:
        return None
    shape, spread = _fit_generalised_pareto(exceeding - threshold)
    regularised = (exceeding.size * shape + 5.0) / (exceeding.size + 10.0)
    return ParetoTail(regularised, spread, scale + float(np.log(threshold)), scale + np.log(exceeding))


def _fit_generalised_pareto(excess: Array) -> tuple[float, float]:
    """Shape k and scale s of P(X > x) = (1 + k x/s)^(-1/k) from ascending positive ``excess`` (m,).

    Zhang & Stephens' (2009) quasi-Bayesian estimate: the posterior mean of θ = -k/s on a grid, under a
    prior centred by the first quartile, with the profile likelihood.
    """
    n = excess.size
    points = 30 + int(np.sqrt(n))
    quartile = max(float(excess[int(n / 4 + 0.5) - 1]), 1e-300)  # its inverse must not overflow
    grid = 1.0 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))
    theta = grid / (3.0 * quartile) + 1.0 / excess[-1]
    shape = np.log1p(-theta[:, None] * excess).mean(axis=1)  # k(θ), by the likelihood equation
    log_likelihood = n * (np.log(-theta / shape) - shape - 1.0)
    posterior = normalised_weights(log_likelihood)
    best = float(posterior @ theta)
    k = float(np.log1p(-best * excess).mean())
    return k, -k / best


def _kish_fraction(weight: Array) -> float:
    return float(weight.sum() ** 2 / (weight.size * (weight @ weight)))


def _count(fraction: float, n: int) -> int:
    return int(np.floor(fraction * n + 1e-9))  # 1e-9: 0.002 · 500 must be 1 despite rounding


def _log_sum_exp(values: Array) -> float:
    largest = float(values.max())
    return largest + float(np.log(np.exp(values - largest).sum()))
