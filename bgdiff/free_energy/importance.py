r"""Importance-sampling estimates: log Z, averages and basin free energies from log weights.

Samples x_i are independent draws from a proposal q, with weights w_i = p̃(x_i)/q(x_i) of the unnormalised
target p̃ = exp(-u) (or path weights with E[w | x] q(x) = p̃(x), which obey the same formulas). A log weight
of -inf, or one that is not finite, is a sample of weight zero; it still counts as a draw.

    log Z       = log (1/N) Σ w_i
    E_p[f]      = Σ w_i f_i / Σ w_i
    F_B - F_A   = -log (Σ_B w_i / Σ_A w_i)

Standard errors come from the delta method (first order in 1/N); with ``bootstrap > 0`` they are the standard
deviation over that many resamplings of the N draws instead (:mod:`~bgdiff.free_energy.bootstrap`). Both
assume independent draws. Particles of sequential Monte Carlo are not independent, but families of common
descent are: given ``family``, the number 0 … N-1 of each particle's ancestor among the N draws that its
population began with, contributions are summed by family before any variance is taken or any draw resampled
(Chan & Lai 2013; Lee & Whiteley 2018); families that died out stay draws that contribute nothing. All sums
are taken relative to the largest weight, so log weights of any size are safe. The overlap of these estimates
is Kish's effective fraction (Σw)²/(N Σw²) of all draws, by family.

References: Zwanzig, J. Chem. Phys. 22, 1420 (1954); A. B. Owen, Monte Carlo theory, methods and
examples, chapter 9 (2013); Efron & Tibshirani, An Introduction to the Bootstrap (1993); Chan & Lai, Ann.
Statist. 41, 2877 (2013); Lee & Whiteley, Biometrika 105, 609 (2018).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.errors import DataError
from bgdiff.free_energy.bootstrap import block_bootstrap, bootstrap_error
from bgdiff.free_energy.estimate import EmptyBasinError, Estimate, ZeroWeightsError

__all__ = [
    "by_family",
    "expectation",
    "family_log_weights",
    "free_energy_difference",
    "log_z",
    "normalised_weights",
    "scaled_weights",
]

Array = NDArray[np.float64]


def scaled_weights(log_weight: ArrayLike) -> tuple[Array, float]:
    """Return ``(w, scale)`` with ``w = exp(log_weight - scale)``, largest entry 1; non-finite rows get 0.

    Args:
        log_weight: natural logarithms of the weights, shape (n,).

    Raises:
        DataError: ``log_weight`` is empty or not one-dimensional.
        ZeroWeightsError: no entry is finite.
    """
    values = np.asarray(log_weight, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise DataError(f"log_weight: expected a non-empty array of shape (n,), got shape {values.shape}")
    finite = np.isfinite(values)
    if not finite.any():
        raise ZeroWeightsError(
            f"log_weight: all {values.size} samples have weight zero (impossible geometry or non-finite "
            "energy); train longer, or check that the data and the energy belong to the same system"
        )
    scale = float(values[finite].max())
    weight = np.zeros_like(values)
    weight[finite] = np.exp(values[finite] - scale)
    return weight, scale


def normalised_weights(log_weight: ArrayLike) -> Array:
    """Return weights (n,) that sum to 1; rows whose log weight is not finite get 0.

    Raises:
        ZeroWeightsError: no log weight is finite.
    """
    weight, _ = scaled_weights(log_weight)
    share: Array = weight / weight.sum()
    return share


def family_log_weights(log_weight: ArrayLike, family: ArrayLike | None) -> Array:
    """Log of the weights summed by family (n,), -inf for families without weight; unchanged without families.

    Raises:
        DataError: ``family`` does not number the families of ``log_weight`` within 0 … n-1.
        ZeroWeightsError: no log weight is finite.
    """
    if family is None:
        return np.asarray(log_weight, dtype=np.float64)
    weight, scale = scaled_weights(log_weight)
    with np.errstate(divide="ignore"):
        return np.log(by_family(weight, family)) + scale


def log_z(
    log_weight: ArrayLike, *, family: ArrayLike | None = None, bootstrap: int = 0, seed: int = 0
) -> Estimate:
    """Estimate log Z of the target (free-energy perturbation from the normalised proposal; F = -log Z).

    Its delta-method error is the coefficient of variation of the weights, by family, over √N.
    """
    weight, scale = scaled_weights(log_weight)
    weight = by_family(weight, family)
    n = weight.size
    mean = weight.mean()
    value = scale + float(np.log(mean))
    if bootstrap:
        error = _bootstrap_error(lambda rows: np.log(weight[rows].mean()), n, bootstrap, seed)
    else:
        error = float(weight.std(ddof=1) / (mean * np.sqrt(n))) if n > 1 else float("inf")
    n_eff = _kish(weight)
    return Estimate(value, error, _method("log-mean weight", bootstrap, family), n_eff, n_eff / n)


def expectation(
    log_weight: ArrayLike,
    values: ArrayLike,
    *,
    family: ArrayLike | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Estimate:
    """Estimate the target's average of an observable from its ``values`` (n,) at the samples.

    Raises:
        DataError: lengths differ, or a sample of non-zero weight has a value that is not finite.
    """
    weight, _ = scaled_weights(log_weight)
    observed = np.asarray(values, dtype=np.float64)
    if observed.shape != weight.shape:
        raise DataError(f"values: shape {observed.shape} does not match log_weight {weight.shape}")
    bad = ~np.isfinite(observed) & (weight > 0)
    if bad.any():
        raise DataError(
            f"values: {int(bad.sum())} samples of non-zero weight have no finite value "
            f"(first: sample {int(bad.argmax())}); check the observable"
        )
    observed = np.where(weight > 0, observed, 0.0)
    total = weight.sum()
    value = float(weight @ observed / total)
    n = weight.size
    by_draw = by_family(weight, family)
    if bootstrap:
        summed = by_family(weight * observed, family)

        def statistic(rows: NDArray[np.intp]) -> float:
            resampled = by_draw[rows].sum()
            return float(summed[rows].sum() / resampled) if resampled > 0 else np.nan

        error = _bootstrap_error(statistic, n, bootstrap, seed)
    else:
        error = _delta_error(by_family(weight * (observed - value) / total, family))
    n_eff = _kish(by_draw)
    return Estimate(value, error, _method("weighted mean", bootstrap, family), n_eff, n_eff / n)


def free_energy_difference(
    log_weight: ArrayLike,
    initial: ArrayLike,
    final: ArrayLike,
    *,
    names: tuple[str, str] = ("initial", "final"),
    family: ArrayLike | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Estimate:
    """Estimate ΔF = F_final - F_initial = -log(p_final/p_initial) in kT.

    Args:
        log_weight: (n,) log weights.
        initial: (n,) booleans, which samples lie in the initial basin.
        final: (n,) booleans, likewise for the final basin. Basins may overlap or leave gaps.
        names: what the basins are called, for the error message.
        family: (n,) numbers of the families that are independent; by default every sample is.

    Raises:
        EmptyBasinError: a basin has no sample of non-zero weight; it is named.
    """
    weight, _ = scaled_weights(log_weight)
    masks = [_mask(basin, weight.size, name) for basin, name in zip((initial, final), names, strict=True)]
    in_a, in_b = (weight * mask for mask in masks)
    for part, mask, name in zip((in_a, in_b), masks, names, strict=True):
        if not part.any():
            found = f"{int(mask.sum())} samples, none of non-zero weight" if mask.any() else "no sample"
            raise EmptyBasinError(
                f"basin {name}: {found} among {weight.size}; draw more samples, or start from data "
                "that visits this basin"
            )
    sum_a, sum_b = in_a.sum(), in_b.sum()
    draws_a, draws_b = by_family(in_a, family), by_family(in_b, family)
    if bootstrap:

        def statistic(rows: NDArray[np.intp]) -> float:
            a, b = draws_a[rows].sum(), draws_b[rows].sum()
            return float(np.log(a / b)) if a > 0 and b > 0 else np.nan

        error = _bootstrap_error(statistic, weight.size, bootstrap, seed)
    else:
        error = _delta_error(draws_a / sum_a - draws_b / sum_b)
    return Estimate(
        float(np.log(sum_a / sum_b)),
        error,
        _method("ratio of basin weights", bootstrap, family),
        min(_kish(draws_a), _kish(draws_b)),
        _kish(by_family(weight, family)) / weight.size,
    )


def _kish(weight: Array) -> float:
    return float(weight.sum() ** 2 / (weight @ weight))


def by_family(contribution: Array, family: ArrayLike | None) -> Array:
    """Contributions summed by family, still (n,): families without particles contribute nothing."""
    if family is None:
        return contribution
    number = np.asarray(family)
    n = contribution.size
    if (
        number.shape != (n,)
        or number.dtype.kind not in "iu"
        or (n and not 0 <= number.min() <= number.max() < n)
    ):
        raise DataError(f"family: expected whole numbers in 0 … {n - 1} of shape ({n},)")
    summed: Array = np.bincount(number, weights=contribution, minlength=n).astype(np.float64)
    return summed


def _delta_error(influence: Array) -> float:
    """Standard error of a statistic whose first-order change per draw is ``influence`` (mean zero)."""
    n = influence.size
    return float(np.sqrt(n / (n - 1) * (influence @ influence))) if n > 1 else float("inf")


def _bootstrap_error(
    statistic: Callable[[NDArray[np.intp]], float], n: int, repeats: int, seed: int
) -> float:
    """Error of ``statistic`` of row numbers, by resampling the n draws."""
    draws = [np.arange(n)]
    error, _ = bootstrap_error(block_bootstrap(lambda rows: statistic(rows[0]), draws, repeats, seed), draws)
    return float(error)


def _mask(basin: ArrayLike, n: int, name: str) -> NDArray[np.bool_]:
    mask = np.asarray(basin)
    if mask.shape != (n,) or mask.dtype != np.bool_:
        raise DataError(f"basin {name}: expected booleans of shape ({n},), got {mask.dtype} {mask.shape}")
    return mask


def _method(name: str, bootstrap: int, family: ArrayLike | None = None) -> str:
    how = f"bootstrap error ({bootstrap} resamplings)" if bootstrap else "delta-method error"
    return f"{name}, {how}" + ("" if family is None else " over families")
