"""Free-energy profiles: numpy's histogram, closed-form errors, periods, empty bins, bands, bad input."""

import math

import numpy as np
import pytest

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy import ZeroWeightsError, free_energy_profile

EDGES = np.linspace(-2, 2, 9)


def test_it_is_the_histogram() -> None:
    generator = np.random.default_rng(0)
    x, log_weight = generator.normal(size=2000), generator.normal(size=2000)
    found = free_energy_profile(x, EDGES, log_weight=log_weight + 1e4)
    weight = np.exp(log_weight)
    share = np.histogram(x, EDGES, weights=weight)[0] / weight.sum()
    np.testing.assert_allclose(found.free_energy, -np.log(share / np.diff(EDGES)), rtol=1e-9)
    squares = np.histogram(x, EDGES, weights=weight**2)[0]
    np.testing.assert_allclose(found.n_eff, np.histogram(x, EDGES, weights=weight)[0] ** 2 / squares)
    assert found.outside == pytest.approx(1 - share.sum())
    assert math.isnan(found.band_errors)


def test_edges_belong_as_in_numpy() -> None:
    x = np.array([-2.0, -1.5, -1.5, 2.0, 2.0001, -2.0001])
    found = free_energy_profile(x, EDGES)
    counts = np.histogram(x, EDGES)[0]
    np.testing.assert_allclose(np.exp(-found.free_energy) * np.diff(EDGES), counts / 6)
    assert found.outside == pytest.approx(2 / 6)


def test_counting_errors() -> None:
    """Equal weights: a binomial's relative error in each bin."""
    x = np.repeat(np.arange(4) + 0.5, [10, 20, 30, 40])
    found = free_energy_profile(x, np.arange(5.0))
    p = np.array([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(found.std_error, np.sqrt((1 - p) / p / 99), rtol=1e-10)
    np.testing.assert_allclose(found.n_eff, [10, 20, 30, 40])


def test_empty_bins_are_infinite() -> None:
    x = np.array([0.5] * 30 + [2.5] * 20)
    for bootstrap in (0, 100):
        found = free_energy_profile(x, np.arange(4.0), bootstrap=bootstrap)
        assert found.free_energy[1] == math.inf
        assert found.std_error[1] == math.inf
        assert found.n_eff[1] == 0
        low, high = found.band
        assert math.isnan(low[1])
        assert high[1] == math.inf
    assert np.isfinite(low[[0, 2]]).all()
    assert (low[[0, 2]] < high[[0, 2]]).all()


def test_all_in_one_bin_is_certain() -> None:
    found = free_energy_profile(np.full(20, 0.5), np.arange(3.0), bootstrap=20)
    assert found.free_energy[0] == pytest.approx(0.0)
    assert found.std_error[0] == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found.band[0][0], found.band[1][0])


def test_period() -> None:
    generator = np.random.default_rng(1)
    angle = generator.vonmises(3.0, 2.0, 1000)
    edges = np.linspace(-math.pi, math.pi, 13)
    plain = free_energy_profile(angle, edges)
    moved = free_energy_profile(
        angle + 2 * math.pi * generator.integers(-3, 4, 1000), edges, period=2 * math.pi
    )
    np.testing.assert_allclose(moved.free_energy, plain.free_energy)
    shifted = free_energy_profile(angle, edges + math.pi, period=2 * math.pi)
    np.testing.assert_allclose(np.roll(shifted.free_energy, 6), plain.free_energy)
    assert shifted.outside == 0.0
    with pytest.raises(ConfigError, match="more than the period"):
        free_energy_profile(angle, edges * 1.1, period=2 * math.pi)


def test_copies_in_units_count_once() -> None:
    generator = np.random.default_rng(2)
    x, log_weight = generator.normal(size=(2, 500))
    single = free_energy_profile(x, EDGES, log_weight=log_weight)
    unit = np.repeat(np.arange(500), 4)
    four = free_energy_profile(np.repeat(x, 4), EDGES, log_weight=np.repeat(log_weight, 4), unit=unit)
    np.testing.assert_allclose(four.free_energy, single.free_energy)
    np.testing.assert_allclose(four.std_error, single.std_error * math.sqrt(499 / 497))
    np.testing.assert_allclose(four.n_eff, single.n_eff)


def test_bootstrap_agrees_with_the_delta_method() -> None:
    x = np.random.default_rng(3).normal(size=4000)
    unit = np.repeat(np.arange(1000), 4)
    plain = free_energy_profile(x, EDGES, unit=unit)
    one, again = (free_energy_profile(x, EDGES, unit=unit, bootstrap=500, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one.std_error, again.std_error)
    np.testing.assert_allclose(one.std_error, plain.std_error, rtol=4.5 / math.sqrt(1000))
    np.testing.assert_array_equal(one.free_energy, plain.free_energy)


def test_the_band_is_wider_than_single_errors_and_grows_with_its_level() -> None:
    x = np.random.default_rng(4).normal(size=3000)
    narrow, wide = (
        free_energy_profile(x, EDGES, bootstrap=400, level=level).band_errors for level in (0.68, 0.95)
    )
    # eight bins: between one bin's quantile and Bonferroni's
    assert 1.0 < narrow < wide
    assert 1.96 < wide < 3.2


def test_three_chains_tell_no_error() -> None:
    x = np.random.default_rng(5).normal(size=300)
    unit = np.repeat(np.arange(3), 100)
    for bootstrap in (0, 20):
        found = free_energy_profile(x, EDGES, unit=unit, bootstrap=bootstrap)
        assert (found.std_error == math.inf).all()
        assert np.isfinite(found.free_energy).all()


def test_samples_without_weight_need_no_value() -> None:
    x = np.array([0.5, 1.5, np.nan])
    found = free_energy_profile(x, np.arange(3.0), log_weight=[0.0, 0.0, -np.inf])
    np.testing.assert_allclose(found.free_energy, math.log(2))


def test_bad_input() -> None:
    for edges in ([0.0], [1.0, 0.0], [0.0, 0.0], [[0.0, 1.0]]):
        with pytest.raises(DataError, match="edges: expected at least two, ascending"):
            free_energy_profile([0.5], edges)
    with pytest.raises(DataError, match="first: sample 1"):
        free_energy_profile([0.5, np.nan], [0.0, 1.0])
    with pytest.raises(DataError, match="does not match log_weight"):
        free_energy_profile([0.5, 0.5], [0.0, 1.0], log_weight=[0.0])
    with pytest.raises(DataError, match="non-empty"):
        free_energy_profile([], [0.0, 1.0])
    with pytest.raises(ZeroWeightsError):
        free_energy_profile([0.5], [0.0, 1.0], log_weight=[-np.inf])
    with pytest.raises(ConfigError, match="level: expected a probability"):
        free_energy_profile([0.5], [0.0, 1.0], level=95)
    with pytest.raises(ConfigError, match="at least 2"):
        free_energy_profile([0.5], [0.0, 1.0], bootstrap=1)


def test_a_bin_of_negligible_weight_has_the_error_of_its_samples() -> None:
    """Weights whose squares are below the smallest number: the relative error is that of counting."""
    values = np.repeat([0.5, 1.5], [1000, 10])
    log_weight = np.where(values < 1, 0.0, -600.0)
    profile = free_energy_profile(values, [0, 1, 2], log_weight=log_weight)
    assert profile.n_eff[1] == pytest.approx(10)
    assert profile.std_error[1] == pytest.approx(np.sqrt(1 / 10), rel=0.01)
    assert profile.free_energy[1] - profile.free_energy[0] == pytest.approx(600 + np.log(100))
