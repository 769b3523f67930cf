"""Every estimator's errors are true: z-scores of repeated analytic problems have mean 0 and deviation 1.

200 repetitions each; both moments within four of their own standard errors.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import i0e
from scipy.stats import norm

from bgdiff.free_energy import (
    Estimate,
    at_temperature,
    bar,
    expectation,
    fep,
    fep_reverse,
    free_energy_difference,
    free_energy_profile,
    log_z,
    mbar,
    temperature_difference,
    thermodynamic_integration,
)

REPEATS = 200
Array = np.ndarray
Generator = np.random.Generator


def z_scores(problem: Callable[[Generator], Estimate], truth: float) -> Array:
    return np.array([problem(np.random.default_rng(seed)).z_score(truth) for seed in range(REPEATS)])


def assert_calibrated(z: Array) -> None:
    """Mean 0 and standard deviation 1, each within four of its own standard errors."""
    assert np.isfinite(z).all()
    assert abs(z.mean()) < 4 / math.sqrt(z.size), z.mean()
    assert abs(z.std(ddof=1) - 1) < 4 / math.sqrt(2 * z.size), z.std(ddof=1)


class Harmonic:
    """u(x) = k (x - c)²/2 + offset on the line."""

    def __init__(self, stiffness: float, centre: float, offset: float) -> None:
        self.k, self.c, self.offset = stiffness, centre, offset
        self.free_energy = offset - 0.5 * math.log(2 * math.pi / stiffness)

    def energy(self, x: Array) -> Array:
        return 0.5 * self.k * (x - self.c) ** 2 + self.offset

    def draw(self, generator: Generator, n: int) -> Array:
        return generator.normal(self.c, self.k**-0.5, n)


A, B = Harmonic(1.0, 0.0, 0.0), Harmonic(1.6, 0.7, 5.0)
DELTA_F = B.free_energy - A.free_energy


class DoubleWell:
    """u(x) = x - 4x² + x⁴, drawn exactly from a fine grid."""

    grid = np.linspace(-3.5, 3.5, 20_001)

    def __init__(self, scale: float = 1.0) -> None:
        density = np.exp(-scale * self.energy(self.grid))
        step = self.grid[1] - self.grid[0]
        self.log_z = math.log(density.sum() * step)
        self.cumulative = np.cumsum(density) / density.sum()
        self.difference = math.log(density[self.grid < 0].sum() / density[self.grid >= 0].sum())

    @staticmethod
    def energy(x: Array) -> Array:
        return x - 4 * x**2 + x**4

    def draw(self, generator: Generator, n: int) -> Array:
        step = self.grid[1] - self.grid[0]
        index = np.searchsorted(self.cumulative, generator.random(n))
        return self.grid[index] + step * (generator.random(n) - 0.5)


WELL = DoubleWell()


def proposal(generator: Generator, n: int) -> tuple[Array, Array]:
    """Points of two Gaussians at the double well's minima, and log weights for it."""
    x = np.where(generator.random(n) < 0.5, -1.5, 1.3) + 0.45 * generator.standard_normal(n)
    log_q = np.log(0.5 * norm.pdf(x, -1.5, 0.45) + 0.5 * norm.pdf(x, 1.3, 0.45))
    return x, -WELL.energy(x) - log_q


def test_quadrature_of_the_double_well() -> None:
    assert WELL.difference == pytest.approx(2.629382, abs=1e-4)
    assert WELL.log_z + 0.5 * math.log(2 * math.pi) == pytest.approx(5.951223, abs=1e-5)


