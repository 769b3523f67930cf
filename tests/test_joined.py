"""Joined ladders: works between two targets of known log Z, with wrong models, wherever they meet."""

import math
from functools import cache

import pytest
import torch
from checks import assert_mean, assert_standard, seeded
from ladders import MixedModel, ModelTarget, torus_and_plane
from test_smc import Lopsided
from torch import Tensor

from bgdiff.coordinates import LatentTarget, WhitenedCoordinates, change_latents
from bgdiff.errors import ConfigError
from bgdiff.free_energy.bennett import bar
from bgdiff.free_energy.differences import difference_of_log_z
from bgdiff.free_energy.estimate import Estimate
from bgdiff.ladder.joined import JoinedLadders, same_coordinates
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.paths import Ladder, measure_moments
from bgdiff.models import EnergyModel, GaussianModel

REPEATS, N = 200, 30
TRUTH = 3.7 - (-1.4)


def other() -> MixedModel:
    """As if a solvent had shifted the modes and changed their weights."""
    parts = [
        GaussianModel(part.mean + 0.15, 1.2 * part.variance, part.periodic)
        for part in torus_and_plane().parts
    ]
    return MixedModel([0.6, 0.4], parts)


TARGETS = ModelTarget(torus_and_plane(), 3.7), ModelTarget(other(), -1.4)


def made(model: EnergyModel, data: MixedModel, n_rungs: int, seed: int) -> Ladder:
    sigma = noise_levels(n_rungs, 0.15, 7.0)
    return Ladder(
        model, sigma, measure_moments(model, sigma, data.sample(4000, seeded(seed)), seeded(seed + 1))
    )


@cache
def ladders() -> tuple[Ladder, Ladder]:
    """The first model is wrong about the modes' weights, the second is that of other widths."""
    wide = [GaussianModel(part.mean, 1.15 * part.variance, part.periodic) for part in other().parts]
    return made(Lopsided(), torus_and_plane(), 8, 1), made(MixedModel([0.5, 0.5], wide), other(), 10, 3)


@pytest.mark.parametrize("sigma", [0.8, None])
def test_z_scores_are_standard(sigma: float | None) -> None:
    joined = JoinedLadders.meeting(*ladders(), sigma)
    first, second = TARGETS
    there = joined.work(torus_and_plane().sample(REPEATS * N, seeded(5)), first, second, seeded(6))
    back = joined.swapped.work(other().sample(REPEATS * N, seeded(7)), second, first, seeded(8))
    assert_mean((TRUTH - there).exp(), 1.0)
    assert_mean((-TRUTH - back).exp(), 1.0)
    parts = zip(there.split(N), back.split(N), strict=True)
    assert_standard(torch.tensor([bar(w.numpy(), v.numpy()).z_score(TRUTH) for w, v in parts]))


class Shifted:
    """Harmonic particle in the plane, u = |x - c|²/2w: log Z = log 2πw."""

    event_shape = (1, 2)

    def __init__(self, centre: float, width: float) -> None:
        self.centre, self.width = centre, width
        self.log_z = math.log(2 * math.pi * width)

    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * ((x - self.centre) ** 2).sum((1, 2)) / self.width

    def sample(self, n: int, seed: int) -> Tensor:
        noise = torch.randn(n, 1, 2, generator=seeded(seed), dtype=torch.float64)
        return self.centre + math.sqrt(self.width) * noise


