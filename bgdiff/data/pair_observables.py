"""What is measured on all pairs of particles alike, so that exchanging particles changes nothing."""

import math
from collections.abc import Callable

import numpy as np
from numpy.polynomial.legendre import Legendre
from numpy.typing import NDArray

from bgdiff.data.intervals import in_intervals
from bgdiff.observable_spec import CoordinationSpec, PairCountSpec, PairDistanceSpec, SteinhardtSpec

__all__ = ["bond_order", "measure_pairs"]

Array = NDArray[np.float64]

_PAIRS_AT_ONCE = 1 << 18  # some MB


def measure_pairs(
    spec: PairCountSpec | PairDistanceSpec | CoordinationSpec | SteinhardtSpec, x: Array
) -> Array:
    """The observable ``(B,)`` of conformations ``(B, N, D)``; pairs of a part of the batch at a time."""
    chosen = x if spec.atoms == "all" else x[:, spec.atoms]
    first, second = np.triu_indices(chosen.shape[1], 1)
    rows = max(1, _PAIRS_AT_ONCE // len(first))
    values = np.empty(len(x))
    for start in range(0, len(x), rows):
        part = chosen[start : start + rows]
        values[start : start + rows] = _measure(spec, part[:, first] - part[:, second], first, second)
    return values


def bond_order(bonds: Array, owner: NDArray[np.int64], n: int, l: int) -> Array:
    """Global bond-orientational order Q_l of n conformations.

    Q_l² = 4π/(2l+1) Σ_m |<Y_lm>|², the average over all bonds of a conformation: Steinhardt, Nelson &
    Ronchetti, Phys. Rev. B 28, 784 (1983). It does not depend on the axes.

    Args:
        bonds: ``(M, 3)`` vectors, of any length but 0.
        owner: ``(M,)``, which conformation a bond belongs to, from 0 to n - 1.
        l: even.

    Returns:
        ``(n,)`` in [0, 1]; 0 for a conformation without bonds.
    """
    x, y, z = (bonds / np.linalg.norm(bonds, axis=1, keepdims=True)).T
    number = np.maximum(np.bincount(owner, minlength=n), 1)
    polynomial, total, azimuth = Legendre.basis(l), np.zeros(n), np.ones(len(bonds), dtype=np.complex128)
    for m in range(l + 1):
        # 4π/(2l+1) |Y_lm|² = (l-m)!/(l+m)! |(sin θ e^{iφ})^m d^m P_l/dz^m|²; m and -m are alike
        values = azimuth * polynomial.deriv(m)(z) if m else polynomial(z)
        real, imaginary = (
            np.bincount(owner, part, minlength=n) / number for part in (values.real, values.imag)
        )
        share = math.factorial(l - m) / math.factorial(l + m) * (2 if m else 1)
        total += share * (real**2 + imaginary**2)
        azimuth *= x + 1j * y
    return np.asarray(np.sqrt(total))


def _measure(
    spec: PairCountSpec | PairDistanceSpec | CoordinationSpec | SteinhardtSpec,
    apart: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> Array:
    distance = np.sqrt(np.einsum("bpd,bpd->bp", apart, apart))
    if isinstance(spec, PairCountSpec):
        return in_intervals(distance, spec.intervals).sum(1).astype(np.float64)
    if isinstance(spec, PairDistanceSpec):
        reduce: dict[str, Callable[..., Array]] = {"shortest": np.min, "longest": np.max, "mean": np.mean}
        return reduce[spec.which](distance, axis=1)
    bonded = distance < spec.cutoff
    if isinstance(spec, SteinhardtSpec):
        bonded &= distance > 0  # particles on one spot have no direction
        return bond_order(apart[bonded], np.nonzero(bonded)[0], len(apart), spec.l)
    owner, pair = np.nonzero(bonded)
    n = int(second[-1]) + 1
    neighbours = sum(np.bincount(owner * n + end[pair], minlength=len(apart) * n) for end in (first, second))
    counted = np.asarray(neighbours, dtype=np.float64).reshape(-1, n)
    return in_intervals(counted, spec.intervals).sum(1).astype(np.float64)