class TestOneSided:
    def test_importance_log_z(self) -> None:
        assert_calibrated(z_scores(lambda g: log_z(proposal(g, 2000)[1]), WELL.log_z))

    def test_importance_basins(self) -> None:
        def problem(generator: Generator) -> Estimate:
            x, log_weight = proposal(generator, 2000)
            return free_energy_difference(log_weight, x < 0, x >= 0)

        assert_calibrated(z_scores(problem, WELL.difference))

    @pytest.mark.parametrize("bootstrap", [0, 50])
    def test_forward_perturbation(self, bootstrap: int) -> None:
        def problem(generator: Generator) -> Estimate:
            x = A.draw(generator, 2000)
            return fep(B.energy(x) - A.energy(x), bootstrap=bootstrap)

        assert_calibrated(z_scores(problem, DELTA_F))

    def test_reverse_perturbation(self) -> None:
        # from the narrow state to the wide one weights have heavy tails: the stiffness may not double
        wide, narrow = Harmonic(1.0, 0.2, 0.0), Harmonic(1.4, 0.0, 3.0)

        def problem(generator: Generator) -> Estimate:
            x = narrow.draw(generator, 3000)
            return fep_reverse(wide.energy(x) - narrow.energy(x))

        assert_calibrated(z_scores(problem, narrow.free_energy - wide.free_energy))

    def test_torus(self) -> None:
        """Angles from von Mises, weighted for another: Z = 2π I₀(κ)."""
        kappa, guess = 3.0, 2.0

        def problem(generator: Generator) -> Estimate:
            x = generator.vonmises(0.3, guess, 2000)
            log_q = guess * np.cos(x - 0.3) - math.log(2 * math.pi * i0e(guess)) - guess
            return log_z(kappa * np.cos(x) - log_q)

        assert_calibrated(z_scores(problem, math.log(2 * math.pi * i0e(kappa)) + kappa))


class TestTwoSided:
    @pytest.mark.parametrize("bootstrap", [0, 30])
    def test_bennett(self, bootstrap: int) -> None:
        def problem(generator: Generator) -> Estimate:
            x, y = A.draw(generator, 400), B.draw(generator, 200)
            return bar(B.energy(x) - A.energy(x), A.energy(y) - B.energy(y), bootstrap=bootstrap)

        assert_calibrated(z_scores(problem, DELTA_F))

    def test_bennett_where_the_overlap_is_poor(self) -> None:
        """Gaussian works that dissipate 8 kT each way, overlap about 0.07: perturbation is off by kT."""

        def problem(generator: Generator) -> Estimate:
            return bar(generator.normal(8, 4, 200), generator.normal(8, 4, 200))

        assert_calibrated(z_scores(problem, 0.0))

    def test_bennett_of_boxes(self) -> None:
        """Uniform on [0, 1] and on [½, 2]: half and two thirds of the works are infinite; ΔF = -log 1.5."""

        def problem(generator: Generator) -> Estimate:
            x, y = generator.random(300), 0.5 + 1.5 * generator.random(200)
            return bar(np.where(x > 0.5, 0.0, np.inf), np.where(y < 1, 0.0, np.inf))

        assert_calibrated(z_scores(problem, -math.log(1.5)))

    def test_driven_paths(self) -> None:
        """An oscillator is dragged and stiffened in steps, with Markov moves between: Jarzynski, Crooks."""

        def works(start: Harmonic, stop: Harmonic, generator: Generator, n: int) -> Array:
            x, work, steps = start.draw(generator, n), np.zeros(n), 8
            before = start
            for t in range(1, steps + 1):
                k, c, u = (
                    p + (q - p) * t / steps
                    for p, q in zip(
                        (start.k, start.c, start.offset), (stop.k, stop.c, stop.offset), strict=True
                    )
                )
                now = Harmonic(k, c, u)
                work += now.energy(x) - before.energy(x)
                # a move that leaves `now` as it is and remembers half of where it was
                x = now.c + 0.5 * (x - now.c) + math.sqrt(0.75 / now.k) * generator.standard_normal(n)
                before = now
            return work

        first, last = Harmonic(1.0, 0.0, 0.0), Harmonic(2.0, 1.2, 1.0)
        truth = last.free_energy - first.free_energy
        scores = []
        for seed in range(REPEATS):
            generator = np.random.default_rng(seed)
            down, up = works(first, last, generator, 1500), works(last, first, generator, 1500)
            scores.append([one.z_score(truth) for one in (fep(down), fep_reverse(up), bar(down, up))])
        for z in np.array(scores).T:
            assert_calibrated(z)


