"""Perturbation from one side: closed forms, pymbar, infinite works, degenerate input."""

import math

import numpy as np
import pytest

from bgdiff.errors import DataError
from bgdiff.free_energy import ZeroWeightsError, fep, fep_reverse, log_z
from bgdiff.free_energy.quiet import pymbar


def test_equal_works_are_exact() -> None:
    estimate = fep(np.full(50, 3.25))
    assert estimate.value == pytest.approx(3.25, abs=1e-14)
    assert estimate.std_error == pytest.approx(0.0, abs=1e-15)
    assert estimate.n_eff == pytest.approx(50)
    assert estimate.overlap == pytest.approx(1.0)
    assert fep_reverse(np.full(50, 3.25)).value == pytest.approx(-3.25, abs=1e-14)


def test_pymbar_agrees() -> None:
    works = np.random.default_rng(0).normal(2.0, 1.0, 500)
    theirs = pymbar().other_estimators.exp(works)
    ours = fep(works)
    assert ours.value == pytest.approx(theirs["Delta_f"], abs=1e-12)
    # pymbar divides the variance by n, we by n - 1
    assert ours.std_error == pytest.approx(theirs["dDelta_f"] * math.sqrt(500 / 499), rel=1e-10)


def test_it_is_minus_log_z() -> None:
    log_weight = np.random.default_rng(1).normal(size=300)
    log_weight[::7] = -np.inf
    ours, theirs = fep(-log_weight), log_z(log_weight)
    assert ours.value == pytest.approx(-theirs.value, abs=1e-12)
    assert ours.std_error == pytest.approx(theirs.std_error, rel=1e-10)
    assert ours.overlap == pytest.approx(theirs.overlap)
    assert ours.n_eff == pytest.approx(theirs.n_eff)


def test_infinite_works_count_as_draws() -> None:
    """A quarter of the box is allowed: ΔF = log 4, with a binomial's error."""
    works = np.where(np.arange(400) < 100, 0.0, np.inf)
    works[-1] = np.nan
    estimate = fep(works)
    assert estimate.value == pytest.approx(math.log(4))
    assert estimate.std_error == pytest.approx(math.sqrt(0.75 / (0.25 * 399)))
    assert estimate.diagnostics["n_nonfinite"] == 300
    assert estimate.diagnostics["n"] == 400
    assert estimate.overlap == pytest.approx(0.25)


def test_copies_in_units_count_once() -> None:
    works = np.random.default_rng(2).normal(size=200)
    copied, unit = np.repeat(works, 5), np.repeat(np.arange(200), 5)
    single, grouped = fep(works), fep(copied, unit=unit)
    assert grouped.value == pytest.approx(single.value)
    assert grouped.std_error == pytest.approx(single.std_error * math.sqrt(199 / 197))
    assert grouped.n_eff == pytest.approx(single.n_eff)
    assert grouped.overlap == pytest.approx(single.overlap)
    assert grouped.method.endswith("over units")
    assert fep(copied).std_error < 0.5 * single.std_error


@pytest.mark.parametrize("unit", [None, np.repeat(np.arange(100), 4)])
def test_bootstrap_agrees_with_the_delta_method(unit: np.ndarray | None) -> None:
    works = np.random.default_rng(3).normal(size=400)
    delta = fep(works, unit=unit)
    one, again = (fep(works, unit=unit, bootstrap=500, seed=4) for _ in range(2))
    assert one == again
    assert one.value == delta.value
    assert one.std_error == pytest.approx(delta.std_error, rel=4 / math.sqrt(1000))
    assert "bootstrap error (500 resamplings)" in one.method


@pytest.mark.parametrize("shift", [1e5, -1e5])
def test_huge_works_only_shift(shift: float) -> None:
    works = np.random.default_rng(5).normal(size=100)
    assert fep(works + shift).value == pytest.approx(fep(works).value + shift, abs=1e-8)


def test_one_sample_has_an_unknown_error() -> None:
    estimate = fep([2.0])
    assert (estimate.value, estimate.std_error) == (2.0, math.inf)


def test_bad_input() -> None:
    with pytest.raises(ZeroWeightsError, match="none of 3 samples has a finite work"):
        fep([np.inf, np.nan, np.inf])
    with pytest.raises(DataError, match="sample 1 has work -inf"):
        fep([0.0, -np.inf])
    with pytest.raises(DataError, match="non-empty array"):
        fep([])
    with pytest.raises(DataError, match="unit: expected whole numbers"):
        fep([0.0, 1.0], unit=[0])
