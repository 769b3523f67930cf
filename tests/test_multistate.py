"""MBAR against pymbar and closed forms: infinite energies, unsampled states, regions, units, refusals."""

import logging
import math

import numpy as np
import pytest
from scipy.special import logsumexp

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy import EmptyBasinError, NoOverlapError, NotConvergedError, bar, fep, mbar
from bgdiff.free_energy import mbar_solver as solver
from bgdiff.free_energy.bootstrap import multiplicities
from bgdiff.free_energy.quiet import pymbar, quietly

STIFFNESS = np.array([1.0, 2.0, 4.0, 8.0, 3.0])
CENTRES = np.array([0.0, 0.5, 1.0, 1.2, 0.8])
OFFSETS = np.array([0.0, 10.0, -5.0, 3.0, 50.0])
COUNTS = np.array([300, 500, 0, 400, 200])
EXACT = OFFSETS - 0.5 * np.log(2 * np.pi / STIFFNESS)


def oscillators(seed: int = 0, counts: np.ndarray = COUNTS) -> tuple[np.ndarray, np.ndarray]:
    """Positions of samples of the oscillators, and their energies (K, N)."""
    generator = np.random.default_rng(seed)
    x = np.concatenate(
        [c + generator.normal(size=n) / k**0.5 for c, k, n in zip(CENTRES, STIFFNESS, counts, strict=True)]
    )
    return x, 0.5 * STIFFNESS[:, None] * (x - CENTRES[:, None]) ** 2 + OFFSETS[:, None]


@pytest.fixture(scope="module")
def reference() -> object:
    """pymbar's solution for the first oscillators."""
    with quietly():
        return pymbar().MBAR(oscillators()[1], COUNTS, initial_f_k=np.where(COUNTS > 0, EXACT, 0.0))


class TestAgainstPymbar:
    x, energy = oscillators()
    ours = mbar(energy, COUNTS)

    def test_free_energies_and_errors(self, reference: object) -> None:
        differences = reference.compute_free_energy_differences()
        for i in range(5):
            for j in range(5):
                one = self.ours.difference(i, j)
                assert one.value == pytest.approx(differences["Delta_f"][i, j], abs=1e-9)
                assert one.std_error == pytest.approx(differences["dDelta_f"][i, j], rel=1e-6, abs=1e-7)
                assert abs(one.z_score(EXACT[j] - EXACT[i])) < 4 or i == j

    def test_averages(self, reference: object) -> None:
        found = reference.compute_expectations(self.x)
        for state in range(5):
            one = self.ours.expectation(state, self.x)
            assert one.value == pytest.approx(found["mu"][state], abs=1e-9)
            assert one.std_error == pytest.approx(found["sigma"][state], rel=1e-6)
            assert abs(one.z_score(CENTRES[state])) < 4

    @pytest.mark.parametrize("state", [0, 2])
    def test_regions(self, reference: object, state: int) -> None:
        """pymbar, given each region as a state of its own with high energy outside."""
        left = self.x < 0.7
        split = np.array([np.where(part, self.energy[state], 1e6) for part in (left, ~left)])
        found = reference.compute_perturbed_free_energies(split)
        one = self.ours.region_difference(state, left, ~left)
        assert one.value == pytest.approx(found["Delta_f"][0, 1], abs=1e-8)
        assert one.std_error == pytest.approx(found["dDelta_f"][0, 1], rel=1e-6)
        population = self.ours.expectation(state, left).value
        assert one.value == pytest.approx(math.log(population / (1 - population)), abs=1e-9)

    def test_overlap_matrix_and_effective_samples(self, reference: object) -> None:
        np.testing.assert_allclose(
            self.ours.overlap_matrix, reference.compute_overlap()["matrix"], atol=1e-10
        )
        with quietly():
            effective = reference.compute_effective_sample_number()
        for state in range(5):
            assert self.ours.effective_samples(state) == pytest.approx(effective[state], rel=1e-8)
            assert logsumexp(self.ours.log_weight(state)) == pytest.approx(0.0, abs=1e-10)

    def test_diagnostics(self) -> None:
        assert self.ours.diagnostics["solver"] == "default"
        assert self.ours.diagnostics["newton_step"] < 1e-9
        assert self.ours.free_energies[0] == 0.0


