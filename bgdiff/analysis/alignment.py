r"""How far two clusters are apart when neither their orientation nor the names of equal particles matter.

    d(x, y) = min over R and P of ‖ x - P y R ‖        (Euclidean norm over all N·D coordinates)

of conformations without their centroids, with R a rotation (or reflection, if asked for) and P a permutation
of equal particles. For one of the two the other has a closed solution: the best R for given partners is that
of Kabsch (Acta Cryst. A34, 827, 1978), the best P for a given orientation an assignment problem (Kuhn, Naval
Res. Logist. Q. 2, 83, 1955; scipy). Both together have no known fast solution, so that :func:`distances`
gives

- the exact minimum for up to 24 permutations, four equal particles, by trying all of them, and with no equal
  particles at all;
- otherwise an *upper bound*: both in turn from several starts until nothing changes, as in the iterated
  closest points of Besl & McKay (IEEE PAMI 14, 239, 1992) and the minimal permutational distances of Wales &
  Carr (J. Chem. Theory Comput. 8, 5020, 2012).

:func:`lower_bounds` brackets it from below. :func:`one_pass_distances` is what the code of iDEM
(arXiv:2402.06121), BNEM (2409.09787) and ASBS (2506.22565) computes, after equivariant flow matching
(2306.15030): one assignment in the orientation in which the conformations come, then one rotation or
reflection. It is an upper bound as well, a far looser one.
"""

from collections.abc import Iterator
from itertools import permutations, product
from math import factorial, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from bgdiff.analysis.transport import pair_distances
from bgdiff.errors import DataError

__all__ = ["distances", "is_exact", "lower_bounds", "one_pass_distances", "superposed"]

Array = NDArray[np.float64]
Order = NDArray[np.intp]

_EXACT = 24  # permutations that are all tried
_STARTS = 4
_PASSES = 30  # of assignment and rotation in turn; they settle in about five
_PAIRS = 4096  # aligned at a time


def distances(
    x: ArrayLike,
    y: ArrayLike,
    types: ArrayLike | None = None,
    *,
    reflect: bool = False,
    starts: int = _STARTS,
) -> Array:
    """d(x, y) ``(n, m)`` of conformations ``(n, N, D)`` and ``(m, N, D)``: exact, or an upper bound (above).

    Args:
        types: ``(N,)``, particles of one number are equal; None if all differ.
        reflect: whether mirror images count as the same.
        starts: of the search: partners by what each particle sees around it, the orientation in which the
            conformations come, then random orientations, always the same.

    Raises:
        DataError: shapes do not agree, or a coordinate is not finite.
    """
    a, b = _centred(x, y)
    groups = _groups(types, a.shape[1])
    if _count(groups) <= _EXACT:
        return _exact(a, b, groups, reflect)
    found = np.empty((len(a), len(b)))
    turns = _orientations(a.shape[2], max(starts - 2, 0), reflect)
    around = _surroundings(a), _surroundings(b)
    for rows, columns in _pairs(len(a), len(b)):
        first, second = a[rows], b[columns]
        alike = _assign(around[0][rows], around[1][columns], groups)
        found[rows, columns] = _closest(first, second, groups, reflect, alike, turns[: max(starts - 1, 0)])[0]
    return found


def superposed(
    x: ArrayLike, reference: ArrayLike, types: ArrayLike | None = None, *, starts: int = 16
) -> Array:
    """Conformations ``(n, N, D)`` turned, and their equal particles renamed, to lie close to a reference.

    By proper rotations only, never mirrored. The superposition is the closest that the search of
    :func:`distances` finds, good to look at and seldom the minimum itself for large clusters.

    Args:
        reference: ``(N, D)``; the result has its centroid.
        types, starts: as for :func:`distances`.

    Raises:
        DataError: as for :func:`distances`.
    """
    target = np.asarray(reference, dtype=np.float64)
    a, b = _centred(target[None], x)
    groups = _groups(types, a.shape[1])
    if not len(b):
        return b
    alike = _assign(np.repeat(_surroundings(a), len(b), axis=0), _surroundings(b), groups)
    a = np.repeat(a, len(b), axis=0)
    turns = _orientations(a.shape[2], max(starts - 2, 0), reflect=False)
    order = _closest(a, b, groups, False, alike, turns[: max(starts - 1, 0)])[1]
    moved = _ordered(b, order)
    return np.asarray(moved @ _overlap(moved, a, reflect=False)[1] + target.mean(0))


