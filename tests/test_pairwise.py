"""Reverse steps whose covariance follows the pairs: exact where that can be known, invariant, unbiased."""

import math
from dataclasses import replace

import pytest
import torch
from checks import assert_mean, level, seeded
from ladders import Isomers, SpringNetwork
from torch import Tensor
from torch.distributions import MultivariateNormal

import bgdiff
from bgdiff.config import make_config
from bgdiff.coordinates import LatentTarget, MeanFreeCoordinates
from bgdiff.coordinates.mean_free import helmert
from bgdiff.generator import BoltzmannGenerator
from bgdiff.ladder.kernels import CorrelatedStep
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.pair_fit import fit_pairs, measure_pairs
from bgdiff.ladder.pairwise import PairCurvature
from bgdiff.ladder.paths import Ladder, measure_moments
from bgdiff.ladder.smc import Plan, Resampler, smc
from bgdiff.models import GaussianMixtureModel, ParticleModel, make_network

COORDINATES = MeanFreeCoordinates(4, 3, 0.8)
EACH, EQUAL = torch.arange(4), torch.zeros(4, dtype=torch.int64)
K = torch.tensor([[0, 1, 4, 2], [1, 0, 9, 3], [4, 9, 0, 0.5], [2, 3, 0.5, 0]])


class Cluster:
    """A cluster with known rungs, as a model of particles."""

    def __init__(self, isomers: Isomers, types: Tensor, shift: float = 0.0) -> None:
        self.isomers, self.types, self.shift = isomers, types, shift
        self.rungs: GaussianMixtureModel = isomers.rungs(COORDINATES)
        self.event_shape, self.periodic = COORDINATES.event_shape, self.rungs.periodic

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.rungs.log_density(z.double(), sigma.double()) + self.shift * torch.sin(3 * sigma)

    def data(self, n: int, seed: int) -> Tensor:
        return COORDINATES.to_z(self.isomers.sample(n, seeded(seed)))[0]

    @property
    def target(self) -> LatentTarget:
        return LatentTarget(self.isomers, COORDINATES)


def springs(stiffness: Tensor, types: Tensor) -> Cluster:
    return Cluster(Isomers([0.0], [SpringNetwork(stiffness, 3)]), types)


def two_shapes(shift: float = 0.0) -> Cluster:
    """A tetrahedron and a square with stiff edges."""
    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.5
    square = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, -1, 0], [-1, 1, 0]]) * 0.8
    networks = [
        SpringNetwork(k * torch.ones(4, 4), 3, rest) for k, rest in ((3.0, tetrahedron), (6.0, square))
    ]
    return Cluster(Isomers([0.3, -0.2], networks), EQUAL, shift)


def random_pairs(rungs: int, size: float, types: Tensor = EQUAL, seed: int = 3) -> PairCurvature:
    """Functions that fit nothing; large ones make covariances that are not positive."""
    kinds = 1 if types is EQUAL else 6
    knots = torch.linspace(0.2, 4, 5).double().repeat(rungs, kinds, 1)
    values = size * torch.randn(rungs, kinds, 2, 5, generator=seeded(seed), dtype=torch.float64)
    return PairCurvature((4, 3), types, knots, values)


def exact_ladder(cluster: Cluster, sigma: Tensor) -> Ladder:
    """Fitted at each rung, neither smoothed nor interpolated."""
    z = cluster.data(192, 1)
    moments = measure_moments(cluster, sigma, z, seeded(2))
    fitted = [
        fit_pairs(
            cluster, z + s * torch.randn(z.shape, generator=seeded(5)), s, float(moments[k, 0]), seeded(4)
        )
        for k, s in enumerate(sigma[1:])
    ]
    knots, values = (torch.cat([getattr(one, name) for one in fitted]) for name in ("knots", "values"))
    return Ladder(cluster, sigma, moments, None, PairCurvature((4, 3), cluster.types, knots, values))


@pytest.mark.parametrize("types", [EACH, EQUAL])
def test_the_fit_finds_the_curvature_of_springs(types: Tensor) -> None:
    """Any matrix of zero row sums is one of springs, so the precision at every noise is."""
    cluster = springs(K if types is EACH else 2 * torch.ones(4, 4), types)
    ladder, z = exact_ladder(cluster, noise_levels(3, 0.1, 4.0)), cluster.data(5, 6)
    lift = torch.kron(helmert(4), torch.eye(3).double())
    for k, sigma in enumerate(ladder.sigma[1:].tolist()):
        precision = torch.linalg.inv(cluster.rungs.covariances[0] + sigma**2 * torch.eye(9))
        assert ladder.pairs is not None
        found = lift @ ladder.pairs.matrix(k, z, sigma) @ lift.T + ladder.moments[k, 0] * torch.eye(9)
        assert float((found - precision).abs().max()) < 1e-3 * float(precision.abs().max())


