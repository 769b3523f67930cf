"""Distances between sets of samples against closed forms, other solvers and repeated samples."""

import math

import numpy as np
import pytest
from checks import assert_mean
from scipy.optimize import linear_sum_assignment
from scipy.special import ndtri
from torch import from_numpy

from bgdiff.analysis.transport import histogram_tvd, pair_distances, transport_distance, wasserstein_1d
from bgdiff.errors import DataError


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


def test_gaussians_are_apart_by_their_means_and_widths() -> None:
    """W2² = (μ - μ')² + (σ - σ')², on the quantiles of both."""
    quantiles = ndtri((np.arange(100_000) + 0.5) / 100_000)
    assert wasserstein_1d(quantiles, 0.7 + 1.6 * quantiles) == pytest.approx(math.hypot(0.7, 0.6), rel=1e-3)


def test_samples_of_uniforms_have_the_expected_distance(random: np.random.Generator) -> None:
    """E W2² = m² + 2/n Σ_i Var U_(i): order statistics of both sides are independent."""
    n, shift = 60, 0.3
    i = np.arange(1, n + 1)
    truth = shift**2 + 2 * float(np.mean(i * (n + 1 - i))) / ((n + 1) ** 2 * (n + 2))
    found = [wasserstein_1d(random.random(n), random.random(n) + shift) ** 2 for _ in range(400)]
    assert_mean(from_numpy(np.array(found)), truth)


def test_translation_and_stretching_are_exact(random: np.random.Generator) -> None:
    values = random.standard_normal(500) ** 3
    assert wasserstein_1d(values, random.permutation(values) - 2.5) == pytest.approx(2.5, rel=1e-12)
    moved = 3 * values + 1
    expected = math.sqrt(np.mean((moved - values) ** 2))
    assert wasserstein_1d(values, random.permutation(moved)) == pytest.approx(expected, rel=1e-12)


def test_weights_are_repetitions(random: np.random.Generator) -> None:
    a, b = random.standard_normal(40), random.standard_normal(30) + 0.5
    times_a, times_b = random.integers(0, 4, 40), random.integers(0, 4, 30)
    a[np.flatnonzero(times_a == 0)[0]] = np.inf  # of weight zero
    repeated = np.repeat(a, times_a), np.repeat(b, times_b)
    weights = 0.1 * times_a, 7.0 * times_b
    assert wasserstein_1d(a, b, *weights) == pytest.approx(wasserstein_1d(*repeated), rel=1e-9)
    assert histogram_tvd(a, b, *weights, bins=9) == pytest.approx(histogram_tvd(*repeated, bins=9), abs=1e-12)
    cost = random.random((40, 30))
    many = cost[np.repeat(np.arange(40), times_a)][:, np.repeat(np.arange(30), times_b)]
    assert transport_distance(cost, *weights) == pytest.approx(transport_distance(many), rel=1e-9)


def test_equal_weights_make_it_an_assignment(random: np.random.Generator) -> None:
    cost = random.random((50, 50))
    rows, columns = linear_sum_assignment(cost)
    assert transport_distance(cost) ** 2 == pytest.approx(cost[rows, columns].mean(), rel=1e-9)
    line = random.standard_normal((2, 50))
    squared = (line[0][:, None] - line[1]) ** 2
    assert transport_distance(squared) == pytest.approx(wasserstein_1d(*line), rel=1e-9)


def test_tvd_of_known_histograms() -> None:
    reference = np.array([0.0, 0.5, 1.5, 2.5, 3.5, 4.0])  # four bins of one: 2, 1, 1, 2
    samples = np.array([0.1, 1.1, 1.9, 2.2, 3.0, -1.0, 9.0, 9.0])  # 1, 2, 1, 1, one below, two above
    expected = 0.5 * (
        abs(2 / 6 - 1 / 8) + abs(1 / 6 - 2 / 8) + abs(1 / 6 - 1 / 8) + abs(2 / 6 - 1 / 8) + 3 / 8
    )
    assert histogram_tvd(samples, reference, bins=4) == pytest.approx(expected, rel=1e-12)
    assert histogram_tvd(reference, reference, bins=4) == 0
    assert histogram_tvd(reference + 10, reference) == pytest.approx(1)


def test_pair_distances_are_those_of_a_loop(random: np.random.Generator) -> None:
    x = random.standard_normal((3, 5, 2))
    expected = [[math.dist(p[i], p[j]) for i in range(5) for j in range(i + 1, 5)] for p in x]
    np.testing.assert_allclose(pair_distances(x), expected, rtol=1e-12)


def test_what_makes_no_sense_is_refused() -> None:
    one = np.ones(3)
    with pytest.raises(DataError, match="samples: there are none"):
        wasserstein_1d([], one)
    with pytest.raises(DataError, match="reference: 1 of 3 values .* not finite"):
        wasserstein_1d(one, [0.0, np.nan, 1.0])
    with pytest.raises(DataError, match=r"samples: weights of shape \(2,\)"):
        histogram_tvd(one, one, np.ones(2))
    with pytest.raises(DataError, match="not negative"):
        wasserstein_1d(one, one, [1.0, -1.0, 2.0])
    with pytest.raises(DataError, match="not all zero"):
        transport_distance(np.ones((3, 3)), np.zeros(3))
    with pytest.raises(DataError, match="finite matrix"):
        transport_distance([[0.0, np.inf]])
