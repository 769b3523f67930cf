"""The bridge to the target and the pilots: unbiased, counted, evenly spaced, and clear when they fail."""

import math
from functools import cache

import pytest
import torch
from checks import assert_mean, seeded
from ladders import ModelTarget, features, torus_and_plane
from test_smc import Lopsided
from torch import Tensor

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.bridge import Bridge, cross, plan_bridge
from bgdiff.ladder.densities import TargetDensity
from bgdiff.ladder.genealogy import average_error
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.moves import Move
from bgdiff.ladder.paths import Ladder, measure_moments
from bgdiff.ladder.pilot import MoveRecipe, respaced, tuned_plan
from bgdiff.ladder.resampling import log_mean_weight
from bgdiff.ladder.smc import Arrivals, Plan, Resampler, descend, smc

MODEL = torus_and_plane()


@cache
def lopsided(n_rungs: int = 8) -> Ladder:
    model, sigma = Lopsided(), noise_levels(n_rungs, 0.1, 6.0)
    return Ladder(model, sigma, measure_moments(model, sigma, MODEL.sample(5000, seeded(1)), seeded(2)))


def target_density() -> TargetDensity:
    return TargetDensity(ModelTarget(MODEL), MODEL.periodic)


def evaluations(density: TargetDensity) -> int:
    assert isinstance(density.target, ModelTarget)
    return density.target.evaluations


def moves() -> list[Move]:
    made = MoveRecipe("mala").at_rung(lopsided(), 1)
    assert made is not None
    return [made]


@cache
def planned() -> Bridge:
    density, plan = target_density(), Plan(lopsided())
    low, _ = descend(plan, 400, seeded(3))
    return plan_bridge(plan.density(1), density, low, moves, seeded(4), overlap=0.9)


def crossing(bridge: Bridge, n: int, generator: torch.Generator, threshold: float = 0.7) -> Arrivals:
    plan = Plan(lopsided(), resampler=Resampler(threshold))
    low, weighed = descend(plan, n, generator)
    return cross(plan, bridge, target_density(), low, weighed, generator)


def log_weights(arrivals: Arrivals) -> Tensor:
    return ModelTarget(MODEL).log_density(arrivals.paths.z) + arrivals.paths.log_ratio


def test_log_z_over_the_bridge_is_unbiased() -> None:
    generator, found = seeded(5), []
    for _ in range(200):
        log_weight = log_weights(crossing(planned(), 40, generator, 0.8))
        found.append((log_mean_weight(log_weight) - 3.7).exp())
    assert_mean(torch.stack(found), 1.0)
    plain = log_weights(crossing(Bridge((0.4, 1.0), ((), ())), 8000, seeded(19), 0.0))
    assert_mean((plain - 3.7).exp(), 1.0)


def test_averages_over_the_bridge() -> None:
    exact = features(MODEL.sample(400_000, seeded(6)), MODEL.periodic).mean(0)
    arrivals = crossing(planned(), 4000, seeded(7))
    found = features(arrivals.paths.z, MODEL.periodic)
    mean, error = average_error(log_weights(arrivals), found, arrivals.genealogy.ancestors())
    assert ((mean - exact).abs() < 4.5 * error).all()


def test_the_planned_bridge_overlaps_as_asked_and_its_moves_are_tuned() -> None:
    bridge = planned()
    assert len(bridge.places) >= 2
    arrivals = crossing(bridge, 3000, seeded(8))
    steps = arrivals.records[-len(bridge.places) :]
    for record in steps[:-1]:
        assert 0.84 < record.conditional_fraction < 0.95
    assert steps[-1].conditional_fraction > 0.85
    for record in steps:
        assert record.stage.startswith("bridge from rung 1 ")
        assert 0.4 < record.acceptance[0] < 0.75
    assert not steps[-1].resampled


def test_moves_are_tuned_at_given_places() -> None:
    density, plan = target_density(), Plan(lopsided())
    low, _ = descend(plan, 300, seeded(20))
    bridge = plan_bridge(plan.density(1), density, low, moves, seeded(21), places=(0.2, 0.6, 1.0))
    assert bridge.places == (0.2, 0.6, 1.0)
    for record in crossing(bridge, 1000, seeded(22)).records[-3:]:
        assert 0.4 < record.acceptance[0] < 0.75


def test_target_evaluations_are_counted() -> None:
    hmc = MoveRecipe("hmc", leapfrog_steps=3).at_rung(lopsided(), 1)
    assert hmc is not None
    bridge = Bridge((0.5, 1.0), ((hmc,), (moves()[0], hmc)))
    assert bridge.evaluations == 1 + 3 + 1 + 3
    density, plan = target_density(), Plan(lopsided())
    low, weighed = descend(plan, 30, seeded(9))
    arrivals = cross(plan, bridge, density, low, weighed, seeded(10))
    assert arrivals.target_evaluations == evaluations(density) == 30 * 8


class Elsewhere(ModelTarget):
    """A target with room only where the particles are not; or with no energy at all."""

    def __init__(self, value: float) -> None:
        super().__init__(MODEL)
        self.value = value

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(z),), self.value, dtype=torch.float64), torch.zeros_like(z)


