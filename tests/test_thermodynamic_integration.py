"""Thermodynamic integration: rules, closed forms, what it says of its quadrature, bad input."""

import math

import numpy as np
import pytest
from scipy.integrate import simpson

from bgdiff.errors import DataError
from bgdiff.free_energy import thermodynamic_integration
from bgdiff.free_energy.integration import quadrature_weights


class TestRule:
    def test_known_rules(self) -> None:
        np.testing.assert_allclose(quadrature_weights([0.0, 2.0]), [1.0, 1.0])
        np.testing.assert_allclose(quadrature_weights([0.0, 1.0, 2.0]), np.array([1, 4, 1]) / 3)
        values = np.random.default_rng(0).normal(size=3)
        uneven = np.array([0.0, 0.3, 2.0])
        assert quadrature_weights(uneven) @ values == pytest.approx(simpson(values, x=uneven))

    @pytest.mark.parametrize("m", [4, 5, 9])
    def test_cubics_are_exact(self, m: int) -> None:
        x = np.sort(np.random.default_rng(m).uniform(-1, 2, m))
        for power in range(4):
            exact = (x[-1] ** (power + 1) - x[0] ** (power + 1)) / (power + 1)
            assert quadrature_weights(x) @ x**power == pytest.approx(exact, abs=1e-10)


def exact_samples(nodes: np.ndarray) -> list[np.ndarray]:
    """Values of exp(λ) without any noise."""
    return [np.full(5, np.exp(one)) for one in nodes]


class TestEstimate:
    def test_oscillator(self) -> None:
        """u = (1 + 2λ) x²/2: ΔF = log(3)/2."""
        nodes = np.linspace(0, 1, 9)
        generator = np.random.default_rng(0)
        samples = [generator.normal(0, (1 + 2 * l) ** -0.5, 2000) ** 2 for l in nodes]
        estimate = thermodynamic_integration(nodes, samples)
        assert abs(estimate.z_score(0.5 * math.log(3))) < 4
        assert estimate.std_error < 0.01
        assert estimate.n_eff == 2000
        assert estimate.overlap is None
        errors = [one.std(ddof=1) / math.sqrt(2000) for one in samples]
        weights = quadrature_weights(nodes)
        assert estimate.diagnostics["statistical_std_error"] == pytest.approx(
            np.linalg.norm(weights * errors), rel=1e-10
        )

    def test_direction(self) -> None:
        nodes = np.array([0.0, 0.2, 0.5, 0.7, 1.0])
        ahead = thermodynamic_integration(nodes, exact_samples(nodes))
        back = thermodynamic_integration(nodes[::-1], exact_samples(nodes[::-1]))
        assert back.value == pytest.approx(-ahead.value, rel=1e-12)
        assert back.std_error == pytest.approx(ahead.std_error, rel=1e-9)
        assert ahead.value == pytest.approx(math.e - 1, abs=1e-3)

    @pytest.mark.parametrize("m", [2, 3, 4, 5, 7, 8, 13])
    def test_quadrature_error_covers_the_truth(self, m: int) -> None:
        """Without noise the rule is all that errs; its estimate is not too small, nor useless."""
        nodes = np.linspace(0, 1, m)
        estimate = thermodynamic_integration(nodes, exact_samples(nodes))
        true = abs(estimate.value - (math.e - 1))
        assert true <= 4 * estimate.diagnostics["quadrature_error"] + 1e-12
        if m >= 5:
            assert estimate.diagnostics["quadrature_error"] < 30 * true
        assert estimate.std_error == estimate.diagnostics["quadrature_error"]

    def test_coarse_nodes_are_told(self) -> None:
        """A peak that five nodes cannot resolve: its error is in the error bar."""
        nodes = np.linspace(-1, 1, 5)
        samples = [np.full(5, 1 / (1 + 25 * l**2)) for l in nodes]
        estimate = thermodynamic_integration(nodes, samples)
        assert estimate.diagnostics["quadrature_error"] > 0.005

    def test_noise_is_not_taken_for_an_error_of_the_rule(self) -> None:
        nodes = np.linspace(0, 1, 9)
        found = []
        for seed in range(50):
            generator = np.random.default_rng(seed)
            samples = [generator.normal(l, 1.0, 100) for l in nodes]
            found.append(thermodynamic_integration(nodes, samples).diagnostics)
        ratio = [one["quadrature_error"] / one["statistical_std_error"] for one in found]
        assert max(ratio) < 0.3
        assert np.median(ratio) == 0.0

    def test_bootstrap_agrees(self) -> None:
        nodes = np.linspace(0, 1, 5)
        generator = np.random.default_rng(1)
        samples = [generator.normal(l, 1.0, 120) for l in nodes]
        units = [np.repeat(np.arange(40), 3)] * 5
        for given in (None, units):
            plain = thermodynamic_integration(nodes, samples, units=given)
            resampled = thermodynamic_integration(nodes, samples, units=given, bootstrap=400)
            assert resampled.value == plain.value
            assert resampled.diagnostics["statistical_std_error"] == pytest.approx(
                plain.diagnostics["statistical_std_error"], rel=4 / math.sqrt(800)
            )

    def test_copies_in_units_count_once(self) -> None:
        nodes = np.linspace(0, 1, 5)
        generator = np.random.default_rng(2)
        samples = [generator.normal(l, 1.0, 100) for l in nodes]
        copied = [np.repeat(one, 4) for one in samples]
        grouped = thermodynamic_integration(nodes, copied, units=[np.repeat(np.arange(100), 4)] * 5)
        single = thermodynamic_integration(nodes, samples)
        errors = [one.diagnostics["statistical_std_error"] for one in (single, grouped)]
        assert errors[1] == pytest.approx(errors[0] * math.sqrt(99 / 97), rel=1e-6)
        assert grouped.n_eff == 100

    def test_one_sample_at_a_node(self) -> None:
        assert thermodynamic_integration([0, 1, 2], [[1.0], [1.0, 1.1], [1.0, 0.9]]).std_error == math.inf


def test_bad_input() -> None:
    with pytest.raises(DataError, match="at least two values in ascending or descending order"):
        thermodynamic_integration([0.0], [[1.0]])
    with pytest.raises(DataError, match="ascending or descending"):
        thermodynamic_integration([0.0, 1.0, 0.5], [[1.0]] * 3)
    with pytest.raises(DataError, match="ascending or descending"):
        thermodynamic_integration([0.0, np.nan], [[1.0]] * 2)
    with pytest.raises(DataError, match="1 arrays for 2 nodes"):
        thermodynamic_integration([0.0, 1.0], [[1.0]])
    with pytest.raises(DataError, match=r"node 1 \(0.5\): expected a non-empty"):
        thermodynamic_integration([0.0, 0.5], [[1.0], []])
    with pytest.raises(DataError, match=r"node 0 \(0\): 1 of 2 values are not finite"):
        thermodynamic_integration([0.0, 0.5], [[1.0, np.inf], [1.0]])
    with pytest.raises(DataError, match="units: 1 arrays for 2 nodes"):
        thermodynamic_integration([0.0, 0.5], [[1.0], [1.0]], units=[[0]])
    with pytest.raises(DataError, match="units of node 1: expected whole numbers"):
        thermodynamic_integration([0.0, 0.5], [[1.0], [1.0]], units=[[0], [0, 1]])
