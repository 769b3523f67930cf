"""Which values lie in unions of half-open intervals, on a line or on a circle."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bgdiff.observable_spec import Interval

__all__ = ["in_intervals", "on_arcs"]

Array = NDArray[np.float64]


def in_intervals(values: Array, intervals: Sequence[Interval], *, degrees: bool = False) -> NDArray[np.bool_]:
    """Which values, of any shape, lie in one of the half-open intervals [lo, hi).

    Args:
        degrees: intervals are in degrees, values in radian.
    """
    inside = np.zeros(np.shape(values), dtype=np.bool_)
    values = np.degrees(values) if degrees else values
    for lo, hi in intervals:
        inside |= (lo <= values) & (values < hi)
    return inside


def on_arcs(values: Array, arcs: Sequence[Interval]) -> NDArray[np.bool_]:
    """Which angles, in radian, lie on one of the arcs [lo, hi), in degrees and counted from anywhere."""
    inside = np.zeros(np.shape(values), dtype=np.bool_)
    for lo, hi in arcs:
        inside |= np.mod(np.degrees(values) - lo, 360) < hi - lo
    return inside