class TestManyStates:
    def test_differences_averages_and_regions(self) -> None:
        """Four oscillators, of which one is not sampled; each repetition answers four questions."""
        states = [Harmonic(1, 0, 0), Harmonic(2, 0.6, 8), Harmonic(4, 1.0, -4), Harmonic(3, 1.5, 30)]
        counts = np.array([150, 100, 0, 120])
        beyond = 1.1
        right = norm.sf((beyond - states[2].c) * math.sqrt(states[2].k))
        truths = [
            states[3].free_energy - states[0].free_energy,
            states[2].free_energy - states[1].free_energy,
            states[2].c,
            math.log((1 - right) / right),
        ]
        scores = []
        for seed in range(REPEATS):
            generator = np.random.default_rng(seed)
            x = np.concatenate([s.draw(generator, n) for s, n in zip(states, counts, strict=True)])
            energy = np.array([s.energy(x) for s in states])
            solved = mbar(energy, counts)
            estimates = [
                solved.difference(0, 3),
                solved.difference(1, 2),
                solved.expectation(2, x),
                solved.region_difference(2, x < beyond, x >= beyond),
            ]
            scores.append([one.z_score(truth) for one, truth in zip(estimates, truths, strict=True)])
        for z in np.array(scores).T:
            assert_calibrated(z)

    def test_paths_through_all_states(self) -> None:
        """Samples of one unit are equal up to scale in all states: only units know that they are so few."""
        states = [Harmonic(1, 0, 0), Harmonic(2, 0.3, 0), Harmonic(4, 0.6, 0)]
        truth = states[2].free_energy - states[0].free_energy
        n, copies = 40, 3
        unit = np.tile(np.repeat(np.arange(n), copies), len(states))
        scores, naive = [], []
        for seed in range(REPEATS):
            noise = np.random.default_rng(seed).standard_normal(n)
            x = np.concatenate([s.c + np.repeat(noise, copies) * s.k**-0.5 for s in states])
            energy = np.array([s.energy(x) for s in states])
            counts = np.full(len(states), n * copies)
            scores.append(mbar(energy, counts, unit=unit).difference(0, 2).z_score(truth))
            if seed < 20:
                naive.append(mbar(energy, counts).difference(0, 2).z_score(truth))
        assert_calibrated(np.array(scores))
        assert np.std(naive) > 1.4


def test_thermodynamic_integration() -> None:
    """From stiffness 1 to 3 at constant rate: ⟨∂u/∂λ⟩ = ⟨x²⟩, smooth enough for the quadrature."""
    nodes = np.linspace(0, 1, 7)

    def problem(generator: Generator) -> Estimate:
        samples = [generator.normal(0, (1 + 2 * l) ** -0.5, 200) for l in nodes]
        return thermodynamic_integration(nodes, [x**2 for x in samples])

    estimates = [problem(np.random.default_rng(seed)) for seed in range(REPEATS)]
    truth = 0.5 * math.log(3)
    errors = np.array([one.diagnostics["statistical_std_error"] for one in estimates])
    assert_calibrated(np.array([one.value - truth for one in estimates]) / errors)


class TestTemperature:
    """The double well at 300 and at 360 (u scales with 300/T)."""

    hot = DoubleWell(300 / 360)

    def test_averages(self) -> None:
        def problem(generator: Generator) -> Estimate:
            x, log_weight = proposal(generator, 2000)
            new = at_temperature(log_weight, WELL.energy(x), 300.0, 360.0)
            return free_energy_difference(new, x < 0, x >= 0)

        assert_calibrated(z_scores(problem, self.hot.difference))

    def test_difference(self) -> None:
        def problem(generator: Generator) -> Estimate:
            x, log_weight = proposal(generator, 2000)
            return temperature_difference(log_weight, WELL.energy(x), 300.0, 360.0)

        assert_calibrated(z_scores(problem, WELL.log_z - self.hot.log_z))


def autoregressive(generator: Generator, chains: int, length: int, memory: float) -> Array:
    """Stationary AR(1) chains (chains, length) with standard normal marginals."""
    x = np.empty((chains, length))
    x[:, 0] = generator.standard_normal(chains)
    for t in range(1, length):
        x[:, t] = memory * x[:, t - 1] + math.sqrt(1 - memory**2) * generator.standard_normal(chains)
    return x


