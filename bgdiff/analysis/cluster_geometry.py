"""How structures are turned and measured before they are drawn."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from scipy.spatial.transform import Rotation

__all__ = ["clearest_view", "contact_length", "rigid_rotation"]

Array = NDArray[np.float64]

_VIEWS = 150


def clearest_view(points: Array) -> Array:
    """Rotate ``(N, 3)`` so that, seen along z, particles hide each other as little as possible.

    Of some rotations, always the same, the one in which the fewest projected pairs are close: the sum of
    exp(-(d/r)²) over their distances d is least, r half the distance to a nearest neighbour. What lies flat
    in the plane, ``(N, 2)``, is turned to have its long axis level.
    """
    centred = points - points.mean(0)
    if points.shape[1] == 2:
        _, _, axes = np.linalg.svd(centred)
        axes[1] *= np.linalg.det(axes)
        return np.asarray(centred @ axes.T)
    near = contact_length(centred[None]) / 2
    turned = centred @ Rotation.random(_VIEWS, rng=np.random.default_rng(0)).as_matrix()
    hidden = [np.exp(-((pdist(seen[:, :2]) / near) ** 2)).sum() for seen in turned]
    return np.asarray(turned[int(np.argmin(hidden))])


def rigid_rotation(x: Array, y: Array) -> Array:
    """Proper rotation R ``(D, D)`` that brings ``x @ R`` closest to ``y``, both ``(N, D)`` and centred.

    Kabsch, Acta Cryst. A34, 827 (1978).
    """
    left, _, right = np.linalg.svd(x.T @ y)
    left[:, -1] *= np.sign(np.linalg.det(left) * np.linalg.det(right))
    return np.asarray(left @ right)


def contact_length(x: Array) -> float:
    """Median distance of a particle to its nearest neighbour in clusters ``(n, N, D)``."""
    nearest = []
    for points in x:
        if np.isfinite(points).all() and len(points) > 1:
            apart = cdist(points, points)
            np.fill_diagonal(apart, np.inf)
            nearest.append(apart.min(1))
    return float(np.median(nearest)) if nearest else 1.0