@pytest.mark.parametrize(("value", "kind"), [(math.nan, "nan"), (-math.inf, "infinite")])
def test_a_target_without_energies_ends_the_run(value: float, kind: str) -> None:
    density, plan = TargetDensity(Elsewhere(value), MODEL.periodic), Plan(lopsided())
    low, weighed = descend(plan, 30, seeded(11))
    with pytest.raises(
        CorrectionError, match=rf"bridge .* b = 1: the target's energy is {kind} for 30 of 30"
    ):
        cross(plan, Bridge(), density, low, weighed, seeded(12))


def test_a_hopeless_target_ends_the_pilot() -> None:
    class Steep(ModelTarget):
        def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return 1e6 * z[:, 0], torch.zeros_like(z)

    density, plan = TargetDensity(Steep(MODEL), MODEL.periodic), Plan(lopsided())
    low, _ = descend(plan, 30, seeded(13))
    with pytest.raises(CorrectionError, match=r"bridge .*1 of 30 particles have descendants.*train longer"):
        plan_bridge(plan.density(1), density, low, lambda: [], seeded(14))


class Sloped(ModelTarget):
    """A target with a slope beside which the model means nothing, and a gradient that may be wrong."""

    def __init__(self, slope: float, gradient: float = 0.0) -> None:
        super().__init__(MODEL)
        self.slope, self.gradient = slope, gradient

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.slope * z[:, 0], torch.full_like(z, self.gradient)


def test_one_particle_taking_everything_ends_the_crossing() -> None:
    density, plan = TargetDensity(Sloped(1e5), MODEL.periodic), Plan(lopsided())
    low, weighed = descend(plan, 30, seeded(15))
    with pytest.raises(CorrectionError, match=r"bridge .* b = 0\.5: one of 30 .* 100\.0 %.*train longer"):
        cross(plan, Bridge((0.5, 1.0), ((), ())), density, low, weighed, seeded(16))


def test_moves_that_are_never_accepted_end_the_pilots() -> None:
    """On the bridge, by forces that do not belong to the energy; at a rung, by an energy full of holes."""
    plan = Plan(lopsided())
    low, _ = descend(plan, 300, seeded(17))
    density = TargetDensity(Sloped(0.1, 1e9), MODEL.periodic)
    with pytest.raises(
        CorrectionError, match=r"bridge .* b = 1: MALA is accepted in 0\.\d %.*leave this move out"
    ):
        plan_bridge(plan.density(1), density, low, moves, seeded(18), places=(1.0,))

    class Holes(Lopsided):
        def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
            rough = 1e9 * torch.sin(1e9 * z[:, 0]) if float(sigma) < 0.2 else 0.0
            return super().log_density(z, sigma) + rough

    ladder = lopsided()
    broken = Ladder(Holes(), ladder.sigma, ladder.moments)
    with pytest.raises(CorrectionError, match=r"rung \d \(sigma = 0\.1.*"):
        tuned_plan(broken, [MoveRecipe("mala")], 100, seeded(19))


def test_senseless_bridges_are_refused() -> None:
    for places, made in (((), ()), ((0.5,), ((),)), ((0.5, 0.4, 1.0), ((), (), ())), ((1.0,), ())):
        with pytest.raises(ConfigError):
            Bridge(places, made)


def test_rungs_are_spread_to_equal_overlap() -> None:
    """A coarse and a fine pilot agree on how many rungs an overlap needs, and the new ladder has it."""
    overlap, numbers = 0.97, []
    for n_rungs in (30, 60):
        new, measured = respaced(lopsided(n_rungs), overlap, 2000, seeded(15))
        assert len(measured) == n_rungs - 1
        numbers.append(new.n_rungs)
        assert float(new.sigma[1]) == float(lopsided(n_rungs).sigma[1])
        assert float(new.sigma[-1]) == float(lopsided(n_rungs).sigma[-1])
        fractions = torch.tensor([r.conditional_fraction for r in smc(Plan(new), 2000, seeded(16)).records])
        losses = -fractions.log() / -math.log(overlap)
        assert 0.5 < float(losses.mean()) < 1.5
        assert float(losses.max()) < 6
    assert abs(numbers[0] - numbers[1]) < 0.25 * numbers[1]
    with pytest.raises(ConfigError):
        respaced(lopsided(), 1.0, 10, seeded(0))


def test_tuned_moves_are_near_their_best_at_every_rung() -> None:
    recipes = [MoveRecipe("mala"), MoveRecipe("torsion_jump"), MoveRecipe("random_walk", repeats=2)]
    plan = tuned_plan(lopsided(), recipes, 400, seeded(17), knots=6, every=2)
    assert [len(plan.moves_at(k)) for k in range(1, 8)] == [4 * (k % 2) for k in range(1, 8)]
    arrivals = smc(plan, 1500, seeded(18))
    for record in arrivals.records:
        if record.acceptance:
            mala_rate, _, walk, again = record.acceptance
            assert 0.4 < mala_rate < 0.8, record
            assert 0.1 < walk < 0.5, record
            assert again == pytest.approx(walk, abs=0.1)
    found = features(arrivals.paths.z, MODEL.periodic)
    exact = features(MODEL.sample(400_000, seeded(6)), MODEL.periodic).mean(0)
    mean, error = average_error(log_weights(arrivals), found, arrivals.genealogy.ancestors())
    assert ((mean - exact).abs() < 4.5 * error).all()


def test_recipes() -> None:
    periodic = torch.zeros(3, dtype=torch.bool)
    assert MoveRecipe("torsion_jump").make(torch.ones(3), periodic) is None
    with pytest.raises(ConfigError):
        MoveRecipe("mala", repeats=0)
