"""Samples of compositions: log Z and mode weights right, where adding scores is wrong; refusals."""

import math
from functools import cache

import pytest
import torch
from checks import assert_mean, seeded
from compositions import exact_product, first, quadrature, rung, second
from ladders import MixedModel, torus_and_plane
from torch import Tensor

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.data_free import check_confined, data_free_ladder
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.pilot import MoveRecipe
from bgdiff.ladder.resampling import log_mean_weight
from bgdiff.model_samples import ModelSamples, sample_smc
from bgdiff.models import (
    Composition,
    EnergyModel,
    EnergyNetwork,
    GaussianModel,
    NetworkShape,
    Potential,
    RungTarget,
    log_density_and_score,
    mixture,
    negated,
    product,
    tempered,
)

LEVELS = noise_levels(12, 0.1, 6.0)
MALA = (MoveRecipe("mala"),)


def sampled(model: EnergyModel, n: int = 1000, **options: object) -> ModelSamples:
    given: dict[str, object] = {"sigma": LEVELS, "moves": MALA, "pilot": 200, "seed": 1} | options
    return sample_smc(model, n, **given)  # type: ignore[arg-type]


def wrong_by(z: Tensor, right: float) -> float:
    """How many standard errors the share of unweighted points at x > 0 is away from ``right``."""
    share = float((z[:, 0] > 0).double().mean())
    return (share - right) / math.sqrt(share * (1 - share) / len(z))


@cache
def models() -> dict[str, Composition]:
    one, two = first(), second()
    return {
        "tempered": tempered(one, 3.0),
        "negated": negated(one, two, 0.3),
        "restrained": product(
            tempered(one, 2.0), Potential(lambda z: 0.5 * (z[:, 1] + 0.5) ** 2, one.periodic)
        ),
        "nested": product(tempered(mixture(one, two), 2.0), one, exponents=[1.0, 2.0]),
    }


@pytest.mark.parametrize("name", list(models()))
def test_weights_correct_what_adding_scores_gets_wrong(name: str) -> None:
    """log Z and the modes' weights, against quadrature; walks with weights have the same expectation."""
    model, target = models()[name], RungTarget(models()[name])
    log_z, right = quadrature(target)
    found = sampled(model, target=target)
    assert abs(found.log_z.z_score(log_z)) < 4
    assert abs(found.expectation(found.z[:, 0] > 0).z_score(right)) < 4
    walks = found.plan.ladder.walk_down(4000, seeded(3))
    assert abs(wrong_by(walks.z, right)) > 8
    assert_mean(torch.exp(walks.log_ratio + target.log_density(walks.z) - log_z), 1.0)


def test_rungs_of_mixtures_need_no_correction() -> None:
    """They are the noised mixture, so walks are right to begin with, and log Z is 0."""
    model = mixture(first(), second(), weights=[3, 7])
    _, right = quadrature(RungTarget(model))
    found = sampled(model, target=RungTarget(model))
    assert abs(found.log_z.z_score(0.0)) < 4
    assert found.ess > 0.8
    assert abs(wrong_by(found.plan.ladder.walk_down(4000, seeded(3)).z, right)) < 4


def test_the_closed_form_agrees() -> None:
    """The product of two mixtures of normals is one, at its lowest rung up to the noise left."""
    model = product(first(), second(), exponents=[2.0, 1.0])
    squared, log_square = exact_product(first(), first())
    exact, log_z = exact_product(squared, second())
    found = sampled(model, target=RungTarget(model), seed=2)
    assert abs(found.log_z.z_score(log_square + log_z)) < 4
    truth = exact.weights @ exact.means
    assert all(abs(found.expectation(found.z[:, i]).z_score(float(truth[i]))) < 4 for i in range(2))
    right = float(exact.weights[exact.means[:, 0] > 0].sum())  # to a few parts in a thousand
    assert abs(wrong_by(found.plan.ladder.walk_down(4000, seeded(3)).z, right)) > 8


def test_without_a_target_samples_are_those_of_the_lowest_rung() -> None:
    model = product(first(), second())
    low = sampled(model)
    at_rung, right = quadrature(rung(model, 0.1))
    assert low.bridge is None
    assert abs(low.log_z.z_score(at_rung)) < 4
    assert abs(low.expectation(low.z[:, 0] > 0).z_score(right)) < 4


def test_angles() -> None:
    """∫ p1 p2 of (wrapped) normals is the density of the difference of their means, with both variances."""
    one = torus_and_plane()
    parts = [GaussianModel(p.mean + 0.4, 0.8 * p.variance, p.periodic) for p in one.parts]
    two = MixedModel([0.6, 0.4], parts)
    overlaps = torch.stack(
        [
            torch.log(w * v)
            + GaussianModel(q.mean, p.variance + q.variance, q.periodic).log_density(
                p.mean[None], torch.zeros(1, dtype=torch.float64)
            )[0]
            for w, p in zip(one.weights, one.parts, strict=True)
            for v, q in zip(two.weights, two.parts, strict=True)
        ]
    )
    model = product(one, two)
    moves, levels = (*MALA, MoveRecipe("torsion_jump")), noise_levels(8, 0.1, 6.0)
    found = sampled(model, target=RungTarget(model), moves=moves, sigma=levels)
    assert abs(found.log_z.z_score(float(torch.logsumexp(overlaps, 0)))) < 4


