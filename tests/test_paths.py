"""Path weights: exact where theory says so, unbiased always, and their variance where it should be."""

import math
from functools import cache

import pytest
import torch
from checks import assert_mean, assert_standard, level, mixture, seeded, z_scores
from torch import Tensor

from bgdiff.errors import CorrectionError
from bgdiff.ladder.kernels import NormalStep
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.paths import Ladder, Paths, measure_moments
from bgdiff.models import EnergyModel, GaussianMixtureModel, GaussianModel, log_density_and_score

LOG_Z = 3.7  # of every unnormalised target below
AXES = {
    "real": [False, False, False],
    "periodic": [True, True],
    "mixed": [False, False, True, True, True],
}


def white(axes: str) -> GaussianModel:
    """N(0, 1) on real axes, uniform on periodic ones: what whitening makes of Gaussian data."""
    periodic = torch.tensor(AXES[axes])
    variance = torch.where(periodic, math.inf, 1.0).to(torch.float64)
    return GaussianModel(torch.zeros(len(periodic)), variance, periodic)


def white_ladder(axes: str, n_rungs: int, sigma_max: float = 12.0) -> Ladder:
    model, sigma = white(axes), noise_levels(n_rungs, 0.02, sigma_max)
    moments = torch.where(model.periodic, 0.0, 1 / (1 + sigma[1:, None] ** 2))
    return Ladder(model, sigma, moments)


@cache
def mixture_ladder(n_rungs: int) -> Ladder:
    model, sigma = mixture(), noise_levels(n_rungs, 0.1, 8.0)
    return Ladder(model, sigma, measure_moments(model, sigma, model.sample(20_000, seeded(99)), seeded(98)))


def log_target(model: EnergyModel, z: Tensor) -> Tensor:
    """The clean rung, times exp(LOG_Z)."""
    return LOG_Z + model.log_density(z, level(0.0))


def ess(log_weight: Tensor) -> float:
    """Kish's effective sample size as a fraction."""
    return float(torch.softmax(log_weight, 0).square().sum().reciprocal()) / len(log_weight)


@pytest.mark.parametrize("n_rungs", [5, 20, 100])
@pytest.mark.parametrize("axes", AXES)
def test_every_weight_is_z_for_a_gaussian_target(axes: str, n_rungs: int) -> None:
    """Downwards and upwards, every single path has log W = log Z; so ESS = 1, whatever the step."""
    ladder = white_ladder(axes, n_rungs)
    down = ladder.walk_down(200, seeded(0))
    up = ladder.walk_up(ladder.model.sample(200, seeded(1)), seeded(2))  # type: ignore[attr-defined]
    for paths in (down, up):
        log_weight = log_target(ladder.model, paths.z) + paths.log_ratio
        assert float((log_weight - LOG_Z).abs().max()) < 1e-6
        assert ess(log_weight) == pytest.approx(1.0, abs=1e-9)
        assert float(paths.log_weight_low.abs().max()) < 1e-6  # the model is normalised at rung 1 as well


@pytest.mark.parametrize("axes", AXES)
def test_samples_of_a_gaussian_ladder(axes: str) -> None:
    """The ends of the walks are draws of the target itself."""
    ladder = white_ladder(axes, 10)
    z = ladder.walk_down(20_000, seeded(3)).z
    periodic = ladder.model.periodic
    real = z[:, ~periodic]
    if periodic.any():
        for m in (1, 2):
            assert_mean(torch.cos(m * z[:, periodic]), 0.0)
            assert_mean(torch.sin(m * z[:, periodic]), 0.0)
    if not periodic.all():
        assert_mean(real, 0.0)
        assert_mean(real**2, 1.0)
        assert_mean(real**4, 3.0)
    assert ((z[:, periodic] >= -math.pi) & (z[:, periodic] < math.pi)).all()


def test_gaussians_of_other_widths_and_places() -> None:
    """With its own widths per axis the reverse walk is exact; only the prior's mismatch is left."""
    model = GaussianModel(torch.tensor([0.5, -0.2]), torch.tensor([0.3, 2.0]))
    spreads = []
    for top in (12.0, 120.0):
        sigma = noise_levels(12, 0.02, top)
        ladder = Ladder(model, sigma, 1 / (model.variance + sigma[1:, None] ** 2))
        log_weight = log_target(model, (paths := ladder.walk_down(1000, seeded(4))).z) + paths.log_ratio
        assert float(log_weight.mean()) == pytest.approx(LOG_Z, abs=0.02)
        spreads.append(float(log_weight.std()))
    assert spreads[0] < 0.1
    assert spreads[1] < 0.15 * spreads[0]