@pytest.mark.parametrize("n_rungs", [2, 5])
def test_springs_are_sampled_exactly_with_any_number_of_steps(n_rungs: int) -> None:
    cluster = springs(K, EACH)
    ladder = exact_ladder(cluster, noise_levels(n_rungs, 0.1, 5.0))
    # the top rung is the prior for whitened data only: start from data noised to it instead
    z = cluster.data(500, 7)
    top = z + ladder.sigma[-1] * torch.randn(z.shape, generator=seeded(8))
    weight, plain = (
        cluster.rungs.log_density(z, level(1e-9))
        - cluster.rungs.log_density(top, ladder.sigma[-1:])
        + _log_ratio(one, z, top)
        for one in (ladder, replace(ladder, pairs=None))
    )
    assert float(weight.abs().max()) < 1e-2
    assert float(plain.std()) > 0.3


def _log_ratio(ladder: Ladder, z: Tensor, top: Tensor) -> Tensor:
    """log q(path|z) - log p(path|top) of a Brownian bridge from z to top."""
    total, low, generator = torch.zeros(len(z), dtype=torch.float64), z, seeded(9)
    for k in range(ladder.n_rungs):
        left = float(ladder.sigma[-1] ** 2 - ladder.sigma[k] ** 2)
        share = ladder.step_variance(k) / left
        noise = torch.randn(z.shape, generator=generator, dtype=torch.float64)
        high = low + share * (top - low) + math.sqrt(share * (1 - share) * left) * noise
        down = ladder.down(k, high).log_prob(low, ladder.centre(high, k))
        total, low = total + ladder.up(k).log_prob(high, low) - down, high
    return total


def test_density_is_the_multivariate_normal_that_is_sampled() -> None:
    ladder = Ladder(
        two_shapes(), noise_levels(3, 0.3, 3.0), torch.full((3, 9), 0.4), None, random_pairs(3, 0.2)
    )
    above = two_shapes().data(3, 10)
    step = ladder.down(1, above)
    assert isinstance(step, CorrelatedStep)
    lift = torch.kron(helmert(4), torch.eye(3).double())
    covariance = step.variance * lift @ step.factor @ step.factor.mT @ lift.T
    share = 1 - ladder.step_variance(1) * 0.4
    assert ladder.pairs is not None
    asked = (
        share * torch.eye(9)
        - ladder.step_variance(1) * lift @ ladder.pairs.matrix(1, above, float(ladder.sigma[2])) @ lift.T
    )
    torch.testing.assert_close(covariance, ladder.step_variance(1) * asked, rtol=1e-5, atol=1e-7)
    centre = above + 0.1
    z = above + 0.3 * torch.randn(above.shape, generator=seeded(11), dtype=torch.float64)
    exact = MultivariateNormal(centre, covariance).log_prob(z)
    torch.testing.assert_close(step.log_prob(z, centre), exact, rtol=1e-7, atol=1e-7)
    many = CorrelatedStep(step.variance, step.factor[:1].expand(20_000, -1, -1), step.basis)
    drawn = many.sample(centre[:1].expand(20_000, -1), seeded(12)) - centre[:1]
    assert_mean(drawn, 0.0)
    assert_mean((drawn[:, :, None] * drawn[:, None, :]).flatten(1), covariance[0].flatten())


