"""Block bootstrap, sums over units, and subsampling of correlated frames."""

import logging
import math

import numpy as np
import pytest

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy.bootstrap import (
    block_bootstrap,
    bootstrap_error,
    effective_subsample,
    exchangeable_units,
    few_units,
    resamples,
    unit_error,
    unit_labels,
)


class TestResamples:
    def test_units_stay_whole(self) -> None:
        unit = np.array([7, 7, -2, 7, 5, 5])  # any whole numbers, in any order
        for (rows,) in resamples([unit], 50, seed=1):
            drawn, counts = np.unique(rows, return_counts=True)
            for label in (7, -2, 5):
                members = np.flatnonzero(unit == label)
                times = {int(counts[drawn == member].sum()) for member in members}
                assert len(times) == 1
            assert sum(counts[drawn == first].sum() for first in (0, 2, 4)) == 3  # three units are drawn

    def test_same_seed_same_rows(self) -> None:
        units = [np.arange(5), np.repeat([0, 1], 3)]
        one, two, other = ([list(r) for r in resamples(units, 4, seed)] for seed in (3, 3, 4))
        for left, right in zip(one, two, strict=True):
            for a, b in zip(left, right, strict=True):
                np.testing.assert_array_equal(a, b)
        assert any(not np.array_equal(a[0], b[0]) for a, b in zip(one, other, strict=True))

    def test_sets_are_independent(self) -> None:
        values = block_bootstrap(
            lambda rows: [rows[0].mean(), rows[1].mean()], [np.arange(40), np.arange(40)], 2000, seed=0
        )
        correlation = np.corrcoef(values.T)[0, 1]
        assert abs(correlation) < 4 / math.sqrt(2000)


class TestErrors:
    def test_mean_of_units(self) -> None:
        """Both ways give the textbook error of a mean over independent unit means."""
        generator = np.random.default_rng(0)
        means = generator.normal(size=50)
        values, unit = np.repeat(means, 8), np.repeat(np.arange(50), 8)
        exact = means.std(ddof=1) / math.sqrt(50) * few_units(50)
        assert unit_error([values / values.size], [unit]) == pytest.approx(exact, rel=1e-12)
        replicates = block_bootstrap(lambda rows: values[rows[0]].mean(), [unit], 4000, seed=2)
        error, lost = bootstrap_error(replicates, [unit])
        assert error == pytest.approx(exact, rel=4 / math.sqrt(8000))
        assert lost == 0

    def test_errors_of_sets_add_in_squares(self) -> None:
        a, b = np.random.default_rng(1).normal(size=(2, 30))
        alone = [unit_error([part], [np.arange(30)]) for part in (a, b)]
        assert unit_error([a, b], [np.arange(30)] * 2) == pytest.approx(math.hypot(*alone))
        assert alone[0] == pytest.approx(math.sqrt(30) * a.std(ddof=1))

    @pytest.mark.parametrize("n_units", [4, 6, 10])
    def test_few_units_give_wide_but_true_errors(self, n_units: int) -> None:
        """z-scores of a mean over few Gaussian units follow Student's t; widened, their variance is one."""
        draws = np.random.default_rng(n_units).normal(size=(20_000, n_units))
        error = draws.std(axis=1, ddof=1) / math.sqrt(n_units) * few_units(n_units)
        z = draws.mean(axis=1) / error
        if n_units == 10:  # the fourth moment of t exists from 5 degrees of freedom on
            assert abs((z**2).mean() - 1) < 4 * (z**2).std() / math.sqrt(z.size)
        assert (np.abs(z) < 1).mean() > 0.68

    @pytest.mark.parametrize("n_units", [1, 2, 3])
    def test_three_units_tell_no_error(self, n_units: int) -> None:
        unit = np.repeat(np.arange(n_units), 10)
        values = np.random.default_rng(0).normal(size=unit.size)
        assert unit_error([values], [unit]) == math.inf
        replicates = block_bootstrap(lambda rows: values[rows[0]].mean(), [unit], 20, seed=0)
        assert bootstrap_error(replicates, [unit])[0] == math.inf

    def test_many_units_need_no_widening(self) -> None:
        assert few_units(10_000) == pytest.approx(1.0, abs=2e-4)

    def test_lost_resamples(self) -> None:
        units = [np.arange(100)]
        values = np.random.default_rng(0).normal(size=(1000, 2))
        values[:5, 0], values[:50, 1] = np.nan, np.inf
        error, lost = bootstrap_error(values, units)
        assert error[0] == pytest.approx(values[5:, 0].std(ddof=1), rel=0.02)
        assert error[1] == math.inf
        assert lost == 50
        assert bootstrap_error(np.full(10, np.nan), units) == (math.inf, 10)


