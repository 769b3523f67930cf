"""How long a simulation remembers: where its equilibrium begins, and how far apart independent frames are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bgdiff.free_energy.quiet import pymbar, quietly

__all__ = ["Memory", "measure_memory"]

Array = NDArray[np.float64]

_ORIGINS = 40  # that are tried for the beginning of equilibrium
_ENOUGH = 10  # frames, to say anything


@dataclass(frozen=True)
class Memory:
    """Time scales of one trajectory, in frames.

    Attributes:
        burn_in: first frame of the stretch in which the energy has the most independent values (Chodera,
            J. Chem. Theory Comput. 12, 1799 (2016)).
        inefficiency: g = 1 + 2τ of the energy and of every observable after it; of a torsion the larger one
            of its cosine and sine. One in g frames is independent.
        frames: that were looked at after ``burn_in``.
    """

    burn_in: int
    inefficiency: dict[str, float]
    frames: int

    @property
    def stride(self) -> int:
        """Frames that may be passed over: within g of the energy, conformations are much alike."""
        return max(1, int(self.inefficiency["energy"]))

    @property
    def slowest(self) -> tuple[str, float]:
        """Name and g of what changes most slowly."""
        return max(self.inefficiency.items(), key=lambda item: item[1])


def measure_memory(energy: Array, observables: Mapping[str, Array], periodic: Mapping[str, bool]) -> Memory:
    """Time scales of a trajectory by ``pymbar.timeseries``.

    Args:
        energy: ``(n,)``.
        observables: each ``(n,)``.
        periodic: which of them are angles.
    """
    n = len(energy)
    if n < _ENOUGH:
        return Memory(0, {"energy": 1.0, **dict.fromkeys(observables, 1.0)}, n)
    start = _equilibration(energy)
    found = {"energy": _inefficiency(energy[start:])}
    for name, values in observables.items():
        rest = values[start:]
        parts = [np.cos(rest), np.sin(rest)] if periodic[name] else [rest]
        found[name] = max(map(_inefficiency, parts))
    return Memory(start, found, n - start)


def _equilibration(values: Array) -> int:
    if not _varies(values):
        return 0
    with quietly():
        start, _, _ = pymbar().timeseries.detect_equilibration(
            values, fast=True, nskip=max(1, len(values) // _ORIGINS)
        )
    return int(start)


def _inefficiency(values: Array) -> float:
    if len(values) < _ENOUGH or not _varies(values):
        return 1.0
    with quietly():
        return float(pymbar().timeseries.statistical_inefficiency(values, fast=True))


def _varies(values: Array) -> bool:
    """pymbar refuses series that do not."""
    return bool(values.std() > 1e-12 * (1 + np.abs(values).max()))