def is_exact(types: ArrayLike) -> bool:
    """Whether :func:`distances` is the minimum itself for particles of these types ``(N,)``."""
    return _count(_groups(types, len(np.asarray(types)))) <= _EXACT


def one_pass_distances(x: ArrayLike, y: ArrayLike, types: ArrayLike | None = None) -> Array:
    """The literature's distance ``(n, m)``: one assignment, by Euclidean distances, then one Kabsch rotation.

    Reflections are allowed, as they are there. The value depends on the orientations of x and y.

    Raises:
        DataError: as for :func:`distances`.
    """
    a, b = _centred(x, y)
    groups = _groups(types, a.shape[1])
    found = np.empty((len(a), len(b)))
    for rows, columns in _pairs(len(a), len(b)):
        first, second = a[rows], b[columns]
        order = np.tile(np.arange(a.shape[1]), (len(first), 1))
        for group in (group for group in groups if len(group) > 1):
            overlap = first[:, group] @ second[:, group].swapaxes(1, 2)
            squared = (first[:, group] ** 2).sum(2)[:, :, None] + (second[:, group] ** 2).sum(2)[:, None]
            _match(-np.sqrt(np.maximum(squared - 2 * overlap, 0.0)), group, order)
        found[rows, columns] = _distance(first, second, _overlap(first, _ordered(second, order), True)[0])
    return found


