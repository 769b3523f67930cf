"""Pooled estimates: against the analytic truth, their own error bars, and the single-set estimators."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from bgdiff.errors import DataError
from bgdiff.free_energy import (
    EmptyBasinError,
    PooledSets,
    WeightedSet,
    ZeroWeightsError,
    free_energy_difference,
    log_z,
)

# Target: 0.97 N(-2, 0.6) + 0.03 N(2, 0.6), times exp(LOG_Z). Proposals have the modes in other proportions.
LOG_Z, CENTRES, WIDTH = -4.2, np.array([-2.0, 2.0]), 0.6
TARGET = np.array([0.97, 0.03])
P_RIGHT = float(TARGET @ norm.sf(0.0, CENTRES, WIDTH))
DELTA_F = -math.log(P_RIGHT / (1 - P_RIGHT))


def draw(generator: np.random.Generator, n: int, right: float, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions and log weights; the proposal holds a share ``right`` of the right mode."""
    share = np.array([1 - right, right])
    x = CENTRES[(generator.random(n) < right).astype(int)] + width * generator.standard_normal(n)
    log_target = LOG_Z + np.log(norm.pdf(x[:, None], CENTRES, WIDTH) @ TARGET)
    return x, log_target - np.log(norm.pdf(x[:, None], CENTRES, width) @ share)


def experiment(seed: int) -> tuple[np.ndarray, PooledSets]:
    generator = np.random.default_rng(seed)
    parts = [draw(generator, 600, 0.4, 0.9), draw(generator, 1500, 0.03, 0.66)]
    return np.concatenate([x for x, _ in parts]), PooledSets([WeightedSet(w) for _, w in parts])


def test_errors_are_calibrated_and_the_mean_is_right() -> None:
    z = []
    for seed in range(400):
        x, pooled = experiment(seed)
        z.append(
            [
                pooled.difference(x < 0, x >= 0).z_score(DELTA_F),
                pooled.log_z().z_score(LOG_Z),
                pooled.population(x >= 0).z_score(P_RIGHT),
            ]
        )
    scores = np.array(z)
    assert (np.abs(scores.mean(0)) < 4 / math.sqrt(len(z))).all()
    assert (np.abs(scores.std(0) - 1) < 4 / math.sqrt(2 * len(z))).all()


def test_pooling_is_better_than_the_best_set() -> None:
    generator = np.random.default_rng(1)
    parts = [draw(generator, 600, 0.4, 0.9), draw(generator, 1500, 0.03, 0.66)]
    x = np.concatenate([x for x, _ in parts])
    pooled = PooledSets([WeightedSet(w) for _, w in parts]).difference(x < 0, x >= 0)
    alone = [free_energy_difference(w, x < 0, x >= 0).std_error for x, w in parts]
    assert pooled.std_error < min(alone)
    # the first set knows the right basin, the second the left one
    assert pooled.n_eff > 1.05 * free_energy_difference(parts[0][1], parts[0][0] < 0, parts[0][0] >= 0).n_eff


def test_one_set_is_the_plain_estimate() -> None:
    x, weight = draw(np.random.default_rng(2), 500, 0.3, 0.8)
    pooled = PooledSets([WeightedSet(weight)])
    for found, plain in [
        (pooled.difference(x < 0, x >= 0), free_energy_difference(weight, x < 0, x >= 0)),
        (pooled.log_z(), log_z(weight)),
    ]:
        assert found.value == pytest.approx(plain.value, abs=1e-12)
        assert found.std_error == pytest.approx(plain.std_error, rel=1e-9)
        assert found.n_eff == pytest.approx(plain.n_eff, rel=1e-9)
        assert found.method == plain.method


def test_families_count_as_one_draw_each() -> None:
    generator = np.random.default_rng(3)
    x, weight = draw(generator, 400, 0.3, 0.8)
    parents = np.sort(generator.choice(400, 400, p=np.exp(weight) / np.exp(weight).sum()))
    pooled = PooledSets([WeightedSet(np.zeros(400), parents)])
    initial, final = x[parents] < 0, x[parents] >= 0
    plain = free_energy_difference(np.zeros(400), initial, final, family=parents)
    assert pooled.difference(initial, final).std_error == pytest.approx(plain.std_error, rel=1e-9)
    assert pooled.log_z().std_error == pytest.approx(log_z(np.zeros(400), family=parents).std_error, rel=1e-9)
    alone = PooledSets([WeightedSet(np.zeros(400))])
    found, naive = pooled.difference(initial, final), alone.difference(initial, final)
    assert found.std_error / naive.std_error == pytest.approx(math.sqrt(naive.n_eff / found.n_eff), rel=0.05)


def test_populations_of_a_region_and_the_rest_add_up() -> None:
    x, pooled = experiment(5)
    left, right = pooled.population(x < 0), pooled.population(x >= 0)
    assert left.value + right.value == pytest.approx(1, abs=1e-12)
    assert left.std_error == pytest.approx(right.std_error, rel=1e-9)
    assert pooled.population(x > 100).value == 0
    assert pooled.population(x < 100).value == 1


def test_weights_of_any_size_and_zero_weights() -> None:
    x, pooled = experiment(6)
    sets = [WeightedSet(np.log(weight) + 5000) for weight in pooled.weights]
    shifted = PooledSets(sets)
    assert shifted.log_z().value == pytest.approx(pooled.log_z().value - pooled.scale + 5000, abs=1e-9)
    assert shifted.difference(x < 0, x >= 0).value == pytest.approx(
        pooled.difference(x < 0, x >= 0).value, abs=1e-9
    )


def test_bad_input() -> None:
    with pytest.raises(DataError, match="there must be one"):
        PooledSets([])
    with pytest.raises(DataError, match="shape"):
        PooledSets([WeightedSet(np.zeros((2, 2)))])
    with pytest.raises(ZeroWeightsError, match="2 sets"):
        PooledSets([WeightedSet(np.full(3, -np.inf)), WeightedSet(np.full(2, np.nan))])
    x, pooled = experiment(7)
    with pytest.raises(EmptyBasinError, match="basin far"):
        pooled.difference(x < 0, x > 50, ("near", "far"))
    with pytest.raises(DataError, match="booleans"):
        pooled.difference(x[:5] < 0, x >= 0)