def normalised_runs(log_weight: Tensor, runs: int, truth: float) -> Tensor:
    """z-scores of the mean weight of each of many runs."""
    return z_scores((log_weight - truth).exp().reshape(runs, -1).T, 1.0)


@pytest.mark.parametrize("n_rungs", [5, 20])
def test_log_z_of_a_mixture_is_unbiased(n_rungs: int) -> None:
    ladder = mixture_ladder(n_rungs)
    paths = ladder.walk_down(100_000, seeded(5))
    log_weight = log_target(ladder.model, paths.z) + paths.log_ratio
    assert_mean((log_weight - LOG_Z).exp(), 1.0)
    assert_standard(normalised_runs(log_weight, 200, LOG_Z))
    assert_mean(paths.log_weight_low.exp(), 1.0)


def test_upward_walks_of_a_mixture_have_the_weights_of_the_same_paths() -> None:
    """From exact samples, E[1/W] = 1/Z; the ESS seen from there is that of the walks down."""
    ladder = mixture_ladder(20)
    model = mixture()
    up = ladder.walk_up(model.sample(40_000, seeded(6)), seeded(7))
    down = ladder.walk_down(40_000, seeded(8))
    from_above = log_target(model, down.z) + down.log_ratio - LOG_Z
    from_below = log_target(model, up.z) + up.log_ratio - LOG_Z
    assert_mean((-from_below).exp(), 1.0)
    # E_q[w²] = E_p[w]: two estimates of 1/ESS from different walks
    squares, firsts = (2 * from_above).exp(), from_below.exp()
    error = math.sqrt(float(squares.var() + firsts.var()) / 40_000)
    assert abs(float(squares.mean() - firsts.mean())) < 4 * error
    rung_1 = GaussianMixtureModel(
        model.weights, model.means, model.covariances + 0.1**2 * torch.eye(2, dtype=torch.float64)
    )
    assert_mean((-up.log_weight_low).exp(), 1.0)
    assert_mean(torch.tanh(up.z_low[:, 0]), torch.tanh(rung_1.sample(10**6, seeded(9))[:, 0]).mean())


class Wrong:
    """A crude model of the mixture: one Gaussian. Its weights are scattered, not biased."""

    periodic = torch.zeros(2, dtype=torch.bool)

    def __init__(self) -> None:
        self.gaussian = GaussianModel(torch.tensor([0.2, 0.0]), torch.tensor([1.3, 0.6]))

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.gaussian.log_density(z, sigma) + 0.2 * torch.sin(z).sum(-1) / (1 + sigma**2)


def test_weights_correct_a_wrong_model() -> None:
    sigma = noise_levels(10, 0.3, 8.0)
    ladder = Ladder(Wrong(), sigma, 1 / (Wrong().gaussian.variance + sigma[1:, None] ** 2))
    truth = mixture()
    paths = ladder.walk_down(100_000, seeded(10))
    log_weight = log_target(truth, paths.z) + paths.log_ratio
    weight = (log_weight - LOG_Z).exp()
    assert ess(log_weight) < 0.9
    assert_mean(weight, 1.0)
    assert_standard(normalised_runs(log_weight, 200, LOG_Z))
    # averages, too: the first moment of the target
    mean = float(truth.weights @ truth.means[:, 0])
    assert_mean(weight * (paths.z[:, 0] - mean), 0.0)
    unweighted = z_scores(paths.z[:, 0], mean)
    assert abs(float(unweighted)) > 10


