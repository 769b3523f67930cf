"""Works of switching, with Jarzynski's equality, Crooks' theorem, and walks up with moves."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from checks import assert_mean, assert_standard, seeded
from ladders import ModelTarget, torus_and_plane
from test_smc import Lopsided
from torch import Tensor

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy.bennett import bar
from bgdiff.free_energy.perturbation import fep, fep_reverse
from bgdiff.ladder.annealing import Schedule, bridge_schedule, climb, switch_backward, switch_forward
from bgdiff.ladder.bridge import Bridge
from bgdiff.ladder.densities import RungDensity, State, TargetDensity
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.moves import Move, RandomWalk, TorsionJump, mala
from bgdiff.ladder.paths import Ladder, measure_moments
from bgdiff.ladder.smc import Plan, Resampler, smc
from bgdiff.models import GaussianModel

PERIODIC = torch.tensor([False, False, True])


def normal(mean: list[float], variance: list[float]) -> GaussianModel:
    return GaussianModel(torch.tensor(mean), torch.tensor(variance), PERIODIC)


FIRST, LAST = normal([0.3, -0.2, 2.8], [0.8, 1.2, 0.4]), normal([-0.4, 0.4, -2.9], [0.6, 0.9, 0.55])
LOG_Z = (1.3, -2.1)
REPEATS, N = 200, 30


class Counted:
    """A target that counts what it is asked."""

    def __init__(self, model: GaussianModel, log_z: float) -> None:
        self.inner, self.evaluations = ModelTarget(model, log_z), 0

    def log_density(self, z: Tensor) -> Tensor:
        return self.log_density_and_score(z)[0]

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.evaluations += len(z)
        return self.inner.log_density_and_score(z)


def ends() -> tuple[TargetDensity, TargetDensity]:
    return tuple(  # type: ignore[return-value]
        TargetDensity(Counted(model, log_z), PERIODIC, name)
        for model, log_z, name in ((FIRST, LOG_Z[0], "vacuum"), (LAST, LOG_Z[1], "water"))
    )


def moves() -> tuple[Move, ...]:
    scale = torch.tensor([0.6, 0.9, 0.6])
    return (mala(scale, 1.0), RandomWalk(scale, 0.7), TorsionJump(torch.tensor([2])))


def schedules() -> dict[str, Callable[[], Schedule]]:
    at = moves()

    def between_targets() -> Schedule:
        return bridge_schedule(*ends(), Bridge((0.2, 0.5, 0.8, 1.0), (at, at, at, ())))

    def at_once() -> Schedule:
        return Schedule(ends())

    def by_noise() -> Schedule:
        """Through blurred densities, which are no mixtures of the ends."""
        rungs = [
            RungDensity(model, 1, torch.tensor(sigma))
            for model, sigma in ((FIRST, 0.6), (FIRST, 1.2), (LAST, 0.6))
        ]
        low, high = ends()
        return Schedule([low, *rungs, high], [(), *[at] * 3, ()])

    return {"between targets": between_targets, "at once": at_once, "by noise": by_noise}


@pytest.mark.parametrize("name", list(schedules()))
def test_z_scores_of_works_are_standard(name: str) -> None:
    schedule = schedules()[name]()
    there = switch_forward(schedule, FIRST.sample(REPEATS * N, seeded(1)), seeded(2))
    back = switch_backward(schedule, LAST.sample(REPEATS * N, seeded(3)), seeded(4))
    truth = LOG_Z[0] - LOG_Z[1]
    assert_mean((truth - there.work).exp(), 1.0)  # Jarzynski
    assert_mean((-truth - back.work).exp(), 1.0)
    parts = zip(there.work.split(N), back.work.split(N), strict=True)
    scores = [bar(w.numpy(), v.numpy()).z_score(truth) for w, v in parts]
    assert_standard(torch.tensor(scores))
    sides = fep(there.work.numpy()), fep_reverse(back.work.numpy())
    assert all(abs(side.z_score(truth)) < 4 for side in sides)
    wanted = {"between targets": 9, "at once": 0, "by noise": 9}[name]
    assert len(there.acceptance) == len(back.acceptance) == wanted
    assert all(0.05 < rate < 1 for rate in there.acceptance)


def test_moves_dissipate_less() -> None:
    start, spread = FIRST.sample(3000, seeded(5)), []
    for name in ("at once", "between targets"):
        spread.append(float(switch_forward(schedules()[name](), start, seeded(6)).work.std()))
    assert spread[1] < 0.8 * spread[0]


def test_places_of_one_bridge_share_their_evaluations() -> None:
    low, high = ends()
    at = moves()[:1]
    switch_forward(
        bridge_schedule(low, high, Bridge((0.3, 0.6, 1.0), (at, (), ()))),
        FIRST.sample(10, seeded(7)),
        seeded(8),
    )
    assert [one.target.evaluations for one in (low, high)] == [20, 20]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Walled:
    """A density that is zero on one side."""

    inner: TargetDensity
    periodic: Tensor = PERIODIC
    name: str = "walled"

    def evaluate(self, z: Tensor) -> State:
        state = self.inner.evaluate(z)
        return State(z, torch.where(z[:, 0] > 0, state.log_density, -torch.inf), state.score)


def test_impossible_points_have_infinite_work() -> None:
    low, high = ends()
    wall = Walled(low)
    schedule = Schedule([low, wall, high], [(), moves(), ()])
    z = FIRST.sample(20_000, seeded(9))
    there = switch_forward(schedule, z, seeded(10))
    assert torch.equal(there.work == torch.inf, z[:, 0] <= 0)
    assert not there.work.isnan().any()
    # neither direction reaches all, but what is forbidden in between is the same in both: Crooks holds
    back = switch_backward(schedule, LAST.sample(20_000, seeded(11)), seeded(12))
    estimate = bar(there.work.numpy(), back.work.numpy())
    assert abs(estimate.z_score(LOG_Z[0] - LOG_Z[1])) < 4
    with pytest.raises(DataError, match=r"walled: \d+ of 20000 points have no finite log density there"):
        switch_forward(Schedule([wall, high]), z, seeded(13))


def test_wrong_schedules_are_refused() -> None:
    low, high = ends()
    with pytest.raises(ConfigError, match="two densities or more"):
        Schedule([low])
    with pytest.raises(ConfigError, match="moves for 1"):
        Schedule([low, high], [()])


def ladder() -> Ladder:
    model, sigma = Lopsided(), noise_levels(6, 0.15, 7.0)
    data = torus_and_plane().sample(4000, seeded(14))
    return Ladder(model, sigma, measure_moments(model, sigma, data, seeded(15)))


def test_climbing_without_moves_is_the_walk_up() -> None:
    one, z = ladder(), torus_and_plane().sample(50, seeded(16))
    plain, climbed = one.walk_up(z, seeded(17)), climb(Plan(one), z, seeded(17))
    assert torch.equal(plain.z_low, climbed.z_low)
    assert torch.allclose(plain.log_ratio, climbed.log_ratio, rtol=0, atol=1e-10)
    assert torch.allclose(plain.log_weight_low, climbed.log_weight_low, rtol=0, atol=1e-10)


def test_climbing_with_moves_is_the_reverse_of_walks_down_with_moves() -> None:
    one, truth = ladder(), torus_and_plane()
    target = ModelTarget(truth, 3.7)
    scale = torch.tensor([0.4, 0.6, 0.4, 0.7])
    made = (mala(scale, 0.8), TorsionJump(torch.tensor([2, 3])))
    plan = Plan(one, ((), *[made] * 5), Resampler(0.0))
    n, data = REPEATS * N, truth.sample(REPEATS * N, seeded(18))
    down, up = smc(plan, n, seeded(19)).paths, climb(plan, data, seeded(20))
    works = [target.log_density(paths.z) + paths.log_ratio for paths in (down, up)]
    assert_mean((works[0] - 3.7).exp(), 1.0)
    assert_mean((3.7 - works[1]).exp(), 1.0)
    parts = zip(works[0].split(N), works[1].split(N), strict=True)
    scores = [bar(-w.numpy(), v.numpy()).z_score(-3.7) for w, v in parts]
    assert_standard(torch.tensor(scores))
