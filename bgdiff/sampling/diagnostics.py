"""Have independent chains converged to the same density, and how many independent draws do they hold?"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.stats import norm, rankdata

from bgdiff.errors import DataError

__all__ = ["effective_draws", "mean_error", "rhat"]

Array = NDArray[np.float64]


def rhat(draws: Array) -> float:
    """Rank-normalised split R-hat (Vehtari et al., Bayesian Analysis 16, 667, 2021).

    The larger of the bulk value, which compares locations, and the folded one, which compares spreads. Chains
    that sample the same density approach 1; the authors ask for less than 1.01. Works for indicators too:
    ties share their mean rank. nan if every draw is the same.

    Args:
        draws: ``(chains, n)``, at least one chain of four draws.
    """
    split = _split(draws)
    folded = np.abs(split - np.median(split))
    return float(np.fmax(_plain_rhat(_normal_scores(split)), _plain_rhat(_normal_scores(folded))))


def effective_draws(draws: Array) -> float:
    """Number of independent draws that the chains are worth: the bulk ESS of Vehtari et al.

    Autocorrelations are summed as far as Geyer's initial monotone sequence reaches (Statist. Sci. 7, 473,
    1992), so antithetic chains may count for more than their length. nan if every draw is the same.

    Args:
        draws: ``(chains, n)``, at least one chain of four draws.
    """
    return _effective(_normal_scores(_split(draws)))[0]


def mean_error(draws: Array) -> tuple[float, float]:
    """Standard error of the mean of all draws, and the number of independent draws that it amounts to.

    As :func:`effective_draws`, for the draws themselves instead of their ranks, and never more than there
    are draws. If every draw is the same they do not tell: the error is infinite, the number 1.

    Args:
        draws: ``(chains, n)``, at least one chain of four draws.
    """
    split = _split(draws)
    size, variance = _effective(split)
    if not variance > 0:
        return float("inf"), 1.0
    size = min(size, float(np.size(draws)))
    return float(np.sqrt(variance / size)), size


def _effective(scores: Array) -> tuple[float, float]:
    """Effective number of draws, and the variance of one draw, ``(chains, n)`` being split already."""
    chains, n = scores.shape
    centred = scores - scores.mean(axis=1, keepdims=True)
    transform = rfft(centred, next_fast_len(2 * n), axis=1)
    covariance = irfft(transform * transform.conj(), next_fast_len(2 * n), axis=1)[:, :n] / n
    within = covariance[:, 0].mean() * n / (n - 1)
    total = within * (n - 1) / n + (scores.mean(axis=1).var(ddof=1) if chains > 1 else 0.0)
    if total == 0:
        return float("nan"), 0.0
    correlation = 1 - (within - covariance.mean(axis=0)) / total
    correlation[0] = 1.0
    pairs = correlation[: n - n % 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs < 0)
    pairs = np.minimum.accumulate(pairs[: negative[0]] if len(negative) else pairs)
    time = max(-1 + 2 * float(pairs.sum()), 1 / np.log10(chains * n))
    return chains * n / time, float(total)


def _split(draws: Array) -> Array:
    draws = np.asarray(draws, dtype=np.float64)
    if draws.ndim != 2 or draws.shape[1] < 4:
        raise DataError(f"convergence diagnostics need (chains, n >= 4) draws, not {draws.shape}")
    if not np.isfinite(draws).all():
        raise DataError("convergence diagnostics need finite draws")
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _normal_scores(draws: Array) -> Array:
    """Replace draws by the normal quantiles of their ranks."""
    ranks = rankdata(draws, method="average").reshape(draws.shape)
    return np.asarray(norm.ppf((ranks - 0.375) / (draws.size + 0.25)))


def _plain_rhat(draws: Array) -> float:
    n = draws.shape[1]
    within = draws.var(axis=1, ddof=1).mean()
    if within == 0:
        return float("nan")
    between = draws.mean(axis=1).var(ddof=1)
    return float(np.sqrt((n - 1) / n + between / within))