def test_two_states_are_bar() -> None:
    _, energy = oscillators(counts=np.array([200, 100, 0, 0, 0]))
    energy = energy[:2]
    one = mbar(energy, [200, 100]).difference(0, 1)
    work = energy[1] - energy[0]
    two = bar(work[:200], -work[200:])
    assert one.value == pytest.approx(two.value, abs=1e-8)
    assert one.std_error == pytest.approx(two.std_error, rel=1e-6)
    assert one.overlap == pytest.approx(two.overlap, rel=1e-6)


def test_one_sampled_state_is_perturbation() -> None:
    _, energy = oscillators(counts=np.array([0, 400, 0, 0, 0]))
    one = mbar(energy[:3], [0, 400, 0]).difference(1, 2)
    two = fep(energy[2] - energy[1])
    assert one.value == pytest.approx(two.value, abs=1e-9)
    assert one.std_error == pytest.approx(two.std_error * math.sqrt(399 / 400), rel=1e-9)
    assert one.n_eff == pytest.approx(two.n_eff, rel=1e-8)
    assert one.overlap == pytest.approx(two.overlap, rel=1e-8)


def test_infinite_energies_are_exact() -> None:
    """Boxes [0, 1], [½, 2], [1½, 4]: the solution obeys MBAR's equations with weights of exactly zero."""
    generator = np.random.default_rng(3)
    low, high, counts = np.array([0.0, 0.5, 1.5]), np.array([1.0, 2.0, 4.0]), np.array([60, 50, 40])
    x = np.concatenate([generator.uniform(a, b, n) for a, b, n in zip(low, high, counts, strict=True)])
    inside = (x >= low[:, None]) & (x < high[:, None])
    energy = np.where(inside, 0.0, np.inf)
    energy[0, -1] = np.nan  # what no energy could be computed for is outside as well
    solved = mbar(energy, counts)
    mixture = (counts * np.exp(solved.free_energies)) @ inside
    np.testing.assert_allclose((inside / mixture).sum(axis=1), np.exp(-solved.free_energies), rtol=1e-9)
    for j in (1, 2):
        assert abs(solved.difference(0, j).z_score(-math.log(high[j] - low[j]))) < 4
    assert solved.diagnostics["n_nonfinite"] == (~inside).sum()
    # between two boxes that do not touch the way leads over the middle one
    assert solved.difference(0, 2).overlap == min(
        solved.difference(0, 1).overlap, solved.difference(1, 2).overlap
    )


def test_same_energies_give_no_difference() -> None:
    energy = np.tile(np.random.default_rng(0).normal(size=50), (2, 1))
    one = mbar(energy, [30, 20]).difference(0, 1)
    assert one.value == pytest.approx(0.0, abs=1e-10)
    assert one.std_error == pytest.approx(0.0, abs=1e-6)
    assert one.overlap == pytest.approx(1.0)


def test_a_good_guess_and_none_agree() -> None:
    _, energy = oscillators()
    guess = np.where(COUNTS > 0, EXACT - EXACT[0], 0.0)
    guessed, plain = mbar(energy, COUNTS, initial=guess), mbar(energy, COUNTS)
    np.testing.assert_allclose(guessed.free_energies, plain.free_energies, atol=1e-8)


def test_free_energies_far_apart() -> None:
    """pymbar's default solver, left to start from zero, does not find these."""
    _, energy = oscillators()
    far = np.array([0.0, 4e3, -2e3, 9e3, 1e3])
    moved = mbar(energy + far[:, None], COUNTS)
    np.testing.assert_allclose(moved.free_energies - far, mbar(energy, COUNTS).free_energies, atol=1e-6)