@pytest.mark.parametrize("sigma", [0.5, None])
def test_ladders_with_latents_of_their_own_meet_through_a_change(sigma: float | None) -> None:
    """Each whitened with its own data; without the change, low meetings would be between other points."""
    targets = Shifted(0.0, 1.0), Shifted(0.8, 2.5)
    maps = [WhitenedCoordinates.fit(one.sample(400, 20 + k)) for k, one in enumerate(targets)]
    latents = [LatentTarget(one, own) for one, own in zip(targets, maps, strict=True)]
    model = GaussianModel(torch.zeros(2), torch.ones(2))
    levels = noise_levels(6, 0.2, 6.0)
    ladder = Ladder(model, levels, (1 / (1 + levels[1:, None] ** 2)).expand(-1, 2))
    change = change_latents(*maps), change_latents(*maps[::-1])
    joined = JoinedLadders.meeting(ladder, ladder, sigma, change)
    z = [
        own.to_z(one.sample(3000, 30 + k))[0] for k, (own, one) in enumerate(zip(maps, targets, strict=True))
    ]
    there = joined.work(z[0], *latents, seeded(14))
    back = joined.swapped.work(z[1], *latents[::-1], seeded(15))
    found = bar(there.numpy(), back.numpy())
    assert abs(found.z_score(targets[0].log_z - targets[1].log_z)) < 4
    assert found.overlap is not None
    assert found.overlap > 0.5


def test_meeting_low_scatters_less() -> None:
    """Two targets that differ little need not be blurred much."""
    z, spread = torus_and_plane().sample(2000, seeded(9)), []
    for sigma in (0.5, None):
        crossing = JoinedLadders.meeting(*ladders(), sigma).cross(z, seeded(10))
        work = TARGETS[0].log_density(z) - TARGETS[1].log_density(crossing.z) - crossing.log_ratio
        spread.append(float(work.std()))
    assert spread[0] < 0.9 * spread[1]


def test_the_way_back_undoes_a_ladder_with_itself() -> None:
    """With one exact normal ladder on both sides every path has weight one, wherever they meet."""
    model = GaussianModel(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0]))
    sigma = noise_levels(5, 0.2, 6.0)
    one = Ladder(model, sigma, (1 / (1 + sigma[1:, None] ** 2)).expand(-1, 2))
    z, target = model.sample(100, seeded(11)), ModelTarget(model, 2.0)
    for meeting in (1.0, None):
        work = JoinedLadders.meeting(one, one, meeting).work(z, target, target, seeded(12))
        assert float(work.abs().max()) < 1e-9


def test_rungs_up_to_the_meeting_are_kept() -> None:
    joined = JoinedLadders.meeting(*ladders(), 1.0)
    for one, whole in zip((joined.first, joined.second), ladders(), strict=True):
        assert float(one.sigma[-1]) == 1.0
        kept = whole.sigma[whole.sigma < 1.0]
        assert torch.equal(one.sigma[:-1], kept)
        assert torch.allclose(one.moments[: len(kept) - 1], whole.moments[: len(kept) - 1])
    assert joined.swapped.first is joined.second


def test_ladders_that_cannot_meet_are_refused() -> None:
    first, second = ladders()
    for sigma in (0.1, 8.0):
        with pytest.raises(ConfigError, match=r"can meet at noise between 0\.15 and 7, not at"):
            JoinedLadders.meeting(first, second, sigma)
    with pytest.raises(ConfigError, match="must meet at the same noise, not at 7 and"):
        JoinedLadders(first, second.at(second.sigma[:-1]))
    plane = GaussianModel(torch.zeros(4), torch.ones(4))
    with pytest.raises(ConfigError, match="4 axes, 2 of them periodic, and 4, 0 periodic"):
        JoinedLadders(first, Ladder(plane, second.sigma, second.moments))


def test_coordinates_are_compared() -> None:
    x = torch.randn(200, 1, 2, generator=seeded(13), dtype=torch.float64)
    one, same, shifted = (WhitenedCoordinates.fit(points) for points in (x, x.clone(), x + 0.1))
    assert same_coordinates(one, same)
    assert not same_coordinates(one, shifted)


def test_separate_log_z_make_a_difference() -> None:
    parts = Estimate(3.0, 0.3, "a", 100.0, 0.5), Estimate(-1.0, 0.4, "b", 50.0, 0.2)
    found = difference_of_log_z(*parts)
    assert (found.value, found.n_eff, found.overlap) == (4.0, 50.0, 0.2)
    assert found.std_error == pytest.approx(math.hypot(0.3, 0.4))
