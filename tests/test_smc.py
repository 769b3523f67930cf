"""Sequential Monte Carlo: the walks it generalises, unbiased log Z, averages with honest errors, failures."""

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from checks import assert_mean, seeded, z_scores
from ladders import ModelTarget, features, torus_and_plane
from torch import Tensor

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.densities import Density, State
from bgdiff.ladder.genealogy import average_error, effective_number, log_z_variance
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.moves import Move, mala, move_scale
from bgdiff.ladder.paths import Ladder, measure_moments
from bgdiff.ladder.resampling import log_mean_weight
from bgdiff.ladder.smc import Arrivals, Plan, Resampler, conditional_fraction, smc
from bgdiff.models import GaussianModel

MODEL = torus_and_plane(shift=2.0)
TARGET = ModelTarget(MODEL)


@cache
def ladder(n_rungs: int = 6, sigma_max: float = 6.0) -> Ladder:
    sigma = noise_levels(n_rungs, 0.15, sigma_max)
    return Ladder(MODEL, sigma, measure_moments(MODEL, sigma, MODEL.sample(5000, seeded(90)), seeded(91)))


class Lopsided:
    """A model that has the weights of the two modes wrong, by a factor of e² at every low rung."""

    def __init__(self) -> None:
        self.model, self.periodic = torus_and_plane(), MODEL.periodic

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.model.log_density(z, sigma) + 2 * torch.sigmoid(-3 * z[:, 0]) * torch.exp(-(sigma**2))


@cache
def lopsided_ladder(n_rungs: int = 12) -> Ladder:
    model, sigma = Lopsided(), noise_levels(n_rungs, 0.1, 6.0)
    return Ladder(model, sigma, measure_moments(model, sigma, MODEL.sample(5000, seeded(92)), seeded(93)))


def with_moves(one: Ladder, step: float = 1.2, wrong: float = 1.0) -> tuple[tuple[Move, ...], ...]:
    """MALA at every other rung; ``wrong`` scales nothing but the width the move believes in."""
    periodic, moves = one.model.periodic, [()]
    for k in range(1, one.n_rungs):
        scale = wrong * move_scale(one.moments[k - 1], float(one.sigma[k]), periodic)
        moves.append((mala(scale, step),) if k % 2 else ())
    return tuple(moves)


def log_weights(arrivals: Arrivals, target: ModelTarget = TARGET) -> Tensor:
    return target.log_density(arrivals.paths.z) + arrivals.paths.log_ratio


def mean_weights(plan: Plan, n: int, repeats: int, target: ModelTarget = TARGET) -> Tensor:
    """Estimates of Z over the true Z from independent runs."""
    generator, found = seeded(5), []
    for _ in range(repeats):
        log_weight = log_weights(smc(plan, n, generator), target)
        found.append((log_mean_weight(log_weight) - target.log_z).exp())
    return torch.stack(found)


def test_without_resampling_and_moves_it_is_the_independent_walk() -> None:
    """Number for number: same draws, same weights, also for the part above rung 1."""
    walks = ladder().walk_down(60, seeded(1))
    arrivals = smc(Plan(ladder(), resampler=Resampler(0.0)), 60, seeded(1))
    assert torch.equal(arrivals.paths.z, walks.z)
    assert torch.equal(arrivals.paths.z_low, walks.z_low)
    assert torch.allclose(arrivals.paths.log_ratio, walks.log_ratio, rtol=0, atol=1e-10)
    assert torch.allclose(arrivals.paths.log_weight_low, walks.log_weight_low, rtol=0, atol=1e-10)
    assert len(arrivals.genealogy) == 0
    assert arrivals.target_evaluations == 0
    assert [r.stage.split(" (")[0] for r in arrivals.records] == [f"rung {k}" for k in range(5, 0, -1)]


@pytest.mark.parametrize("scheme", ["systematic", "residual"])
def test_log_z_is_unbiased(scheme: str) -> None:
    """Adaptive resampling and moves at rungs that are wrong: the mean weight is Z all the same."""
    plan = Plan(lopsided_ladder(6), with_moves(lopsided_ladder(6)), Resampler(0.8, scheme))
    assert_mean(mean_weights(plan, 40, 200), 1.0)


