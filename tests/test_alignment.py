"""Distances modulo rotation, reflection and permutation: copies recovered, brute force, bounds."""

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from bgdiff.analysis import alignment
from bgdiff.analysis.alignment import distances, is_exact, lower_bounds, one_pass_distances
from bgdiff.errors import DataError

Array = NDArray[np.float64]


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(11)


def clusters(random: np.random.Generator, n: int, noise: float) -> Array:
    """Icosahedra of 13 particles, the ground state of LJ13, with noise."""
    golden = (1 + 5**0.5) / 2
    corners = [np.roll([0, a, b * golden], k) for k in range(3) for a in (-1, 1) for b in (-1, 1)]
    ideal = np.array([[0.0, 0.0, 0.0], *corners]) / np.sqrt(1 + golden**2)
    return ideal + noise * random.standard_normal((n, 13, 3))


def copies(random: np.random.Generator, x: Array, *, reflect: bool = True) -> Array:
    """Each conformation turned, perhaps mirrored, moved, and its particles in another order."""
    turns = Rotation.random(len(x), random_state=1).as_matrix()
    if reflect:
        turns *= random.choice([-1.0, 1.0], size=(len(x), 1, 1))
    moved = x @ turns + random.standard_normal((len(x), 1, 3))
    return np.stack([points[random.permutation(x.shape[1])] for points in moved])


def closest(x: Array, y: Array, reflect: bool) -> float:
    """By scipy's Kabsch, and its mirror image."""
    x, y = x - x.mean(0), y - y.mean(0)
    found = Rotation.align_vectors(x, y)[1]
    return min(found, Rotation.align_vectors(x, -y)[1]) if reflect else found


@pytest.mark.filterwarnings("ignore:Optimal rotation is not uniquely")
@pytest.mark.parametrize("noise", [0.05, 0.15])
def test_copies_are_at_no_distance(random: np.random.Generator, noise: float) -> None:
    x = clusters(random, 12, noise)
    types = np.zeros(13, dtype=int)
    found = distances(x, copies(random, x), types, reflect=True)
    assert np.diag(found).max() < 1e-6
    shaken = copies(random, x)
    change = 0.01 * random.standard_normal(x.shape)
    change -= change.mean(1, keepdims=True)
    near = np.diag(distances(x, shaken + change, types, reflect=True))
    assert (near < np.linalg.norm(change, axis=(1, 2)) + 1e-9).all()
    assert (found[~np.eye(12, dtype=bool)] > 2 * near.max()).all()  # others are not copies


@pytest.mark.parametrize("reflect", [False, True])
def test_four_particles_by_brute_force(random: np.random.Generator, reflect: bool) -> None:
    x, y = random.standard_normal((3, 4, 3)), random.standard_normal((2, 4, 3))
    expected = [
        [min(closest(a, b[list(order)], reflect) for order in permutations(range(4))) for b in y] for a in x
    ]
    found = distances(x, y, np.zeros(4, dtype=int), reflect=reflect)
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("reflect", [False, True])
def test_four_particles_in_the_plane_by_scanning_angles(random: np.random.Generator, reflect: bool) -> None:
    x, y = random.standard_normal((2, 4, 2)), random.standard_normal((2, 4, 2))
    found = distances(x, y, np.zeros(4, dtype=int), reflect=reflect)
    angles = np.linspace(0, 2 * np.pi, 2001)
    turns = np.moveaxis(np.array([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]]), 2, 0)
    for i, a in enumerate(x - x.mean(1, keepdims=True)):
        for j, b in enumerate(y - y.mean(1, keepdims=True)):
            images = [b, b * [1, -1]] if reflect else [b]
            scanned = min(
                float(np.linalg.norm(a - image[list(order)] @ turns, axis=(1, 2)).min())
                for image in images
                for order in permutations(range(4))
            )
            assert found[i, j] <= scanned <= found[i, j] + 1e-4


