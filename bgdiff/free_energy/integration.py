r"""Thermodynamic integration: ΔF = ∫ ⟨∂u/∂λ⟩ dλ from samples at several values of λ.

The integrand's means at the nodes are joined by a cubic spline (not-a-knot), whose integral is a weighted sum
of the means: the statistical error is exact given theirs. The error of the quadrature is estimated from the
same rule on every second node: for a smooth integrand halving the spacing shrinks the error of a rule of
fourth order by 16, so that 1/15 of the difference is left. What the noise of the means alone makes of that
difference is taken off first. Few nodes (under five) leave no such order to count on, and all of it is kept.

References: Kirkwood, J. Chem. Phys. 3, 300 (1935); Shyu & Ytreberg, J. Comput. Chem. 30, 2297 (2009) on
interpolating rules; Press et al., Numerical Recipes, section 4.3 on Richardson's extrapolation.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import make_interp_spline

from bgdiff.errors import DataError
from bgdiff.free_energy.bootstrap import block_bootstrap, bootstrap_error, unit_error, unit_labels
from bgdiff.free_energy.estimate import Estimate

__all__ = ["quadrature_weights", "thermodynamic_integration"]

Array = NDArray[np.float64]


def quadrature_weights(nodes: ArrayLike) -> Array:
    """Weights (M,) with which values at ``nodes`` (M,) are summed to the integral of their spline.

    The spline is cubic with not-a-knot ends: Simpson's rule for three nodes, the trapezoidal for two.
    """
    x = np.asarray(nodes, dtype=np.float64)
    spline = make_interp_spline(x, np.eye(x.size), k=min(x.size - 1, 3))
    weights: Array = spline.integrate(x[0], x[-1])
    return weights


def thermodynamic_integration(
    nodes: ArrayLike,
    derivatives: Sequence[ArrayLike],
    *,
    units: Sequence[ArrayLike] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Estimate:
    """Estimate F(λ_M) - F(λ_1) = ∫ ⟨∂u/∂λ⟩_λ dλ in kT.

    Args:
        nodes: (M,) values of λ, strictly ascending or descending, M ≥ 2; the integral runs as they do.
        derivatives: for every node (n_m,) values of ∂u/∂λ, in kT per unit of λ, of samples at that λ.
        units: for every node (n_m,) labels of the independent units; by default every sample is its own.
            Nodes are independent of each other.
        bootstrap: number of resamplings of units for the statistical error; 0: standard errors of means.

    Returns:
        The error holds the statistical and the quadrature's (``statistical_std_error``,
        ``quadrature_error`` in the diagnostics, with ``n_nodes``); n_eff is the number of units at the
        poorest node; there is no overlap to measure.

    Raises:
        DataError: nodes are too few or not in order, do not match the derivatives, a node has no sample or
            a derivative is not finite; the node is named.
    """
    x, values = _checked(nodes, derivatives)
    if units is not None and len(units) != len(values):
        raise DataError(f"units: {len(units)} arrays for {len(values)} nodes")
    given = [None] * len(values) if units is None else list(units)
    labels = [
        unit_labels(unit, value.size, f"units of node {i}")
        for i, (unit, value) in enumerate(zip(given, values, strict=True))
    ]
    ascending = x if x[0] < x[-1] else x[::-1]
    weights = quadrature_weights(ascending)
    weights = weights if x[0] < x[-1] else -weights[::-1]
    means = np.array([value.mean() for value in values])
    mean_errors = np.array(
        [unit_error([value / value.size], [label]) for value, label in zip(values, labels, strict=True)]
    )
    lost = 0
    if bootstrap:
        replicates = block_bootstrap(
            lambda rows: weights @ [value[row].mean() for value, row in zip(values, rows, strict=True)],
            labels,
            bootstrap,
            seed,
        )
        error, lost = bootstrap_error(replicates, labels)
        statistical, how = float(error), f"bootstrap error ({bootstrap} resamplings)"
    else:
        statistical, how = float(np.linalg.norm(weights * mean_errors)), "error of means"
    quadrature = _quadrature_error(x, weights, means, mean_errors)
    diagnostics: dict[str, float | int | str | bool] = {
        "statistical_std_error": statistical,
        "quadrature_error": quadrature,
        "n_nodes": x.size,
    }
    if lost:
        diagnostics["resamples_without_value"] = lost
    return Estimate(
        float(weights @ means),
        math.hypot(statistical, quadrature),
        f"thermodynamic integration, cubic spline, {how}" + ("" if units is None else " over units"),
        float(min(int(label.max()) + 1 for label in labels)),
        None,
        diagnostics,
    )


def _quadrature_error(x: Array, weights: Array, means: Array, errors: Array) -> float:
    """Error of the rule; 0 if the coarser rule differs by no more than the noise of the means allows."""
    if x.size < 3:
        return 0.0 if means[0] == means[-1] else 0.5 * abs(float((x[-1] - x[0]) * (means[-1] - means[0])))
    kept = np.unique(np.append(np.arange(0, x.size, 2), x.size - 1))
    coarse = np.zeros(x.size)
    ordered = x[kept] if x[0] < x[-1] else x[kept][::-1]
    part = quadrature_weights(ordered)
    coarse[kept] = part if x[0] < x[-1] else -part[::-1]
    change = weights - coarse
    if not np.isfinite(errors).all():
        return abs(float(change @ means))
    systematic = math.sqrt(
        max(float(change @ means) ** 2 - float((change * errors) @ (change * errors)), 0.0)
    )
    return systematic / 15 if x.size >= 5 else systematic


def _checked(nodes: ArrayLike, derivatives: Sequence[ArrayLike]) -> tuple[Array, list[Array]]:
    x = np.asarray(nodes, dtype=np.float64)
    steps = np.diff(x) if x.ndim == 1 else np.zeros(1)
    if x.ndim != 1 or x.size < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise DataError("nodes: expected at least two values in ascending or descending order")
    if len(derivatives) != x.size:
        raise DataError(f"derivatives: {len(derivatives)} arrays for {x.size} nodes")
    values = [np.asarray(value, dtype=np.float64) for value in derivatives]
    for number, value in enumerate(values):
        where = f"derivatives at node {number} ({x[number]:g})"
        if value.ndim != 1 or value.size == 0:
            raise DataError(f"{where}: expected a non-empty array of shape (n,), got shape {value.shape}")
        if not np.isfinite(value).all():
            raise DataError(
                f"{where}: {int((~np.isfinite(value)).sum())} of {value.size} values are not finite; the "
                "average does not exist with them"
            )
    return x, values
