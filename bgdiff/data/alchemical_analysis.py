"""What samples of an alchemical path say, by pymbar: MBAR, BAR, overlap; and the integral over λ.

Energies ``(n, M, K, 2)`` are those of :class:`~bgdiff.data.alchemy.AlchemicalTask`: n samples of M ladders of
K values of λ, and of each sample the reduced energies of both ends, so that u_λ = (1-λ) u_a + λ u_b.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from scipy.special import logsumexp

from bgdiff.data.ladder_averages import of_groups
from bgdiff.free_energy.quiet import pymbar, quietly

__all__ = ["bar_chain", "cross_checks", "decorrelated_mbar", "group_mbar", "integrate", "one_step"]

Array = NDArray[np.float64]


def group_mbar(energy: Array, lambdas: Array) -> tuple[Array, Array]:
    """MBAR of all samples, correlated as they are: that spoils its own error estimate, not its value.

    Returns:
        Free energies ``(K,)`` relative to λ = 0, and log weights ``(2, n, M, K)`` that turn all samples into
        one of λ = 0 and one of λ = 1, each normalised.
    """
    n, ladders, rungs, _ = energy.shape
    flat = np.moveaxis(energy, 2, 0).reshape(-1, 2)  # rung by rung, as pymbar wants them
    u = _reduced(flat, lambdas)
    with quietly():
        f = np.asarray(pymbar().MBAR(u, np.full(rungs, n * ladders)).f_k)
    log_weight = -u[[0, -1]] - logsumexp(f[:, None] - u, axis=0, b=n * ladders)
    log_weight -= logsumexp(log_weight, axis=1, keepdims=True)
    return f - f[0], np.moveaxis(log_weight.reshape(2, rungs, n, ladders), 1, 3)


def decorrelated_mbar(energies: Sequence[Array], lambdas: Array) -> dict[str, Any]:
    """MBAR of the samples of all groups together, thinned until they are independent, with its own error.

    The statistical inefficiency at each λ is that of du/dλ = u_b - u_a, averaged over the ladders (Chodera
    et al., J. Chem. Theory Comput. 3, 26, 2007).

    Returns:
        ``value`` and asymptotic ``std_error`` of F(1) - F(0), ``profile`` F(λ) - F(0) and its errors,
        ``statistical_inefficiency`` (in samples) and ``samples`` used at every λ, the ``overlap_matrix`` and
        the smallest overlap between neighbours.
    """
    tools = pymbar()
    parts, counts, times = [], [], []
    for rung in range(len(lambdas)):
        gap = np.concatenate([(energy[:, :, rung, 1] - energy[:, :, rung, 0]).T for energy in energies])
        with quietly():
            time = float(tools.timeseries.statistical_inefficiency_multiple(list(gap)))
        thin = [energy[:: int(np.ceil(time)), :, rung].reshape(-1, 2) for energy in energies]
        parts.append(np.concatenate(thin))
        counts.append(len(parts[-1]))
        times.append(time)
    with quietly():
        mbar = tools.MBAR(_reduced(np.concatenate(parts), lambdas), np.array(counts))
        result = mbar.compute_free_energy_differences()
        overlap = mbar.compute_overlap()["matrix"]
    profile, errors = np.asarray(result["Delta_f"])[0], np.asarray(result["dDelta_f"])[0]
    return {
        "value": float(profile[-1]),
        "std_error": float(errors[-1]),
        "profile": profile,
        "profile_std_error": errors,
        "statistical_inefficiency": times,
        "samples": counts,
        "overlap_matrix": overlap,
        "smallest_overlap_of_neighbours": float(np.diagonal(overlap, 1).min()),
    }


def bar_chain(energy: Array, lambdas: Array) -> float:
    """F(1) - F(0) as the sum of Bennett's acceptance ratios of neighbours in λ."""
    tools, total = pymbar(), 0.0
    gaps = (energy[..., 1] - energy[..., 0]).reshape(-1, len(lambdas))
    for rung, step in enumerate(np.diff(lambdas)):
        with quietly():
            result = tools.other_estimators.bar(
                step * gaps[:, rung], -step * gaps[:, rung + 1], compute_uncertainty=False
            )
        total += float(result["Delta_f"])
    return total


def one_step(energy: Array) -> dict[str, float]:
    """F(1) - F(0) from the samples of the two ends alone: exponential averages both ways, and BAR."""
    gaps = (energy[..., 1] - energy[..., 0]).reshape(-1, energy.shape[2])
    forward, reverse = gaps[:, 0], -gaps[:, -1]
    with quietly():
        result = pymbar().other_estimators.bar(forward, reverse, compute_uncertainty=False)
    return {
        "forward": -float(logsumexp(-forward) - np.log(len(forward))),
        "reverse": float(logsumexp(-reverse) - np.log(len(reverse))),
        "bar": float(result["Delta_f"]),
    }


def integrate(energy: Array, lambdas: Array) -> tuple[float, float]:
    """F(1) - F(0) = ∫ <u_b - u_a>_λ dλ (Kirkwood, J. Chem. Phys. 3, 300, 1935), and the quadrature's error.

    On a linear path the integrand's derivative is known too, -Var_λ(u_b - u_a): the integral is that of the
    cubic Hermite spline through both. Its error is judged by the natural alternative, the cubic spline
    through the means alone.
    """
    gaps = (energy[..., 1] - energy[..., 0]).reshape(-1, len(lambdas))
    mean, slope = gaps.mean(axis=0), -gaps.var(axis=0)
    value = float(CubicHermiteSpline(lambdas, mean, slope).integrate(0.0, 1.0))
    return value, abs(value - float(CubicSpline(lambdas, mean).integrate(0.0, 1.0)))


def cross_checks(energies: Sequence[Array], lambdas: Array) -> dict[str, Any]:
    """The same difference by other estimators; errors from the spread of groups unless they say otherwise."""
    integrals = [integrate(energy, lambdas) for energy in energies]
    steps = [one_step(energy) for energy in energies]
    return {
        "mbar_decorrelated": decorrelated_mbar(energies, lambdas),
        "bar_chain": of_groups([bar_chain(energy, lambdas) for energy in energies]),
        "thermodynamic_integration": {
            **of_groups([value for value, _ in integrals]),
            "quadrature_error": float(np.mean([error for _, error in integrals])),
        },
        "ends_alone": {name: of_groups([step[name] for step in steps]) for name in steps[0]},
    }


def _reduced(energy: Array, lambdas: Array) -> Array:
    """u_λ of samples ``(N, 2)`` at every λ, ``(K, N)``."""
    return (1 - lambdas)[:, None] * energy[:, 0] + lambdas[:, None] * energy[:, 1]
