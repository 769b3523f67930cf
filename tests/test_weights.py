"""Weight diagnostics against analytic values, independent fits, and hostile input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import genpareto

from bgdiff.analysis.weights import (
    ess_clipped,
    ess_forward,
    ess_kish,
    ess_trimmed,
    normalised_weights,
    pareto_k,
    pareto_tail,
    weight_diagnostics,
)
from bgdiff.errors import DataError
from bgdiff.free_energy import ZeroWeightsError


@pytest.mark.parametrize("s", [0.1, 0.5, 1.0])
def test_kish_of_lognormal_weights(s: float) -> None:
    """log w ~ N(m, s²) has E[w]²/E[w²] = exp(-s²)."""
    n, repeats = 20_000, 40
    values = [ess_kish(5.0 + s * np.random.default_rng(i).standard_normal(n)) for i in range(repeats)]
    assert np.mean(values) == pytest.approx(math.exp(-(s**2)), abs=4 * np.std(values) / math.sqrt(repeats))


@pytest.mark.parametrize("s", [0.1, 0.5, 1.0])
def test_forward_of_lognormal_weights(s: float) -> None:
    """The same weights seen from the target are log w ~ N(m + s², s²); the forward ESS is the same."""
    n, repeats = 20_000, 40
    values = [ess_forward(s**2 + s * np.random.default_rng(i).standard_normal(n)) for i in range(repeats)]
    assert np.mean(values) == pytest.approx(math.exp(-(s**2)), abs=4 * np.std(values) / math.sqrt(repeats))


def test_forward_sees_the_mode_that_kish_misses() -> None:
    """A proposal that never visits half of the target: Kish is perfect, forward is not."""
    proposal_side = np.zeros(1000)
    data_side = np.concatenate([np.zeros(500), np.full(500, 30.0)])
    assert ess_kish(proposal_side) == pytest.approx(1.0)
    assert ess_forward(data_side) < 1e-12


def test_forward_with_rebalanced_basins() -> None:
    """Held-out data with basins in wrong proportion, weighted right, give the truth of two-valued weights."""
    q, p = np.array([0.75, 0.25]), np.array([0.99, 0.01])
    counts = np.array([750, 250])  # data drawn in the proposal's wrong proportion
    log_weight = np.repeat(np.log(p / q), counts)
    truth = 1 / (p @ (p / q))
    assert ess_forward(log_weight, np.repeat(np.log(p / q), counts)) == pytest.approx(truth)
    assert ess_forward(log_weight) < 0.5 * truth


def test_clipped_and_trimmed_definitions() -> None:
    log_weight = np.log(np.concatenate([np.ones(19_998), [50.0, 400.0]]))
    np.random.default_rng(0).shuffle(log_weight)
    clipped = np.concatenate([np.ones(19_998), [50.0, 50.0]])
    assert ess_clipped(log_weight) == pytest.approx(clipped.sum() ** 2 / (20_000 * (clipped**2).sum()))
    assert ess_trimmed(log_weight) == pytest.approx(1.0)  # the largest 40 are gone
    assert ess_trimmed(np.log(np.arange(1.0, 501.0))) == pytest.approx(
        np.arange(1, 500).sum() ** 2 / (499 * (np.arange(1, 500) ** 2).sum())
    )


def test_small_samples_are_neither_clipped_nor_trimmed() -> None:
    log_weight = np.random.default_rng(0).standard_normal(100)
    assert ess_clipped(log_weight) == pytest.approx(ess_kish(log_weight), rel=1e-12)
    assert ess_trimmed(log_weight) == pytest.approx(ess_kish(log_weight), rel=1e-12)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3, 0.6, 0.9])
def test_pareto_k_recovers_the_shape_of_pareto_draws(shape: float) -> None:
    """A generalised Pareto tail above any threshold has the same shape; M = 425 of 20 000 are used."""
    n, repeats = 20_000, 30
    values = []
    for seed in range(repeats):
        draws = genpareto.rvs(shape, scale=2.0, size=n, random_state=seed)
        values.append(pareto_k(np.log(draws)))
    m = math.ceil(3 * math.sqrt(n))
    regularised = (m * shape + 5) / (m + 10)
    spread = (1 + shape) / math.sqrt(m)  # asymptotic standard deviation of the maximum-likelihood shape
    assert np.std(values) == pytest.approx(spread, rel=0.6)
    assert np.mean(values) == pytest.approx(regularised, abs=4 * spread / math.sqrt(repeats) + 0.02)


def test_pareto_fit_agrees_with_maximum_likelihood() -> None:
    draws = genpareto.rvs(0.5, size=50_000, random_state=1)
    tail = pareto_tail(np.log(draws))
    assert tail is not None
    threshold, values = math.exp(tail.log_threshold), np.exp(tail.log_weight)
    shape, _, scale = genpareto.fit(values - threshold, floc=0)
    unregularised = (tail.shape * (values.size + 10) - 5) / values.size
    assert unregularised == pytest.approx(shape, abs=0.03)
    assert tail.scale * draws.max() == pytest.approx(scale, rel=0.05)


def test_pareto_k_does_not_depend_on_the_normalisation() -> None:
    log_weight = 2.0 * np.random.default_rng(2).standard_normal(5000)
    for shift in (-1e5, -800.0, 3.0, 1e5):
        assert pareto_k(log_weight + shift) == pytest.approx(pareto_k(log_weight), abs=1e-6)


def test_pareto_k_grades_lognormal_weights() -> None:
    generator = np.random.default_rng(4)
    mild, wild = (pareto_k(s * generator.standard_normal(20_000)) for s in (0.3, 3.0))
    assert mild is not None
    assert wild is not None
    assert mild < 0.3
    assert wild > 0.7


def test_pareto_k_is_none_when_there_is_no_tail() -> None:
    assert pareto_k(np.zeros(1000)) is None
    assert pareto_k(np.arange(10.0)) is None
    assert pareto_k([0.0]) is None
    assert pareto_k(np.concatenate([np.zeros(3), np.full(997, -np.inf)])) is None


def test_one_sample() -> None:
    result = weight_diagnostics([12.0], [12.0])
    assert result.n_samples == 1
    assert result.ess_kish == result.ess_clipped_1e4 == result.ess_trimmed_0p2pct == 1.0
    assert result.ess_forward == pytest.approx(1.0)
    assert result.max_weight_share == 1.0
    assert result.pareto_k is None


def test_non_finite_weights_are_counted_and_count_as_draws() -> None:
    result = weight_diagnostics([0.0, 0.0, -np.inf, np.nan, np.inf, 0.0])
    assert result.n_samples == 6
    assert result.n_nonfinite == 3
    assert result.ess_kish == pytest.approx(0.5)
    assert result.max_weight_share == pytest.approx(1 / 3)
    assert result.ess_forward is None


def test_all_weights_zero_is_a_clear_error() -> None:
    with pytest.raises(ZeroWeightsError, match="all 4 samples have weight zero"):
        weight_diagnostics(np.full(4, -np.inf))


def test_forward_input_is_checked() -> None:
    assert ess_forward([0.0, np.inf]) == 0.0
    assert ess_forward([0.0, -np.inf]) == 0.0
    assert ess_forward([0.0, np.inf], [0.0, -np.inf]) == 1.0
    with pytest.raises(DataError, match="1 of 2 are nan"):
        ess_forward([0.0, np.nan])
    with pytest.raises(DataError, match="non-empty"):
        ess_forward([])
    with pytest.raises(DataError, match="does not match"):
        ess_forward([0.0, 1.0], [0.0])


log_weights = st.lists(
    st.one_of(st.floats(-1e6, 1e6), st.floats(-3, 3), st.just(-math.inf)), min_size=1, max_size=300
).filter(lambda values: any(math.isfinite(v) for v in values))


@settings(deadline=None, max_examples=200)
@given(log_weights)
def test_any_weights_give_sound_diagnostics(values: list[float]) -> None:
    with np.errstate(all="raise", under="ignore"):
        result = weight_diagnostics(values)
    n = len(values)
    assert normalised_weights(values).sum() == pytest.approx(1.0)
    for fraction in (result.ess_kish, result.ess_clipped_1e4, result.max_weight_share):
        assert 1 / n - 1e-12 <= fraction <= 1 + 1e-12
    assert 0.0 <= result.ess_trimmed_0p2pct <= 1 + 1e-12
    assert result.ess_kish <= 1 / (n * result.max_weight_share**2) + 1e-12
    assert result.pareto_k is None or math.isfinite(result.pareto_k)
