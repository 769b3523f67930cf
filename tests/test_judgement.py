"""Judgement of several estimates: what is quoted, what is refused, and how often it raises false alarms."""

import math

import numpy as np
import pytest

from bgdiff.errors import ConfigError
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.importance import log_z
from bgdiff.free_energy.judgement import Candidate, judge


def candidate(
    name: str, value: float, error: float, n_eff: float = 1000.0, overlap: float | None = 0.5, **facts: object
) -> Candidate:
    disagreement = facts.pop("disagreement_z", None)
    diagnostics = {} if disagreement is None else {"disagreement_z": disagreement}
    facts.setdefault("samples", {name: 4000})
    return Candidate(name, Estimate(value, error, name, n_eff, overlap, diagnostics), **facts)  # type: ignore[arg-type]


class TestQuotes:
    def test_the_smallest_error(self) -> None:
        found = judge([candidate("a", 1.0, 0.1), candidate("b", 1.05, 0.05), candidate("c", 0.9, 0.2)])
        assert (found.quoted, found.consistent) == ("b", True)
        assert found.degrees_of_freedom == 2
        assert "Quote b" in found.verdict

    def test_two_sided_before_one_sided(self) -> None:
        """Unless their error is more than twice as large."""
        found = judge([candidate("a", 1.0, 0.011), candidate("b", 1.02, 0.02, two_sided=True)])
        assert found.quoted == "b"
        found = judge([candidate("a", 1.0, 0.009), candidate("b", 1.02, 0.02, two_sided=True)])
        assert found.quoted == "a"

    def test_the_smallest_error_of_what_came_down_the_ladder(self) -> None:
        """Samples of rungs cannot tell what they miss any better than walks down can."""
        walks = candidate("importance sampling", 4.858, 0.076)
        rungs = candidate("MBAR over rungs", 4.61, 0.13, least_overlap=0.03)
        assert judge([walks, rungs]).quoted == judge([rungs, walks]).quoted == "importance sampling"
        data = candidate("path BAR", 4.80, 0.14, two_sided=True, assumes="the data are in equilibrium")
        assert judge([walks, rungs, data]).quoted == "path BAR"

    def test_the_first_of_equal_errors(self) -> None:
        assert judge([candidate("b", 1.0, 0.1), candidate("a", 1.1, 0.1)]).quoted == "b"

    def test_not_what_carries_an_error_of_the_model(self) -> None:
        found = judge([candidate("learned", 1.5, 0.001, exact=False), candidate("a", 1.0, 0.01)])
        assert found.quoted == "a"
        assert found.consistent is None  # nothing exact to compare with
        assert "only one" in found.verdict
        only = judge([candidate("learned", 1.5, 0.001, exact=False)])
        assert only.quoted is None
        assert "no exact estimator" in only.verdict

    def test_one_side_alone_is_told(self) -> None:
        assert "one side only" in judge([candidate("a", 1.0, 0.01)]).advice[0]


class TestRefuses:
    def test_too_few_effective_samples(self) -> None:
        found = judge([candidate("a", 1.0, 0.1, n_eff=10.0), candidate("b", 1.0, 0.1, n_eff=4.0)])
        assert found.quoted is None
        assert found.more_samples == 16_000  # 4000 give 10, 20 000 give 50
        assert "16000 more" in found.advice[0]
        assert found.problems["a"].reason == "10 effective samples, 50 are needed"

    def test_a_poor_estimate_among_good_ones(self) -> None:
        found = judge([candidate("a", 1.0, 0.1), candidate("b", 9.0, 0.1, n_eff=2.0)])
        assert found.quoted == "a"
        assert set(found.problems) == {"b"}

    @pytest.mark.parametrize(("two_sided", "overlap"), [(True, 0.02), (False, 0.001), (True, math.nan)])
    def test_too_little_overlap(self, two_sided: bool, overlap: float) -> None:
        found = judge([candidate("a", 1.0, 0.1, overlap=overlap, two_sided=two_sided)])
        assert found.quoted is None
        assert "overlap" in found.verdict
        assert "nearer" in found.advice[0]

    def test_a_limit_of_its_own(self) -> None:
        """An overlap of states in place of a fraction of weights, for an estimate that is one-sided."""
        assert judge([candidate("a", 1.0, 0.1, overlap=0.02)]).quoted == "a"
        assert judge([candidate("a", 1.0, 0.1, overlap=0.02, least_overlap=0.03)]).quoted is None

    @pytest.mark.parametrize(("value", "error"), [(math.nan, 0.1), (math.inf, 0.1), (1.0, math.inf)])
    def test_what_is_not_a_number(self, value: float, error: float) -> None:
        assert judge([candidate("a", value, error)]).quoted is None

    def test_forward_against_reverse(self) -> None:
        found = judge([candidate("bar", 1.0, 0.1, two_sided=True, disagreement_z=4.5)])
        assert (found.quoted, found.consistent) == (None, False)
        assert "forward and reverse of bar are 4.5" in found.verdict
        assert judge([candidate("bar", 1.0, 0.1, two_sided=True, disagreement_z=-1.5)]).quoted == "bar"

    def test_a_biased_estimate(self) -> None:
        found = judge([candidate("a", 1.0, 0.02), candidate("b", 1.01, 0.02), candidate("c", 1.2, 0.02)])
        assert (found.quoted, found.consistent) == (None, False)
        assert "c are" in found.verdict
        assert found.p_value is not None
        assert found.p_value < 1e-6

    def test_a_biased_estimate_that_shares_its_samples(self) -> None:
        shared = {"down": 1000}
        found = judge([candidate("a", 1.0, 0.02, samples=shared), candidate("b", 1.2, 0.03, samples=shared)])
        assert (found.quoted, found.consistent) == (None, False)
        assert found.chi_square is None

    def test_nothing(self) -> None:
        assert judge([]).quoted is None
        with pytest.raises(ConfigError, match="names must differ"):
            judge([candidate("a", 1.0, 0.1)] * 2)
        with pytest.raises(ConfigError, match="level"):
            judge([], level=0.0)