def test_log_z_of_independent_walks_is_unbiased() -> None:
    """200 runs of 40 walks; independent, so they can be made in one go."""
    log_weight = log_weights(smc(Plan(ladder(), (), Resampler(0.0)), 200 * 40, seeded(4)))
    found = (log_weight - TARGET.log_z).exp().reshape(200, 40).mean(1)
    assert_mean(found, 1.0)
    assert float(found.std()) > 1e-3


@dataclass(frozen=True)
class Leftwards:
    """The deliberate bug: a move that goes left without asking. (On a ladder of exact rungs log Z would not
    notice: there the mean of every factor is the same wherever a step starts from.)"""

    name: str = "leftwards"
    evaluations: int = 1

    def __call__(self, state: State, density: Density, generator: torch.Generator) -> tuple[State, Tensor]:
        left = torch.cat([-state.z[:, :1].abs(), state.z[:, 1:]], 1)
        return density.evaluate(left), torch.ones(len(state))


def test_the_test_of_log_z_can_fail() -> None:
    found = mean_weights(Plan(lopsided_ladder(6), [(Leftwards(),)] * 6, Resampler(0.8)), 40, 50)
    assert abs(float(z_scores(found, 1.0))) > 6


def test_averages_and_their_errors_under_a_wrong_model() -> None:
    """z-scores of every moment over repeated runs: no bias, and unit spread in spite of resampling."""
    plan = Plan(lopsided_ladder(), with_moves(lopsided_ladder()), Resampler(0.7))
    exact = features(MODEL.sample(400_000, seeded(6)), MODEL.periodic).mean(0)
    generator, scores, log_z, resamplings = seeded(7), [], [], 0
    for _ in range(30):
        arrivals = smc(plan, 500, generator)
        log_weight, family = log_weights(arrivals), arrivals.genealogy.ancestors()
        mean, error = average_error(log_weight, features(arrivals.paths.z, MODEL.periodic), family)
        scores.append((mean - exact) / error)
        z = (log_mean_weight(log_weight) - TARGET.log_z).exp() - 1
        log_z.append(float(z / math.sqrt(log_z_variance(log_weight, family))))
        resamplings += len(arrivals.genealogy)
        assert len(arrivals.genealogy) == sum(record.resampled for record in arrivals.records)
        assert arrivals.genealogy.stages == tuple(r.stage for r in arrivals.records if r.resampled)
        assert effective_number(log_weight, family) <= len(family.unique())
    assert resamplings >= 30
    spread = torch.stack(scores).std(0)
    assert (torch.stack(scores).mean(0).abs() < 4.5 * spread / math.sqrt(30)).all()
    # families err on the safe side: systematic resampling adds less noise than independent draws would
    assert (spread < 1.5).all()
    assert spread.mean() > 0.5
    assert 0.4 < torch.tensor(log_z).std() < 1.3


def test_pooled_populations_are_one_estimate() -> None:
    """Weights keep their normaliser, so that chunks of different luck have different say."""
    plan = Plan(lopsided_ladder(), (), Resampler(0.7))
    chunks = [log_weights(smc(plan, 100, seeded(20 + chunk))) for chunk in range(4)]
    again = log_weights(smc(plan, 100, seeded(22)))
    assert torch.equal(chunks[2], again)
    pooled = log_mean_weight(torch.cat(chunks))
    assert float(pooled) == pytest.approx(
        float(torch.stack([log_mean_weight(c).exp() for c in chunks]).mean().log())
    )


def test_moves_and_resampling_help_where_the_model_is_inconsistent() -> None:
    """The spread of log Z over runs falls against independent walks of the same number."""
    plans = [
        Plan(lopsided_ladder(), (), Resampler(0.0)),
        Plan(lopsided_ladder(), with_moves(lopsided_ladder()), Resampler(0.9)),
    ]
    alone, helped = (mean_weights(plan, 200, 30).std() for plan in plans)
    assert helped < 0.9 * alone


