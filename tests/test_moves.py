"""Moves leave densities on real and periodic axes invariant; the tests that say so can fail."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from checks import seeded
from ladders import ModelTarget, assert_same_density, differences, has_moved, torus_and_plane
from torch import Tensor

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.densities import BridgeDensity, RungDensity, State, TargetDensity, wrapped
from bgdiff.ladder.moves import (
    LONGEST_STEP,
    Hamiltonian,
    Move,
    RandomWalk,
    TorsionJump,
    adapt_step,
    apply_moves,
    mala,
    move_scale,
)

MODEL = torus_and_plane()
SCALE = torch.tensor([0.5, 0.5, 0.4, 0.6], dtype=torch.float64)
MOVES: dict[str, Move] = {
    "mala": mala(SCALE, 1.0),
    "hmc": Hamiltonian(SCALE, 0.6, leapfrog_steps=4, jitter=0.3),
    "random walk": RandomWalk(SCALE, 1.2),
    "torsion jump": TorsionJump(torch.tensor([2, 3])),
    "narrow jump": TorsionJump(torch.tensor([3]), (2 * math.pi / 3,), 0.0),
}
N = 6000


def rung(sigma: float) -> RungDensity:
    return RungDensity(MODEL, 3, torch.tensor(sigma, dtype=torch.float64))


def after(
    move: Move, density: RungDensity | BridgeDensity | TargetDensity, start: Tensor, times: int
) -> State:
    state, generator = density.evaluate(start), seeded(11)
    for _ in range(times):
        state, probability = move(state, density, generator)
        assert ((probability >= 0) & (probability <= 1)).all()
    return state


@pytest.mark.parametrize("sigma", [0.0, 0.7])
@pytest.mark.parametrize("name", MOVES)
def test_moves_leave_a_rung_invariant(name: str, sigma: float) -> None:
    density, start = rung(sigma), MODEL.sample(N, seeded(1), sigma)
    state = after(MOVES[name], density, start, 12)
    assert_same_density(state.z, MODEL.sample(4 * N, seeded(2), sigma), MODEL.periodic)
    assert has_moved(density.evaluate(start), state) > 0.3
    angles = state.z[:, MODEL.periodic]
    assert ((angles >= -math.pi) & (angles < math.pi)).all()
    fresh = density.evaluate(state.z)
    for field in ("log_density", "score"):
        assert torch.allclose(getattr(state, field), getattr(fresh, field), rtol=1e-12, atol=1e-12)


def test_moves_leave_the_target_and_the_bridge_invariant() -> None:
    """At b = 1 the bridge is the target; in between, p_1^(1-b) p^b of one and the same rung is that rung."""
    target = TargetDensity(ModelTarget(MODEL), MODEL.periodic)
    start, fresh = MODEL.sample(N, seeded(3)), MODEL.sample(4 * N, seeded(4))
    for density in (target, BridgeDensity(rung(0.5), target, 1.0), BridgeDensity(rung(0.0), target, 0.4)):
        assert_same_density(after(MOVES["mala"], density, start, 10).z, fresh, MODEL.periodic)


@dataclass(frozen=True)
class Unadjusted:
    """The deliberate bug: a Langevin step that is never rejected."""

    step: float = 1.0
    name: str = "unadjusted"
    evaluations: int = 1

    def __call__(
        self, state: State, density: RungDensity, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        noise = torch.randn(state.z.shape, generator=generator, dtype=torch.float64)
        length = self.step * SCALE
        z = wrapped(state.z + 0.5 * length**2 * state.score + length * noise, density.periodic)
        return density.evaluate(z), torch.ones(len(z))


@dataclass(frozen=True)
class OneWay:
    """Another: a jump that prefers one sense of rotation, corrected as if it did not."""

    name: str = "one way"
    evaluations: int = 1

    def __call__(
        self, state: State, density: RungDensity, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        shift = torch.zeros_like(state.z)
        shift[:, 2] = 0.5
        new = density.evaluate(wrapped(state.z + shift, density.periodic))
        probability = (new.log_density - state.log_density).clamp(max=0).exp()
        uniform = torch.rand(len(probability), generator=generator, dtype=torch.float64)
        return new.where(uniform < probability, state), probability


@pytest.mark.parametrize("bug", [Unadjusted(), OneWay()], ids=lambda bug: bug.name)
def test_the_invariance_test_can_fail(bug: Move) -> None:
    state = after(bug, rung(0.0), MODEL.sample(N, seeded(1)), 12)
    score, p = differences(state.z, MODEL.sample(4 * N, seeded(2)), MODEL.periodic)
    assert score > 8
    assert p < 1e-6


def test_moves_find_the_density_from_elsewhere() -> None:
    """Invariance alone would be met by standing still."""
    density, generator = rung(0.0), seeded(5)
    start = torch.tensor([0.0, 0.0, 1.5, 1.0], dtype=torch.float64).expand(4000, 4)
    moves = [MOVES["mala"], MOVES["random walk"], MOVES["torsion jump"]]
    state = density.evaluate(start)
    for _ in range(120):
        state, rates = apply_moves(moves, state, density, generator)
        assert len(rates) == 3
    assert_same_density(state.z, MODEL.sample(20_000, seeded(6)), MODEL.periodic)


def test_leapfrog_is_second_order() -> None:
    """Halving the step quarters the energy error, so 1 - acceptance falls by more than half."""
    density, start = rung(0.3), MODEL.sample(2000, seeded(7), 0.3)
    errors = []
    for step in (0.2, 0.1):
        _, probability = Hamiltonian(SCALE, step, 4)(density.evaluate(start), density, seeded(8))
        errors.append(1 - float(probability.mean()))
    assert errors[1] < errors[0] / 3.5


@pytest.mark.parametrize(
    "move", [mala(SCALE, 0.01), mala(SCALE, 3.0), Hamiltonian(SCALE, 0.01, 5), RandomWalk(SCALE, 0.01)]
)
def test_steps_are_adapted_to_the_best_acceptance(move: Hamiltonian | RandomWalk) -> None:
    density, state = rung(0.2), rung(0.2).evaluate(MODEL.sample(500, seeded(9), 0.2))
    tuned, state = adapt_step(move, state, density, seeded(10), rounds=60)
    _, probability = tuned(state, density, seeded(12))
    assert float(probability.mean()) == pytest.approx(move.best_acceptance, abs=0.07)
    assert tuned.with_step(1.0) == replace(move, step=1.0)


class Rough:
    """Finite where the points are and nowhere else: the gradient of nothing."""

    name = "rung 4 (sigma = 0.1)"
    periodic = torch.zeros(2, dtype=torch.bool)

    def evaluate(self, z: Tensor) -> State:
        value = torch.where((z == 0).all(1), 0.0, torch.nan)
        return State(z, value, torch.full_like(z, torch.nan) * value[:, None].nan_to_num(1.0))


class Flat(Rough):
    def evaluate(self, z: Tensor) -> State:
        return State(z, torch.zeros_like(z[:, 0]), torch.zeros_like(z))


def test_useless_moves_are_reported_with_their_rung(caplog: pytest.LogCaptureFixture) -> None:
    zeros = torch.zeros(50, 2, dtype=torch.float64)
    walk = RandomWalk(torch.ones(2), 1.0)
    with pytest.raises(
        CorrectionError, match=r"rung 4.*random walk is accepted in 0\.0 %.*leave this move out"
    ):
        adapt_step(walk, Rough().evaluate(zeros), Rough(), seeded(0))
    tuned, _ = adapt_step(walk, Flat().evaluate(zeros), Flat(), seeded(0))
    assert tuned.step == pytest.approx(LONGEST_STEP)
    assert "rung 4 (sigma = 0.1): random walk is always accepted" in caplog.text


def test_points_without_a_density_stay_and_do_no_harm() -> None:
    density = rung(0.1)
    start = MODEL.sample(5, seeded(13))
    start[2, 0] = torch.nan
    for move in MOVES.values():
        state, probability = move(density.evaluate(start), density, seeded(14))
        assert float(probability[2]) == 0
        assert state.z[2, 0].isnan()
        assert torch.isfinite(state.log_density[[0, 1, 3, 4]]).all()


def test_scales_follow_the_stiffness_and_the_width() -> None:
    moment = torch.tensor([4.0, 1e-9, 0.0, 1.0], dtype=torch.float64)
    scale = move_scale(moment, 2.0, MODEL.periodic)
    assert scale.tolist() == pytest.approx([0.5, math.sqrt(5), math.pi, 1.0])


def test_bridge_states_are_seen_from_anywhere_without_new_energies() -> None:
    target = ModelTarget(MODEL)
    ends = rung(0.5), TargetDensity(target, MODEL.periodic)
    z = MODEL.sample(20, seeded(15))
    state = BridgeDensity(*ends, 0.0).evaluate(z)
    assert target.evaluations == 20
    for b in (0.0, 0.3, 1.0):
        seen = BridgeDensity(*ends, b).view(state)
        low, high = ends[0].evaluate(z), ends[1].evaluate(z)
        assert torch.allclose(seen.log_density, (1 - b) * low.log_density + b * high.log_density, rtol=1e-14)
        assert torch.allclose(seen.score, (1 - b) * low.score + b * high.score, rtol=1e-12)
    assert "b = 0.3" in BridgeDensity(*ends, 0.3).name
    rows = state.take(torch.tensor([3, 3]))
    assert torch.equal(rows.target_score[1], state.target_score[3])
    impossible = replace(state, target_log_density=torch.full((20,), -torch.inf))
    assert torch.isfinite(BridgeDensity(*ends, 0.0).view(impossible).log_density).all()
    assert (BridgeDensity(*ends, 0.1).view(impossible).log_density == -torch.inf).all()


def test_senseless_settings_are_refused() -> None:
    for wrong in (
        lambda: Hamiltonian(SCALE, 0.0),
        lambda: Hamiltonian(SCALE, 1.0, 0),
        lambda: Hamiltonian(SCALE, 1.0, 1, 1.0),
        lambda: RandomWalk(SCALE, -1.0),
        lambda: TorsionJump(torch.tensor([], dtype=torch.int64)),
    ):
        with pytest.raises(ConfigError):
            wrong()
