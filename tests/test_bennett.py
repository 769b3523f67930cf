"""Bennett's acceptance ratio against brute-force maximum likelihood and pymbar, infinite works included."""

import logging
import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from bgdiff.errors import DataError
from bgdiff.free_energy import NoOverlapError, NotConvergedError, bar, fep, fep_reverse
from bgdiff.free_energy.quiet import pymbar, quietly


def gaussian_works(seed: int, n: int, m: int, spread: float, difference: float) -> tuple[np.ndarray, ...]:
    """Works that obey Crooks' theorem: both Gaussian with variance ``spread``², means ΔF ± spread²/2."""
    generator = np.random.default_rng(seed)
    forward = generator.normal(difference + spread**2 / 2, spread, n)
    return forward, generator.normal(-difference + spread**2 / 2, spread, m)


def maximum_likelihood(forward: np.ndarray, reverse: np.ndarray) -> float:
    """ΔF for which it is most likely that forward samples are forward and reverse ones reverse.

    P(forward | w) = 1/(1 + exp(-M - w + ΔF)) for w = u_b - u_a (Shirts et al. 2003, eq. 5); samples of
    infinite work are certain and drop out. M holds all samples.
    """
    shift = math.log(len(forward) / len(reverse))
    f, r = forward[np.isfinite(forward)], reverse[np.isfinite(reverse)]

    def loss(difference: float) -> float:
        return float(
            np.logaddexp(0, -(shift + f - difference)).sum() + np.logaddexp(0, shift - r - difference).sum()
        )

    return float(minimize_scalar(loss, bracket=(-1.0, 1.0), tol=1e-12).x)


@pytest.mark.parametrize(("n", "m"), [(300, 300), (400, 50), (30, 500)])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_it_is_the_maximum_likelihood_estimate(n: int, m: int, share: float) -> None:
    forward, reverse = gaussian_works(n, n, m, 1.2, 0.8)
    forward[: int(share * n)] = np.inf
    reverse[: int(share / 2 * m)] = np.inf
    reverse[0] = np.inf if not share else np.nan
    assert bar(forward, reverse).value == pytest.approx(
        maximum_likelihood(forward, np.where(np.isnan(reverse), np.inf, reverse)), abs=1e-6
    )


def test_infinite_works_equal_very_large_ones() -> None:
    forward, reverse = gaussian_works(1, 200, 300, 1.0, 2.0)
    forward[::3], reverse[::5] = np.inf, np.inf
    large = [np.where(np.isfinite(works), works, 600.0) for works in (forward, reverse)]
    exact, cut = bar(forward, reverse), bar(*large)
    assert exact.value == pytest.approx(cut.value, abs=1e-9)
    assert exact.std_error == pytest.approx(cut.std_error, rel=1e-8)
    assert exact.overlap == pytest.approx(cut.overlap, rel=1e-8)
    assert exact.n_eff == pytest.approx(cut.n_eff, rel=1e-8)
    assert exact.diagnostics["n_nonfinite"] == 67 + 60


def test_boxes() -> None:
    """All finite works are 0: exp(-ΔF) is the ratio of the shares that lie in the other box."""
    forward = np.where(np.arange(100) < 50, 0.0, np.inf)
    reverse = np.where(np.arange(90) < 30, 0.0, np.inf)
    assert bar(forward, reverse).value == pytest.approx(-math.log((50 / 100) / (30 / 90)), abs=1e-9)


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_pymbar_agrees(spread: float) -> None:
    forward, reverse = gaussian_works(2, 400, 250, spread, -3.0)
    ours = bar(forward, reverse)
    with quietly():
        theirs = pymbar().other_estimators
        bennett, as_mbar = (
            theirs.bar(forward, reverse, uncertainty_method=method) for method in ("BAR", "MBAR")
        )
        overlap = theirs.bar_overlap(forward, reverse)
    assert ours.value == pytest.approx(bennett["Delta_f"], abs=1e-8)
    assert ours.std_error == pytest.approx(as_mbar["dDelta_f"], rel=1e-6)
    assert ours.diagnostics["bennett_std_error"] == pytest.approx(bennett["dDelta_f"], rel=1e-6)
    assert ours.overlap == pytest.approx(overlap, rel=1e-5)