@pytest.mark.parametrize("types", [EACH, EQUAL])
def test_steps_turn_with_the_particles(types: Tensor) -> None:
    pairs = random_pairs(3, 3.0, types)
    ladder = Ladder(two_shapes(), noise_levels(3, 0.3, 3.0), torch.full((3, 9), 0.4), None, pairs)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=seeded(13), dtype=torch.float64))
    order = torch.tensor([2, 0, 3, 1]) if types is EQUAL else torch.arange(4)

    def changed(z: Tensor) -> Tensor:
        return COORDINATES.to_z(COORDINATES.to_x(z)[0][:, order] @ turn)[0]

    above, z = two_shapes().data(50, 14), two_shapes().data(50, 15)
    ours = ladder.down(1, above).log_prob(z, above)
    theirs = ladder.down(1, changed(above)).log_prob(changed(z), changed(above))
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_covariances_stay_away_from_zero() -> None:
    """Wherever the fit asks for too little variance in some direction, less of it is taken."""
    sigma, above = noise_levels(3, 0.3, 3.0), two_shapes().data(200, 16)
    ladder = Ladder(two_shapes(), sigma, torch.full((3, 9), 0.05), None, random_pairs(3, 5.0))
    step = ladder.down(1, above)
    assert isinstance(step, CorrelatedStep)
    smallest = torch.linalg.svdvals(step.factor)[:, -1] ** 2 * step.variance / ladder.step_variance(1)
    least = 0.5 * float((sigma[1] / sigma[2]) ** 2)
    assert float(smallest.min()) >= least * (1 - 1e-4)
    above[3, 0] = torch.nan
    step = ladder.down(1, above)
    assert isinstance(step, CorrelatedStep)
    assert torch.equal(step.factor[3], torch.eye(12).to(step.factor))
    assert torch.isfinite(step.factor).all()


@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("up", [False, True])
def test_log_z_is_unbiased_whatever_the_functions(wild: bool, up: bool) -> None:
    """Also where no covariance can follow them; means of batches have z-scores that can be trusted."""
    cluster = two_shapes(shift=0.4)
    sigma = noise_levels(8, 0.1, 8.0)
    moments = measure_moments(cluster, sigma, cluster.data(500, 17), seeded(18))
    pairs = random_pairs(8, 0.1)
    if wild:
        pairs.values[..., 0], pairs.knots[..., 0], pairs.knots[..., 1] = 1e8, 1.0, 1.001
        above = cluster.data(400, 16) + sigma[6] * torch.randn(400, 9, generator=seeded(15))
        step = pairs.step(5, above, sigma, moments[5])
        assert isinstance(step, CorrelatedStep)
        plain = (step.factor == torch.eye(12)).all(-1).all(-1)
        assert 0.05 < float(plain.double().mean()) < 0.95
    ladder = Ladder(cluster, sigma, moments, None, pairs)
    target, log_z = cluster.target, cluster.isomers.log_z
    if up:
        z = cluster.data(3000, 19)
        log_weight = target.log_density(z) + ladder.walk_up(z, seeded(20)).log_ratio
        assert_mean(torch.exp(log_z - log_weight).reshape(150, -1).mean(1), 1.0)
    else:
        paths = ladder.walk_down(3000, seeded(21))
        log_weight = target.log_density(paths.z) + paths.log_ratio
        assert_mean(torch.exp(log_weight - log_z).reshape(150, -1).mean(1), 1.0)


def test_populations_take_the_same_steps() -> None:
    cluster = two_shapes(shift=0.4)
    sigma = noise_levels(8, 0.1, 8.0)
    moments = measure_moments(cluster, sigma, cluster.data(500, 22), seeded(23))
    plan = Plan(Ladder(cluster, sigma, moments, None, random_pairs(8, 0.2)), resampler=Resampler(0.7))
    ratios = []
    for seed in range(40):
        paths = smc(plan, 60, seeded(100 + seed)).paths
        log_weight = cluster.target.log_density(paths.z) + paths.log_ratio
        ratios.append(torch.exp(log_weight - cluster.isomers.log_z).mean())
    assert_mean(torch.stack(ratios), 1.0)


class Dimer:
    """Two particles at a distance of about 1.6: a shell, of many normals spread evenly over a sphere."""

    event_shape, types = (2, 3), torch.zeros(2, dtype=torch.int64)
    periodic = torch.zeros(3, dtype=torch.bool)

    def __init__(self, n: int = 200) -> None:
        height = 1 - 2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n
        angle = math.pi * (1 + math.sqrt(5)) * torch.arange(n, dtype=torch.float64)  # Fibonacci's lattice
        ring = (1 - height**2).sqrt()
        self.means = 1.6 * torch.stack([ring * angle.cos(), ring * angle.sin(), height], 1)
        self.width = 0.2

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        variance = self.width**2 + sigma.double() ** 2
        apart = (z.double()[:, None] - self.means).square().sum(-1)
        each = -0.5 * apart / variance[:, None] - 1.5 * torch.log(2 * math.pi * variance[:, None])
        return torch.logsumexp(each, 1) - math.log(len(self.means))

    def data(self, n: int, seed: int) -> Tensor:
        which = torch.randint(len(self.means), (n,), generator=seeded(seed))
        return self.means[which] + self.width * torch.randn(
            n, 3, generator=seeded(seed + 1), dtype=torch.float64
        )


