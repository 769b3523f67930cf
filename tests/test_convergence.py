"""R-hat and effective draws: against published software on fixed numbers, and against analytic answers."""

import numpy as np
import pytest
from scipy.signal import lfilter

from bgdiff.errors import DataError
from bgdiff.sampling import effective_draws, rhat


def autoregressive(rho, chains, n, seed):
    noise = np.random.default_rng(seed).normal(size=(chains, n + 200)) * np.sqrt(1 - rho**2)
    return lfilter([1], [1, -rho], noise, axis=1)[:, 200:]


def test_rhat_is_that_of_arviz():
    t = np.arange(40)
    waves = np.array([np.sin(0.7 * t + c) + 0.3 * c * np.cos(t) for c in range(3)])
    walks = np.array([np.cumsum(np.sin(1.3 * t**2 + c)) for c in range(4)])
    # arviz 0.21.0: arviz.rhat(arviz.convert_to_dataset(...)), method="rank"
    assert rhat(waves) == pytest.approx(0.9849199927852953, rel=1e-12)
    assert rhat(walks) == pytest.approx(1.7038274272869203, rel=1e-12)


def test_rhat_sees_what_differs():
    draws = autoregressive(0.5, 8, 1000, seed=0)
    assert rhat(draws) < 1.01
    location, spread = draws.copy(), draws.copy()
    location[0] += 1
    spread[0] *= 3
    drift = draws + np.linspace(-1, 1, 1000)
    for wrong in (location, spread, drift):
        assert rhat(wrong) > 1.03
    rare = np.random.default_rng(1).random((8, 2000)) < 0.01
    assert rhat(rare) < 1.01
    rare[0, :200] = True
    assert rhat(rare) > 1.015
    assert np.isnan(rhat(np.ones((2, 10))))


@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.9])
def test_effective_draws_of_autoregressive_chains(rho):
    found = [effective_draws(autoregressive(rho, 16, 4000, seed)) for seed in range(10)]
    exact = 16 * 4000 * (1 - rho) / (1 + rho)
    assert abs(np.mean(found) / exact - 1) < 4 * np.std(found, ddof=1) / exact / np.sqrt(10) + 0.02
    assert np.isnan(effective_draws(np.ones((2, 10))))


def test_draws_that_cannot_be_judged():
    for draws in (np.zeros((4, 3)), np.zeros(10)):
        with pytest.raises(DataError, match="need \\(chains, n >= 4\\)"):
            rhat(draws)
    with pytest.raises(DataError, match="finite"):
        effective_draws(np.full((2, 10), np.nan))
