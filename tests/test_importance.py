"""Importance-sampling estimates against analytic truths, calibration of their errors, and pymbar."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy import (
    EmptyBasinError,
    Estimate,
    ZeroWeightsError,
    expectation,
    free_energy_difference,
    log_z,
)
from bgdiff.free_energy.importance import family_log_weights, normalised_weights
from bgdiff.free_energy.quiet import pymbar

# Target: 0.8 N(-1.5, 1) + 0.2 N(1.5, 1), times exp(LOG_Z). Proposal: the same with 0.5 and 0.5, wider.
LOG_Z = 3.7
CENTRES, WEIGHTS, WIDTH = np.array([-1.5, 1.5]), np.array([0.8, 0.2]), 1.3
P_RIGHT = float(WEIGHTS @ norm.sf(0.0, CENTRES, 1.0))
DELTA_F = -math.log(P_RIGHT / (1 - P_RIGHT))
MEAN = float(WEIGHTS @ CENTRES)


def draw(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions from the proposal and their log weights."""
    generator = np.random.default_rng(seed)
    x = CENTRES[generator.integers(2, size=n)] + WIDTH * generator.standard_normal(n)
    log_target = LOG_Z + np.log(norm.pdf(x[:, None], CENTRES, 1.0) @ WEIGHTS)
    return x, log_target - np.log(norm.pdf(x[:, None], CENTRES, WIDTH).mean(axis=1))


def assert_calibrated(z: np.ndarray) -> None:
    """The z-scores have mean 0 and standard deviation 1 within four of their own standard errors."""
    assert np.isfinite(z).all()
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert abs(z.std() - 1) < 4 / math.sqrt(2 * z.size)


