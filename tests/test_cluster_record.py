"""What a run on a cluster keeps for its report: pair distances with errors, structures drawn by weight."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import chi

from bgdiff.analysis.cluster_record import (
    STRUCTURES,
    ClusterRecord,
    PairHistogram,
    distance_bins,
    distances_of_data,
    pair_densities,
    read_pairs,
)
from bgdiff.free_energy.importance import expectation

EDGES = np.linspace(0.4, 3.4, 16)
TYPES = np.zeros(5, dtype=np.int64)


def clusters(n: int, seed: int = 0, dimensions: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 5, dimensions))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_densities_are_those_of_all_pairs(dimensions: int) -> None:
    x = clusters(40, dimensions=dimensions)
    ours = pair_densities(x, EDGES)
    for points, density in zip(x, ours, strict=True):
        counts = np.histogram(pdist(points), EDGES)[0]
        np.testing.assert_allclose(density, counts / (10 * 0.2), atol=1e-12)
    assert (ours.sum(1) * 0.2 < 1).any()  # some pairs are in no bin, and count all the same
    x[0, 0] = np.inf  # as impossible samples may be
    assert np.isfinite(pair_densities(x, EDGES)).all()


def test_a_histogram_in_pieces_is_the_weighted_mean_with_its_delta_method_error() -> None:
    x, generator = clusters(300), np.random.default_rng(1)
    log_weight = 1.5 * generator.standard_normal(300) + np.linspace(-800.0, 800.0, 300).round(-3)
    log_weight[17] = -np.inf
    densities = pair_densities(x, EDGES)
    histogram = PairHistogram(EDGES)
    for rows in (slice(0, 1), slice(1, 120), slice(120, 300)):
        histogram.add(densities[rows], log_weight[rows])
    found = histogram.result()
    for column, (value, error) in enumerate(zip(found.density, found.std_error, strict=True)):
        estimate = expectation(log_weight, densities[:, column])
        assert value == pytest.approx(estimate.value, abs=1e-12)
        assert error == pytest.approx(estimate.std_error, rel=0.02, abs=1e-9)  # N against N - 1
    assert found.outside == pytest.approx(1 - found.density.sum() * 0.2)
    assert np.isnan(PairHistogram(EDGES).result().density).all()


def test_errors_of_data_are_calibrated_for_simulations_that_remember() -> None:
    """Over repeated data sets of 16 chains whose frames are all alike, z-scores have standard deviation 1."""
    edges = np.linspace(0.8, 3.8, 6)
    # two standard normal points are √2 χ apart, χ of three degrees of freedom
    truth = np.diff(chi(3, scale=np.sqrt(2)).cdf(edges)) / np.diff(edges)
    scores = []
    for seed in range(80):
        x = np.repeat(clusters(24, seed), 5, axis=0)
        found = distances_of_data(x, np.repeat(np.arange(24), 5), edges)
        scores.append((found.density - truth) / found.std_error)
    spread = np.std(scores, axis=0) / np.sqrt(23 / 21)  # Student's t of 23 degrees of freedom
    assert np.abs(spread - 1).max() < 4 / np.sqrt(2 * 80)
    assert np.abs(np.mean(scores, axis=0)).max() < 4.5 / np.sqrt(80)
    few = distances_of_data(np.repeat(clusters(40), 5, axis=0), np.zeros(200), EDGES)
    many = distances_of_data(clusters(200), np.zeros(200), EDGES)
    assert few.std_error.sum() > 1.5 * many.std_error.sum()  # blocks see that neighbours are alike


def test_bins_cover_the_data() -> None:
    x = clusters(2000)
    edges = distance_bins(x, bins=30)
    assert edges.shape == (31,)
    distances = np.concatenate([pdist(points) for points in x])
    assert 0 <= edges[0] <= np.quantile(distances, 1e-4)
    assert edges[-1] >= distances.max() * 0.97


def test_structures_are_drawn_in_proportion_to_the_weights() -> None:
    x = np.zeros((4, 5, 3))
    x[:, 0, 0] = np.arange(4)  # names them
    log_weight = np.log([0.1, 0.2, 0.3, 0.4])
    energy = np.array([3.0, -1.0, 2.0, 5.0])
    repeats, firsts = 800, []
    data = distances_of_data(x, np.zeros(4), EDGES)
    for seed in range(repeats):
        record = ClusterRecord(EDGES, np.random.default_rng(seed), TYPES)
        record.add(x[:3], energy[:3], log_weight[:3] - 500)
        record.add(x[3:], energy[3:], log_weight[3:] - 500)
        arrays = record.arrays(data)
        assert list(arrays["structure_label"][:3]) == ["lowest energy", "largest weight", "random draw"]
        firsts.append(int(arrays["structures"][2, 0, 0]))
        if seed == 0:
            assert arrays["structures"].shape == (STRUCTURES, 5, 3)  # all four, without repetition
            assert list(arrays["structures"][:2, 0, 0]) == [1, 3]
            assert list(arrays["structure_energy"][:2]) == [-1.0, 5.0]
    shares = np.bincount(firsts, minlength=4) / repeats
    weights = np.exp(log_weight)
    assert np.abs((shares - weights) / np.sqrt(weights * (1 - weights) / repeats)).max() < 4


def test_what_is_kept_can_be_read_again() -> None:
    x, energy = clusters(50), np.arange(50.0)
    energy[:10] = np.inf
    log_weight = np.where(np.isfinite(energy), 0.0, -np.inf)
    record = ClusterRecord(EDGES, np.random.default_rng(0), TYPES)
    record.add(x[:10], energy[:10], log_weight[:10])  # a chunk without any weight
    assert "structures" not in record.arrays(distances_of_data(x, np.arange(50), EDGES))
    record.add(x[10:], energy[10:], log_weight[10:])
    data = distances_of_data(x, np.arange(50), EDGES)
    found = read_pairs(record.arrays(data))
    assert list(found) == ["data", "proposal", "reweighted"]
    np.testing.assert_allclose(found["proposal"].density, pair_densities(x, EDGES).mean(0))
    np.testing.assert_allclose(found["reweighted"].density, pair_densities(x[10:], EDGES).mean(0))
    np.testing.assert_array_equal(found["data"].std_error, data.std_error)
    chains = record.arrays(data, weighted=False)
    assert list(read_pairs(chains)) == ["data", "chains"]
    assert "largest weight" not in chains["structure_label"]
    assert read_pairs({}) == {}