class TestBootstrap:
    def test_it_agrees_with_the_asymptotic_errors(self) -> None:
        x, energy = oscillators(1)
        plain, resampled = mbar(energy, COUNTS), mbar(energy, COUNTS, bootstrap=200, seed=1)
        left = x < 0.7
        for question in (
            lambda solved: solved.difference(0, 3),
            lambda solved: solved.expectation(2, x),
            lambda solved: solved.region_difference(2, left, ~left),
        ):
            one, two = question(plain), question(resampled)
            assert two.value == one.value
            assert two.std_error == pytest.approx(one.std_error, rel=4 / math.sqrt(400))
            assert "bootstrap error (200 resamplings)" in two.method
            assert two.diagnostics["asymptotic_std_error"] == one.std_error

    def test_resamples_are_solved_as_if_they_were_the_samples(self) -> None:
        x, energy = oscillators(2)
        solved = mbar(energy, COUNTS, bootstrap=3, seed=4)
        draws = multiplicities(solved._strata, np.arange(x.size), 3, seed=4)
        for multiplicity, free_energies in zip(draws, solved._replicates, strict=True):
            rows = np.repeat(np.arange(x.size), multiplicity.astype(int))
            assert not np.array_equal(rows, np.arange(x.size))
            again = mbar(energy[:, rows], COUNTS).free_energies
            np.testing.assert_allclose(free_energies - free_energies[0], again, atol=1e-8)

    def test_it_is_reproducible(self) -> None:
        _, energy = oscillators(2, COUNTS // 5)
        errors = [mbar(energy, COUNTS // 5, bootstrap=5, seed=7).difference(0, 1).std_error for _ in range(2)]
        assert errors[0] == errors[1]

    def test_pymbar_seeds_nothing(self) -> None:
        np.random.seed(5)  # noqa: NPY002
        expected = np.random.random()  # noqa: NPY002
        np.random.seed(5)  # noqa: NPY002
        _, energy = oscillators(2, COUNTS // 5)
        mbar(energy, COUNTS // 5)
        assert np.random.random() == expected  # noqa: NPY002


class TestUnits:
    def test_copies_count_once(self) -> None:
        counts = COUNTS // 4
        x, energy = oscillators(4, counts)
        single = mbar(energy, counts)
        unit = np.repeat(np.arange(x.size), 3)
        copied = mbar(np.repeat(energy, 3, axis=1), 3 * counts, unit=unit)
        np.testing.assert_allclose(copied.free_energies, single.free_energies, atol=1e-8)
        one, three = single.difference(0, 3), copied.difference(0, 3)
        assert three.std_error == pytest.approx(one.std_error, rel=0.15)
        assert three.n_eff == pytest.approx(one.n_eff, rel=1e-6)
        assert "over units" in three.method

    def test_bootstrap_over_units_of_all_states(self) -> None:
        """Units that pass through all states, as paths do: both errors know how few they are."""
        generator = np.random.default_rng(6)
        n, copies = 80, 4
        noise = np.repeat(generator.normal(size=n), copies)
        x = np.concatenate([c + noise / k**0.5 for c, k in zip(CENTRES[:3], STIFFNESS[:3], strict=True)])
        energy = 0.5 * STIFFNESS[:3, None] * (x - CENTRES[:3, None]) ** 2
        unit, counts = np.tile(np.repeat(np.arange(n), copies), 3), [n * copies] * 3
        asymptotic = mbar(energy, counts, unit=unit).difference(0, 2).std_error
        resampled = mbar(energy, counts, unit=unit, bootstrap=200).difference(0, 2).std_error
        assert resampled == pytest.approx(asymptotic, rel=4 / math.sqrt(400))
        assert asymptotic > 1.5 * mbar(energy, counts).difference(0, 2).std_error

    def test_three_chains_tell_no_error(self) -> None:
        counts = np.array([90, 90])
        _, energy = oscillators(7, np.array([90, 90, 0, 0, 0]))
        unit = np.concatenate([np.arange(90) // 30, 3 + np.arange(90) // 30])
        assert mbar(energy[:2], counts, unit=unit).difference(0, 1).std_error == math.inf


class TestRefusals:
    def test_states_without_common_support(self) -> None:
        energy = np.zeros((3, 30))
        energy[2, :20], energy[:2, 20:] = np.inf, np.inf
        with pytest.raises(NoOverlapError, match="states 0-1 and 2 do not connect"):
            mbar(energy, [10, 10, 10])

    def test_one_way_support_is_not_enough(self) -> None:
        energy = np.zeros((2, 20))
        energy[0, 10:] = np.inf  # no sample of state 1 lies in state 0
        with pytest.raises(NoOverlapError, match="states 0 and 1 do not connect"):
            mbar(energy, [10, 10])

    @pytest.mark.parametrize(
        ("apart", "why"), [(60.0, "no sample of one side"), (11.0, "the nearest, 1 and 2, share .* samples")]
    )
    def test_states_far_apart_are_named(self, apart: float, why: str) -> None:
        centres, counts = np.array([0.0, 1.0, apart, apart + 1]), np.full(4, 50)
        generator = np.random.default_rng(0)
        x = np.concatenate([generator.normal(centre, 1, 50) for centre in centres])
        with pytest.raises(NoOverlapError, match=f"states 0-1 and 2-3 do not connect: {why}"):
            mbar(0.5 * (x - centres[:, None]) ** 2, counts)

    def test_a_state_without_any_finite_energy(self) -> None:
        energy = np.zeros((2, 10))
        energy[1] = np.inf
        with pytest.raises(NoOverlapError, match="state 1: none of 10 samples has a finite energy"):
            mbar(energy, [10, 0])

    def test_the_robust_solver_is_a_fallback_that_is_told(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, energy = oscillators(2, COUNTS // 5)
        run = solver._run

        def default_fails(energy: object, counts: object, guess: np.ndarray, protocol: object) -> np.ndarray:
            found = run(energy, counts, guess, protocol)
            return found + np.array([0, 0.1, 0, 0, 0]) if protocol == "default" else found

        monkeypatch.setattr(solver, "_run", default_fails)
        with caplog.at_level(logging.WARNING):
            solved = mbar(energy, COUNTS // 5)
        assert "default solver did not converge" in caplog.text
        assert solved.diagnostics["solver"] == "robust"
        assert solved.difference(0, 1).diagnostics["solver"] == "robust"
        np.testing.assert_allclose(solved.free_energies[1], EXACT[1] - EXACT[0], atol=0.5)

    def test_no_convergence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, energy = oscillators(2, COUNTS // 5)
        monkeypatch.setattr(solver, "_run", lambda energy, counts, guess, protocol: EXACT + 0.2 * STIFFNESS)
        with pytest.raises(NotConvergedError, match="MBAR of 5 states did not converge: a step of"):
            mbar(energy, COUNTS // 5)

    def test_a_solver_that_raises_counts_as_not_converged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise FloatingPointError("underflow")

        _, energy = oscillators(2, COUNTS // 5)
        monkeypatch.setattr(pymbar(), "MBAR", broken)
        with pytest.raises(NotConvergedError, match="did not converge"):
            mbar(energy, COUNTS // 5)

    def test_empty_regions_are_named(self) -> None:
        x, energy = oscillators(2, COUNTS // 5)
        energy = np.where(x < 2, energy, np.inf) if (x[:60] < 2).all() else energy
        solved = mbar(energy, COUNTS // 5)
        nowhere = np.zeros(x.size, dtype=bool)
        with pytest.raises(EmptyBasinError, match="basin right: no sample among"):
            solved.region_difference(0, ~nowhere, nowhere, names=("left", "right"))

    def test_regions_without_weight_are_named(self) -> None:
        energy = np.zeros((2, 20))
        energy[1, :5] = np.inf
        first = np.arange(20) < 5
        with pytest.raises(EmptyBasinError, match="basin initial: 5 samples, none of non-zero weight"):
            mbar(energy, [10, 10]).region_difference(1, first, ~first)

    def test_bad_arrays(self) -> None:
        energy = np.zeros((2, 4))
        for counts in ([2, 1], [4], [[2, 2]], [2.0, 2.0], [0, 0], [-1, 5]):
            with pytest.raises(DataError, match="counts|energy: shape"):
                mbar(energy, counts)
        with pytest.raises(DataError, match="-inf in state 1 at sample 2"):
            mbar(np.array([[0.0, 0, 0, 0], [0, 0, -np.inf, 0]]), [2, 2])
        with pytest.raises(
            DataError, match="1 samples have no finite energy in the state they were drawn from"
        ):
            mbar(np.array([[0.0, np.inf, 0, 0], [0, 0, 0, 0]]), [2, 2])
        with pytest.raises(DataError, match="initial: expected 2 finite"):
            mbar(energy, [2, 2], initial=[0.0, np.nan])
        with pytest.raises(ConfigError, match="at least 2"):
            mbar(energy, [2, 2], bootstrap=1)
        solved = mbar(energy, [2, 2])
        with pytest.raises(DataError, match="does not match 4 samples"):
            solved.expectation(0, [1.0])
        with pytest.raises(DataError, match="first: sample 1"):
            solved.expectation(0, [0.0, np.nan, 0.0, 0.0])
        with pytest.raises(DataError, match="basin final: expected booleans"):
            solved.region_difference(0, np.ones(4, bool), np.ones(4))


def test_nothing_is_printed(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    _, energy = oscillators(2, COUNTS // 5)
    with caplog.at_level(logging.INFO):
        mbar(energy, COUNTS // 5)
    assert not caplog.records
    assert capsys.readouterr() == ("", "")