class TestCorrelatedChains:
    """Twenty chains that remember about ten steps: the chains are the units."""

    chains, length = 20, 60
    unit = np.repeat(np.arange(20), 60)
    shift = Harmonic(1.0, 0.5, 0.0)

    def works(self, seed: int) -> tuple[Array, Array]:
        generator = np.random.default_rng(seed)
        x, y = (autoregressive(generator, self.chains, self.length, 0.9).ravel() for _ in range(2))
        y = y + self.shift.c
        return self.shift.energy(x) - A.energy(x), A.energy(y) - self.shift.energy(y)

    @pytest.mark.parametrize("bootstrap", [0, 50])
    def test_perturbation(self, bootstrap: int) -> None:
        scores, naive = [], []
        for seed in range(REPEATS):
            forward, _ = self.works(seed)
            scores.append(fep(forward, unit=self.unit, bootstrap=bootstrap, seed=seed).z_score(0.0))
            naive.append(fep(forward).z_score(0.0))
        assert_calibrated(np.array(scores))
        assert np.std(naive) > 2.5

    @pytest.mark.parametrize("bootstrap", [0, 30])
    def test_bennett(self, bootstrap: int) -> None:
        scores, naive = [], []
        options = {"forward_unit": self.unit, "reverse_unit": self.unit, "bootstrap": bootstrap}
        for seed in range(REPEATS):
            works = self.works(seed)
            scores.append(bar(*works, **options, seed=seed).z_score(0.0))
            if seed < 40:
                naive.append(bar(*works).z_score(0.0))
        assert_calibrated(np.array(scores))
        assert np.std(naive) > 2.5

    def test_average(self) -> None:
        x = [autoregressive(np.random.default_rng(seed), self.chains, self.length, 0.9) for seed in range(9)]
        naive = [expectation(np.zeros(one.size), one.ravel()).std_error for one in x]
        true = math.sqrt((1 + 0.9) / (1 - 0.9) / (self.chains * self.length))
        assert np.mean(naive) < 0.3 * true


class TestProfiles:
    """Angles of a von Mises mixture; bins on the circle."""

    edges = np.linspace(-math.pi, math.pi, 13)

    def truth(self) -> Array:
        grid = np.linspace(-math.pi, math.pi, 12 * 500 + 1)
        middle = 0.5 * (grid[1:] + grid[:-1])
        density = 0.6 * np.exp(2 * np.cos(middle - 1)) / i0e(2) / math.exp(2) + 0.4
        mass = density.reshape(12, 500).mean(axis=1)
        return -np.log(mass / (mass.sum() * 2 * math.pi / 12))

    @staticmethod
    def draw(generator: Generator, n: int) -> Array:
        uniform = generator.uniform(-math.pi, math.pi, n)
        return np.where(generator.random(n) < 0.6, generator.vonmises(1.0, 2.0, n), uniform)

    def test_bins(self) -> None:
        truth = self.truth()
        profiles = [
            free_energy_profile(self.draw(np.random.default_rng(seed), 2000), self.edges)
            for seed in range(REPEATS)
        ]
        z = np.array([(one.free_energy - truth) / one.std_error for one in profiles])
        for bin_ in z.T:
            assert_calibrated(bin_)

    def test_simultaneous_band_of_chains(self) -> None:
        """It covers all bins at once as often as it says, where pointwise bands do not."""
        truth, n, copies = self.truth(), 400, 5
        unit = np.repeat(np.arange(n), copies)
        covered, pointwise = 0, 0
        for seed in range(REPEATS):
            generator = np.random.default_rng(seed)
            values = np.repeat(self.draw(generator, n), copies)
            one = free_energy_profile(
                values + 2 * math.pi * generator.integers(-2, 3, values.size),
                self.edges,
                period=2 * math.pi,
                unit=unit,
                bootstrap=120,
                level=0.9,
                seed=seed,
            )
            low, high = one.band
            covered += bool(((low <= truth) & (truth <= high)).all())
            pointwise += bool((np.abs(one.free_energy - truth) <= 1.645 * one.std_error).all())
        assert abs(covered / REPEATS - 0.9) < 4 * math.sqrt(0.9 * 0.1 / REPEATS)
        assert pointwise / REPEATS < 0.6
