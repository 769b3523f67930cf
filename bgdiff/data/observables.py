"""Numbers computed from conformations: torsions, distances, single coordinates."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bgdiff.system_spec import BasinSpec, ObservableSpec

__all__ = ["compute_observable", "dihedral", "in_basin"]

Array = NDArray[np.float64]


def dihedral(x: Array, atoms: Sequence[int]) -> Array:
    """Torsion angles ``(B,)`` in (-π, π] of four atoms in ``x`` ``(B, N, 3)``, IUPAC sign (cis is 0)."""
    a, b, c, d = (x[:, index] for index in atoms)
    axis = c - b
    first, second = np.cross(b - a, axis), np.cross(axis, d - c)
    sine = np.linalg.norm(axis, axis=1) * np.einsum("bi,bi->b", b - a, second)
    angle = np.arctan2(sine, np.einsum("bi,bi->b", first, second))
    return np.where(angle == -np.pi, np.pi, angle)


def compute_observable(spec: ObservableSpec, x: Array) -> Array:
    """Values ``(B,)`` of the observable in ``x`` ``(B, N, D)``; radian for torsions."""
    if spec.dihedral is not None:
        return dihedral(x, spec.dihedral)
    if spec.distance is not None:
        first, second = spec.distance
        return np.asarray(np.linalg.norm(x[:, first] - x[:, second], axis=1))
    assert spec.component is not None
    particle, axis = spec.component
    return x[:, particle, axis].copy()


def in_basin(spec: BasinSpec, values: Array, periodic: bool) -> NDArray[np.bool_]:
    """Which values, of any shape, of the basin's observable (radian if ``periodic``) lie in the basin."""
    inside = np.zeros(values.shape, dtype=np.bool_)
    for lo, hi in spec.intervals:
        if periodic:
            inside |= np.mod(np.degrees(values) - lo, 360) < hi - lo
        else:
            inside |= (lo <= values) & (values < hi)
    return inside
