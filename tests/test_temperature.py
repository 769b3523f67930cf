"""Reweighting to another temperature: oscillators in closed form, reach, refusals."""

import math

import numpy as np
import pytest

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy import (
    NoOverlapError,
    ZeroWeightsError,
    at_temperature,
    expectation,
    temperature_difference,
    temperature_reach,
    temperature_scan,
)

DEGREES = 12


def oscillators(seed: int = 0, n: int = 4000) -> np.ndarray:
    """Reduced energies of ``DEGREES`` oscillators at 300 K."""
    return 0.5 * (np.random.default_rng(seed).normal(size=(n, DEGREES)) ** 2).sum(axis=1)


def fraction(ratio: float) -> float:
    """Effective fraction for T/T' = ``ratio``: E[w]²/E[w²], w = exp(-(ratio - 1) u)."""
    return ((2 * ratio - 1) / ratio**2) ** (DEGREES / 2) if ratio > 0.5 else 0.0


@pytest.mark.parametrize("new", [270.0, 300.0, 340.0])
def test_mean_energy_and_free_energy(new: float) -> None:
    """U has mean d kT'/2, and the configurational F/kT changes by -d/2 log(T'/T)."""
    u = oscillators()
    log_weight = at_temperature(np.zeros(u.size), u, 300.0, new)
    assert abs(expectation(log_weight, u * 300 / new).z_score(DEGREES / 2)) < 4
    difference = temperature_difference(np.zeros(u.size), u, 300.0, new)
    assert abs(difference.value + DEGREES / 2 * math.log(new / 300)) <= 4 * difference.std_error + 1e-12
    assert difference.overlap == pytest.approx(fraction(300 / new), rel=0.1)
    assert difference.n_eff == pytest.approx(difference.overlap * u.size)


def test_there_and_back() -> None:
    u = oscillators(1, 500)
    start = np.random.default_rng(1).normal(size=500)
    there = at_temperature(start, u, 300.0, 330.0)
    np.testing.assert_allclose(at_temperature(there, u * 300 / 330, 330.0, 300.0), start, atol=1e-10)


def test_scan() -> None:
    u = oscillators(2, 20_000)
    temperatures = np.array([[250.0, 300.0], [330.0, 360.0]])
    found = temperature_scan(np.zeros(u.size), u, 300.0, temperatures)
    assert found.shape == (2, 2)
    exact = np.vectorize(fraction)(300 / temperatures)
    np.testing.assert_allclose(found / u.size, exact, rtol=0.1)
    assert found[0, 1] == pytest.approx(u.size)


def test_copies_in_units_count_once() -> None:
    u = oscillators(3, 300)
    unit = np.repeat(np.arange(300), 4)
    copied = np.repeat(u, 4)
    single = temperature_scan(np.zeros(300), u, 300.0, [330.0])
    grouped = temperature_scan(np.zeros(1200), copied, 300.0, [330.0], unit=unit)
    assert grouped[0] == pytest.approx(single[0])
    one = temperature_difference(np.zeros(300), u, 300.0, 330.0)
    four = temperature_difference(np.zeros(1200), copied, 300.0, 330.0, unit=unit)
    assert four.std_error == pytest.approx(one.std_error * math.sqrt(299 / 297), rel=1e-6)
    resampled = temperature_difference(np.zeros(1200), copied, 300.0, 330.0, unit=unit, bootstrap=400)
    assert resampled.std_error == pytest.approx(four.std_error, rel=4 / math.sqrt(800))
    assert resampled.value == four.value


def test_reach_is_where_the_effective_samples_run_out() -> None:
    u = oscillators(4)
    low, high = temperature_reach(np.zeros(u.size), u, 300.0, least_effective=200)
    assert low < 300 < high
    inside = temperature_scan(np.zeros(u.size), u, 300.0, [low * 1.001, high * 0.999])
    outside = temperature_scan(np.zeros(u.size), u, 300.0, [low * 0.995, high * 1.005])
    assert (inside >= 200).all()
    assert (outside < 200).all()


def test_reach_of_equal_energies_is_all_that_is_searched() -> None:
    assert temperature_reach(np.zeros(50), np.ones(50), 300.0) == pytest.approx((300 / 8, 300 * 8))


def test_samples_without_weight_or_energy_stay_without() -> None:
    u = oscillators(5, 100)
    log_weight = np.zeros(100)
    log_weight[0], u[1], u[2] = -np.inf, np.inf, np.nan
    found = at_temperature(log_weight, u, 300.0, 310.0)
    assert np.isneginf(found[:3]).all()
    assert np.isfinite(found[3:]).all()


class TestRefusals:
    def test_too_far(self) -> None:
        u = oscillators(6)
        with pytest.raises(
            NoOverlapError, match=r"temperature 900: .* effective samples of 4000 .* within reach"
        ):
            at_temperature(np.zeros(u.size), u, 300.0, 900.0)
        with pytest.raises(NoOverlapError, match="temperature 60: "):
            temperature_difference(np.zeros(u.size), u, 300.0, 60.0)
        found = at_temperature(np.zeros(u.size), u, 300.0, 900.0, least_effective=0.0)
        assert np.isfinite(found).all()  # asked for all the same

    def test_too_few_to_begin_with(self) -> None:
        with pytest.raises(NoOverlapError, match="at 300 itself there are 10; draw more samples"):
            at_temperature(np.zeros(10), oscillators(7, 10), 300.0, 310.0)

    def test_bad_input(self) -> None:
        for temperature in (0.0, -300.0, math.inf, math.nan):
            with pytest.raises(ConfigError, match="temperature: expected a positive number"):
                at_temperature(np.zeros(50), np.ones(50), 300.0, temperature)
            with pytest.raises(ConfigError, match="temperature: expected a positive number"):
                temperature_scan(np.zeros(50), np.ones(50), temperature, [300.0])
        with pytest.raises(DataError, match="does not match log_weight"):
            at_temperature(np.zeros(3), np.zeros(4), 300.0, 310.0)
        with pytest.raises(ZeroWeightsError):
            at_temperature(np.full(3, -np.inf), np.zeros(3), 300.0, 310.0)
        with pytest.raises(DataError, match="unit: expected whole numbers"):
            temperature_scan(np.zeros(3), np.zeros(3), 300.0, [300.0], unit=[0.5, 1.0, 2.0])