class TestSubsample:
    @staticmethod
    def chains(memory: float, n: int = 4, length: int = 4000) -> np.ndarray:
        generator = np.random.default_rng(5)
        x = np.zeros((n, length))
        for t in range(1, length):
            x[:, t] = memory * x[:, t - 1] + generator.normal(size=n)
        return x

    def test_kept_frames_are_as_many_as_independent_ones(self) -> None:
        memory = 0.9
        inefficiency = (1 + memory) / (1 - memory)
        kept = effective_subsample(list(self.chains(memory)))
        assert sum(rows.size for rows in kept) == pytest.approx(16_000 / inefficiency, rel=0.25)
        for rows in kept:
            assert (np.diff(rows) > 0).all()

    def test_independent_frames_are_nearly_all_kept(self) -> None:
        kept = effective_subsample(list(self.chains(0.0, length=1000)))
        assert sum(rows.size for rows in kept) > 3200

    def test_slowest_of_several_observables_counts(self) -> None:
        slow, fast = self.chains(0.95), self.chains(0.0)
        alone = effective_subsample(list(slow))
        both = effective_subsample(list(np.stack([fast, slow, np.zeros_like(fast)], axis=-1)))
        for one, two in zip(alone, both, strict=True):
            np.testing.assert_array_equal(one, two)

    def test_chains_that_stay_apart_are_slow(self) -> None:
        apart = self.chains(0.0, n=2, length=500) + np.array([[-20.0], [20.0]])
        assert all(rows.size <= 2 for rows in effective_subsample(list(apart)))

    def test_chains_that_never_move(self) -> None:
        assert [rows.tolist() for rows in effective_subsample([np.ones(10), np.ones(5)])] == [[0], [0]]

    def test_start_is_discarded(self) -> None:
        chain = self.chains(0.5, n=1, length=2000)[0]
        chain[:400] += np.linspace(30, 0, 400)
        first = effective_subsample([chain], discard_start=True)[0][0]
        assert 200 < first < 800

    def test_nothing_is_printed(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            effective_subsample(list(self.chains(0.5, length=100)))
        assert not caplog.records


class TestBadInput:
    def test_labels(self) -> None:
        np.testing.assert_array_equal(unit_labels([5, -1, 5], 3), [1, 0, 1])
        np.testing.assert_array_equal(unit_labels(None, 3), [0, 1, 2])
        for wrong in ([0, 1], [0.0, 1.0, 2.0], [[0, 1, 2]]):
            with pytest.raises(DataError, match="populations: expected whole numbers of shape"):
                unit_labels(wrong, 3, "populations")

    def test_resamples(self) -> None:
        with pytest.raises(ConfigError, match="at least 2"):
            block_bootstrap(lambda rows: 0.0, [np.arange(3)], 1, seed=0)
        with pytest.raises(DataError, match="set 1 of 2 holds no sample"):
            block_bootstrap(lambda rows: 0.0, [np.arange(3), np.arange(0)], 5, seed=0)

    def test_chains(self) -> None:
        with pytest.raises(DataError, match="chains: expected at least one"):
            effective_subsample([])
        with pytest.raises(DataError, match="2 frames or more"):
            effective_subsample([np.zeros(1)])
        with pytest.raises(DataError, match="different numbers of observables"):
            effective_subsample([np.zeros((5, 1)), np.zeros((5, 2))])
        with pytest.raises(DataError, match="chain 1: a value is not finite"):
            effective_subsample([np.arange(4.0), [0.0, np.nan]])


class TestExchangeableUnits:
    def test_units_of_single_states(self) -> None:
        parts = exchangeable_units(np.array([0, 1, 2, 2, 3]), np.array([0, 0, 1, 1, 1]))
        assert [part.tolist() for part in parts] == [[0, 1], [2, 3, 4]]

    def test_units_that_cross_states(self) -> None:
        """Unit 0 visits states 0 and 1, unit 1 states 1 and 2; state 3 stands alone."""
        parts = exchangeable_units(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 3]))
        assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4]]