def test_diagnostics_hold_both_perturbations() -> None:
    forward, reverse = gaussian_works(3, 400, 250, 1.0, 0.5)
    found = bar(forward, reverse).diagnostics
    ahead, back = fep(forward), fep_reverse(reverse)
    assert found["forward"] == ahead.value
    assert found["reverse_std_error"] == back.std_error
    assert found["disagreement_z"] == pytest.approx(ahead.z_score(back.value, back.std_error))
    assert abs(found["disagreement_z"]) < 4
    poor = bar(*gaussian_works(3, 400, 250, 6.0, 0.5))
    assert poor.diagnostics["disagreement_z"] > 4  # dissipated work that perturbation cannot see
    assert poor.overlap is not None
    assert poor.overlap < 0.02


@pytest.mark.parametrize("shift", [0.0, 5.0, -1e5, 1e5])
def test_equal_ensembles(shift: float) -> None:
    estimate = bar(np.full(40, shift), np.full(60, -shift))
    assert estimate.value == pytest.approx(shift, abs=1e-9)
    assert estimate.std_error == pytest.approx(0.0, abs=1e-6)
    assert estimate.overlap == pytest.approx(1.0)
    assert estimate.n_eff == pytest.approx(40)


def test_exchanging_the_ensembles_changes_the_sign() -> None:
    forward, reverse = gaussian_works(4, 100, 300, 1.5, 7.0)
    ahead, back = bar(forward, reverse), bar(reverse, forward)
    assert ahead.value == pytest.approx(-back.value, abs=1e-8)
    assert ahead.std_error == pytest.approx(back.std_error)


def test_large_differences() -> None:
    forward, reverse = gaussian_works(5, 200, 200, 1.0, 0.0)
    assert bar(forward + 4e4, reverse - 4e4).value == pytest.approx(
        bar(forward, reverse).value + 4e4, abs=1e-6
    )


def test_one_sample_each() -> None:
    estimate = bar([1.0], [0.5])
    assert estimate.value == pytest.approx(0.25)
    assert estimate.std_error > 0


def test_bootstrap_agrees_with_the_asymptotic_error() -> None:
    forward, reverse = gaussian_works(6, 400, 300, 1.5, 1.0)
    plain = bar(forward, reverse)
    one, again = (bar(forward, reverse, bootstrap=300, seed=1) for _ in range(2))
    assert one == again
    assert one.value == plain.value
    assert one.std_error == pytest.approx(plain.std_error, rel=4 / math.sqrt(600))
    assert one.diagnostics["asymptotic_std_error"] == plain.std_error


def test_copies_in_units_count_once() -> None:
    forward, reverse = gaussian_works(7, 150, 100, 1.0, 1.0)
    units = [np.repeat(np.arange(len(works)), 4) for works in (forward, reverse)]
    single = bar(forward, reverse)
    grouped = bar(np.repeat(forward, 4), np.repeat(reverse, 4), forward_unit=units[0], reverse_unit=units[1])
    assert grouped.value == pytest.approx(single.value, abs=1e-8)
    # sums of the samples' own spread against the expected one: equal for many units
    assert grouped.std_error == pytest.approx(single.std_error, rel=0.1)
    assert grouped.n_eff == pytest.approx(single.n_eff)
    assert grouped.diagnostics["forward_std_error"] == pytest.approx(
        single.diagnostics["forward_std_error"], rel=0.02
    )


def test_nothing_is_printed(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO):
        bar(*gaussian_works(8, 50, 50, 3.0, 0.0))
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


class TestBadInput:
    def test_no_finite_work(self) -> None:
        with pytest.raises(NoOverlapError, match="none of 2 samples of vacuum has a finite work to water"):
            bar([np.inf, np.inf], [0.0], names=("vacuum", "water"))
        with pytest.raises(NoOverlapError, match="none of 1 samples of water has a finite work to vacuum"):
            bar([0.0], [np.nan], names=("vacuum", "water"))

    def test_no_overlap(self) -> None:
        with pytest.raises(NoOverlapError, match="share .* of 100 \\+ 100 samples"):
            bar(np.full(100, 50.0), np.full(100, 50.0))

    def test_solver_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        solver = pymbar().other_estimators
        monkeypatch.setattr(solver, "bar", lambda *_, **__: {"Delta_f": 123.0})
        with pytest.raises(NotConvergedError, match="finds no root for 100 forward and 50 reverse works"):
            bar(*gaussian_works(9, 100, 50, 1.0, 0.0))

    def test_shapes(self) -> None:
        with pytest.raises(DataError, match="forward work: expected a non-empty"):
            bar([], [0.0])
        with pytest.raises(DataError, match="reverse work: sample 0 has work -inf"):
            bar([0.0], [-np.inf])
        with pytest.raises(DataError, match="reverse_unit: expected whole"):
            bar([0.0], [0.0], reverse_unit=[0.5])