def test_the_search_is_an_upper_bound_and_mostly_the_minimum(
    random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = random.standard_normal((12, 4, 3)), random.standard_normal((12, 4, 3))
    types = np.zeros(4, dtype=int)
    exact = distances(x, y, types, reflect=True)
    monkeypatch.setattr(alignment, "_EXACT", 1)
    found = distances(x, y, types, reflect=True, starts=12)
    assert (found > exact - 1e-9).all()
    assert np.mean(found < exact + 1e-9) > 0.9
    few = distances(x, y, types, reflect=True, starts=2)
    assert (few >= found - 1e-9).all()  # more starts find no worse


def test_only_equal_particles_are_exchanged(random: np.random.Generator) -> None:
    types = np.array([0, 1, 0, 1, 2])
    x = random.standard_normal((4, 5, 3))
    exchanged = x[:, [2, 1, 0, 3, 4]] @ Rotation.random(random_state=3).as_matrix()
    assert np.diag(distances(x, exchanged, types)).max() < 1e-6
    others = x[:, [1, 0, 2, 3, 4]]
    allowed = [[0, 1, 2, 3, 4], [2, 1, 0, 3, 4], [0, 3, 2, 1, 4], [2, 3, 0, 1, 4]]
    expected = [min(closest(a, b[order], False) for order in allowed) for a, b in zip(x, others, strict=True)]
    np.testing.assert_allclose(np.diag(distances(x, others, types)), expected, rtol=1e-7)


def test_a_mirror_image_is_another_molecule(random: np.random.Generator) -> None:
    x = random.standard_normal((3, 6, 3))
    mirrored = x * [1, 1, -1]
    assert np.diag(distances(x, mirrored, reflect=True)).max() < 1e-6
    expected = [closest(a, b, False) for a, b in zip(x, mirrored, strict=True)]
    np.testing.assert_allclose(np.diag(distances(x, mirrored)), expected, rtol=1e-7)
    assert min(expected) > 0.1


def test_one_pass_is_what_its_description_says(random: np.random.Generator) -> None:
    x, y = clusters(random, 4, 0.2), copies(random, clusters(random, 3, 0.2))
    y -= y.mean(1, keepdims=True)
    x -= x.mean(1, keepdims=True)
    types = np.zeros(13, dtype=int)
    found = one_pass_distances(x, y, types)
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            ordered = b[linear_sum_assignment(cdist(a, b))[1]]
            left, _, right = np.linalg.svd(ordered.T @ a)
            assert found[i, j] == pytest.approx(np.linalg.norm(a - ordered @ left @ right), rel=1e-9)
    assert (lower_bounds(x, y) <= found).all()
    assert distances(x, y, types, reflect=True).mean() < found.mean()


def test_bounds_from_below(random: np.random.Generator) -> None:
    x, y = clusters(random, 8, 0.2), clusters(random, 8, 0.3)
    bounds, found = lower_bounds(x, y), distances(x, y, np.zeros(13, dtype=int), reflect=True)
    assert (bounds <= found).all()
    scaled = lower_bounds(x, 1.1 * x)  # pure breathing, which no alignment undoes
    np.testing.assert_allclose(
        np.diag(scaled), 0.1 * np.linalg.norm(x - x.mean(1, keepdims=True), axis=(1, 2)), rtol=1e-9
    )


def test_when_it_is_exact() -> None:
    assert is_exact(np.zeros(4))
    assert is_exact(np.arange(50))
    assert is_exact([0, 0, 0, 1, 1, 2])
    assert not is_exact([0, 0, 0, 1, 1, 1])
    assert not is_exact(np.zeros(5))


def test_what_cannot_be_aligned_is_refused() -> None:
    x = np.zeros((2, 3, 3))
    with pytest.raises(DataError, match="cannot align"):
        distances(x, np.zeros((2, 4, 3)))
    with pytest.raises(DataError, match="types of shape"):
        distances(x, x, [0, 0])
    with pytest.raises(DataError, match="second .* not finite"):
        one_pass_distances(x, np.full((1, 3, 3), np.nan))