def test_a_mixture_on_real_and_periodic_axes_is_unbiased() -> None:
    """Wrapped normals: the wrapped reverse step is not exact, and the weights mend it."""
    periodic = torch.tensor([False, True, True, True])
    model = GaussianModel(
        torch.tensor([0.3, 1.0, -3.0, 0.0]), torch.tensor([0.5, 0.2, 1.0, math.inf]), periodic
    )
    sigma = noise_levels(15, 0.1, 8.0)
    moments = measure_moments(model, sigma, model.sample(20_000, seeded(11)), seeded(12))
    ladder = Ladder(model, sigma, moments)
    paths = ladder.walk_down(30_000, seeded(13))
    log_weight = log_target(model, paths.z) + paths.log_ratio
    assert_mean((log_weight - LOG_Z).exp(), 1.0)
    assert_standard(normalised_runs(log_weight, 200, LOG_Z))
    assert_mean(paths.log_weight_low.exp(), 1.0)
    up = ladder.walk_up(model.sample(20_000, seeded(14)), seeded(15))
    assert_mean((LOG_Z - log_target(model, up.z) - up.log_ratio).exp(), 1.0)


def test_more_rungs_give_better_weights() -> None:
    sizes = []
    for n_rungs in (4, 8, 16, 64):
        ladder = mixture_ladder(n_rungs)
        paths = ladder.walk_down(4000, seeded(16))
        sizes.append(ess(log_target(ladder.model, paths.z) + paths.log_ratio))
    assert sizes == sorted(sizes)
    assert sizes[-1] > 0.95 > 0.8 > sizes[0]


def test_optimal_variances_beat_the_noising_variance() -> None:
    """Taking D itself for the reverse step, as a plain sampler does, scatters the weights more."""
    ladder = mixture_ladder(16)
    plain = Ladder(ladder.model, ladder.sigma, torch.zeros_like(ladder.moments))
    best, worse = (
        ess(log_target(ladder.model, (paths := one.walk_down(4000, seeded(17))).z) + paths.log_ratio)
        for one in (ladder, plain)
    )
    assert worse < 0.5 * best


class Shifted:
    """A model whose rungs are known up to constants only, as a network's are."""

    def __init__(self, model: EnergyModel, shift: float) -> None:
        self.model, self.shift, self.periodic = model, shift, model.periodic

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.model.log_density(z, sigma) + self.shift / (0.1 + sigma)


def test_the_lower_weights_measure_the_normaliser_of_rung_1() -> None:
    ladder = mixture_ladder(20)
    shifted = Ladder(Shifted(ladder.model, 0.5), ladder.sigma, ladder.moments)
    constant = 0.5 / (0.1 + float(ladder.sigma[1]))
    ours, theirs = (one.walk_down(5000, seeded(18)) for one in (shifted, ladder))
    # a constant moves no walk and no weight but that one
    assert torch.equal(ours.z, theirs.z)
    assert torch.equal(ours.log_ratio, theirs.log_ratio)
    assert torch.allclose(ours.log_weight_low, theirs.log_weight_low + constant, rtol=1e-10)
    assert_mean((ours.log_weight_low - constant).exp(), 1.0)
    up = shifted.walk_up(mixture().sample(5000, seeded(19)), seeded(20))
    assert_mean((constant - up.log_weight_low).exp(), 1.0)


def test_steps_of_a_gaussian_do_not_scatter() -> None:
    ladder = white_ladder("mixed", 12)
    z = ladder.model.sample(100, seeded(21))  # type: ignore[attr-defined]
    variances = ladder.step_variances(z, seeded(22))
    assert variances.shape == (11,)
    assert float(variances.max()) < 1e-18


def test_step_variances_add_up_to_the_scatter_of_the_weights() -> None:
    """Steps are nearly independent, so their variances sum to that of log W above rung 1, from below."""
    ladder = mixture_ladder(40)
    z = mixture().sample(8000, seeded(23))
    steps = ladder.step_variances(z, seeded(24))
    shifted = Ladder(Shifted(ladder.model, 5.0), ladder.sigma, ladder.moments)
    assert torch.allclose(shifted.step_variances(z, seeded(24)), steps, rtol=1e-6), "constants do not count"
    total = float(ladder.walk_up(z, seeded(25)).log_weight_low.var())
    assert 0.7 * total < float(steps.sum()) < 1.4 * total


