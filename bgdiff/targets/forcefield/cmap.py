"""The periodic bicubic spline of a correction map (CMAP)."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["spline_coefficients"]

# Powers of u on [0, 1] from the values and slopes at its ends: (f(0), f(1), f'(0), f'(1)).
_HERMITE = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [-3, 3, -2, -1], [2, -2, 1, 1]], dtype=np.float64)


def spline_coefficients(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``c[s, t, a, b]`` with energy Σ c u^a v^b on the cell (s, t) of a periodic grid.

    The slopes at the grid points are those of the periodic cubic splines along each axis, the mixed
    derivatives those of a spline through the slopes; this is the surface OpenMM makes of a map.

    Args:
        grid: ``(size, size)`` values; the first index belongs to the first torsion.

    Returns:
        ``(size, size, 4, 4)``, with u and v running from 0 to 1 inside a cell.
    """
    slope_s = _slopes(grid)
    slope_t = _slopes(grid.T).T
    mixed = _slopes(slope_t)
    ends = [  # rows: value at s, at s + 1, slope along s at s, at s + 1; columns the same along t
        [_shift(f, s, t) for f, t in ((row, 0), (row, 1), (row_t, 0), (row_t, 1))]
        for row, row_t, s in (
            (grid, slope_t, 0),
            (grid, slope_t, 1),
            (slope_s, mixed, 0),
            (slope_s, mixed, 1),
        )
    ]
    corners = np.moveaxis(np.array(ends), (0, 1), (2, 3))
    return np.ascontiguousarray(_HERMITE @ corners @ _HERMITE.T)


def _slopes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the derivatives, per grid step along the first axis, of periodic cubic splines at their knots.

    Continuity of the second derivative at knot i reads m_{i-1} + 4 m_i + m_{i+1} = 3 (f_{i+1} - f_{i-1}).
    """
    one = np.eye(len(values))
    matrix = 4 * one + np.roll(one, 1, axis=0) + np.roll(one, -1, axis=0)
    steps: NDArray[np.float64] = np.roll(values, -1, axis=0) - np.roll(values, 1, axis=0)
    return np.asarray(np.linalg.solve(matrix, 3 * steps), dtype=np.float64)


def _shift(values: NDArray[np.float64], s: int, t: int) -> NDArray[np.float64]:
    """Return the values of the corner (s, t) of every cell."""
    return np.roll(values, (-s, -t), axis=(0, 1))
