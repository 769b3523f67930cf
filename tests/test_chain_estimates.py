"""Estimates from chains: errors that hold however long chains remember, diagnostics that do not flatter."""

import math

import numpy as np
import pytest
import torch
from checks import assert_standard, seeded

from bgdiff.analysis.chains import chain_average, chain_diagnostics, chain_difference
from bgdiff.errors import DataError
from bgdiff.free_energy import EmptyBasinError
from bgdiff.ladder.imh import independent_chains
from bgdiff.sampling.diagnostics import effective_draws, mean_error

WELLS, RIGHT = 2.629382, 1 / (1 + math.exp(2.629382))
REPEATS, CHAINS, LENGTH, BURN_IN = 200, 10, 400, 60
Array = np.ndarray


@pytest.fixture(scope="module")
def double_well() -> Array:
    """x of chains over a proposal that is far too broad, ``(repeats, T C)``, round by round."""
    rng, width = np.random.default_rng(0), 2.2
    x = width * rng.standard_normal((REPEATS * CHAINS, LENGTH + BURN_IN))
    log_weight = torch.from_numpy(-(x - 4 * x**2 + x**4) + 0.5 * (x / width) ** 2)
    held = independent_chains(log_weight, seeded(1)).numpy()
    kept = np.take_along_axis(x, held, 1)[:, BURN_IN:].reshape(REPEATS, CHAINS, LENGTH)
    return kept.transpose(0, 2, 1).reshape(REPEATS, -1)


def test_errors_of_the_double_well_are_calibrated(double_well: Array) -> None:
    """ΔF and a basin's population, against quadrature, over 200 repetitions."""
    differences = [chain_difference(x < 0, x >= 0, CHAINS) for x in double_well]
    assert_standard(torch.tensor([estimate.z_score(WELLS) for estimate in differences]))
    populations = [chain_average(x >= 0, CHAINS) for x in double_well]
    assert_standard(torch.tensor([estimate.z_score(RIGHT) for estimate in populations]))
    assert min(estimate.n_eff for estimate in differences) > 0
    assert max(estimate.n_eff for estimate in differences) < 0.2 * CHAINS * LENGTH


def test_the_calibration_test_can_fail(double_well: Array) -> None:
    """The deliberate bug: the same draws taken for independent ones."""
    scrambled = np.random.default_rng(2).permuted(double_well, axis=1)
    scores = [chain_average(x >= 0, CHAINS).z_score(RIGHT) for x in scrambled]
    assert np.std(scores) > 1.5


def autoregressive(rho: float, chains: int, n: int, repeats: int, seed: int) -> Array:
    """Stationary chains with variance 1 and mean 0, ``(repeats, n chains)``, round by round."""
    noise = np.random.default_rng(seed).standard_normal((n, repeats, chains))
    x = noise.copy()
    for t in range(1, n):
        x[t] = rho * x[t - 1] + math.sqrt(1 - rho**2) * noise[t]
    return x.transpose(1, 0, 2).reshape(repeats, -1)


@pytest.mark.parametrize(("rho", "chains"), [(0.0, 4), (0.9, 20), (-0.6, 4)])
def test_errors_of_means_are_calibrated(rho: float, chains: int) -> None:
    """Antithetic chains are credited with no more than their draws, so their errors are too large."""
    draws = autoregressive(rho, chains, 500, 300, 3)
    scores = torch.tensor([chain_average(x, chains).z_score(0.0) for x in draws])
    if rho < 0:
        assert 0.3 < float(scores.std()) < 0.8
    else:
        assert_standard(scores)


def test_a_mean_and_a_rank_are_worth_the_same_for_normal_draws() -> None:
    draws = autoregressive(0.8, 8, 4000, 1, 4)[0].reshape(-1, 8).T
    error, size = mean_error(draws)
    assert size == pytest.approx(draws.size / 9, rel=0.2)
    assert size == pytest.approx(effective_draws(draws), rel=0.05)
    assert error == pytest.approx(1 / math.sqrt(size), rel=0.05)


def test_draws_that_do_not_differ_do_not_tell() -> None:
    assert mean_error(np.ones((3, 10))) == (math.inf, 1.0)
    always = chain_average(np.ones(30, bool), 3)
    assert (always.value, always.std_error) == (1.0, math.inf)
    with pytest.raises(EmptyBasinError, match="basin right: no chain was ever there in 30 draws"):
        chain_difference(np.ones(30, bool), np.zeros(30, bool), 3, names=("left", "right"))


def test_the_slowest_quantity_decides() -> None:
    """A fast coordinate, a slow one, a basin that nobody leaves, and something constant."""
    fast = autoregressive(0.0, 8, 1000, 1, 5)[0]
    slow = autoregressive(0.95, 8, 1000, 1, 6)[0]
    found = chain_diagnostics({"fast": fast, "slow": slow, "constant": np.zeros(8000)}, 8, 8000)
    assert found.slowest == "slow"
    assert found.effective_draws == pytest.approx(8000 / 39, rel=0.3)
    assert found.rhat is not None
    assert found.rhat > chain_diagnostics({"fast": fast}, 8, 8000).rhat
    fixed = np.tile(np.arange(8) < 4, 1000)
    stuck = chain_diagnostics({"fast": fast, "basin": fixed}, 8, 8000)
    assert stuck.slowest == "basin"
    assert stuck.rhat > 1e3
    assert stuck.effective_draws < 40
    few = chain_diagnostics({"fast": fast}, 8, 17)
    assert (few.effective_draws, few.slowest) == (17, "number of different states")
    still = chain_diagnostics({"constant": np.zeros(32)}, 8, 8)
    assert (still.effective_draws, still.rhat) == (8, None)


def test_draws_come_round_by_round() -> None:
    """Two chains at 0 and at 1: their difference is between chains, not within."""
    found = chain_diagnostics({"x": np.tile([0.0, 1.0], 50) + 1e-3 * np.arange(100)}, 2, 100)
    assert found.rhat is not None
    assert found.rhat > 3
    with pytest.raises(DataError, match="not those of 3 chains"):
        chain_average(np.zeros(100), 3)
