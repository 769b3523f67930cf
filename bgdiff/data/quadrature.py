"""Reference values of toy densities by numerical integration: exact, and without any sampling."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bgdiff.errors import SystemDefinitionError
from bgdiff.observable_spec import ConditionSpec, Interval, ObservableSpec
from bgdiff.systems import System
from bgdiff.targets.base import Target
from bgdiff.targets.double_well import DoubleWell
from bgdiff.targets.many_well import ManyWell

__all__ = ["log_z_where", "quadrature_reference"]

_METHOD = "adaptive quadrature"
_WHOLE: list[Interval] = [(-math.inf, math.inf)]


def quadrature_reference(system: System) -> dict[str, Any]:
    """What ``reference.json`` says of a toy density: log Z and the free-energy differences asked for.

    Raises:
        SystemDefinitionError: a basin is none that can be integrated.
    """
    import scipy

    import bgdiff

    def log_z_of(basin: str) -> float:
        try:
            return log_z_where(system.target, system.spec.basins[basin].terms, system.spec.observables)
        except ValueError as error:
            raise SystemDefinitionError(f"{system.path}/system.yaml: basins.{basin}: {error}") from error

    return {
        "free_energy_differences": [
            {
                "name": item.name,
                "initial": item.initial,
                "final": item.final,
                "value": log_z_of(item.initial) - log_z_of(item.final),
                "std_error": 0.0,
                "method": _METHOD,
            }
            for item in system.differences
        ],
        "log_z": {"value": log_z_where(system.target, [], {}), "std_error": 0.0, "method": _METHOD},
        "versions": {"bgdiff": bgdiff.__version__, "scipy": scipy.__version__},
    }


def log_z_where(
    target: Target, conditions: Sequence[ConditionSpec], observables: Mapping[str, ObservableSpec]
) -> float:
    """log of the part of Z of a double well, or of many, in which all the conditions hold.

    The coordinates are independent, so conditions on components factorise. How many particles lie
    in a slab follows a binomial distribution; a condition on that number has to stand alone.

    Raises:
        ValueError: the target or the conditions are of another kind.
    """
    if not isinstance(target, DoubleWell | ManyWell):
        raise ValueError("only double wells can be integrated")
    well, copies = (target.well, target.copies) if isinstance(target, ManyWell) else (target, 1)
    specs = [observables[condition.observable] for condition in conditions]
    if len(conditions) == 1 and (count := specs[0].count) is not None:
        share = _log_z(well, count.axis, count.intervals) - _log_z(well, count.axis, _WHOLE)
        total = copies * well.log_z()
        return total + _log_binomial(copies, math.exp(share), conditions[0].intervals)
    chosen: dict[tuple[int, int], list[Interval]] = {}
    for condition, spec in zip(conditions, specs, strict=True):
        if spec.component is None or spec.component in chosen:
            raise ValueError("only intervals of different coordinates, or of one count, can be integrated")
        chosen[spec.component] = condition.intervals
    whole = [_log_z(well, axis, _WHOLE) for axis in (0, 1)]
    rest = [whole[axis] for particle in range(copies) for axis in (0, 1) if (particle, axis) not in chosen]
    return sum(_log_z(well, axis, intervals) for (_, axis), intervals in chosen.items()) + sum(rest)


def _log_z(well: DoubleWell, axis: int, intervals: Sequence[Interval]) -> float:
    """log of the integral over one coordinate of one particle within the intervals."""
    import numpy as np
    from scipy.special import ndtr

    parts = []
    for lo, hi in _merged(intervals):
        if axis == 0:
            parts.append(well.log_z_interval(lo, hi) - 0.5 * math.log(2 * math.pi))
        else:
            # on the side of the smaller tail, where no digits cancel
            share = ndtr(-lo) - ndtr(-hi) if lo > 0 else ndtr(hi) - ndtr(lo)
            parts.append(math.log(share) + 0.5 * math.log(2 * math.pi) if share > 0 else -math.inf)
    return float(np.logaddexp.reduce(parts))


def _log_binomial(n: int, p: float, intervals: Sequence[Interval]) -> float:
    """log of the probability that a binomial number lies in one of the intervals [lo, hi)."""
    import numpy as np
    from scipy.stats import binom

    numbers = [k for k in range(n + 1) if any(lo <= k < hi for lo, hi in intervals)]
    return float(np.logaddexp.reduce(binom.logpmf(numbers, n, p))) if numbers else -math.inf


def _merged(intervals: Sequence[Interval]) -> list[Interval]:
    """The same union without overlaps, so that nothing is counted twice."""
    merged: list[Interval] = []
    for lo, hi in sorted(intervals):
        if merged and lo <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(hi, merged[-1][1]))
        else:
            merged.append((lo, hi))
    return merged