def lower_bounds(x: ArrayLike, y: ArrayLike) -> Array:
    """Numbers ``(n, m)`` that no alignment can go below: ‖sorted pair distances of x - those of y‖ / √N.

    With δ_i = x_i - (P y R)_i, which sum to zero, Σ_{i<j} |δ_i - δ_j|² = N Σ |δ_i|²; each term is at least
    the squared difference of two pair distances, and sorting them makes the sum of those least.

    Raises:
        DataError: as for :func:`distances`.
    """
    a, b = _centred(x, y)
    ours, theirs = (np.sort(pair_distances(points), axis=1) for points in (a, b))
    squared = (ours**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * ours @ theirs.T
    return np.asarray(np.sqrt(np.maximum(squared, 0.0) / a.shape[1]))


def _closest(
    first: Array, second: Array, groups: list[Order], reflect: bool, alike: Order, turns: list[Array]
) -> tuple[Array, Order]:
    """The least distances ``(B,)`` of searches from an assignment and from orientations, and the partners."""
    best, order = _search(first, second, groups, reflect, alike)
    for turn in turns:
        other, partners = _search(first, second, groups, reflect, _assign(first @ turn, second, groups))
        nearer = other < best
        best[nearer], order[nearer] = other[nearer], partners[nearer]
    return best, order


def _search(
    first: Array, second: Array, groups: list[Order], reflect: bool, order: Order
) -> tuple[Array, Order]:
    """Distances ``(B,)`` of pairs of conformations after rotating and assigning in turn, and the partners.

    Args:
        order: ``(B, N)`` partners to begin with.
    """
    best, partners = np.empty(len(first)), order.copy()
    left = np.arange(len(first))  # pairs that still change
    for _ in range(_PASSES):
        overlap, turn = _overlap(first[left], _ordered(second[left], order), reflect)
        best[left], partners[left] = overlap, order
        after = _assign(first[left] @ turn, second[left], groups)
        changed = (after != order).any(1)
        left, order = left[changed], after[changed]
        if not len(left):
            break
    return _distance(first, second, best), partners


def _overlap(first: Array, second: Array, reflect: bool) -> tuple[Array, Array]:
    """The largest Σ (x_i R)·y_i over R, ``(B,)``, and that R ``(B, D, D)``: Kabsch's solution."""
    left, size, right = np.linalg.svd(first.swapaxes(1, 2) @ second)
    if not reflect:
        hand = np.sign(np.linalg.det(left) * np.linalg.det(right))
        left[:, :, -1] *= hand[:, None]
        size[:, -1] *= hand
    return size.sum(1), left @ right


def _largest(overlap: Array, reflect: bool) -> Array:
    """The largest Σ (x_i R)·y_i over R ``(B,)`` from xᵀy ``(B, D, D)``; the plane needs no decomposition."""
    if overlap.shape[1] != 2:
        size = np.linalg.svd(overlap, compute_uv=False)
        if not reflect:
            size[:, -1] *= np.sign(np.linalg.det(overlap))
        return np.asarray(size.sum(1))
    (a, b), (c, d) = overlap[:, 0].T, overlap[:, 1].T
    turned = np.hypot(a + d, b - c)
    return np.maximum(turned, np.hypot(a - d, b + c)) if reflect else turned


def _distance(first: Array, second: Array, overlap: Array) -> Array:
    squared = (first**2).sum((1, 2)) + (second**2).sum((1, 2)) - 2 * overlap
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def _assign(first: Array, second: Array, groups: list[Order]) -> Order:
    """Which particle of the second is the partner of each of the first, ``(B, N)``, orientations as given."""
    order = np.tile(np.arange(first.shape[1]), (len(first), 1))
    for group in (group for group in groups if len(group) > 1):
        _match(first[:, group] @ second[:, group].swapaxes(1, 2), group, order)
    return order


def _surroundings(points: Array) -> Array:
    """Sorted distances ``(n, N, N)`` of each particle to all: what it sees in any orientation.

    The assignment with the largest sum of scalar products has the least sum of squared differences.
    """
    apart = np.empty((len(points), points.shape[1], points.shape[1]))
    for particle in range(points.shape[1]):
        apart[:, particle] = np.linalg.norm(points - points[:, particle, None], axis=-1)
    return np.sort(apart, axis=2)


def _match(gain: Array, group: Order, order: Order) -> None:
    """Write the assignments within a group that gain most, ``gain`` being ``(B, g, g)``, into ``order``."""
    for row, values in enumerate(gain):
        order[row, group] = group[linear_sum_assignment(values, maximize=True)[1]]


def _exact(a: Array, b: Array, groups: list[Order], reflect: bool) -> Array:
    """Distances by trying every permutation."""
    found = np.empty((len(a), len(b)))
    orders = list(_permutations(groups, a.shape[1]))
    for rows, columns in _pairs(len(a), len(b)):
        first, second = a[rows], b[columns]
        overlap = np.full(len(first), -np.inf)
        for order in orders:
            product_of_both = first.swapaxes(1, 2) @ second[:, order]
            overlap = np.maximum(overlap, _largest(product_of_both, reflect))
        found[rows, columns] = _distance(first, second, overlap)
    return found


def _count(groups: list[Order]) -> int:
    """Permutations of equal particles."""
    return prod(factorial(len(group)) for group in groups)


def _permutations(groups: list[Order], n: int) -> Iterator[Order]:
    for choice in product(*(permutations(group) for group in groups)):
        order = np.arange(n)
        for group, names in zip(groups, choice, strict=True):
            order[group] = names
        yield order


def _orientations(dimensions: int, extra: int, reflect: bool) -> list[Array]:
    """Orthogonal matrices ``(D, D)`` to start from: none, then random ones, always the same."""
    generator = np.random.default_rng(0)
    turns = [np.eye(dimensions)]
    for _ in range(extra):
        turn, triangle = np.linalg.qr(generator.standard_normal((dimensions, dimensions)))
        turn *= np.sign(np.diag(triangle))  # uniform on O(D)
        if not reflect and np.linalg.det(turn) < 0:
            turn[:, 0] *= -1
        turns.append(turn)
    return turns


def _ordered(points: Array, order: Order) -> Array:
    return np.take_along_axis(points, order[:, :, None], axis=1)


def _pairs(n: int, m: int) -> Iterator[tuple[Order, Order]]:
    """Row and column numbers of an ``(n, m)`` matrix, some thousand at a time."""
    for start in range(0, n * m, _PAIRS):
        yield np.divmod(np.arange(start, min(start + _PAIRS, n * m)), m)


def _groups(types: ArrayLike | None, n: int) -> list[Order]:
    """Indices of the particles of every type."""
    kinds = np.arange(n) if types is None else np.asarray(types)
    if kinds.shape != (n,):
        raise DataError(f"types of shape {kinds.shape} do not belong to {n} particles")
    return [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]


def _centred(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    a, b = (np.asarray(points, dtype=np.float64) for points in (x, y))
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or 0 in a.shape[1:]:
        raise DataError(f"cannot align conformations of shape {a.shape} with those of shape {b.shape}")
    for name, points in (("first", a), ("second", b)):
        if not np.isfinite(points).all():
            raise DataError(f"the {name} conformations to align have coordinates that are not finite")
    return a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