CASES = {
    "log_z": (LOG_Z, lambda x, log_weight, **options: log_z(log_weight, **options)),
    "mean": (MEAN, lambda x, log_weight, **options: expectation(log_weight, x, **options)),
    "delta_f": (
        DELTA_F,
        lambda x, log_weight, **options: free_energy_difference(log_weight, x < 0, x >= 0, **options),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bootstrap", [0, 60], ids=["delta", "bootstrap"])
def test_errors_are_calibrated(name: str, bootstrap: int) -> None:
    truth, estimator = CASES[name]
    repeats = 200 if bootstrap else 400
    estimates = [estimator(*draw(seed, 1000), bootstrap=bootstrap, seed=seed) for seed in range(repeats)]
    assert_calibrated(np.array([estimate.z_score(truth) for estimate in estimates]))


@pytest.mark.parametrize("name", CASES)
def test_bootstrap_agrees_with_delta_method_and_is_reproducible(name: str) -> None:
    _, estimator = CASES[name]
    samples = draw(3, 4000)
    delta = estimator(*samples)
    first, again = (estimator(*samples, bootstrap=400, seed=1) for _ in range(2))
    assert first == again
    assert first.value == delta.value
    assert first.std_error == pytest.approx(delta.std_error, rel=4 / math.sqrt(800))
    assert "bootstrap" in first.method
    assert "delta" in delta.method


def test_log_z_equals_pymbar_exponential_averaging() -> None:
    n = 2000
    _, log_weight = draw(5, n)
    theirs = pymbar().other_estimators.exp(-log_weight)
    ours = log_z(log_weight)
    assert ours.value == pytest.approx(-theirs["Delta_f"], abs=1e-12)
    # pymbar divides the variance by N, we by N - 1
    assert ours.std_error == pytest.approx(theirs["dDelta_f"] * math.sqrt(n / (n - 1)), rel=1e-10)


def test_equal_weights_are_exact() -> None:
    estimate = log_z(np.full(50, 7.25))
    assert estimate.value == pytest.approx(7.25, abs=1e-14)
    assert estimate.std_error == pytest.approx(0.0, abs=1e-15)
    assert estimate.n_eff == pytest.approx(50)


def test_equal_weights_give_counting_statistics() -> None:
    final = np.arange(1000) < 250
    estimate = free_energy_difference(np.zeros(1000), ~final, final)
    assert estimate.value == pytest.approx(math.log(3))
    assert estimate.std_error == pytest.approx(math.sqrt(1 / 750 + 1 / 250), rel=1e-3)
    assert estimate.n_eff == pytest.approx(250)


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_huge_log_weights_only_shift_log_z(shift: float) -> None:
    x, log_weight = draw(1, 500)
    assert log_z(log_weight + shift).value == pytest.approx(log_z(log_weight).value + shift, abs=1e-8)
    ours = free_energy_difference(log_weight + shift, x < 0, x >= 0)
    assert ours.value == pytest.approx(free_energy_difference(log_weight, x < 0, x >= 0).value, abs=1e-8)


def test_samples_of_weight_zero_still_count_as_draws() -> None:
    padded = np.concatenate([np.zeros(100), np.full(100, -np.inf)])
    estimate = log_z(padded)
    assert estimate.value == pytest.approx(math.log(0.5))
    assert estimate.std_error == pytest.approx(math.sqrt(1 / 199), rel=1e-9)  # a binomial with p = 1/2
    values = np.concatenate([np.arange(100.0), np.full(100, np.nan)])
    assert expectation(padded, values).value == pytest.approx(49.5)


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_undefined_log_weights_get_weight_zero(special: float) -> None:
    weights = normalised_weights([0.0, special, 0.0])
    np.testing.assert_array_equal(weights, [0.5, 0.0, 0.5])


def test_one_sample_has_an_unknown_error() -> None:
    assert log_z([2.0]) == Estimate(2.0, math.inf, "log-mean weight, delta-method error", 1.0, 1.0)
    assert expectation([2.0], [5.0]).std_error == math.inf
    assert log_z([2.0], bootstrap=10).std_error == math.inf


def test_a_basin_that_resampling_can_lose_has_an_unknown_bootstrap_error() -> None:
    final = np.arange(50) == 7
    estimate = free_energy_difference(np.zeros(50), ~final, final, bootstrap=100)
    assert estimate.std_error == math.inf


def test_all_weights_zero_is_an_error() -> None:
    with pytest.raises(ZeroWeightsError, match="all 3 samples have weight zero"):
        log_z(np.full(3, -np.inf))


@pytest.mark.parametrize("shape", [(0,), (2, 2), ()])
def test_wrong_shapes_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="non-empty array of shape"):
        log_z(np.zeros(shape))


def test_empty_basin_is_named() -> None:
    log_weight = np.array([0.0, 0.0, -np.inf])
    everywhere = np.ones(3, bool)
    with pytest.raises(EmptyBasinError, match="basin c7ax: no sample among 3"):
        free_energy_difference(log_weight, everywhere, ~everywhere, names=("c7eq", "c7ax"))
    with pytest.raises(EmptyBasinError, match="basin c7ax: 1 samples, none of non-zero weight"):
        free_energy_difference(log_weight, everywhere, np.array([0, 0, 1], bool), names=("c7eq", "c7ax"))


def test_bad_arguments_are_errors() -> None:
    with pytest.raises(DataError, match="basin initial: expected booleans"):
        free_energy_difference(np.zeros(2), np.array([0, 1]), np.ones(2, bool))
    with pytest.raises(DataError, match="does not match"):
        expectation(np.zeros(2), np.zeros(3))
    with pytest.raises(DataError, match="first: sample 1"):
        expectation(np.zeros(3), [0.0, np.nan, 1.0])
    with pytest.raises(ConfigError, match="at least 2"):
        log_z(np.zeros(4), bootstrap=1)


def test_z_score_combines_both_errors() -> None:
    estimate = Estimate(1.5, 0.3, "", 10.0)
    assert estimate.z_score(1.0, 0.4) == pytest.approx(1.0)
    assert estimate.z_score(2.0, 0.4) == pytest.approx(-1.0)
    exact = Estimate(1.0, 0.0, "", 10.0)
    assert exact.z_score(1.0) == 0.0
    assert exact.z_score(2.0) == -math.inf


class TestFamilies:
    """Particles of common descent count as one draw."""

    def test_families_of_one_change_nothing(self) -> None:
        rng = np.random.default_rng(7)
        log_weight, values = rng.normal(size=200), rng.normal(size=200)
        family = rng.permutation(200)
        left = values < 0
        for plain, grouped in (
            (log_z(log_weight), log_z(log_weight, family=family)),
            (expectation(log_weight, values), expectation(log_weight, values, family=family)),
            (
                free_energy_difference(log_weight, left, ~left),
                free_energy_difference(log_weight, left, ~left, family=family),
            ),
        ):
            assert grouped.value == pytest.approx(plain.value, rel=1e-12)
            assert grouped.std_error == pytest.approx(plain.std_error, rel=1e-9)
            assert grouped.n_eff == pytest.approx(plain.n_eff, rel=1e-9)
            assert grouped.method == plain.method + " over families"

    def test_copies_do_not_make_estimates_sharper(self) -> None:
        """Every draw copied four times, the weights shared out: values, errors and sizes of the originals."""
        rng = np.random.default_rng(8)
        log_weight, values = rng.normal(size=300), rng.normal(size=300)
        copied, family = np.repeat(log_weight, 4), np.repeat(np.arange(300), 4)
        four = np.repeat(values, 4)
        left = values < 0
        pairs = [
            (expectation(log_weight, values), expectation(copied, four, family=family)),
            (
                free_energy_difference(log_weight, left, ~left),
                free_energy_difference(copied, four < 0, four >= 0, family=family),
            ),
        ]
        for original, grouped in pairs:
            assert grouped.value == pytest.approx(original.value, rel=1e-10)
            assert grouped.std_error == pytest.approx(original.std_error, rel=2e-3)
            assert grouped.n_eff == pytest.approx(original.n_eff, rel=1e-9)
        assert expectation(copied, four).std_error < 0.6 * pairs[0][0].std_error
        assert log_z(copied, family=family).value == pytest.approx(log_z(log_weight).value)

    def test_summed_weights(self) -> None:
        summed = family_log_weights([0.0, 0.0, -np.inf], [2, 2, 0])
        np.testing.assert_allclose(summed, [-np.inf, -np.inf, np.log(2)])
        np.testing.assert_array_equal(family_log_weights([1.0, 2.0], None), [1.0, 2.0])

    def test_wrong_families_are_refused(self) -> None:
        for wrong in ([0, 1], [0, 1, 3], [-1, 0, 1], [0.0, 1.0, 2.0]):
            with pytest.raises(DataError, match="family"):
                log_z([0.0, 1.0, 2.0], family=wrong)

    @pytest.mark.parametrize("name", CASES)
    def test_bootstrap_resamples_families(self, name: str) -> None:
        """It agrees with the delta method over families, of which some are large and many died out."""
        _, estimator = CASES[name]
        x, log_weight = draw(11, 3000)
        family = np.random.default_rng(11).integers(1000, size=3000)
        delta = estimator(x, log_weight, family=family)
        bootstrap = estimator(x, log_weight, family=family, bootstrap=400)
        assert bootstrap.value == delta.value
        assert bootstrap.std_error == pytest.approx(delta.std_error, rel=4 / math.sqrt(800))
        assert bootstrap.method.endswith("(400 resamplings) over families")
        assert delta.std_error > 1.2 * estimator(x, log_weight).std_error