class TestAssumptions:
    """Estimates that ask for more than the others, and disagree with them."""

    wrong = candidate("up", 1.5, 0.05, assumes="the data are in equilibrium")

    def test_two_others_that_agree_are_believed(self) -> None:
        found = judge([candidate("a", 1.0, 0.05), candidate("b", 1.05, 0.05, two_sided=True), self.wrong])
        assert (found.quoted, found.consistent) == ("b", False)
        assert "ask that the data are in equilibrium do not agree" in found.verdict
        assert found.alarms

    def test_one_other_is_not_enough(self) -> None:
        poor = candidate("b", 1.0, 0.3, n_eff=20.0)
        found = judge([candidate("a", 1.0, 0.05), self.wrong, poor])
        assert (found.quoted, found.consistent) == (None, False)
        settle = "b does not ask for that and could settle it: draw about 6000 more samples"
        assert settle in found.advice

    def test_two_others_from_the_same_samples_are_not_enough(self) -> None:
        same = {"down": 1000}
        others = [candidate("a", 1.0, 0.05, samples=same), candidate("b", 1.0, 0.05, samples=same)]
        assert judge([*others, self.wrong]).quoted is None

    def test_others_that_disagree_are_not_believed(self) -> None:
        assert judge([candidate("a", 1.0, 0.05), candidate("b", 2.0, 0.05), self.wrong]).quoted is None

    def test_nothing_is_said_if_all_agree(self) -> None:
        right = candidate("up", 1.02, 0.03, assumes="the data are in equilibrium")
        found = judge([candidate("a", 1.0, 0.05), right])
        assert (found.quoted, found.consistent) == ("up", True)


class TestFalseAlarms:
    """The rate of alarms among estimates that are right is what is stated; never above."""

    repeats, level = 2000, 0.05

    def rate(self, make: object) -> float:
        generator = np.random.default_rng(0)
        alarms = [judge(make(generator), level=self.level).consistent is False for _ in range(self.repeats)]  # type: ignore[operator]
        return float(np.mean(alarms))

    @property
    def error(self) -> float:
        return math.sqrt(self.level * (1 - self.level) / self.repeats)

    def test_independent_estimates(self) -> None:
        errors = [0.1, 0.02, 0.05, 0.3]

        def make(generator: np.random.Generator) -> list[Candidate]:
            return [candidate(f"{i}", 2 + e * generator.standard_normal(), e) for i, e in enumerate(errors)]

        assert abs(self.rate(make) - self.level) < 4 * self.error

    def test_with_forward_against_reverse(self) -> None:
        def make(generator: np.random.Generator) -> list[Candidate]:
            z = generator.standard_normal(3)
            return [
                candidate("a", 0.1 * z[0], 0.1),
                candidate("b", 0.2 * z[1], 0.2, two_sided=True, disagreement_z=z[2]),
            ]

        assert abs(self.rate(make) - self.level) < 4 * self.error

    @pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
    def test_shared_samples_never_more(self, correlation: float) -> None:
        samples = [{"down": 1}, {"up": 1}, {"up": 1, "down": 1}, {"rungs": 1}, {"rungs": 1, "down": 1}]

        def make(generator: np.random.Generator) -> list[Candidate]:
            down, up, rungs = generator.standard_normal(3)
            own = generator.standard_normal(5)
            common = [down, up, (down + up) / math.sqrt(2), rungs, (rungs + down) / math.sqrt(2)]
            mixed = math.sqrt(correlation) * np.array(common) + math.sqrt(1 - correlation) * own
            return [candidate(f"{i}", mixed[i], 1.0, samples=samples[i]) for i in range(5)]

        assert self.rate(make) < self.level + 4 * self.error

    def test_real_estimates(self) -> None:
        """Importance sampling from two proposals of a Gaussian, with their own error bars."""

        def make(generator: np.random.Generator) -> list[Candidate]:
            found = []
            for width in (1.2, 1.5):
                x = width * generator.standard_normal(400)
                weight = -0.5 * x**2 + 0.5 * (x / width) ** 2 + math.log(width)
                found.append(Candidate(f"{width}", log_z(weight), {f"{width}": 400}))
            return found

        assert abs(self.rate(make) - self.level) < 4 * self.error


def test_power_against_bias() -> None:
    """A bias of four combined errors is found nearly always."""
    generator = np.random.default_rng(1)
    found = [
        judge(
            [candidate("a", generator.normal(0, 0.1), 0.1), candidate("b", generator.normal(0.6, 0.1), 0.1)]
        )
        for _ in range(300)
    ]
    assert np.mean([one.consistent is False for one in found]) > 0.9