def test_the_mean_weight_is_z_for_few_particles() -> None:
    """Populations of 25 that resample often: unbiased, though log Z itself would not be."""
    model, levels = models()["tempered"], noise_levels(6, 0.2, 4.0)
    log_z, _ = quadrature(RungTarget(model))
    target = RungTarget(model)
    found = sampled(model, 800, sigma=levels, population=25, pilot=60, threshold=0.9, target=target, seed=4)
    means = torch.stack([log_mean_weight(part) for part in found.log_weight.split(25)])
    assert_mean(torch.exp(means - log_z), 1.0)
    assert any(record.resampled for records in found.records for record in records)
    families = found.family.split(25)
    assert all(bool((part // 25 == i).all()) for i, part in enumerate(families))


def test_the_pilot_measures_what_data_would_tell() -> None:
    """For normal data the moments are known, and with them walks are exact."""
    model = tempered(GaussianModel(torch.tensor([0.3, -0.2]), torch.tensor([0.2, 0.8])), 2.0)
    ladder = data_free_ladder(model, noise_levels(12, 0.1, 8.0), 2000, seeded(5))
    exact = 1 / (torch.tensor([0.1, 0.4]) + ladder.sigma[1:, None] ** 2)
    assert float((ladder.moments / exact - 1).abs().max()) < 0.2
    walks = ladder.walk_down(500, seeded(6))
    weight = walks.log_ratio + RungTarget(model).log_density(walks.z)
    assert float(weight.std()) < 0.2


@cache
def networks() -> tuple[EnergyNetwork, EnergyNetwork]:
    """Two small networks, trained a little by denoising score matching on samples of the two mixtures."""
    made = []
    for seed, density in enumerate((first(), second())):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = EnergyNetwork(density.periodic, 0.1, 8.0, NetworkShape(24, 2))
        data, stream = density.sample(4000, seeded(20 + seed)).float(), seeded(30 + seed)
        optimiser = torch.optim.Adam(network.parameters(), 5e-3)
        for _ in range(80):
            clean = data[torch.randint(len(data), (256,), generator=stream)]
            sigma = torch.exp(math.log(0.1) + math.log(80.0) * torch.rand(256, generator=stream))
            noise = torch.randn(clean.shape, generator=stream)
            score = log_density_and_score(network, clean + sigma[:, None] * noise, sigma, create_graph=True)[
                1
            ]
            optimiser.zero_grad()
            (sigma[:, None] * score + noise).square().mean().backward()
            optimiser.step()
        made.append(network.requires_grad_(False))
    return made[0], made[1]


def test_trained_networks() -> None:
    """Their own product at the lowest rung, and on to the true product that they only know roughly."""
    one, two = networks()
    model = product(one, two, exponents=[2.0, 1.0])
    found = sampled(model, sigma=None, n_rungs=12)
    assert float(found.plan.ladder.sigma[-1]) == pytest.approx(8.0 / math.sqrt(3.0))
    log_z, right = quadrature(rung(model, float(found.plan.ladder.sigma[1])))
    assert abs(found.log_z.z_score(log_z)) < 4
    assert abs(found.expectation(found.z[:, 0] > 0).z_score(right)) < 4
    true = model.target(RungTarget(first()), RungTarget(second()))
    log_z, right = quadrature(true)
    found = sampled(model, sigma=None, n_rungs=12, target=true)
    assert abs(found.log_z.z_score(log_z)) < 4
    assert abs(found.expectation(found.z[:, 0] > 0).z_score(right)) < 4


def test_samples_depend_on_the_seed_alone() -> None:
    model, levels = models()["tempered"], noise_levels(5, 0.2, 4.0)
    one, again, other = (
        sampled(model, 60, sigma=levels, pilot=30, population=30, seed=seed) for seed in (8, 8, 9)
    )
    assert torch.equal(one.z, again.z)
    assert torch.equal(one.log_weight, again.log_weight)
    assert not torch.equal(one.z, other.z)
    assert one.weights.sum() == pytest.approx(1)
    drawn = one.resampled(seed=1)
    assert drawn.shape == one.z.shape
    assert {tuple(row) for row in drawn.tolist()} <= {tuple(row) for row in one.z.tolist()}


def test_densities_that_do_not_exist_are_refused() -> None:
    """γ c1 < c2 is needed, and by normals also enough."""
    wide, narrow = (GaussianModel(torch.zeros(2), torch.tensor([0.5, c])) for c in (1.0, 0.2))
    check_confined(negated(wide, narrow, 0.15), LEVELS, seeded(10))
    with pytest.raises(
        ConfigError, match=r"rung 1 \(sigma = 0\.1\): the density rises between 4 and 8 widths"
    ):
        sampled(product(negated(wide, narrow, 0.3), wide, exponents=[1.0, 0.1]))


def test_senseless_requests_are_refused() -> None:
    one, network = first(), networks()[0]
    with pytest.raises(ConfigError, match=r"defined for noise between 0\.0707 and 5\.66, not from 0\.1 to 6"):
        sampled(tempered(network, 2.0))
    with pytest.raises(ConfigError, match="at least 2 samples"):
        sampled(one, 1)
    with pytest.raises(ConfigError, match=r"rung 12 .*top rung is not the prior.*smaller width"):
        steep = Potential(lambda z: 500 * z.square().sum(1), one.periodic)
        sampled(product(one, steep))
    nowhere = Potential(lambda z: torch.nan * z[:, 0], one.periodic)
    with pytest.raises(CorrectionError, match="rung 12 .*no finite density"):
        sampled(product(one, nowhere))