def test_records_say_what_happened() -> None:
    plan = Plan(ladder(), with_moves(ladder()), Resampler(0.8))
    seen: list[tuple[int, int]] = []
    arrivals = smc(plan, 300, seeded(8), lambda done, total, text="": seen.append((done, total)))
    assert seen == [(k, 6) for k in range(1, 6)]
    for record, k in zip(arrivals.records, range(5, 0, -1), strict=True):
        assert record.resampled == (record.effective_fraction < 0.8)
        assert 0 < record.conditional_fraction <= 1
        assert record.n_nonfinite == 0
        assert len(record.acceptance) == k % 2
        assert all(0.2 < rate < 1 for rate in record.acceptance)


def test_conditional_fractions_are_those_of_the_factor_under_the_weights() -> None:
    log_weight = torch.randn(50, generator=seeded(9), dtype=torch.float64)
    factor = torch.randn(50, generator=seeded(10), dtype=torch.float64)
    share, f = torch.softmax(log_weight, 0), factor.exp()
    expected = float((share @ f) ** 2 / (share @ f**2))
    assert conditional_fraction(log_weight, factor) == pytest.approx(expected)
    assert conditional_fraction(log_weight, torch.full((50,), -800.0, dtype=torch.float64)) == pytest.approx(
        1
    )


class Broken:
    """A Gaussian model whose energy is ``value`` below a noise level, for a share of the points."""

    def __init__(self, value: float, below: float, share: float = 1.0) -> None:
        self.inner = GaussianModel(torch.zeros(2), torch.ones(2))
        self.value, self.below, self.share, self.periodic = value, below, share, self.inner.periodic

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        value = self.inner.log_density(z, sigma)
        count = round(self.share * len(z)) if float(sigma) < self.below else 0
        return torch.cat([value[:count] * 0 + self.value, value[count:]])


def broken_plan(*args: float) -> Plan:
    sigma = noise_levels(6, 0.1, 5.0)
    return Plan(Ladder(Broken(*args), sigma, 1 / (1 + sigma[1:, None] ** 2).expand(-1, 2)))


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_energies_that_are_not_finite(value: float) -> None:
    """A few weigh nothing and are counted; many end the run at the first rung that has them."""
    arrivals = smc(broken_plan(value, 1.0, 0.1), 100, seeded(11))
    counts = [record.n_nonfinite for record in arrivals.records]
    assert counts[:2] == [0, 0]
    assert max(counts) == 10
    assert torch.isfinite(arrivals.paths.log_ratio).sum() >= 80
    kind = "nan" if math.isnan(value) else "infinite"
    with pytest.raises(CorrectionError, match=rf"rung 4 .*the model's energy is {kind} for 100 of 100"):
        smc(broken_plan(value, 1.1), 100, seeded(12))


def test_no_weight_left_ends_the_run() -> None:
    """Half of the particles have no energy at one rung and the other half none at the next."""

    class Halves(Broken):
        def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
            value, half = self.inner.log_density(z, sigma), len(z) // 2
            nothing = 0 * value - math.inf
            if float(sigma) < 0.3:
                return torch.cat([value[:half], nothing[half:]])
            return torch.cat([nothing[:half], value[half:]]) if float(sigma) < 0.7 else value

    plan = Plan(Ladder(Halves(0.0, 0.0), *_levels()), resampler=Resampler(0.0))
    with pytest.raises(CorrectionError, match=r"rung 2 .*all 40 particles have weight zero.*train longer"):
        smc(plan, 40, seeded(14))


def test_a_rung_without_overlap_ends_the_run() -> None:
    """An energy wrong by hundreds of kT at one rung: one particle takes everything, and the rung is named."""

    class Steep(Broken):
        def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
            steep = 1e4 if float(sigma) < 0.3 else 0.0
            return self.inner.log_density(z, sigma) + steep * z[:, 0]

    plan = Plan(Ladder(Steep(0.0, 0.0), *_levels()))
    with pytest.raises(CorrectionError, match=r"rung 2 .*one of 50 particles carries 100\.0 %.*more rungs"):
        smc(plan, 50, seeded(13))


def _levels() -> tuple[Tensor, Tensor]:
    sigma = noise_levels(6, 0.1, 5.0)
    return sigma, (1 / (1 + sigma[1:, None] ** 2)).expand(-1, 2)


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="threshold"):
        Resampler(1.5)
    with pytest.raises(ConfigError, match=r"unknown resampling scheme 'best'.*systematic"):
        Resampler(0.5, "best")
