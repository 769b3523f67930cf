"""Clusters superposed for the eye: by rotations and exchanges of equal particles, never by mirrors."""

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

__all__ = ["aligned", "clearest_view", "contact_length", "rigid_rotation"]

Array = NDArray[np.float64]

_ITERATIONS = 12  # of assignment and rotation in turn; they settle in fewer
_STARTS, _VIEWS = 40, 150


def aligned(x: Array, reference: Array, types: ArrayLike | None = None) -> Array:
    """Each cluster moved, and its equal particles renamed, to lie as close to the reference as found.

    From several starting rotations, the best assignment of particles for a rotation (Hungarian method) and
    the best rotation for an assignment (Kabsch) in turn (iterative closest points, Besl and McKay 1992).
    Good enough to look at: the closest superposition of all may be another.

    Args:
        x: ``(n, N, D)``, D of 2 or 3; the result has the reference's centroid.
        reference: ``(N, D)``.
        types: ``(N,)``, particles with the same number are equal; default all.

    Returns:
        ``(n, N, D)``.
    """
    kinds = np.zeros(len(reference), dtype=np.intp) if types is None else np.asarray(types)
    groups = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    centre = reference.mean(0)
    target = reference - centre
    done = [_superposed(points - points.mean(0), target, groups) for points in x]
    return np.asarray(np.stack(done) + centre) if done else np.zeros((0, *reference.shape))


def clearest_view(points: Array) -> Array:
    """Rotate ``(N, 3)`` so that, seen along z, particles hide each other as little as possible.

    Of some rotations, always the same, the one with the largest mean distance from a projected particle
    to its nearest neighbour. What lies flat in the plane, ``(N, 2)``, is turned to have its long axis level.
    """
    centred = points - points.mean(0)
    if points.shape[1] == 2:
        _, _, axes = np.linalg.svd(centred)
        axes[1] *= np.linalg.det(axes)
        return np.asarray(centred @ axes.T)
    best, found = -np.inf, centred
    for rotation in Rotation.random(_VIEWS, rng=np.random.default_rng(0)).as_matrix():
        turned = centred @ rotation.T
        apart = cdist(turned[:, :2], turned[:, :2])
        np.fill_diagonal(apart, np.inf)
        score = float(apart.min(1).mean()) if len(points) > 1 else 0.0
        if score > best:
            best, found = score, turned
    return np.asarray(found)


def rigid_rotation(x: Array, y: Array) -> Array:
    """Proper rotation R ``(D, D)`` that brings ``x @ R`` closest to ``y``, both ``(N, D)`` and centred.

    Kabsch, Acta Cryst. A34, 827 (1978).
    """
    left, _, right = np.linalg.svd(x.T @ y)
    left[:, -1] *= np.sign(np.linalg.det(left) * np.linalg.det(right))
    return np.asarray(left @ right)


def _superposed(points: Array, target: Array, groups: list[NDArray[np.intp]]) -> Array:
    best, found = np.inf, points
    for rotation in _starts(points, target):
        moved, order = points @ rotation, np.arange(len(points))
        for _ in range(_ITERATIONS):
            before, order = order, _matched(moved, target, groups)
            moved = points @ rigid_rotation(points[order], target)
            if (order == before).all():
                break
        distance = float(((moved[order] - target) ** 2).sum())
        if distance < best:
            best, found = distance, moved[order]
    return found


def _matched(x: Array, y: Array, groups: list[NDArray[np.intp]]) -> NDArray[np.intp]:
    """Which particle of ``x`` takes the place of each of ``y``."""
    order = np.arange(len(y))
    for group in groups:
        rows, columns = linear_sum_assignment(cdist(x[group], y[group], "sqeuclidean"))
        order[group[columns]] = group[rows]
    return order


def _starts(x: Array, y: Array) -> list[Array]:
    """Rotations that bring principal axes together, then an even spread of others."""
    dimensions = x.shape[1]
    if dimensions == 2:
        angles = 2 * np.pi * np.arange(_STARTS) / _STARTS
        return [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles]
    ours, theirs = np.linalg.eigh(x.T @ x)[1], np.linalg.eigh(y.T @ y)[1]
    matched = [ours @ np.diag(signs) @ theirs.T for signs in product((1.0, -1.0), repeat=dimensions)]
    spread = Rotation.random(_STARTS, rng=np.random.default_rng(1)).as_matrix()
    return [rotation for rotation in matched if np.linalg.det(rotation) > 0] + list(spread)


def contact_length(x: Array) -> float:
    """Median distance of a particle to its nearest neighbour in clusters ``(n, N, D)``."""
    nearest = []
    for points in x:
        if np.isfinite(points).all() and len(points) > 1:
            apart = cdist(points, points)
            np.fill_diagonal(apart, np.inf)
            nearest.append(apart.min(1))
    return float(np.median(nearest)) if nearest else 1.0