def test_moments_are_the_mean_squared_scores() -> None:
    sigma = noise_levels(6, 0.05, 8.0)
    model = GaussianModel(
        torch.tensor([0.0, 0.4, 0.0]),
        torch.tensor([0.5, 0.3, math.inf]),
        torch.tensor([False, True, True]),
    )
    z = model.sample(30_000, seeded(26))
    moments = measure_moments(model, sigma, z, seeded(27), batch=7000)
    assert moments.shape == (6, 3)
    squares = 2 / 30_000  # relative variance of a mean of squared normal variables
    expected = 1 / (0.5 + sigma[1:] ** 2)
    assert (((moments[:, 0] / expected) - 1).abs() < 4 * math.sqrt(squares)).all()
    assert (moments[:, 2] == 0).all()
    grid = -math.pi + 2 * math.pi * torch.arange(4096, dtype=torch.float64) / 4096
    column = torch.stack([torch.zeros_like(grid), grid, torch.zeros_like(grid)], -1)
    for k in range(6):
        log_density, score = log_density_and_score(model, column, level(sigma[k + 1]))
        weight = torch.softmax(log_density, 0)
        fourth = float((weight * score[:, 1] ** 4).sum())
        exact = float((weight * score[:, 1] ** 2).sum())
        assert abs(float(moments[k, 1]) - exact) < 4 * math.sqrt((fourth - exact**2) / 30_000)


class Damaged:
    """A Gaussian model without a score below a noise level, for a share of the points."""

    def __init__(self, below: float, share: float) -> None:
        self.inner, self.below, self.share = white("mixed"), below, share
        self.periodic = self.inner.periodic

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        value = self.inner.log_density(z, sigma)
        count = round(self.share * len(z)) if float(sigma) < self.below else 0
        return torch.cat([value[:count] * math.nan, value[count:]])


def test_scores_that_are_not_finite() -> None:
    """A few walks end nowhere and weigh nothing; when most do, the rung where it began is named."""
    ladder = white_ladder("mixed", 6, 5.0)
    paths = Ladder(Damaged(1.0, 0.1), ladder.sigma, ladder.moments).walk_down(100, seeded(34))
    assert int(paths.log_ratio.isnan().sum()) == 10
    for below, rung in ((math.inf, 6), (1.0, 4)):
        broken = Ladder(Damaged(below, 1.0), ladder.sigma, ladder.moments)
        with pytest.raises(
            CorrectionError, match=rf"rung {rung} \(sigma = .*nowhere for 100 of 100 walks.*train again"
        ):
            broken.walk_down(100, seeded(34))


def same(first: Paths, second: Paths) -> bool:
    names = ("z", "log_ratio", "z_low", "log_weight_low")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def test_walks_are_those_of_the_generator() -> None:
    ladder = mixture_ladder(5)
    assert same(ladder.walk_down(50, seeded(28)), ladder.walk_down(50, seeded(28)))
    assert not same(ladder.walk_down(50, seeded(28)), ladder.walk_down(50, seeded(29)))
    z = mixture().sample(50, seeded(30))
    assert same(ladder.walk_up(z, seeded(31)), ladder.walk_up(z, seeded(31)))


def test_walks_report_progress_and_shapes() -> None:
    ladder = mixture_ladder(7)
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, text: str = "") -> None:
        seen.append((done, total))

    down = ladder.walk_down(3, seeded(32), progress)
    assert seen == [(k, 7) for k in range(1, 8)]
    up = ladder.walk_up(down.z.to(torch.float32), seeded(33))
    for paths in (down, up):
        assert paths.z.shape == paths.z_low.shape == (3, 2)
        assert paths.log_ratio.shape == paths.log_weight_low.shape == (3,)
        assert paths.z.dtype == paths.log_ratio.dtype == torch.float64
    assert ladder.n_rungs == 7


def test_noising_and_reverse_steps_meet_at_the_right_rungs() -> None:
    """Step k joins rungs k and k+1: its variance, its moment and its score are those of rung k+1."""
    ladder = mixture_ladder(6)
    for k in range(6):
        gap = float(ladder.sigma[k + 1] ** 2 - ladder.sigma[k] ** 2)
        assert ladder.step_variance(k) == gap
        assert isinstance(ladder.up(k), NormalStep)
        assert torch.equal(ladder.up(k).variance, torch.full((2,), gap, dtype=torch.float64))
        assert torch.equal(ladder.down(k, torch.zeros(1, 2)).variance, gap * (1 - gap * ladder.moments[k]))
        z = torch.randn(4, 2, generator=seeded(k), dtype=torch.float64)
        score = log_density_and_score(ladder.model, z, level(ladder.sigma[k + 1]))[1]
        assert torch.equal(ladder.centre(z, k), z + gap * score)