def test_weights_scatter_less_where_pairs_explain_the_curvature() -> None:
    """A bond is stiff along and soft across, which one variance for all directions cannot be."""
    model, sigma = Dimer(), noise_levels(24, 0.1, 6.0)
    z = model.data(800, 24)
    plain = Ladder(model, sigma, measure_moments(model, sigma, z, seeded(25)))
    pairs = measure_pairs(model, sigma, plain.moments, z, seeded(26))
    assert pairs is not None
    fitted = replace(plain, pairs=pairs)
    fresh = model.data(1000, 27)
    ours, theirs = (float(one.step_variances(fresh, seeded(28)).sum()) for one in (fitted, plain))
    assert ours < 0.3 * theirs


def test_nothing_is_added_where_nothing_is_to_be_found() -> None:
    """An isotropic Gaussian: the mean curvature is all there is."""
    cluster = springs(torch.ones(4, 4), EQUAL)
    sigma, z = noise_levels(10, 0.1, 5.0), cluster.data(500, 29)
    moments = 1 / (cluster.rungs.covariances[0, 0, 0] + sigma[1:, None] ** 2).expand(10, 9)
    pairs = measure_pairs(cluster, sigma, moments, z, seeded(30))
    assert pairs is not None
    assert float(pairs.values.abs().max()) < 1e-6


def test_other_rungs_interpolate() -> None:
    sigma = noise_levels(20, 0.05, 6.0)
    scale = (1 + sigma[1:] ** 2).log()[:, None, None]
    pairs = random_pairs(20, 1.0)
    pairs = replace(pairs, knots=pairs.knots + 0.1 * scale)
    same = pairs.at(sigma, sigma)
    torch.testing.assert_close(same.knots, pairs.knots)
    torch.testing.assert_close(same.values, pairs.values)
    coarse = pairs.at(torch.cat([sigma[:1], sigma[1::2]]), sigma)
    torch.testing.assert_close(coarse.values, pairs.values[::2])
    ladder = Ladder(two_shapes(), sigma, torch.ones(20, 9), None, pairs)
    torch.testing.assert_close(ladder.at(sigma).pairs.values, pairs.values)  # type: ignore[union-attr]


def test_very_many_kinds_of_particles_are_left_out() -> None:
    class Many:
        event_shape, types = (60, 3), torch.arange(60)
        periodic = torch.zeros(177, dtype=torch.bool)

        def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
            raise AssertionError("not needed")

    assert isinstance(Many(), ParticleModel)
    moments = torch.ones(3, 177)
    assert measure_pairs(Many(), noise_levels(3, 0.1, 5.0), moments, torch.zeros(9, 177), seeded(31)) is None


def test_a_saved_generator_walks_the_same_way(tmp_path) -> None:
    system = bgdiff.load_system("dw4")
    coordinates = MeanFreeCoordinates(4, 2, 1.7)
    torch.manual_seed(1)
    config = make_config("quick")
    model = make_network(coordinates, system.particle_types, 0.02, 12.0, config.network).requires_grad_(False)
    sigma = noise_levels(6, 0.02, 12.0)
    knots = torch.linspace(0.2, 4, 5).double().expand(6, 1, 5)
    values = 0.3 * torch.randn(6, 1, 2, 5, generator=seeded(32), dtype=torch.float64)
    pairs = PairCurvature((4, 2), EQUAL, knots, values)
    ladder = Ladder(model, sigma, torch.full((6, 6), 0.3).double(), None, pairs)
    zeros = torch.zeros(7, dtype=torch.float64)
    generator = BoltzmannGenerator(system, coordinates, ladder, zeros, sigma.clone(), config)
    generator.save(tmp_path / "generator.safetensors")
    loaded = BoltzmannGenerator.load(tmp_path / "generator.safetensors", system)
    ours, theirs = generator.walk(0, 20, seed=3), loaded.walk(0, 20, seed=3)
    assert torch.equal(ours.z, theirs.z)
    assert torch.equal(ours.log_ratio, theirs.log_ratio)
    without = replace(ladder, pairs=None).walk_down(20, seeded(1)).log_ratio
    assert not torch.equal(ladder.walk_down(20, seeded(1)).log_ratio, without)
